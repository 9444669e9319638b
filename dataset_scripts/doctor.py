"""
python -m dataset_scripts.doctor SOURCE PATH [--media DIR] [--output DIR]

Examines a source: which of the pictures, clips and videos that its annotations name are there and can be read, and
which annotations can be used. Writes SOURCE.report.txt, every problem with its place, and SOURCE.lock.jsonl, the
usable ids with their files and durations. The builders read the lock file, so a published set states exactly what
went in.

PATH is the folder with the annotations, or the annotation file, or OWNER/NAME of a data set on the Hub. What was
examined once isn't examined again unless the file changed, so an interrupted run goes on where it stopped.
"""

import argparse
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from modeling_seq2time.video_decoding import open_video

from .command import run
from .files import atomic_writer
from .items import INTERIM_MARK, DataError, Event, Item, Problems
from .media import PICTURES, Ambiguous, Finder, Found, read_picture
from .parallel import each
from .sources import Source, names, open_source


VERSION = 1
TOLERANCE = 1.0  # seconds by which an event may end after its video, unless the source has its own
_SPAN = re.compile(rf"{INTERIM_MARK.pattern} - {INTERIM_MARK.pattern}")


def examine(
    source: Source,
    output: Path,
    media: Path | None = None,
    num_proc: int = 2,
    thorough: bool = False,
    name: str = "",
) -> Path:
    """Writes report and lock file of this name into `output`, prints the counts, returns the lock file."""
    name = name or source.name
    output.mkdir(parents=True, exist_ok=True)
    folder = media or source.folder
    finder = Finder(folder)
    checked = _check_files(source, finder, output / f"{name}.checked.jsonl", num_proc, thorough)

    problems, judge = Problems(), Judge(source, Finder(folder), checked)
    lock, report = output / f"{name}.lock.jsonl", output / f"{name}.report.txt"
    entries = output / f"{name}.lock.part"
    with entries.open("w", encoding="utf-8") as lines:
        for item in source.read(problems):
            entry = judge.entry(item, problems)
            if entry:
                lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
    judge.counts |= problems.counts
    header = {"source": source.name, "version": VERSION, "repository": source.repository, "revision": source.revision}
    header |= {"options": source.options, "annotations": source.annotations(), "counts": judge.counts}
    with atomic_writer(lock) as lines, entries.open(encoding="utf-8") as parts:
        lines.write(json.dumps(header, ensure_ascii=False) + "\n")
        lines.writelines(parts)
    entries.unlink()

    summary = _summary(source, folder, judge)
    with atomic_writer(report) as lines:
        lines.write(summary + "\n")
        lines.writelines(f"{kind}\t{place}\t{detail}\n" for kind, place, detail in sorted(problems.found))
    print(f"{summary}\n{report}\n{lock}")
    return lock


class Judge:
    """Decides about each item, once all files were checked."""

    def __init__(self, source: Source, finder: Finder, checked: dict[str, dict]):
        self.source, self.finder, self.checked = source, finder, checked
        self.tolerance = getattr(source.module, "TOLERANCE", TOLERANCE)
        self.keys: set[int] = set()
        self.counts = {"expected": 0, "present": 0, "usable": 0, "events": 0, "usable events": 0}

    def entry(self, item: Item, problems: Problems) -> dict | None:
        """The item's line in the lock file, `None` if it can't be used; says why in `problems`."""
        kind = self.source.kind(item)
        self.counts["expected"] += 1
        self.counts["events"] += len(item.events)
        is_repeated = hash(item.key) in self.keys
        self.keys.add(hash(item.key))
        found = self._file(item, kind, problems)
        if found is None:
            return None
        self.counts["present"] += 1
        if is_repeated:
            problems.add("duplicate id", item.place, f"{item.key!r} was there before")
            return None
        if not (item.caption or item.label or item.events or item.turns):
            problems.add("empty caption", item.place, f"{item.key!r}: expected what can be seen, found nothing")
            return None
        entry = {"key": item.key, "media": found.media}
        if kind != "pictures":
            length = self._length(item, found, kind, problems)
            if length is None:
                return None
            entry |= length
        if kind == "videos":
            unusable = self._unusable_events(item, entry["duration"], problems)
            self.counts["usable events"] += len(item.events) - len(unusable)
            if not self._turns_fit(item, entry["duration"], problems) or len(unusable) == len(item.events) > 0:
                return None
            if unusable:
                entry["without"] = unusable
        self.counts["usable"] += 1
        return entry

    def _file(self, item: Item, kind: str, problems: Problems) -> Found | None:
        found = locate(item, self.finder, problems)
        if found is None:
            return None
        file, _, place = found.media.partition("#")
        result = self.checked[file]
        error = result.get("bad", {}).get(place) if place else result.get("error")
        if error:
            problems.add("corrupt", item.place, f"{found.media}: {error}")
            return None
        if kind != "pictures" and not result.get("duration"):
            problems.add("corrupt", item.place, f"{found.media}: expected a video, found a picture")
            return None
        return found

    def _length(self, item: Item, found: Found, kind: str, problems: Problems) -> dict | None:
        """The part of the file and the duration that times are measured by."""
        own = self.checked[found.media]["duration"]
        if found.start is not None or found.end is not None:
            start, end = found.start or 0.0, own if found.end is None else found.end
            if not start < end <= own + TOLERANCE:
                detail = f"{found.media}: expected second {start} to {end} inside it, found {own:.2f} s"
                problems.add("crop mismatch", item.place, detail)
                return None
            end = min(end, own)
            return {"start": start, "end": end, "duration": item.duration or end - start}
        is_timed = bool(item.events) or any(INTERIM_MARK.search(text) for _, text in item.turns)
        if item.whole and is_timed and abs(own - (item.end - item.start)) > TOLERANCE:
            detail = f"{found.media}: expected the {item.end - item.start} s that its name says, found {own:.2f} s"
            problems.add("crop mismatch", item.place, detail)
            return None
        if item.duration and abs(own - item.duration) > max(TOLERANCE, 0.02 * item.duration):
            detail = f"{found.media}: annotated {item.duration} s, found {own:.2f} s"
            problems.add("duration mismatch", item.place, detail)
            if is_timed:  # the times are about another cut; a clip is simply as long as it is
                return None
        return {"start": 0.0, "end": own, "duration": (item.duration if kind == "videos" else None) or own}

    def _unusable_events(self, item: Item, duration: float, problems: Problems) -> list[int]:
        unusable, ids = [], set()
        for number, event in enumerate(item.events):
            fault = self._fault(event, duration)
            if event.id and event.id in ids:
                fault = ("duplicate id", f"event id {event.id!r} was there before")
            ids.add(event.id)
            if fault:
                unusable.append(number)
                problems.add(fault[0], item.place, f"{item.key}, event {event.id or number}: {fault[1]}")
        return unusable

    def _fault(self, event: Event, duration: float) -> tuple[str, str] | None:
        for start, end in event.windows:
            if end < start:
                return "inverted", f"ends at {end} s, before it starts at {start} s"
            if end == start:
                return "no length", f"starts and ends at {start} s"
            if start >= duration or end > duration + self.tolerance:
                return "out of range", f"{start} to {end} s of a video of {duration:.2f} s"
        beyond = [time for time, _ in event.saliency if time >= duration + self.tolerance]
        return ("out of range", f"highlight at {beyond[0]} s of a video of {duration:.2f} s") if beyond else None

    def _turns_fit(self, item: Item, duration: float, problems: Problems) -> bool:
        for _, text in item.turns:
            for span in _SPAN.finditer(text):
                if float(span[2]) < float(span[1]):
                    problems.add("inverted", item.place, f"{item.key}: {span[1]} - {span[2]} s")
                    return False
            late = [time[1] for time in INTERIM_MARK.finditer(text) if float(time[1]) > duration + self.tolerance]
            if late:
                problems.add("out of range", item.place, f"{item.key}: {late[0]} s of a video of {duration:.2f} s")
                return False
        return True


def locate(item: Item, finder: Finder, problems: Problems) -> Found | None:
    """The item's file; pictures in Parquet name theirs themselves."""
    if "#" in item.names[0]:
        return Found(item.names[0])
    try:
        found = finder.find(item)
    except Ambiguous as error:
        problems.add("ambiguous", item.place, str(error))
        return None
    if found is None:
        problems.add("missing", item.place, f"no file for {item.names[0]!r} below {finder.folder}")
    return found


def _check_files(source: Source, finder: Finder, cache: Path, num_proc: int, thorough: bool) -> dict[str, dict]:
    """What checking each file gave, by its path below the folder."""
    files: dict[str, None] = {}
    aside = Problems()
    for item in source.read(aside):
        found = locate(item, finder, aside)
        if found:
            files[found.media.rpartition("#")[0] or found.media] = None
    known, stamps = _read_cache(cache), {}
    for file in files:
        path = finder.folder / file.partition("#")[0]
        stat = path.stat()
        stamps[file] = [stat.st_size, stat.st_mtime_ns, thorough]
    todo = [file for file in files if known.get(file, {}).get("stamp") != stamps[file]]
    jobs = [(str(finder.folder), file, thorough) for file in todo]
    with cache.open("a", encoding="utf-8") as lines, tqdm(total=len(files), desc="files", disable=None) as bar:
        bar.update(len(files) - len(todo))
        for file, result in zip(todo, each(check_file, jobs, num_proc), strict=True):
            known[file] = {"file": file, "stamp": stamps[file], **result}
            lines.write(json.dumps(known[file], ensure_ascii=False) + "\n")
            lines.flush()
            bar.update()
    return {file.partition("#")[0]: known[file] for file in files}


def check_file(job: tuple[str, str, bool]) -> dict:
    """`error`, or a video's `duration`, or for `shard.parquet#column` the bad rows with their errors."""
    folder, file, thorough = Path(job[0]), job[1], job[2]
    if "#" in file:
        return {"bad": dict(_bad_rows(folder, *file.split("#")))}
    if os.path.splitext(file)[1].lower() in PICTURES:
        try:
            read_picture(folder, file)
        except DataError as error:
            return {"error": str(error)}
        return {}
    try:
        reader = open_video(str(folder / file))
        last = reader.num_frames - 1
        reader.read(range(last + 1) if thorough else sorted({0, last // 2, last}))
    except (ValueError, OSError) as error:
        return {"error": str(error)}
    return {"duration": reader.duration, "frames": reader.num_frames}


def _bad_rows(folder: Path, shard: str, column: str) -> Iterator[tuple[str, str]]:
    import io  # noqa: PLC0415

    import pyarrow.parquet as pq  # noqa: PLC0415  (only where pictures lie in Parquet)
    from PIL import Image  # noqa: PLC0415

    number = 0
    for batch in pq.ParquetFile(folder / shard).iter_batches(64, columns=[column]):
        for picture in batch.column(column).to_pylist():
            try:
                with Image.open(io.BytesIO((picture or {}).get("bytes") or b"")) as opened:
                    opened.load()
            except (OSError, ValueError, SyntaxError) as error:
                yield f"{column}#{number}", str(error)
            number += 1


def _read_cache(cache: Path) -> dict[str, dict]:
    known = {}
    if cache.exists():
        for line in cache.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # the line at which an earlier run was killed
                continue
            known[row["file"]] = row
    return known


def _summary(source: Source, folder: Path, judge: Judge) -> str:
    lines = [f"{source.name}: {source.path}, media below {folder}"]
    lines += [
        f"  {name:<20} {count:>10,}" for name, count in judge.counts.items() if count or name in ("usable", "expected")
    ]
    lines += [f"  found by: {rule:<24} {count:>10,}" for rule, count in sorted(judge.finder.counts.items())]
    return "\n".join(lines)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help=", ".join(names()))
    parser.add_argument("path", help="folder, annotation file, or OWNER/NAME[@REVISION] on the Hub")
    parser.add_argument("--media", type=Path, help="folder of the videos or pictures, if they aren't below PATH")
    parser.add_argument("--output", type=Path, help="where report and lock file go (default: beside the annotations)")
    parser.add_argument("--num-proc", type=int, default=os.cpu_count())
    parser.add_argument("--thorough", action="store_true", help="decode every frame of every video")
    args = parser.parse_args(arguments)
    source = open_source(args.source, args.path)
    examine(source, args.output or source.folder, args.media, args.num_proc, args.thorough)


if __name__ == "__main__":
    run(main)
