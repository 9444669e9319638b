"""The command as a user runs it: in a process of its own."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from modeling_seq2time import Answer, Moment
from modeling_seq2time.cli import clock, plot, short_clock, subtitles, timeline


SEQ2TIME = Path(sys.executable).parent / "seq2time"


def run(*arguments, cwd=None):
    done = subprocess.run([SEQ2TIME, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tiny_folder):
    return tiny_folder("timechat", time_notation="bins")


def test_ground(folder, video, tmp_path):
    done = run("ground", video, "a red circle", "--model", folder, "--top-k", 3, "--plot", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    title, head, *rows = done.stdout.splitlines()
    assert title == f"{video} · 4.8 s · a red circle"
    assert head.split() == ["start", "end", "score", "0", "4.8", "s"]
    assert len(rows) == 3
    assert all(re.fullmatch(r" +[\d.]+ s +[\d.]+ s +\S+  [─█]{32}", row) for row in rows)
    assert Image.open(tmp_path / "out.png").size[0] > 1000
    assert [file.name for file in tmp_path.iterdir()] == ["out.png"]


def test_it_asks_as_it_is_told(folder, video):
    asked = ["ground", video, "a red circle", "--model", folder, "--json"]
    own, other = (
        json.loads(run(*asked, *more).stdout) for more in ([], ["--prompt", "Say <0> <1> <2>: when is {query}?"])
    )
    assert own[0]["query"] == other[0]["query"] and own[0]["moments"] != other[0]["moments"]


def test_several_videos_as_json_and_one_that_is_missing(folder, video, tmp_path):
    done = run("ground", video, tmp_path / "none.mp4", video, "a door", "--model", folder, "--json", "--window", 3)
    assert done.returncode == 1
    assert done.stderr.strip() == f"error: {tmp_path}/none.mp4: there is no such video file"
    found = json.loads(done.stdout)
    assert [one["video"] for one in found] == [str(video)] * 2
    assert found[0]["duration"] == pytest.approx(4.8)
    assert found[0]["query"] == "a door"
    (moment,) = found[0]["moments"]
    assert set(moment) == {"start", "end", "text", "score", "position"}
    assert 0 <= moment["start"] <= moment["end"] <= 4.8


def test_captions_as_subtitles(folder, video, tmp_path):
    other = shutil.copy(video, tmp_path / "other.mp4")
    done = run(
        "caption", video, other, "--model", folder, "--vtt", "--output", tmp_path / "subs", "--max-new-tokens", 60
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "subs/other.vtt").read_text()
    assert text == (tmp_path / "subs/h264.vtt").read_text()
    assert text.startswith("WEBVTT\n\n1\n00:00:0")
    printed = run("caption", video, "--model", folder, "--srt", "--max-new-tokens", 60).stdout
    assert re.match(r"1\n00:00:\d\d,\d{3} --> 00:00:\d\d,\d{3}\n\S", printed)
    assert run("caption", video, "--model", folder, "--max-new-tokens", 60).stdout.count("█") > 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ground", "a.mp4", "q"], 2, "the following arguments are required: --model"),
        (["ground", "a.mp4", "--model", "x"], 2, "the following arguments are required"),
        (["ground", "a.mp4", "q", "--model", "x", "--prompt", "When?"], 2, "--prompt: expected {query} where QUERY"),
        (["ground", "a.mp4", "q", "--model", "x", "--prompt", ""], 2, "--prompt: expected {query} where QUERY"),
        (["caption", "a.mp4", "b.mp4", "--model", "x", "--srt"], 2, "subtitles of several videos need --output DIR"),
        (["caption", "a.mp4", "--model", "x", "--output", "y"], 2, "--output needs one of --json, --vtt and --srt"),
        (
            ["ground", "a.mp4", "q", "--model", "no/such/folder"],
            1,
            "error: no/such/folder: expected a model's folder or",
        ),
        (
            ["ground", "a.mp4", "q", "--model", "x", "--plot", "no/out.png"],
            1,
            "there is no such folder for the picture",
        ),
    ],
)
def test_errors_are_one_line(arguments, code, message, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr.splitlines()[-1]


def test_a_model_of_another_kind(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    done = run("ground", "a.mp4", "q", "--model", tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr.strip() == f"error: {tmp_path}: expected 'seq2time' or another video language model, found 'llama'"
    )


def test_damaged_video(folder, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    done = run("ground", tmp_path / "bad.mp4", "q", "--model", folder)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {tmp_path}/bad.mp4: ")


def test_an_image_is_no_video(folder, tmp_path):
    Image.new("RGB", (60, 60)).save(tmp_path / "a.png")
    done = run("ground", tmp_path / "a.png", "q", "--model", folder)
    assert (done.returncode, done.stderr.strip()) == (1, f"error: {tmp_path}/a.png: expected a video, found an image")


def test_damaged_weights(folder, video, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    weights = tmp_path / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    done = run("ground", video, "q", "--model", tmp_path / "model")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_reader_that_has_seen_enough(folder, video):
    command = f"'{SEQ2TIME}' ground '{video}' q --model '{folder}' --top-k 300 --max-overlap 1 | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_times_are_written_as_clocks():
    assert clock(3723.4567) == "01:02:03.457"
    assert clock(59.9999, ",") == "00:01:00,000"
    assert [short_clock(59.96, length) for length in (60, 600, 3600)] == ["60.0 s", "1:00.0", "0:01:00.0"]


def test_timeline():
    assert timeline(Moment.at((0.0, 1.0), 10.0)) == "█" * 32
    assert timeline(Moment.at((1.0, 1.0), 10.0)) == "─" * 31 + "█", "a moment without length is seen"
    assert timeline(Moment.at((0.25, 0.5), 10.0)) == "─" * 8 + "█" * 8 + "─" * 16


def test_what_subtitles_cannot_say():
    answer = Answer([Moment(5.0, 6.0, "b & <c>"), Moment(1.0, 1.0, "a -->\n\nb"), Moment(2.0, 3.0, "")])
    assert subtitles(answer, webvtt=True) == (
        "WEBVTT\n\n1\n00:00:01.000 --> 00:00:01.500\na → b\n\n2\n00:00:02.000 --> 00:00:03.000\n–\n\n"
        "3\n00:00:05.000 --> 00:00:06.000\nb &amp; &lt;c>\n"
    )
    assert "b & <c>" in subtitles(answer, webvtt=False)


def test_any_text_can_be_drawn(tmp_path):
    answer = Answer(
        [Moment.at((0.6, 0.9), 60.0, "costs $5 and $6_x", 0.5), Moment.at((0, 0.1), 60.0, "火", 0.1)], length=60.0
    )
    plot(tmp_path / "out.png", [("$a_$.mp4", answer), ("none.mp4", Answer(length=5.0))], "a $x^ query")
    assert Image.open(tmp_path / "out.png").format == "PNG"
