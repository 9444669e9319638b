import json
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_seq2time import Seq2TimeProcessor


RULES = json.loads((Path(__file__).parent / "data/timechat_tiny/data_rules.json").read_text())


def apply(processor, conversation, **settings):
    settings = {"tokenize": True, "return_dict": True, "return_tensors": "pt"} | settings
    return processor.apply_chat_template(conversation, **settings)


def test_prompt_is_timechats(tiny, prompt, video):
    _, processor = tiny("timechat", time_notation="text")
    conversation = [*prompt(str(video), "When?"), {"role": "assistant", "content": "In 1.0 - 2.0 seconds."}]
    conversation += [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
    ids = apply(processor, conversation, processor_kwargs={"num_frames": 4})["input_ids"][0]
    assert processor.decode(ids).replace("<video>" * 4, "*") == (
        "<s>[INST] <<SYS>>\n \n<</SYS>>\n\n<Video>*</Video> The video contains 4 frames sampled at 0.0, 1.2, 2.4, 3.6 "
        "seconds. When? [/INST] In 1.0 - 2.0 seconds. </s><s>[INST] Sure? [/INST] Yes. </s>"
    )


@pytest.mark.parametrize("rule", RULES["uniform"], ids=lambda rule: f"{rule['vlen']}-{rule['n_frms']}")
def test_message_is_timechats(tiny, rule):
    _, processor = tiny("timechat", time_notation="text")
    metadata = {"total_num_frames": rule["vlen"], "fps": rule["fps"], "frames_indices": rule["indices"]}
    frames = np.zeros((len(rule["indices"]), 8, 8, 3), np.uint8)
    inputs = processor(text="<video>", videos=frames, video_metadata=metadata, do_sample_frames=False)
    assert processor.decode(inputs["input_ids"][0]).split("</Video> ")[1] == rule["msg"]


def test_times_stand_in_both_places_in_the_notation(tiny, prompt, video):
    _, processor = tiny("timechat")
    inputs = apply(processor, prompt(str(video)), processor_kwargs={"num_frames": 3})
    assert "frames sampled at <0><0><0><0>, <3><3><3><3>, <6><6><6><7>. When" in processor.decode(
        inputs["input_ids"][0]
    )
    sentences = [processor.qformer_tokenizer.decode(ids) for ids in inputs["video_time_input_ids"][0]]
    assert [s.replace(" ", "") for s in sentences] == [
        f"[CLS]thisframeisatposition{position}.[SEP]" for position in ("0.0000", "0.3333", "0.6667")
    ]


def test_image_sequences_have_places_not_seconds(tiny):
    images = [np.full((20 + i, 30, 3), i, np.uint8) for i in range(4)]
    texts = {}
    for notation in ("rpt", "text"):
        _, processor = tiny("timechat", time_notation=notation)
        inputs = processor(text="<video>", videos=[images])
        texts[notation] = processor.decode(inputs["input_ids"][0]).split("</Video> ")[1]
        assert inputs["video_metadata"][0].times is None
    assert texts["rpt"].endswith("sampled at <2><5><0><0>, <5><0><0><0>, <7><5><0><0>, <9><9><9><9>. ")
    assert texts["text"] == "The video contains 4 frames numbered 1, 2, 3, 4. "


def test_videos_of_different_lengths(tiny, prompt, video):
    model, processor = tiny("timechat", window_size=4, window_stride=4)
    short = np.zeros((5, 20, 20, 3), np.uint8)
    conversations = [prompt(str(video)), prompt(short, "What happens, and when does it happen?")]
    inputs = apply(processor, conversations, processor_kwargs={"padding": True, "num_frames": None})
    tokens = (inputs["input_ids"] == processor.video_token_id).sum(dim=1).tolist()
    assert tokens == [24 * 4, 2 * 4]
    assert inputs["video_frame_mask"].sum(dim=1).tolist() == [96, 5]
    assert inputs["video_time_attention_mask"][1, 5:].sum() == 0
    assert inputs["attention_mask"][1, 0] == 0, "prompts are padded on the left"
    with torch.no_grad():
        together = model(**inputs).logits
        for row, conversation in enumerate(conversations):
            alone = model(**apply(processor, conversation)).logits
            torch.testing.assert_close(together[row : row + 1, -alone.shape[1] :], alone, atol=2e-5, rtol=0)


def test_string_and_list_content_are_the_same(tiny, video):
    _, processor = tiny("timechat")
    as_list = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "When?"}]}]
    as_string = [{"role": "user", "content": "<video>When?"}]
    assert processor.apply_chat_template(as_list) == processor.apply_chat_template(as_string)
    text = processor.apply_chat_template(as_string)
    assert (processor(text=text, videos=str(video))["input_ids"][0].count(processor.video_token_id)) == 12


def test_system_message(tiny):
    _, processor = tiny("timechat")
    conversation = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "When?"}]
    assert processor.apply_chat_template(conversation) == "[INST] <<SYS>>\nBe exact.\n<</SYS>>\n\nWhen? [/INST]"


def test_only_answers_are_learned(tiny, prompt, video):
    _, processor = tiny("timechat")
    answers = ["<0><1><0><9> - <0><1><7><6>, a door opens.", "Yes."]
    conversation = [*prompt(str(video)), {"role": "assistant", "content": answers[0]}]
    conversation += [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": answers[1]}]
    inputs = apply(processor, conversation, return_assistant_tokens_mask=True)
    mask = torch.as_tensor(inputs["assistant_masks"][0]).bool()
    learned = processor.decode(inputs["input_ids"][0][mask])
    assert learned == "".join(f" {answer} </s>" for answer in answers)


def test_settings_are_saved(tiny, tmp_path):
    from examples.make_tiny_model import make_qformer_tokenizer, make_tokenizer  # noqa: PLC0415 (a fresh one to change)

    templates = {"s": "Second {time}.", "image": "Image {time}."}
    model, _ = tiny("video_llama")
    processor = Seq2TimeProcessor.from_config(model.config, make_tokenizer(), make_qformer_tokenizer(), seed=5)
    processor.frame_template = templates
    processor.save_pretrained(tmp_path)
    loaded = Seq2TimeProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert (loaded.frame_template, loaded.video_processor.seed) == (templates, 5)
    assert (loaded.qformer_reads_time, loaded.window_stride) == (False, 0)


def test_answers_become_seconds(tiny, prompt, video):
    for notation, answer in (("rpt", "<2><5><0><0> - <5><0><0><0>, a door"), ("text", "in 1.2 - 2.4 seconds")):
        _, processor = tiny("timechat", time_notation=notation)
        metadata = apply(processor, prompt(str(video)))["video_metadata"][0]
        assert processor.times_in(answer, metadata) == pytest.approx([1.2, 2.4])


@pytest.mark.parametrize(
    ("text", "videos", "message"),
    [
        ("When?", "one", r"expected one <video> in the text per video, found \[0\] for \[1\] videos"),
        ("<video><video>", "one", r"found \[2\] for \[1\] videos"),
        ("<video>", None, r"found \[1\] for \[0\] videos"),
        (None, None, "expected `text`, `videos` or both, found neither"),
        ([3], None, "expected `text` to be a string or a list of strings"),
    ],
)
def test_prompts_that_do_not_fit_their_videos(tiny, video, text, videos, message):
    _, processor = tiny("timechat")
    with pytest.raises(ValueError, match=message):
        processor(text=text, videos=str(video) if videos else None)


def test_videos_belong_to_their_prompts(tiny, video):
    _, processor = tiny("timechat")
    one, other = str(video), np.zeros((3, 8, 8, 3), np.uint8)
    texts = ["<video>A<video>", "B"]
    with pytest.raises(ValueError, match=r"found \[2, 0\] for \[1, 1\] videos"):
        processor(text=texts, videos=[[one], [other]])
    inputs = processor(text=texts, videos=[[one, other], []])
    assert [ids.count(processor.video_token_id) for ids in inputs["input_ids"]] == [16, 0]
    images = [[np.zeros((8, 8, 3), np.uint8)] * 2, [np.ones((9, 8, 3), np.uint8)] * 3]
    inputs = processor(text=["<video>A", "<video>B"], videos=images)
    assert [len(metadata.frames_indices) for metadata in inputs["video_metadata"]] == [2, 3]


def test_another_notation_on_loading(tiny_folder, video):
    processor = Seq2TimeProcessor.from_pretrained(tiny_folder("timechat"), time_notation="text")
    inputs = processor(text="<video>", videos=str(video), num_frames=2)
    assert processor.decode(inputs["input_ids"][0]).endswith(
        "The video contains 2 frames sampled at 0.0, 2.4 seconds. "
    )
    sentence = processor.qformer_tokenizer.decode(inputs["video_time_input_ids"][0][1]).replace(" ", "")
    assert sentence == "[CLS]thisframeissampledat2.4second.[SEP]"


def test_images_are_no_silent_input(tiny):
    _, processor = tiny("timechat")
    with pytest.raises(ValueError, match="pass an image sequence as a list of images in `videos`"):
        processor(text="hello", images=np.zeros((8, 8, 3)))
    with pytest.raises(Exception, match="must be of type 'text' or 'video', found 'image'"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}])
    with pytest.raises(Exception, match="roles must be 'user' or 'assistant'.*found 'tool'"):
        processor.apply_chat_template([{"role": "user", "content": "hello"}, {"role": "tool", "content": "1"}])
