import functools
import http.server
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_seq2time import Seq2TimeVideoProcessor
from modeling_seq2time.video_decoding import decord, open_video
from modeling_seq2time.video_processing_seq2time import random_indices, uniform_indices
from tests.videos import read_number


RULES = json.loads((Path(__file__).parent / "data/timechat_tiny/data_rules.json").read_text())


@pytest.fixture
def process():
    processor = Seq2TimeVideoProcessor(size={"height": 28, "width": 28}, num_frames=8)
    return lambda videos, **settings: processor(videos, return_tensors="pt", **settings)


@pytest.mark.parametrize("rule", RULES["uniform"], ids=lambda rule: f"{rule['vlen']}-{rule['n_frms']}")
def test_uniform_frames_are_timechats(rule):
    assert uniform_indices(rule["vlen"], rule["n_frms"]).tolist() == rule["indices"]


def test_pixels_are_normalised_as_timechats():
    values = np.array(RULES["normalise"]["uint8"], np.uint8)
    frame = np.broadcast_to(values[None, None, :, None], (1, 5, len(values), 3))
    processor = Seq2TimeVideoProcessor(do_resize=False, do_sample_frames=False)
    pixels = processor(frame, return_tensors="pt").pixel_values_videos[0, 0, :, 0]
    np.testing.assert_allclose(pixels, RULES["normalise"]["rgb"], atol=1e-6)


@pytest.mark.parametrize(("total", "count"), [(300, 8), (97, 96), (7, 10), (1, 4)])
def test_random_frames(total, count):
    first = random_indices(total, count, seed=3)
    assert (first == random_indices(total, count, seed=3)).all()
    assert len(first) == min(total, count)
    assert (np.diff(first) > 0).all()
    assert 0 <= first.min() <= first.max() < total
    if total > 2 * count:
        edges = np.linspace(0, total, count + 1).astype(int)
        many = np.stack([random_indices(total, count, seed) for seed in range(500)])
        assert (many.min(axis=0) == edges[:-1]).all()
        assert (many.max(axis=0) == edges[1:] - 2).all(), "the last frame of an interval is never taken"


def test_every_way_to_give_a_video(process, video):
    expected = process(str(video))["pixel_values_videos"]
    with video.open("rb") as file:
        for way in (video, video.read_bytes(), file, [video], [[str(video)]], open_video(video, size=(28, 28))):
            found = process(way)
            torch.testing.assert_close(found["pixel_values_videos"], expected)
            assert found["video_metadata"][0].frames_indices == [0, 15, 30, 45, 60, 75, 90, 105]
            assert found["video_metadata"][0].times == pytest.approx([place / 25 for place in range(0, 120, 15)])
            assert found["video_metadata"][0].duration == pytest.approx(4.8)
    if decord is not None:
        found = process(decord.VideoReader(str(video)))
        assert (found["pixel_values_videos"] - expected).abs().mean() < 0.05, "resized by torch, not by the decoder"
        assert found["video_metadata"][0].times == pytest.approx([place / 25 for place in range(0, 120, 15)])
    frames, _ = open_video(video).read(range(120))
    known = {"fps": 25.0, "total_num_frames": 120, "duration": 4.8}
    for way in (frames, torch.from_numpy(frames), torch.from_numpy(frames).permute(0, 3, 1, 2), list(frames)):
        found = process(way, video_metadata=known)
        assert (found["pixel_values_videos"] - expected).abs().mean() < 0.05, "resized by torch, not by the decoder"
        assert found["video_metadata"][0].times == pytest.approx([place / 25 for place in range(0, 120, 15)])


def test_frames_picked_before_keep_their_times(process):
    known = {"fps": 10.0, "total_num_frames": 600, "frames_indices": [0, 300, 599]}
    metadata = process(np.zeros((3, 30, 40, 3), np.uint8), video_metadata=known)["video_metadata"][0]
    assert metadata.times == [0.0, 30.0, 59.9]
    assert metadata.duration == 60.0


def test_the_annotations_duration_wins(process, video):
    metadata = process(video, video_metadata={"duration": 6.0, "total_num_frames": 120})["video_metadata"][0]
    assert metadata.duration == 6.0
    assert metadata.positions[1] == pytest.approx(0.1)


def test_image_sequences(process, tmp_path):
    paths = []
    for number, (mode, size) in enumerate([("RGB", (40, 30)), ("L", (20, 60)), ("RGBA", (33, 33)), ("P", (28, 28))]):
        paths.append(tmp_path / f"{number}.png")
        Image.new(mode, size, 128 if mode in "LP" else (128,) * len(mode)).save(paths[-1])
    found = process(paths)
    metadata = found["video_metadata"][0]
    assert found["pixel_values_videos"].shape == (1, 4, 3, 28, 28)
    assert metadata.times is None
    assert metadata.positions == [0.25, 0.5, 0.75, 1.0]
    images = process([Image.open(path) for path in paths])
    torch.testing.assert_close(images["pixel_values_videos"], found["pixel_values_videos"])
    twice = process([[str(path) for path in paths], [str(path) for path in paths[:2]]])
    assert twice["video_frame_mask"].tolist() == [[True] * 4, [True, True, False, False]]
    many = process([paths[0]] * 20)
    assert many["pixel_values_videos"].shape[1] == 20, "images named one by one are all meant"


def test_an_animation_is_a_video_and_a_picture_among_pictures(process, tmp_path):
    path = tmp_path / "moving.gif"
    pictures = [Image.new("RGB", (20, 20), (50 * shade, 0, 0)) for shade in range(5)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    assert process(path)["video_metadata"][0].times == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert process([path, path])["video_metadata"][0].times is None


def test_urls(process, video, tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=video.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        found = process(f"{address}/{video.name}")
        torch.testing.assert_close(found["pixel_values_videos"], process(video)["pixel_values_videos"])
        with pytest.raises(ValueError, match=r"gone.mp4: expected a video, the server answered 404"):
            process(f"{address}/gone.mp4")
        server.shutdown()
    with pytest.raises(ValueError, match=f"{address}/{video.name}: the video can't be fetched"):
        process(f"{address}/{video.name}")


def test_short_and_long_videos_in_a_batch(process, video):
    found = process([video, np.zeros((3, 20, 20, 3), np.uint8)])
    assert found["pixel_values_videos"].shape == (2, 8, 3, 28, 28)
    assert found["video_frame_mask"].sum(dim=1).tolist() == [8, 3]
    assert (found["pixel_values_videos"][1, 3:] == 0).all()


def test_random_sampling_does_not_depend_on_the_batch(process, video):
    settings = {"sampling": "random", "seed": 7}
    alone = process(video, **settings)["video_metadata"][0].frames_indices
    together = process([np.zeros((50, 20, 20, 3), np.uint8), video], **settings)["video_metadata"][1].frames_indices
    assert alone == together
    assert alone != process(video, sampling="random", seed=8)["video_metadata"][0].frames_indices


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_decoders_see_the_same_frames(video, decoder):
    if decoder == "decord" and decord is None:
        pytest.skip("decord has no wheel for this platform")
    processor = Seq2TimeVideoProcessor(
        decoder=decoder, do_resize=False, do_rescale=False, do_normalize=False, num_frames=5
    )
    frames = processor(video, return_tensors="pt")["pixel_values_videos"][0].permute(0, 2, 3, 1).numpy()
    assert [read_number(frame) for frame in frames] == [0, 24, 48, 72, 96]


@pytest.mark.parametrize(
    ("videos", "settings", "message"),
    [
        ("gone.mp4", {}, "gone.mp4: there is no such video file"),
        (["gone.jpg"], {}, "gone.jpg: expected a readable image"),
        ([], {}, "expected a video: .* found list"),
        (7, {}, "expected a video: .* found int"),
        (np.zeros((4, 5)), {}, r"expected a video: .* found ndarray of shape \(4, 5\)"),
        (np.zeros((0, 20, 20, 3)), {}, "a video must have at least one frame"),
        (np.zeros((5, 20, 20, 3)), {"num_frames": 6}, "num_frames=6 frames were asked for of an array that has 5"),
        (
            np.zeros((5, 20, 20, 3)),
            {"num_frames": -1},
            "num_frames must be at least 1 and fps above 0, found -1 and None",
        ),
        (
            np.zeros((5, 20, 20, 3)),
            {"fps": 0.0, "video_metadata": {"fps": 2.0}},
            "num_frames must be at least 1 and fps above 0, found None and 0.0",
        ),
        (np.zeros((5, 20, 20, 3)), {"num_frames": 2, "fps": 1.0}, "num_frames and fps exclude each other"),
        (np.zeros((5, 20, 20, 3)), {"fps": 1.0}, "sampling at fps=1.0 needs the video's own frame rate"),
        (
            np.zeros((5, 20, 20, 3)),
            {"video_metadata": [{}, {}]},
            "expected one video_metadata per video, found 2 for 1",
        ),
        (
            [np.zeros((9, 9, 3)), np.zeros((8, 9, 3))],
            {"do_resize": False},
            "images of different sizes .* need do_resize",
        ),
    ],
)
def test_bad_input(process, videos, settings, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        process(videos, **settings)
