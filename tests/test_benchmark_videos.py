"""Videos of a benchmark: parts of files, decoded once, and judged by their file, not by their events."""

import numpy as np
import pytest

from dataset_scripts.items import Event, Item
from dataset_scripts.media import Finder
from dataset_scripts.sources import open_source
from evaluation.benchmark_videos import Part, Unusable, open_part
from modeling_seq2time.video_decoding import PyAVReader, open_video
from tests.sources import write_lines
from tests.videos import read_number, with_index_in_front, write_video


@pytest.fixture
def folder(tmp_path):
    """`abcdefghijk.mp4`, four seconds of 25 frames each."""
    write_video(tmp_path / "abcdefghijk.mp4", 100)
    write_lines(tmp_path / "captions.jsonl", [{"file": "abcdefghijk.mp4"}])
    return tmp_path


def part_of(folder, name="abcdefghijk.mp4", **item):
    source = open_source("folder", str(folder))
    item = Item("key", (name,), "row 1", **{"events": [Event("x", [(0, 1)])]} | item)
    finder = Finder(folder)
    return open_part(source, finder, item, finder.find(item), (96, 128))


def test_a_part_is_a_video_of_its_own(folder):
    part = Part(open_video(str(folder / "abcdefghijk.mp4")), 1.0, 3.0, 2.5)
    assert (part.num_frames, part.duration, part.fps) == (50, 2.5, 25)
    frames, times = part.read([0, 10, 49])
    assert [read_number(frame) for frame in frames] == [25, 35, 74]
    assert times == pytest.approx([0.0, 0.4, 1.96])
    assert part.shown(1.0, 1.1).tolist() == [25, 26, 27]
    with pytest.raises(ValueError, match="frame 50 was asked for"):
        part.read([50])


def test_what_was_fetched_is_not_decoded_again(folder, monkeypatch):
    calls, read = [], PyAVReader._read
    monkeypatch.setattr(PyAVReader, "_read", lambda self, indices: calls.append(list(indices)) or read(self, indices))
    part = Part(open_video(str(folder / "abcdefghijk.mp4")), 1.0, 3.0, 2.0)
    part.fetch(5)
    assert calls == [[25, 35, 45, 55, 65]]
    frames, times = part.read(range(0, 50, 10))
    assert len(calls) == 1 and [read_number(frame) for frame in frames] == calls[0]
    assert times == pytest.approx([0, 0.4, 0.8, 1.2, 1.6])
    again, _ = part.read(range(0, 50, 10))  # frames are given away, not kept
    assert len(calls) == 2 and np.array_equal(frames, again)


def test_the_annotations_duration_counts(folder):
    part = part_of(folder, duration=4.3)
    assert part.duration == 4.3 and part.num_frames == 100
    assert part_of(folder).duration == pytest.approx(4.0)
    cut = part_of(folder, "abcdefghijk_1.0_3.0", whole="abcdefghijk", start=1.0, end=3.0)
    assert cut.duration == 2.0 and read_number(cut.read([0])[0][0]) == 25


def test_events_are_not_judged(folder):
    wrong = [Event("back", [(3, 1)]), Event("late", [(70, 80)]), Event("late", [(70, 80)], saliency=[(99.0, 2.0)])]
    assert part_of(folder, events=wrong).num_frames == 100


def test_a_file_that_ends_before_what_it_declares_is_no_shorter_video(folder):
    """Its frames would stand for times that they don't show."""
    file = folder / "abcdefghijk.mp4"
    whole = with_index_in_front(file, folder / "whole.mp4")
    file.write_bytes(whole[: len(whole) // 2])
    assert open_video(str(file)).read([0])
    with pytest.raises(Unusable, match="the file declares .* frames, but ends after"):
        part_of(folder)


def test_unusable_files_say_why(folder):
    with pytest.raises(Unusable, match=r"expected 9 s, found 4\.00 s") as found:
        part_of(folder, duration=9.0)
    assert found.value.kind == "duration mismatch"
    with pytest.raises(Unusable, match="expected second 3.0 to 9.0 inside it") as found:
        part_of(folder, "abcdefghijk_3.0_9.0", whole="abcdefghijk", start=3.0, end=9.0)
    assert found.value.kind == "crop mismatch"
    (folder / "abcdefghijk.mp4").write_bytes(b"no video")
    with pytest.raises(Unusable, match=r"abcdefghijk\.mp4") as found:
        part_of(folder)
    assert found.value.kind == "corrupt"
