import pytest
from transformers import LlamaConfig

from modeling_seq2time import Seq2TimeConfig
from modeling_seq2time.configuration_seq2time import Windows


@pytest.mark.parametrize(("preset", "tokens"), [("timechat", 96), ("video_llama", 32), ("temporalvlm", 960)])
def test_presets_have_the_published_sizes(preset, tokens):
    config = Seq2TimeConfig.from_preset(preset)
    assert config.num_video_tokens == tokens
    vision, qformer, video, text = (
        getattr(config, f"{part}_config") for part in ("vision", "qformer", "video_qformer", "text")
    )
    assert (vision.hidden_size, vision.num_hidden_layers, vision.intermediate_size) == (1408, 39, 6144)
    assert (qformer.hidden_size, qformer.num_hidden_layers, qformer.encoder_hidden_size) == (768, 12, 1408)
    assert (qformer.vocab_size, qformer.cross_attention_frequency) == (30523, 2)
    assert (video.num_hidden_layers, video.cross_attention_frequency, video.encoder_hidden_size) == (2, 1, 768)
    assert (text.hidden_size, text.num_hidden_layers, text.vocab_size) == (4096, 32, 32000)
    assert config.qformer_reads_time == (preset != "video_llama")


def test_overrides_reach_into_parts():
    config = Seq2TimeConfig.from_preset("timechat", num_frames=64, text_config={"num_hidden_layers": 2})
    assert config.num_video_tokens == 64
    assert config.text_config.num_hidden_layers == 2
    assert config.text_config.hidden_size == 4096
    other = Seq2TimeConfig.from_preset("timechat", text_config={"model_type": "qwen2", "hidden_size": 64})
    assert (other.text_config.model_type, other.text_config.hidden_size) == ("qwen2", 64)
    given = Seq2TimeConfig.from_preset("timechat", text_config=LlamaConfig(hidden_size=128))
    assert given.text_config.hidden_size == 128
    assert Seq2TimeConfig.from_preset("timechat").text_config.num_hidden_layers == 32, "presets are not changed"


@pytest.mark.parametrize(
    ("windows", "frames", "found"),
    [
        (Windows(32, 32), 96, [[(0, 32), (32, 64), (64, 96)]]),
        (Windows(32, 32), 97, [[(0, 32), (32, 64), (64, 96), (96, 97)]]),
        (Windows(32, 32), 1, [[(0, 1)]]),
        (Windows(0, 0), 96, [[(0, 96)]]),
        (Windows(32, 16), 40, [[(0, 32), (16, 40)]]),
        (Windows(32, 16), 10, [[(0, 10)]]),
        (Windows(32, 16), 48, [[(0, 32), (16, 48)]]),
        (Windows(4, 2, 6), 13, [[(0, 4)], [(4, 8)], [(8, 12), (10, 13)]]),
        (Windows(0, 0, 6), 12, [[(0, 6)], [(6, 12)]]),
    ],
)
def test_windows(windows, frames, found):
    """They overlap as they should, miss no frame, see nothing twice in vain, and keep to their segments."""
    assert [[(window.start, window.stop) for window in segment] for segment in windows(frames)] == found
    assert windows.count(frames) == sum(map(len, found))


def test_temporalvlm_has_five_windows_in_each_of_six_segments():
    windows = Seq2TimeConfig.from_preset("temporalvlm").windows(576)
    assert [[window.start - 96 * number for window in own] for number, own in enumerate(windows)] == [
        [0, 16, 32, 48, 64]
    ] * 6
    assert {len(window) for own in windows for window in own} == {32}


def test_save_and_load(tmp_path):
    config = Seq2TimeConfig.from_preset("video_llama", num_frames=48, vision_config={"image_size": 112})
    config.save_pretrained(tmp_path)
    loaded = Seq2TimeConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.qformer_config.model_type == "blip_2_qformer"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "timechat7b"}, "unknown preset 'timechat7b', expected one of 'timechat', 'video_llama', 'temporal"),
        ({"time_notation": "roman"}, "unknown time notation 'roman', expected one of 'rpt', 'text'"),
        ({"num_frames": 120}, "num_frames must be between 1 and max_frame_positions=96, found 120"),
        ({"window_size": 16}, "window_size must be at least window_stride.*found window_size=16, window_stride=32"),
        ({"qformer_config": {"model_type": "bert"}}, "qformer_config.model_type must be .* found 'bert'"),
        ({"num_frames": "96"}, "num_frames"),
        (
            {"num_video_query_tokens": 0},
            "num_video_query_tokens must be at least 1, found 32 and 0",
        ),
        ({"time_text_padding": "longest"}, "time_text_padding"),
        ({"preset": "temporalvlm", "num_frames": 100}, "whole segments.*found num_frames=100, segment_size=96"),
        ({"segment_size": 128}, "segment_size must be .* found segment_size=128, max_frame_positions=96"),
        ({"preset": "temporalvlm", "window_stride": 48}, "window_size must be at least window_stride"),
        ({"aggregator": "gru"}, "aggregator"),
        ({"num_fusion_layers": 1}, "num_fusion_layers=1 needs an aggregator over what is fused, found none"),
        (
            {"preset": "temporalvlm", "video_qformer_config": {"hidden_size": 770}},
            "divisible by its heads, found 770 and 12",
        ),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(Exception, match=f"(?s){message}"):
        Seq2TimeConfig.from_preset(**({"preset": "timechat"} | settings))
