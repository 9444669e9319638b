import io

import av
import numpy as np
import pytest

from modeling_seq2time.video_decoding import VideoDecodingError, decord, open_video, torchcodec
from tests.videos import read_number, with_index_in_front, write_video


NUM_FRAMES = 150
UNEVEN = np.cumsum(np.random.default_rng(0).integers(10, 120, NUM_FRAMES))
VIDEOS = {
    "h264.mp4": {"options": {"g": "50"}},
    "h264.mkv": {"options": {"g": "50"}},
    "h264.ts": {"options": {"g": "50"}},
    "h264_uneven.mp4": {"options": {"g": "60"}, "times": UNEVEN},
    "h264_open.mp4": {"options": {"x264-params": "open-gop=1:keyint=30:bframes=3"}},
    "h264_pyramid.mp4": {"options": {"x264-params": "bframes=8:b-pyramid=strict:keyint=40:ref=5"}},
    "h264_refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=40"}},
    "hevc_open.mp4": {
        "codec": "libx265",
        "options": {"x265-params": "open-gop=1:keyint=30:bframes=4:log-level=none"},
    },
    "hevc_radl.mp4": {
        "codec": "libx265",
        "options": {"x265-params": "radl=2:keyint=30:bframes=4:open-gop=0:log-level=none"},
    },
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "50", "deadline": "realtime", "cpu-used": "8"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12", "g": "50", "svtav1-params": "lp=1"}},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "h264.avi": {"options": {"bf": "3"}},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder, written = tmp_path_factory.mktemp("videos"), {}

    def get(name):
        if name not in written:
            written[name] = write_video(folder / name, NUM_FRAMES, **VIDEOS[name])
        return written[name]

    return get


def sequential(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", VIDEOS)
def test_frames_of_a_sequential_decode(videos, name):
    path = videos(name)
    expected = sequential(path)
    reader = open_video(path)
    assert reader.num_frames == len(expected) == NUM_FRAMES
    rng = np.random.default_rng(1)
    for picks in (range(NUM_FRAMES), sorted(rng.choice(NUM_FRAMES, 20, replace=False)), [149], [60, 3, 60]):
        frames, _ = reader.read(picks)
        np.testing.assert_array_equal(frames, [expected[pick] for pick in picks])
        assert [read_number(frame) for frame in frames] == list(picks)
    in_memory, _ = open_video(path.read_bytes()).read([0, 75, 149])
    np.testing.assert_array_equal(in_memory, [expected[pick] for pick in (0, 75, 149)])


def test_only_wanted_frames_are_decoded(videos, monkeypatch):
    """The point of the reader: far fewer packets than a sequential decode reach the decoder."""
    reader, fed = open_video(videos("h264.mp4")), []
    original = reader._packets_between
    monkeypatch.setattr(
        reader, "_packets_between", lambda *args: (fed.append(packet) or packet for packet in original(*args))
    )
    reader.read([0, 60, 149])
    needed = [packet for packet in reader._packets if not packet.is_droppable]
    assert len(fed) < 0.5 * NUM_FRAMES
    assert len(needed) < 0.8 * NUM_FRAMES


def test_exactness_test_can_fail(videos):
    """Negative control: were needed packets dropped, the comparison above would see it."""
    reader, expected = open_video(videos("h264.mp4")), sequential(videos("h264.mp4"))
    for packet in reader._packets[:20]:
        packet.is_droppable = not packet.is_key
    frames, _ = reader.read([30])
    assert (frames[0] != expected[30]).any()


def test_times_are_presentation_timestamps(videos):
    reader = open_video(videos("h264_uneven.mp4"))
    _, times = reader.read(range(NUM_FRAMES))
    np.testing.assert_allclose(times, (UNEVEN - UNEVEN[0]) / 1000, atol=2e-3)
    nominal = np.arange(NUM_FRAMES) / reader.fps
    assert np.abs(nominal - times).max() > 0.2, "a nominal frame rate would be wrong here"
    steady = open_video(videos("h264.mp4"))
    assert steady.duration == pytest.approx(NUM_FRAMES / 25)
    assert steady.fps == 25


def test_frames_are_scaled_by_the_decoder(videos):
    frames, _ = open_video(videos("h264.mp4"), size=(48, 40)).read([5])
    assert frames.shape == (1, 48, 40, 3)


@pytest.mark.skipif(decord is None, reason="decord has no wheel for this platform")
def test_decord_is_exact_on_plain_h264_and_wrong_on_open_groups(videos):
    """Why decord isn't the default."""
    frames, times = open_video(videos("h264.mp4"), "decord").read([0, 60, 149])
    assert [read_number(frame) for frame in frames] == [0, 60, 149]
    assert times == pytest.approx([0, 2.4, 5.96])
    picks = list(range(3, NUM_FRAMES, 7))
    frames, _ = open_video(videos("hevc_open.mp4"), "decord").read(picks)
    assert [read_number(frame) for frame in frames] != picks


def test_torchcodec_agrees_or_says_what_it_needs(videos):
    path = videos("h264.mp4")
    try:
        torchcodec.VideoDecoder(str(path))
    except (AttributeError, RuntimeError):
        with pytest.raises((ImportError, VideoDecodingError), match="torchcodec"):
            open_video(path, "torchcodec")
        return
    frames, times = open_video(path, "torchcodec").read([0, 60, 149])
    assert [read_number(frame) for frame in frames] == [0, 60, 149]
    assert times == pytest.approx([0, 2.4, 5.96])


def test_a_file_that_starts_in_mid_stream(videos, tmp_path):
    """Packets before the first key frame are no frames, as in a sequential decode."""
    cut = tmp_path / "cut.mkv"
    with av.open(str(videos("h264.mkv"))) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for place, packet in enumerate(source.demux(video=0)):
            if place >= 30 and packet.size:
                packet.stream = stream
                target.mux(packet)
    expected = sequential(cut)
    assert len(expected) < NUM_FRAMES - 30
    frames, _ = open_video(cut).read(range(len(expected)))
    np.testing.assert_array_equal(frames, expected)


def test_truncated_files(videos, tmp_path):
    whole = with_index_in_front(videos("h264.mp4"), tmp_path / "whole.mp4")
    reader = open_video(whole[: int(len(whole) * 0.7)])
    assert reader.num_frames == NUM_FRAMES
    assert reader.duration == pytest.approx(NUM_FRAMES / 25)
    frames, _ = reader.read([0, 20, 40])
    assert [read_number(frame) for frame in frames] == [0, 20, 40]
    with pytest.raises(
        VideoDecodingError, match="frame 149 was asked for; the file declares 150 frames, but ends after"
    ):
        reader.read([0, 149])
    with pytest.raises(VideoDecodingError, match="video of 5000 bytes: reading the video's index failed"):
        open_video(videos("h264.mp4").read_bytes()[:5000])


def test_a_truncated_matroska_file_is_no_shorter_video(videos):
    whole = videos("h264.mkv").read_bytes()
    reader = open_video(whole[: int(len(whole) * 0.6)])
    assert reader.num_frames == NUM_FRAMES
    assert reader.duration == pytest.approx(NUM_FRAMES / 25, abs=0.05)
    frames, _ = reader.read([0, 40])
    assert [read_number(frame) for frame in frames] == [0, 40]
    with pytest.raises(
        VideoDecodingError, match="frame 149 was asked for; the file declares 150 frames, but ends after"
    ):
        reader.read([0, 149])


def test_the_film_not_the_cover(videos, tmp_path):
    """A still picture in front of the film is passed over; a song's cover is no video."""
    film = tmp_path / "film.mkv"
    with av.open(str(videos("h264.mkv"))) as source, av.open(str(film), "w") as target:
        cover = target.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 48, 64, "yuvj420p"
        stream = target.add_stream_from_template(source.streams.video[0])
        still = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        target.mux(cover.encode(still))
        target.mux(cover.encode())
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    frames, _ = open_video(film).read([0, 100])
    assert [read_number(frame) for frame in frames] == [0, 100]


def test_joined_transport_streams(videos, tmp_path):
    """Two recordings in one file: timestamps start again, every frame is there."""
    joined = tmp_path / "joined.ts"
    joined.write_bytes(videos("h264.ts").read_bytes() * 2)
    expected = sequential(joined)
    frames, times = open_video(joined).read(range(len(expected)))
    np.testing.assert_array_equal(frames, expected)
    assert (np.diff(times) > 0).all()


def test_damage_in_the_middle_is_an_error(videos, tmp_path):
    data = bytearray(videos("h264.mp4").read_bytes())
    with av.open(io.BytesIO(bytes(data))) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][60]
        place, size = packet.pos, packet.size
    data[place + 8 : place + size] = np.random.default_rng(0).bytes(size - 8)
    reader = open_video(bytes(data))
    with pytest.raises(VideoDecodingError, match="damaged|decod"):
        reader.read(range(55, 75))
    frames, _ = reader.read([0, 20, 110])
    assert [read_number(frame) for frame in frames] == [0, 20, 110], "what is intact is read"


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("missing.mp4", FileNotFoundError, "missing.mp4: there is no such video file"),
        (b"not a video", VideoDecodingError, "video of 11 bytes: reading the video's index failed"),
    ],
)
def test_bad_files(source, error, message):
    with pytest.raises(error, match=message):
        open_video(source)


def test_bad_requests(videos, tmp_path):
    with pytest.raises(ValueError, match=r"unknown decoder 'ffmpeg', expected one of 'pyav', 'decord', 'torchcodec'"):
        open_video(videos("h264.mp4"), "ffmpeg")
    with pytest.raises(VideoDecodingError, match="frame 150 was asked for, the video has 150 frames"):
        open_video(videos("h264.mp4")).read([150])
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoDecodingError, match=r"sound.mp4: the file has no video stream"):
        open_video(sound)
