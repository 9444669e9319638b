import json
import shutil
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dataset_scripts import doctor
from dataset_scripts.command import run as run_command
from dataset_scripts.items import DataError, Problems
from dataset_scripts.media import Finder
from dataset_scripts.sources import open_source
from tests.sources import write_clip, write_lines, write_pictures


def run(name, path, tmp_path, **options):
    """Counts over all splits, entries by key, and the report's lines by kind."""
    lock = doctor.examine(open_source(name, str(path)), tmp_path / "locks", num_proc=1, **options)
    header, *entries = map(json.loads, lock.read_text().splitlines())
    report = lock.with_name(lock.name.replace("lock.jsonl", "report.txt")).read_text().splitlines()
    problems = [line.split("\t") for line in report if "\t" in line]
    counts = Counter()
    for found in header["counts"].values():
        counts.update(found)
    for entry in entries:
        assert entry.pop("split") in header["counts"]
    return counts, {entry["key"]: entry for entry in entries}, problems


def test_bad_pictures_are_named_and_counted(tmp_path):
    folder = write_pictures(tmp_path / "source", 8)
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (64, 64)).save(folder / "2.jpg", quality=95)
    (folder / "2.jpg").write_bytes((folder / "2.jpg").read_bytes()[:400])
    (folder / "3.png").unlink()
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    rows[2]["file"], rows[4]["caption"] = "2.jpg", "  "
    rows += [dict(rows[5]), {"caption": "no file"}]
    write_lines(folder / "captions.jsonl", rows)
    counts, entries, problems = run("folder", folder, tmp_path)
    assert list(entries) == ["0.png", "5.png", "6.png", "7.png"]
    expected = {"expected": 10, "present": 8 - 3 + 1, "usable": 4, "corrupt": 2, "missing": 1}
    expected |= {"empty caption": 1, "duplicate id": 1, "malformed": 1}
    assert {name: count for name, count in counts.items() if count} == expected
    places = {(kind, place.rpartition(" ")[2]) for kind, place, _ in problems}
    assert places == {
        ("corrupt", "2"), ("corrupt", "3"), ("missing", "4"), ("empty caption", "5"), ("duplicate id", "9"),
        ("malformed", "10"),
    }  # fmt: skip
    assert any("1.png" in detail for kind, _, detail in problems if kind == "corrupt")


def test_the_four_inverted_rows_of_charades(tmp_path):
    folder = tmp_path / "charades"
    write_clip(folder / "videos" / "AAAAA.mp4", 0, 5.0)
    lines = ["AAAAA 0.0 3.0##a", "AAAAA 4.0 1.0##b", "AAAAA 2.0 5.6##c", "AAAAA 6.0 7.0##d", "AAAAA 3.0 3.0##e"]
    lines += ["AAAAA 3.1 0.1##f", "AAAAA 2.0 1.9##g", "AAAAA 5.0 4.0##h", "BBBBB 0.0 1.0##i"]
    (folder / "charades_sta_train.txt").write_text("\n".join(lines))
    counts, entries, problems = run("charades_sta", folder, tmp_path)
    assert entries == {
        "AAAAA": {
            "key": "AAAAA", "media": "videos/AAAAA.mp4", "start": 0.0, "end": 5.0, "duration": 5.0,
            "without": [1, 3, 4, 5, 6, 7],
        }
    }  # fmt: skip
    assert counts["inverted"] == 4 and counts["out of range"] == 1 and counts["no length"] == 1
    assert (counts["events"], counts["usable events"], counts["missing"]) == (9, 2, 1)
    inverted = [detail for kind, _, detail in problems if kind == "inverted"]
    assert "AAAAA, event 2: ends at 1.0 s, before it starts at 4.0 s" in inverted


def test_crops_and_durations(tmp_path):
    folder = tmp_path / "source"
    for name, seconds in (("short", 3.0), ("long", 9.0), ("whole", 9.0)):
        write_clip(folder / f"{name}.mp4", 0, seconds)
    event = {"events": [{"start": 0.5, "end": 2.0, "caption": "x"}]}
    rows = [
        {"file": "short.mp4", "duration": 3.2} | event,
        {"file": "long.mp4", "duration": 3.2} | event,
        {"file": "whole.mp4", "id": "part", "start": 2.0, "end": 6.0} | event,
        {"file": "whole.mp4", "id": "beyond", "start": 6.0, "end": 14.0} | event,
        {"file": "long.mp4", "id": "clip", "label": "a clip is as long as it is", "duration": 3.2},
    ]
    write_lines(folder / "captions.jsonl", rows)
    counts, entries, _ = run("folder", folder, tmp_path)
    assert entries["short.mp4"] | {"start": 0, "end": 0} == {
        "key": "short.mp4", "media": "short.mp4", "start": 0, "end": 0, "duration": 3.2,
    }  # fmt: skip
    assert entries["short.mp4"]["end"] == pytest.approx(3.0)
    assert (entries["part"]["start"], entries["part"]["end"], entries["part"]["duration"]) == (2.0, 6.0, 4.0)
    assert entries["clip"]["duration"] == pytest.approx(9.0)
    assert set(entries) == {"short.mp4", "part", "clip"}
    assert (counts["duration mismatch"], counts["crop mismatch"], counts["other duration"]) == (1, 1, 1)


def test_crops_that_ids_name(tmp_path):
    folder = tmp_path / "qv"
    write_clip(folder / "aaaaaaaaaaa_0.0_4.0.mp4", 0, 4.0)
    write_clip(folder / "bbbbbbbbbbb_2.0_6.0.mp4", 0, 9.0)
    write_clip(folder / "ccccccccccc.mp4", 0, 9.0)
    names = ["aaaaaaaaaaa_0.0_4.0", "bbbbbbbbbbb_2.0_6.0", "ccccccccccc_2.0_6.0", "ddddddddddd_660.0_810.0"]
    names.append("ccccccccccc_5.0_99.0")
    common = {"query": "q", "duration": 4, "relevant_windows": [[0, 2]], "relevant_clip_ids": [0]}
    common["saliency_scores"] = [[4, 3, 2]]
    rows = [{"qid": number, "vid": name} | common for number, name in enumerate(names)]
    # The data set's own README has a video that is shorter than its name says.
    write_clip(folder / "ddddddddddd_660.0_810.0.mp4", 0, 4.0)
    write_lines(folder / "highlight_train_release.jsonl", rows)
    counts, entries, problems = run("qvhighlights", folder, tmp_path)
    assert set(entries) == {
        "aaaaaaaaaaa_0.0_4.0", "ccccccccccc_2.0_6.0", "ddddddddddd_660.0_810.0", "ccccccccccc_5.0_99.0",
    }  # fmt: skip
    assert (entries["ccccccccccc_5.0_99.0"]["start"], entries["ccccccccccc_5.0_99.0"]["end"]) == (5.0, 9.0)
    assert entries["ccccccccccc_2.0_6.0"] | {"key": ""} == {
        "key": "", "media": "ccccccccccc.mp4", "start": 2.0, "end": 6.0, "duration": 4,
    }  # fmt: skip
    assert counts["duration mismatch"] == 1 and "9.00 s" in problems[0][2]


def test_truncated_videos_and_late_times_in_dialogues(tmp_path):
    folder = tmp_path / "timeit" / "data" / "dense_video_captioning" / "anet"
    for name in ("good", "late", "cut"):
        write_clip(folder / f"{name}.mp4", 0, 6.0)
    (folder / "cut.mp4").write_bytes((folder / "cut.mp4").read_bytes()[:-400])
    answer = "0.0 - 2.0 seconds, a man sits. 2.0 - {} seconds, he stands."
    rows = [
        {"video": f"{name}.mp4", "QA": [{"q": "What happens?", "a": answer.format(end)}]}
        for name, end in (("good", 6.5), ("late", 9.0), ("cut", 5.0), ("gone", 5.0))
    ]
    rows.append({"video": "good.mp4", "QA": [{"q": "What?", "a": "3.0 - 2.0 seconds, he sits."}]})
    (folder / "instruct_dvc_0k_anet.json").write_text(json.dumps(rows))
    counts, entries, _ = run("timeit", tmp_path / "timeit", tmp_path)
    assert [entry["media"].rpartition("/")[2] for entry in entries.values()] == ["good.mp4"]
    assert {kind: counts[kind] for kind in ("out of range", "corrupt", "missing", "inverted")} == {
        "out of range": 1, "corrupt": 1, "missing": 1, "inverted": 1,
    }  # fmt: skip


def test_what_was_examined_is_not_examined_again(tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / "source", 4)
    run("folder", folder, tmp_path)
    seen = []
    check_file = doctor.check_file
    monkeypatch.setattr(doctor, "check_file", lambda job: seen.append(job[1]) or check_file(job))
    run("folder", folder, tmp_path)
    assert seen == []
    shutil.copy(folder / "0.png", folder / "3.png")
    with (tmp_path / "locks" / "folder.checked.jsonl").open("a") as lines:
        lines.write('{"file": "2.png", "sta')  # killed while it wrote
    run("folder", folder, tmp_path)
    assert seen == ["3.png"]


def test_other_faults_of_pictures_in_parquet(tmp_path):
    picture = (write_pictures(tmp_path / "one", 1) / "0.png").read_bytes()
    rows = [{"bytes": picture, "path": None}, {"bytes": picture[:60], "path": None}, {"bytes": picture, "path": None}]
    (tmp_path / "hub").mkdir()
    table = pa.table({"jpg": rows, "txt": ["a kite", "a boat", None]})
    pq.write_table(table, tmp_path / "hub" / "train-00000.parquet")
    counts, entries, _ = run("hub_images", f"{tmp_path / 'hub'}?image=jpg&caption=txt", tmp_path)
    assert list(entries) == ["train-00000.parquet#jpg#0"]
    assert (counts["corrupt"], counts["malformed"]) == (1, 1)
    with pytest.raises(DataError, match=r"train-00000.parquet: expected a column 'image', found jpg, txt"):
        run("hub_images", tmp_path / "hub", tmp_path)
    with pytest.raises(DataError, match=r"hub_images has no option picture"):
        open_source("hub_images", f"{tmp_path}?picture=jpg")


def test_sources_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="unknown source 'charades', expected one of activitynet, charades_sta"):
        open_source("charades", str(tmp_path))
    with pytest.raises(DataError, match="there is no such file or folder"):
        open_source("folder", str(tmp_path / "gone" / "really"))
    with pytest.raises(DataError, match=r"expected annotations named captions.jsonl"):
        list(open_source("folder", str(tmp_path)).read(Problems()))
    assert Finder(tmp_path).counts == {}


def test_a_data_set_on_the_hub_is_fetched_once_named(tmp_path, monkeypatch):
    (tmp_path / "snapshots").mkdir()
    folder = write_pictures(tmp_path / "snapshots" / "0a1b2c", 2)
    asked = []

    def snapshot_download(repository, repo_type, revision):
        asked.append((repository, repo_type, revision))
        if repository == "owner/gone":
            raise OSError("404")
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    source = open_source("folder", "owner/name@v1")
    assert asked == [("owner/name", "dataset", "v1")]
    assert (source.path, source.repository, source.revision) == (folder, "owner/name", "0a1b2c")
    header = doctor.lock_header(doctor.examine(source, tmp_path / "locks", num_proc=1))
    assert (header["repository"], header["revision"]) == ("owner/name", "0a1b2c")
    with pytest.raises(DataError, match="owner/gone: no such local path, and the Hub didn't give a data set"):
        open_source("folder", "owner/gone")


def test_the_command_prints_counts_and_one_line_of_error(tmp_path, capsys):
    folder = write_pictures(tmp_path / "source", 2)
    doctor.main(["folder", str(folder), "--num-proc", "1"])
    printed = capsys.readouterr().out
    assert "usable                        2" in printed and str(folder / "folder.lock.jsonl") in printed
    with pytest.raises(SystemExit, match=r"^error: unknown source 'nothing'"):
        run_command(lambda: doctor.main(["nothing", str(folder)]))


def test_annotations_of_another_name_and_our_own_files(tmp_path):
    folder = write_pictures(tmp_path / "source", 2)
    (folder / "captions.jsonl").rename(folder / "mine.jsonl")
    doctor.main(["folder", str(folder), "--num-proc", "1"])
    doctor.main(["folder", str(folder), "--num-proc", "1"])
    assert len((folder / "folder.lock.jsonl").read_text().splitlines()) == 3
    shutil.copy(folder / "mine.jsonl", folder / "other.jsonl")
    with pytest.raises(
        DataError, match=r"expected annotations named captions.jsonl or metadata.jsonl, found mine.jsonl"
    ):
        doctor.main(["folder", str(folder)])


def test_files_of_an_own_folder_are_those_that_it_names(tmp_path):
    """A picture of the same name elsewhere, or of another type, is another picture."""
    folder = write_pictures(tmp_path / "source", 2)
    (folder / "dogs").mkdir()
    (folder / "1.png").rename(folder / "dogs" / "1.png")
    counts, entries, problems = run("folder", folder, tmp_path)
    assert list(entries) == ["0.png"] and counts["missing"] == 1 and "'1.png'" in problems[0][2]


def test_parts_and_durations_of_clips(tmp_path):
    folder = tmp_path / "source"
    write_clip(folder / "a.mp4", 0, 9.0)
    rows = [{"file": "a.mp4", "start": 2.0, "end": 6.0, "duration": 9.0, "label": "x"}]
    rows.append(rows[0] | {"id": "b", "events": [{"start": 0.5, "end": 1.0, "caption": "x"}]})
    write_lines(folder / "captions.jsonl", rows)
    counts, entries, _ = run("folder", folder, tmp_path)
    assert entries["a.mp4"] | {"key": ""} == {"key": "", "media": "a.mp4", "start": 2.0, "end": 6.0, "duration": 4.0}
    assert "b" not in entries and counts["duration mismatch"] == 1 and counts["other duration"] == 1


def test_splits_have_ids_and_counts_of_their_own(tmp_path):
    folder = tmp_path / "charades"
    write_clip(folder / "AAAAA.mp4", 0, 5.0)
    for split, line in (("train", "AAAAA 0.0 3.0##a"), ("test", "AAAAA 4.0 1.0##b")):
        (folder / f"charades_sta_{split}.txt").write_text(line)
    lock = doctor.examine(open_source("charades_sta", str(folder)), tmp_path / "locks", num_proc=1)
    header, entry = doctor.lock_lines(lock)
    assert (entry["key"], entry["split"]) == ("AAAAA", "train")
    assert header["counts"]["train"] == {"expected": 1, "events": 1, "present": 1, "usable events": 1, "usable": 1}
    assert header["counts"]["test"]["inverted"] == 1


@pytest.mark.parametrize(
    ("name", "file"),
    [("folder", "captions.jsonl"), ("charades_sta", "charades_sta_train.txt"), ("kinetics", "train.csv")],
)
def test_a_byte_order_mark_is_no_text(tmp_path, name, file):
    folder = tmp_path / "source"
    write_clip(folder / "AAAAA.mp4", 0, 5.0)
    write_clip(folder / "AAAAA_000001_000006.mp4", 0, 5.0)
    text = {"folder": '{"file": "AAAAA.mp4", "label": "x"}', "charades_sta": "AAAAA 0.0 3.0##a"}
    text["kinetics"] = "youtube_id,time_start,time_end,split,label\nAAAAA,1,6,train,x"
    (folder / file).write_text(text[name], encoding="utf-8-sig")
    counts, entries, _ = run(name, folder, tmp_path)
    assert len(entries) == 1 and counts["expected"] == counts["usable"] == 1


def test_names_that_are_hard_to_read(tmp_path):
    folder = write_pictures(tmp_path / "so[me] folder", 3)
    for number, name in enumerate(("a#1.png", "b [x].PNG")):
        (folder / f"{number}.png").rename(folder / name)
    rows = [{"file": name, "caption": name} for name in ("a#1.png", "b [x].PNG", "2.png")]
    rows.append({"file": "2.png", "id": "half", "caption": "\ud83d half a letter"})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "captions.jsonl").write_text(text)
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    counts, entries, _ = run("folder", folder, tmp_path)
    assert list(entries) == ["a#1.png", "b [x].PNG", "2.png"] and counts["malformed"] == 1


def test_thumbnails_and_links_make_nothing_ambiguous(tmp_path):
    folder = tmp_path / "charades"
    write_clip(folder / "videos" / "AAAAA.mp4", 0, 5.0)
    Image.new("RGB", (8, 8)).save(folder / "videos" / "AAAAA.jpg")
    (folder / "videos" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "charades_sta_train.txt").write_text("AAAAA 0.0 3.0##a")
    _, entries, _ = run("charades_sta", folder, tmp_path)
    assert entries["AAAAA"]["media"] == "videos/AAAAA.mp4"


def test_more_kinds_of_parquet(tmp_path):
    picture = (write_pictures(tmp_path / "one", 1) / "0.png").read_bytes()
    for folder in ("bytes", "lists", "broken"):
        (tmp_path / folder).mkdir()
    pq.write_table(pa.table({"image": [picture, b"nothing"], "caption": ["a", "b"]}), tmp_path / "bytes" / "a.parquet")
    counts, entries, _ = run("hub_images", tmp_path / "bytes", tmp_path)
    assert list(entries) == ["a.parquet#image#0"] and counts["corrupt"] == 1
    turns = [{"from": ["human", "gpt"], "value": ["Describe.", "A kite."]}, {"from": ["human"], "value": ["?"]}]
    cells = [{"bytes": picture, "path": None}] * 2
    pq.write_table(pa.table({"image": cells, "conversations": turns}), tmp_path / "lists" / "a.parquet")
    counts, entries, _ = run("llava_recap", tmp_path / "lists", tmp_path)
    assert len(entries) == 1 and counts["malformed"] == 1
    whole = (tmp_path / "lists" / "a.parquet").read_bytes()
    (tmp_path / "broken" / "a.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"broken/a.parquet: expected a Parquet file that can be read"):
        run("llava_recap", tmp_path / "broken", tmp_path)


def test_a_picture_too_large_to_open_is_corrupt(tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / "source", 2)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    counts, _, problems = run("folder", folder, tmp_path)
    assert counts["corrupt"] == 2 and "exceeds limit" in problems[0][2]


def test_a_spoilt_lock_file_is_named(tmp_path):
    for text in ("", "{}\nnonsense\n"):
        (tmp_path / "x.lock.jsonl").write_text(text)
        with pytest.raises(DataError, match=r"x.lock.jsonl: .*expected what the doctor writes"):
            list(doctor.lock_lines(tmp_path / "x.lock.jsonl"))
