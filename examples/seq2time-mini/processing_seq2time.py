"""Prompts with videos: chat template, placeholders, and each frame's time in its two places."""

from transformers import AutoTokenizer, BatchFeature, PreTrainedConfig, ProcessorMixin

from .configuration_seq2time import Windows
from .time_notation import UNITS, Notation, get_notation, render, time_tokens
from .video_processing_seq2time import Seq2TimeVideoMetadata, Seq2TimeVideoProcessor


# TimeChat's LLaMA-2 prompt; the tokenizer adds the first <s>. Without a system message the system is one space, as in
# TimeChat's training.
CHAT_TEMPLATE = """\
{%- macro text_of(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- for part in content -%}
{%- if part.type == 'video' -%}<video>
{%- elif part.type == 'text' -%}{{ part.text }}
{%- else -%}{{ raise_exception("message content must be of type 'text' or 'video', found '" ~ part.type ~ "'") }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if messages[0].role == 'system' -%}
{%- set system = text_of(messages[0].content) -%}{%- set turns = messages[1:] -%}
{%- else -%}
{%- set system = ' ' -%}{%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
{%- if message.role == 'user' -%}
{%- if loop.first -%}{{ '[INST] <<SYS>>\\n' ~ system ~ '\\n<</SYS>>\\n\\n' }}
{%- else -%}{{ bos_token ~ '[INST] ' }}{%- endif -%}
{{ text_of(message.content) }}{{ ' [/INST]' }}
{%- elif message.role == 'assistant' -%}
{%- generation -%}{{ ' ' ~ text_of(message.content) ~ ' ' ~ eos_token }}{%- endgeneration -%}
{%- else -%}
{{ raise_exception("roles must be 'user' or 'assistant' after a first 'system', found '" ~ message.role ~ "'") }}
{%- endif -%}
{%- endfor -%}"""


class Seq2TimeProcessor(ProcessorMixin):
    r"""
    Args:
        video_processor (`Seq2TimeVideoProcessor`), tokenizer, qformer_tokenizer:
            The language model's tokenizer and the image Q-Former's (BERT's, with `[DEC]`).
        time_notation (`str`, *optional*, defaults to `"rpt"`):
            How positions are written for the language model.
        time_notation_options (`dict`, *optional*):
            The notation's options, such as `num_bins`.
        frame_template, sequence_template (`dict`, *optional*):
            The sentence that the image Q-Former reads with each frame, and the one that follows the video tokens in
            the prompt; each by unit, `"s"` for videos and `"image"` for image sequences. The notation's own if not
            given. Fields: `position`, `plain` (seconds or place in plain text), `time` (in the notation); `count`,
            `times`.
        qformer_reads_time (`bool`, *optional*, defaults to `True`):
            Whether the image Q-Former is given a time sentence (TimeChat) or not (Video-LLaMA).
        window_stride, window_size, segment_size, num_video_query_tokens (`int`, *optional*):
            As in the model's configuration: they say how many placeholders a video needs. Windows are as long as their
            stride if not said, 32 frames.
    """

    text_kwargs = {"padding_side": "left"}
    video_token = "<video>"

    def __init__(
        self,
        video_processor=None,
        tokenizer=None,
        qformer_tokenizer=None,
        time_notation="rpt",
        time_notation_options=None,
        frame_template=None,
        sequence_template=None,
        qformer_reads_time=True,
        window_stride=32,
        num_video_query_tokens=32,
        window_size=None,
        segment_size=0,
        chat_template=None,
    ):
        self.auto_map = {"AutoProcessor": "processing_seq2time.Seq2TimeProcessor"}
        self.time_notation, self.time_notation_options = time_notation, time_notation_options
        self.frame_template, self.sequence_template = frame_template, sequence_template
        self.qformer_reads_time = qformer_reads_time
        self.window_stride, self.num_video_query_tokens = window_stride, num_video_query_tokens
        self.window_size, self.segment_size = window_stride if window_size is None else window_size, segment_size
        super().__init__(video_processor, tokenizer, qformer_tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        tokenizer.add_special_tokens({"extra_special_tokens": [self.video_token]}, replace_extra_special_tokens=False)
        tokenizer.add_tokens(time_tokens(self.notation))
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        if hasattr(tokenizer, "legacy"):  # LLaMA's; saving would lose it, and with it how text behind a video is split
            tokenizer.init_kwargs["legacy"] = tokenizer.legacy

    @classmethod
    def _load_tokenizer_from_pretrained(cls, sub_processor_type, pretrained_model_name_or_path, subfolder="", **kwargs):
        """
        transformers looks for a `config.json` beside the Q-Former's tokenizer. Of a repository that was fetched for use
        without the network it can't say that there is none, and would take the language model's tokenizer instead.
        """
        if sub_processor_type == "qformer_tokenizer":
            kwargs["config"] = PreTrainedConfig()
            subfolder = f"{subfolder}/{sub_processor_type}" if subfolder else sub_processor_type
            return AutoTokenizer.from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)
        return super()._load_tokenizer_from_pretrained(
            sub_processor_type, pretrained_model_name_or_path, subfolder, **kwargs
        )

    @classmethod
    def from_config(cls, config, tokenizer, qformer_tokenizer, **video_settings) -> "Seq2TimeProcessor":
        """The processor that fits a model of this configuration."""
        if tokenizer.pad_token is None:  # TimeChat pads with LLaMA's <unk>
            tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
        side = config.vision_config.image_size
        # A list of the times of 576 frames would leave no room in LLaMA-2 (TemporalVLM's own sentence isn't published).
        counted = dict.fromkeys(UNITS, "The video contains {count} frames. ") if config.segment_size else None
        return cls(
            Seq2TimeVideoProcessor(
                size={"height": side, "width": side}, **{"num_frames": config.num_frames} | video_settings
            ),
            tokenizer,
            qformer_tokenizer,
            time_notation=config.time_notation,
            time_notation_options=config.time_notation_options,
            sequence_template=counted,
            qformer_reads_time=config.qformer_reads_time,
            window_stride=config.window_stride,
            window_size=config.window_size,
            segment_size=config.segment_size,
            num_video_query_tokens=config.num_video_query_tokens,
        )

    @property
    def notation(self) -> Notation:
        return get_notation(self.time_notation, **self.time_notation_options or {})

    def __call__(self, text=None, videos=None, **kwargs) -> BatchFeature:
        """
        Tokenizes `text`, each `<video>` in it standing for one of `videos` (all that `Seq2TimeVideoProcessor` takes).
        The result goes to the model as it is; its `video_metadata` turns answers into seconds.
        """
        kwargs.setdefault("return_metadata", True)
        return super().__call__(text=text, videos=videos, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        names = ["input_ids", "attention_mask", *self.video_processor.model_input_names, "video_metadata"]
        return names + ["video_time_input_ids", "video_time_attention_mask"] * self.qformer_reads_time

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs):
        if images is not None or audio is not None:
            raise ValueError("Seq2Time takes text and videos; pass an image sequence as a list of images in `videos`")
        if text is None and videos is None:
            raise ValueError("expected `text`, `videos` or both, found neither")
        if text is not None:
            if not all(isinstance(sample, str) for sample in text):
                raise ValueError(f"expected `text` to be a string or a list of strings, found {text!r:.80}")
            placeholders = [sample.count(self.video_token) for sample in text]
            given = self._videos_per_prompt(videos, len(text))
            if placeholders != given and (len(given) == len(text) or sum(placeholders) != sum(given)):
                raise ValueError(
                    f"expected one {self.video_token} in the text per video, found {placeholders} for {given} videos"
                )

    def _videos_per_prompt(self, videos, num_prompts: int) -> list[int]:
        """How many videos belong to each prompt, or in all where they are not given per prompt."""
        flatten = self.video_processor.flatten_videos
        nested = isinstance(videos, (list, tuple)) and len(videos) == num_prompts
        if nested and all(isinstance(own, (list, tuple)) for own in videos):
            singles = [flatten(own) if own else [] for own in videos]
            if sum(map(len, singles)) == len(flatten(videos)):  # not one list of images per prompt
                return [len(own) for own in singles]
        return [0 if videos is None else len(flatten(videos))]

    def _process_videos(self, videos, **kwargs):
        processed = self.video_processor(videos, **kwargs | {"return_metadata": True})
        videos_metadata = processed["video_metadata"]
        if self.qformer_reads_time:
            processed.update(self._time_inputs(videos_metadata))
        return processed, [self._video_text(metadata) for metadata in videos_metadata]

    def _written_times(self, metadata: Seq2TimeVideoMetadata) -> tuple[str, list[str]]:
        """The unit of a sequence, and its frames' positions in the notation."""
        notation, length, unit = self.notation, metadata.length, metadata.unit
        return unit, [notation.encode(position, length, unit) for position in metadata.positions]

    def _time_inputs(self, videos_metadata) -> dict[str, list]:
        """Each frame's sentence for the image Q-Former, `(videos, frames, text)`."""
        sentences = []
        for metadata in videos_metadata:
            unit, times = self._written_times(metadata)
            plain = [get_notation("text").encode(place, metadata.length, unit) for place in metadata.positions]
            template = (self.frame_template or self.notation.frame_template)[unit]
            fields = zip(metadata.positions, plain, times, strict=True)
            sentences.append([template.format(position=place, plain=text, time=time) for place, text, time in fields])
        flat = [sentence for video in sentences for sentence in video]
        encoded = self.qformer_tokenizer(flat, padding="longest", padding_side="right")
        num_frames, inputs = max(map(len, sentences)), {}
        for name, absent in (("input_ids", self.qformer_tokenizer.pad_token_id), ("attention_mask", 0)):
            rows = iter(encoded[name])
            no_frame = [absent] * len(encoded[name][0])
            inputs[f"video_time_{name}"] = [
                [next(rows) for _ in video] + [no_frame] * (num_frames - len(video)) for video in sentences
            ]
        return inputs

    def _video_text(self, metadata: Seq2TimeVideoMetadata) -> str:
        """What a `<video>` in the prompt becomes: its placeholders and the sentence with its frames' times."""
        unit, times = self._written_times(metadata)
        windows = Windows(self.window_size, self.window_stride, self.segment_size)
        tokens = windows.count(len(times)) * self.num_video_query_tokens
        template = (self.sequence_template or self.notation.sequence_template)[unit]
        sentence = template.format(count=len(times), times=", ".join(times))
        return f"<Video>{self.video_token * tokens}</Video> {sentence}"

    def ask(self, questions: list[str], videos_metadata: list[Seq2TimeVideoMetadata]) -> tuple[list[str], str]:
        """
        A prompt for each question about a video that was processed already, and what their answers begin with.
        Questions are stored text: time marks in them are written in the notation, all else stays what it is.
        """
        prompts, prefix = [], ""
        for question, metadata in zip(questions, videos_metadata, strict=True):
            if self.video_token in question:
                raise ValueError(f"a question can't hold the video's placeholder {self.video_token}: {question!r}")
            content = [{"type": "video"}, {"type": "text", "text": render(question, self.notation)}]
            chat = [{"role": "user", "content": content}]
            prompt = self.apply_chat_template(chat, add_generation_prompt=True)
            answered = self.apply_chat_template([*chat, {"role": "assistant", "content": "X"}])
            prefix = answered.removeprefix(prompt).partition("X")[0] if answered.startswith(prompt) else ""
            prompts.append(prompt.replace(self.video_token, self._video_text(metadata)))
        return prompts, prefix

    def times_in(self, answer: str, metadata: Seq2TimeVideoMetadata) -> list[float]:
        """The times that an answer names: seconds of a video, places (from 1) of an image sequence."""
        return [position * metadata.length for position in self.notation.decode(answer, metadata.length, metadata.unit)]


Seq2TimeProcessor.register_for_auto_class()
