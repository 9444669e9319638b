"""What of a source can be used: the rules by which the doctor decides about items, events and dialogues."""

import re
from collections import Counter, defaultdict

from .items import INTERIM_MARK, Event, Item, Problems
from .media import Ambiguous, Finder, Found, parquet_cell
from .sources import Source


TOLERANCE = 1.0  # seconds by which an event may end after its video, unless the source has its own
_SPAN = re.compile(rf"{INTERIM_MARK.pattern} - {INTERIM_MARK.pattern}")


class Judge:
    """Decides about each item, once all files were checked."""

    def __init__(self, source: Source, finder: Finder, checked: dict[str, dict], problems: Problems):
        self.source, self.finder, self.checked, self.problems = source, finder, checked, problems
        self.tolerance = getattr(source.module, "TOLERANCE", TOLERANCE)
        self.keys: set[int] = set()
        self.counts: dict[str, Counter] = defaultdict(Counter)

    def all_counts(self) -> dict[str, dict[str, int]]:
        """By split; what was wrong with rows that became no item stands under no split, `""`."""
        for kind, place, _, split in self.problems.found:
            self.counts[split][kind] += 1
            self.counts[split]["expected"] += not split and ", event " not in place
        return {split: dict(counts) for split, counts in sorted(self.counts.items())}

    def entry(self, item: Item) -> dict | None:
        """The item's line in the lock file, `None` if it can't be used; says why in the problems."""
        kind, counts = self.source.kind(item), self.counts[item.split]
        counts["expected"] += 1
        counts["events"] += len(item.events)
        name = hash((item.split, item.key))
        is_repeated = name in self.keys
        self.keys.add(name)
        found = self._file(item, kind)
        if found is None:
            return None
        counts["present"] += 1
        if is_repeated:
            return self._fault(item, "duplicate id", f"{item.key!r} was there before")
        if kind == "pictures" and not item.caption:  # clips may get theirs later
            return self._fault(item, "empty caption", f"{item.key!r}: expected what can be seen, found nothing")
        entry = {"key": item.key, "split": item.split, "media": found.media}
        if kind != "pictures":
            length = self.length(item, found, kind)
            if length is None:
                return None
            entry |= length
        if kind == "videos":
            unusable = self._unusable_events(item, entry["duration"])
            counts["usable events"] += len(item.events) - len(unusable)
            if not self._turns_fit(item, entry["duration"]) or len(unusable) == len(item.events) > 0:
                return None
            if unusable:
                entry["without"] = unusable
        counts["usable"] += 1
        return entry

    def _fault(self, item: Item, kind: str, detail: str):
        self.problems.add(kind, item.place, detail, item.split)

    def _file(self, item: Item, kind: str) -> Found | None:
        found = locate(item, self.finder, self.problems)
        if found is None:
            return None
        cell = parquet_cell(found.media)
        if cell:
            error = self.checked["#".join(cell[:2])]["bad"].get(str(cell[2]))
        else:
            error = self.checked[found.media].get("error")
            if not error and kind != "pictures" and not self.checked[found.media].get("duration"):
                error = "expected a video, found a picture"
        return self._fault(item, "corrupt", f"{found.media}: {error}") if error else found

    def length(self, item: Item, found: Found, kind: str) -> dict | None:
        """The part of the file and the duration that times are measured by."""
        own = self.checked[found.media]["duration"]
        start, end = found.start or 0.0, own if found.end is None else found.end
        if found.end is not None and item.whole and item.duration:  # the name may promise more than there is
            end = min(end, start + item.duration)
        if not start < end <= own + TOLERANCE:
            return self._fault(
                item, "crop mismatch", f"{found.media}: expected second {start} to {end} inside it, found {own:.2f} s"
            )
        end = min(end, own)
        is_part, is_timed = start > 0 or end < own, _is_timed(item)
        # What the annotation says counts before what a file's name says.
        named = item.end - item.start if item.whole and not is_part else None
        expected = item.duration or named
        if expected and abs(end - start - expected) > max(TOLERANCE, 0.02 * expected):
            detail = f"{found.media}: expected {expected:g} s, found {end - start:.2f} s"
            if is_timed:  # the times are about another cut
                return self._fault(item, "duration mismatch" if item.duration else "crop mismatch", detail)
            self._fault(item, "other duration", f"{detail} (used as it is)")
        return {"start": start, "end": end, "duration": (item.duration if kind == "videos" else None) or end - start}

    def _unusable_events(self, item: Item, duration: float) -> list[int]:
        unusable, ids = [], set()
        for number, event in enumerate(item.events):
            fault = self._event_fault(event, duration)
            if event.id and event.id in ids:
                fault = ("duplicate id", f"event id {event.id!r} was there before")
            ids.add(event.id)
            if fault:
                unusable.append(number)
                self._fault(item, fault[0], f"{item.key}, event {event.id or number}: {fault[1]}")
        return unusable

    def _event_fault(self, event: Event, duration: float) -> tuple[str, str] | None:
        for start, end in event.windows:
            if end < start:
                return "inverted", f"ends at {end} s, before it starts at {start} s"
            if end == start:
                return "no length", f"starts and ends at {start} s"
            if start >= duration or end > duration + self.tolerance:
                return "out of range", f"{start} to {end} s of a video of {duration:.2f} s"
        beyond = [time for time, _ in event.saliency if time >= duration + self.tolerance]
        return ("out of range", f"highlight at {beyond[0]} s of a video of {duration:.2f} s") if beyond else None

    def _turns_fit(self, item: Item, duration: float) -> bool:
        for _, text in item.turns:
            for span in _SPAN.finditer(text):
                if float(span[2]) < float(span[1]):
                    self._fault(item, "inverted", f"{item.key}: {span[1]} - {span[2]} s")
                    return False
            late = [time[1] for time in INTERIM_MARK.finditer(text) if float(time[1]) > duration + self.tolerance]
            if late:
                self._fault(item, "out of range", f"{item.key}: {late[0]} s of a video of {duration:.2f} s")
                return False
        return True


def _is_timed(item: Item) -> bool:
    return bool(item.events) or any(INTERIM_MARK.search(text) for _, text in item.turns)


def locate(item: Item, finder: Finder, problems: Problems) -> Found | None:
    """The item's file; pictures in Parquet name theirs themselves."""
    if parquet_cell(item.names[0]):
        return Found(item.names[0])
    try:
        found = finder.find(item)
    except Ambiguous as error:
        problems.add("ambiguous", item.place, str(error), item.split)
        return None
    if found is None:
        problems.add("missing", item.place, f"no file for {item.names[0]!r} below {finder.folder}", item.split)
    return found
