"""
Any video language model of transformers, asked as Seq2Time is: its own processor, chat template and forward pass; our
frames with their exact times, notation, forms of answers and search. Doesn't travel: a model that was trained so loads
without this package.
"""

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.video_utils import VideoMetadata

from .configuration_seq2time import Seq2TimeConfig
from .modeling_seq2time import Seq2TimeForConditionalGeneration
from .processing_seq2time import Seq2TimeProcessor
from .temporal_answers import TemporalAnswers
from .time_notation import Notation, get_notation, render
from .video_processing_seq2time import Seq2TimeVideoMetadata, Seq2TimeVideoProcessor


SETTINGS = "seq2time"  # the key, in what the model's own video processor saves, of what this module must know
SIDE = 224  # of frames, where a model takes any size
TICKS = 1000  # a second: as many as its frames' times are told apart by
# Noncharacters, which no text has: one stands for an answer, one ends what a video is written as.
TEXT, VIDEO = "\ufdd0", "\ufdd1"


def is_native(folder) -> bool:
    """Whether a folder or repository holds a model of transformers' own and not one of this package."""
    config, _ = PreTrainedConfig.get_config_dict(folder)
    found = config.get("model_type")
    if found != Seq2TimeConfig.model_type and found not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ValueError(
            f"{folder}: expected {Seq2TimeConfig.model_type!r} or another video language model, found {found!r}"
        )
    return found != Seq2TimeConfig.model_type


def load(folder, **options):
    """A model that answers when, and its processor, of either kind."""
    if not is_native(folder):
        model = Seq2TimeForConditionalGeneration.from_pretrained(folder, **options).eval()
        return model, Seq2TimeProcessor.from_pretrained(folder)
    config_of(folder)
    processor = NativeProcessor.from_pretrained(folder)
    return NativeVideoModel(AutoModelForImageTextToText.from_pretrained(folder, **options).eval()), processor


def config_of(folder) -> PreTrainedConfig:
    """Of a native model that knows videos from pictures, by a token of their own."""
    config = AutoConfig.from_pretrained(folder)
    if not hasattr(config, "video_token_id"):
        raise ValueError(f"{folder}: expected a model with a video_token_id, found {config.model_type!r} without one")
    return config


class NativeProcessor:
    """
    The processor of a native video model with what `Seq2TimeProcessor` has besides.

    Args:
        native: the model's own processor. What is set here is saved with its video processor, which transformers keeps.
        time_notation, time_notation_options: how times are written; plain text is what a model knows untrained.
        num_frames (`int`): of a video.
        frame_size (`int`, *optional*):
            Side of the squares that frames are made, before the model's own processor sees them; its own if it has one.
    """

    qformer_reads_time = False

    def __init__(
        self,
        native: ProcessorMixin,
        time_notation: str = "text",
        time_notation_options: dict | None = None,
        num_frames: int = 96,
        frame_size: int | None = None,
    ):
        side = frame_size or native.video_processor.size.get("height") or SIDE
        self.native, self.tokenizer = native, native.tokenizer
        self.time_notation, self.time_notation_options = time_notation, time_notation_options
        self.video_processor = Seq2TimeVideoProcessor(
            size={"height": side, "width": side}, num_frames=num_frames, do_rescale=False, do_normalize=False
        )
        setattr(native.video_processor, SETTINGS, self.settings)
        tokenizer, self.video_token, self._grids = self.tokenizer, native.video_token, {}
        tokenizer.add_special_tokens({"extra_special_tokens": [self.video_token]}, replace_extra_special_tokens=False)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        answered = self._written([{"role": "user", "content": VIDEO}, {"role": "assistant", "content": TEXT}])
        self.answer_end = answered.rpartition(TEXT)[2].rstrip()
        if not self.answer_end.startswith(tokenizer.eos_token):
            raise ValueError(
                f"chat template: expected {tokenizer.eos_token} behind an answer, found {self.answer_end!r:.40}"
            )

    @classmethod
    def from_pretrained(cls, folder) -> "NativeProcessor":
        native = AutoProcessor.from_pretrained(folder)
        if not vars(native).keys() >= {"tokenizer", "video_processor", "video_token"}:
            raise ValueError(
                f"{folder}: expected a video language model of transformers, whose processor has a video_processor and "
                f"a video_token, found {type(native).__name__}"
            )
        return cls(native, **vars(native.video_processor).get(SETTINGS, {}))

    def save_pretrained(self, folder):
        self.native.save_pretrained(folder)

    @property
    def settings(self) -> dict:
        video = self.video_processor
        return {
            "time_notation": self.time_notation,
            "time_notation_options": self.time_notation_options,
            "num_frames": video.num_frames,
            "frame_size": video.size["height"],
        }

    def to_dict(self) -> dict:
        return self.native.to_dict()

    @property
    def chat_template(self) -> str:
        return self.native.chat_template

    @property
    def notation(self) -> Notation:
        return get_notation(self.time_notation, **self.time_notation_options or {})

    def inputs(self, videos: list, videos_metadata: list[Seq2TimeVideoMetadata]) -> dict:
        """Frames, as our video processor made them, as the model's own processor hands them to it."""
        known = [as_native(metadata) for metadata in videos_metadata]
        return dict(self.native(videos=videos, video_metadata=known, do_sample_frames=False, return_tensors="pt"))

    def _video_text(self, metadata: Seq2TimeVideoMetadata) -> str:
        """What stands before a question: the video as the model's own processor writes it, and its frames' times."""
        notation, length, unit = self.notation, metadata.length, metadata.unit
        times = [notation.encode(position, length, unit) for position in metadata.positions]
        sentence = notation.sequence_template[unit].format(count=len(times), times=", ".join(times))
        inputs = self._grid(len(times)) | {"video_metadata": [as_native(metadata)]}
        return self.native.replace_video_token(inputs, 0) + VIDEO + sentence

    def _grid(self, count: int) -> dict:
        """What the model's own processor must know of so many frames to say how many tokens they become."""
        if count not in self._grids:
            side = self.video_processor.size["height"]
            black = torch.zeros(count, 3, side, side, dtype=torch.uint8)
            seen = self.native.video_processor([black], do_sample_frames=False, return_tensors="pt")
            self._grids[count] = dict(seen) | {"pixel_values_videos": seen["pixel_values_videos"].to("meta")}
        return self._grids[count]

    def _written(self, chat: list[dict], answer: bool = False) -> str:
        """A conversation, about one video or none, as the model's own template writes it; up to an answer, if asked."""
        turns, videos = [], []
        for message in chat:
            *own, text = message["content"].split(VIDEO)
            parts = [{"type": "video"} for _ in own] + [{"type": "text", "text": text}]
            turns.append({"role": message["role"], "content": parts})
            videos += own
        written = self.native.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer)
        if written.count(self.video_token) != len(videos):
            raise ValueError(
                f"chat template: expected {self.video_token} for {len(videos)} videos, found {written!r:.120}"
            )
        return written.replace(self.video_token, "".join(videos))

    def conversation(self, chat: list[dict]) -> tuple[str, list[tuple[int, int]]]:
        """
        A conversation as text, and where its answers stand in it, each with the token that ends it. An answer stands
        behind the very words with which the template asks for one, as when it is generated: what templates write into
        a conversation that is over may differ.
        """
        text, answers, before = "", [], []
        for message in chat:
            if message["role"] == "user":
                before.append(message)
                asked = self._written(before, answer=True)
                text += asked.rpartition(TEXT)[2] if answers else asked
                continue
            begin = len(text)
            text += message["content"]
            answers.append((begin, len(text) + len(self.answer_end)))
            before.append({"role": "assistant", "content": TEXT})
        return text + self.answer_end, answers

    def ask(self, questions: list[str], videos_metadata: list[Seq2TimeVideoMetadata]) -> tuple[list[str], str]:
        """As `Seq2TimeProcessor.ask`."""
        prompts = []
        for question, metadata in zip(questions, videos_metadata, strict=True):
            if self.video_token in question:
                raise ValueError(f"a question can't hold the video's placeholder {self.video_token}: {question!r}")
            text = self._video_text(metadata) + render(question, self.notation)
            prompts.append(self._written([{"role": "user", "content": text}], answer=True))
        return prompts, ""


def as_native(metadata: Seq2TimeVideoMetadata) -> VideoMetadata:
    """
    What transformers' processors write times from: frames by their number at a steady rate. Ours have times of their
    own, which are told as numbers of a clock's ticks. An image sequence shows picture 1 at second 1, and so on.
    """
    if metadata.times is None:
        seconds, ticks = [int(index) + 1 for index in metadata.frames_indices], 1
    else:
        seconds, ticks = metadata.times, TICKS
    return VideoMetadata(
        total_num_frames=max(round(metadata.length * ticks), 1),
        fps=ticks,
        duration=metadata.length,
        frames_indices=[round(second * ticks) for second in seconds],
    )


class NativeVideoModel(TemporalAnswers):
    """A native video model that can be asked when."""

    def __init__(self, native: PreTrainedModel):
        self.native, self.config, self.generation_config = native, native.config, native.generation_config

    @property
    def device(self) -> torch.device:
        return self.native.device

    @property
    def base_model(self) -> PreTrainedModel:
        return self.native.base_model

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.native.get_output_embeddings()

    def generate(self, *args, **kwargs):
        return self.native.generate(*args, **kwargs)

    def _encode(self, processor: NativeProcessor, frames, **video_kwargs) -> tuple:
        sampled = processor.video_processor([frames], return_tensors="pt", **video_kwargs)
        (metadata,) = sampled["video_metadata"]
        inputs = processor.inputs([sampled["pixel_values_videos"][0]], [metadata])
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(self.native.dtype)
        # As `generate` does it; the grid and the like are asked for again when places are counted.
        encoded = self.native._prepare_multimodal_encoder_kwargs_for_generation(dict(inputs))["mm_encoder_outputs"]
        del inputs["pixel_values_videos"]
        return metadata, (encoded, inputs)

    def _video_inputs(self, input_ids: torch.Tensor, features: list) -> dict:
        """Of one prompt: models keep what they saw of several videos in forms of their own."""
        ((encoded, grid),) = features
        kinds = 2 * (input_ids == self.config.video_token_id).long()  # as transformers numbers text, image and video
        known = grid | {"attention_mask": torch.ones_like(input_ids), "mm_token_type_ids": kinds}
        places = self.native._prepare_position_ids_for_generation(input_ids, known)
        return {"mm_encoder_outputs": dict(encoded), "position_ids": places}

    def _writer(self, *args):
        write = super()._writer(*args)
        return lambda jobs: (answer for job in jobs for answer in write([job]))
