import pytest

from dataset_scripts.items import DataError, Item
from dataset_scripts.media import Ambiguous, Finder, read_picture, video_path


FILES = [
    "videos/3MSZA.mp4",
    "k700/train/abseiling/abc_000001_000011.mp4",
    "k700/train/clay_pottery/twice_000001_000011.mp4",
    "k700/train/fencing/twice_000001_000011.mp4",
    "qv/RoripwjYFp8_60.0_210.0.mp4",
    "whole/NUsG9BgSes0.mkv",
    "a/b.mp4",
    "c/b.mp4",
    "notes.txt",
]


@pytest.fixture
def finder(tmp_path):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return Finder(tmp_path)


def item(*names, **facts):
    return Item(names[0], names, "here", **facts)


@pytest.mark.parametrize(
    ("wanted", "media"),
    [
        (item("videos/3MSZA.mp4"), "videos/3MSZA.mp4"),
        (item("videos/3MSZA"), "videos/3MSZA.mp4"),
        (item("videos/3MSZA.avi"), "videos/3MSZA.mp4"),
        (item("3MSZA"), "videos/3MSZA.mp4"),
        (item("other/place/3MSZA.mp4"), "videos/3MSZA.mp4"),
        (item("abc_000001_000011", label="abseiling"), "k700/train/abseiling/abc_000001_000011.mp4"),
        (item("twice_000001_000011", label="clay pottery"), "k700/train/clay_pottery/twice_000001_000011.mp4"),
        (item("twice_000001_000011", label="fencing"), "k700/train/fencing/twice_000001_000011.mp4"),
        (item("RoripwjYFp8_60.0_210.0"), "qv/RoripwjYFp8_60.0_210.0.mp4"),
        (item("x", "v_x", "3MSZA"), "videos/3MSZA.mp4"),
        (item("c/b.mp4"), "c/b.mp4"),
    ],
)
def test_files_are_found_by_the_rules(finder, wanted, media):
    found = finder.find(wanted)
    assert (found.media, found.start, found.end) == (media, None, None)
    assert sum(finder.counts.values()) == 1 and "not found" not in finder.counts


def test_a_part_is_cut_out_of_the_whole_video(finder):
    crop = {"start": 60.0, "end": 210.0}
    found = finder.find(item("NUsG9BgSes0_60.0_210.0", whole="NUsG9BgSes0", **crop))
    assert (found.media, found.start, found.end) == ("whole/NUsG9BgSes0.mkv", 60.0, 210.0)
    cropped = finder.find(item("RoripwjYFp8_60.0_210.0", whole="RoripwjYFp8", **crop))
    assert (cropped.media, cropped.start) == ("qv/RoripwjYFp8_60.0_210.0.mp4", None), "a crop is not cut again"
    part = finder.find(item("3MSZA", start=2.0, end=5.0))
    assert (part.start, part.end) == (2.0, 5.0), "a part of the named file itself"


def test_what_is_missing_or_ambiguous_is_not_guessed(finder):
    assert finder.find(item("absent")) is None
    assert finder.find(item("notes")) is None
    assert finder.counts == {"not found": 2}
    with pytest.raises(Ambiguous, match=r"'b' fits 2 files: a/b.mp4, c/b.mp4"):
        finder.find(item("b"))


def test_opening_names_the_file(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"bad\.jpg: expected a readable picture"):
        read_picture(tmp_path, "bad.jpg")
    with pytest.raises(DataError, match=r"gone\.mp4: there is no such video"):
        video_path(tmp_path, "gone.mp4")
    with pytest.raises(DataError, match=r"gone\.parquet#image#3"):
        read_picture(tmp_path, "gone.parquet#image#3")
