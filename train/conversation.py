"""What the language model reads of a sample: token ids, and which of them it is to learn."""

from transformers.utils.chat_template_utils import render_jinja_template

from dataset_scripts.items import DataError
from modeling_seq2time import Seq2TimeProcessor
from modeling_seq2time.native_video import NativeProcessor
from modeling_seq2time.time_notation import render, worded
from modeling_seq2time.video_processing_seq2time import Seq2TimeVideoMetadata


IGNORED = -100
NOTHING_LEARNED = "expected tokens to learn, found none; a chat template marks {% generation %}"


def as_chat(processor: Seq2TimeProcessor, messages: list[dict], metadata: Seq2TimeVideoMetadata | None) -> list[dict]:
    """A record's messages in the processor's notation, the first with what a `<video>`, if any, becomes before it."""
    special, chat = processor.tokenizer.all_special_tokens, []
    try:
        before = processor._video_text(metadata) if metadata else ""
        for message in messages:
            told = message["content"] if message["role"] == "user" else worded(message["content"], processor.notation)
            text = render(told, processor.notation)
            for token in special:
                if token in text:
                    raise DataError(f"expected no {token} in a message, found {message['content']!r:.120}")
            chat.append({"role": message["role"], "content": before + text})
            before = ""
    except ValueError as error:  # of a time that the notation can't write, too
        raise DataError(str(error)) from error
    return chat


def encode(processor: Seq2TimeProcessor, chats: list[list[dict]]) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels of conversations. Only answers have labels, as the template says."""
    if isinstance(processor, NativeProcessor):
        texts, answers = zip(*map(processor.conversation, chats), strict=True)
    else:
        texts, answers = render_jinja_template(
            chats,
            chat_template=processor.chat_template,
            return_assistant_tokens_mask=True,
            **processor.tokenizer.special_tokens_map,
        )
    encoded = processor.tokenizer(list(texts), return_offsets_mapping=True)
    rows = []
    for ids, offsets, spans in zip(encoded["input_ids"], encoded["offset_mapping"], answers, strict=True):
        labels = [IGNORED] * len(ids)
        for first, last in spans:
            for place, (start, end) in enumerate(offsets):
                if first <= start and first < end <= last:
                    labels[place] = ids[place]
        rows.append((ids, labels))
    return rows
