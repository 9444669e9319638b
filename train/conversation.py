"""What the language model reads of a sample: token ids, and which of them it is to learn."""

from transformers import BatchEncoding
from transformers.utils.chat_template_utils import render_jinja_template

from dataset_scripts.items import DataError
from modeling_seq2time import Seq2TimeProcessor
from modeling_seq2time.time_notation import render
from modeling_seq2time.video_processing_seq2time import Seq2TimeVideoMetadata


IGNORED = -100


def as_chat(processor: Seq2TimeProcessor, messages: list[dict], video_text: str) -> list[dict]:
    """A record's messages in the processor's notation, the video before the first."""
    chat = []
    for message in messages:
        text = render(message["content"], processor.notation)
        if processor.video_token in text:
            raise DataError(f"expected no {processor.video_token} in a message, found {message['content']!r:.120}")
        chat.append({"role": message["role"], "content": text if chat else video_text + text})
    return chat


def encode(
    processor: Seq2TimeProcessor, messages: list[list[dict]], metadata: list[Seq2TimeVideoMetadata]
) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels of conversations about one sequence each. Only answers have labels, as the template says."""
    chats = [
        as_chat(processor, own, processor._video_text(about)) for own, about in zip(messages, metadata, strict=True)
    ]
    return tokenized(processor, chats)


def tokenized(processor: Seq2TimeProcessor, chats: list[list[dict]]) -> list[tuple[list[int], list[int]]]:
    tokenizer = processor.tokenizer
    texts, answers = render_jinja_template(
        chats,
        chat_template=processor.chat_template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    encoded: BatchEncoding = tokenizer(texts, return_offsets_mapping=True)
    rows = []
    for ids, offsets, spans in zip(encoded["input_ids"], encoded["offset_mapping"], answers, strict=True):
        learned = [any(first <= start < end <= last for first, last in spans) for start, end in offsets]
        rows.append((ids, [one if own else IGNORED for one, own in zip(ids, learned, strict=True)]))
    return rows
