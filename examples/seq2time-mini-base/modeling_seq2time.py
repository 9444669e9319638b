"""
Seq2Time: a video language model for temporal grounding, on TimeChat's base.

pictures → vision tower (frozen) → image Q-Former with each frame's time → video Q-Former over windows of frames →
(TemporalVLM: aggregator over the windows of all segments →) projector → language model. Grounded-VideoLLM: vision tower
and video encoder (frozen) → a projector each → language model.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModel, GenerationMixin, InstructBlipVisionModel, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput
from transformers.modeling_utils import slice_logits_to_keep
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, find_adapter_config_file, is_peft_available
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import can_return_tuple

from .configuration_seq2time import Seq2TimeConfig
from .temporal_answers import TemporalAnswers
from .temporal_encoders import Aggregator, ImageQFormer, VideoQFormer
from .time_notation import get_notation, seed_ids, time_tokens
from .two_streams import Segments, SpatialProjector, TemporalProjector, TemporalTower


@dataclass
class Seq2TimeModelOutput(ModelOutput):
    """As `BaseModelOutputWithPast`; `video_hidden_states` holds the LLM tokens of each video."""

    last_hidden_state: torch.Tensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    video_hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass
class Seq2TimeCausalLMOutput(ModelOutput):
    """As `CausalLMOutputWithPast`; `video_hidden_states` holds the LLM tokens of each video."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    video_hidden_states: tuple[torch.Tensor, ...] | None = None


class Seq2TimePreTrainedModel(PreTrainedModel):
    config: Seq2TimeConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("video", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["cache"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        path = pretrained_model_name_or_path
        if path is not None and not is_peft_available() and find_adapter_config_file(path):
            raise ImportError(
                f"{path} keeps its LoRA weights as a PEFT adapter, which would be lost "
                "without the package peft: install it, or merge the adapter first"
            )
        return super().from_pretrained(path, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, (ImageQFormer, VideoQFormer)):
            init.normal_(module.query_tokens, mean=0.0, std=self.config.initializer_range)
        elif isinstance(module, SpatialProjector) and module.merges:
            init.normal_(module.row_end, mean=0.0, std=self.config.initializer_range)
        elif isinstance(module, TemporalProjector):
            init.normal_(module.newline, mean=0.0, std=self.config.initializer_range)


class Seq2TimeModel(Seq2TimePreTrainedModel):
    """Everything but the language model's head."""

    def __init__(self, config: Seq2TimeConfig):
        super().__init__(config)
        # Trained parts first: gradient checkpointing is judged by the first layer that has it.
        self.language_model = AutoModel.from_config(config.text_config)
        self.projector = self.aggregator = self.video_qformer = self.image_qformer = None
        self.spatial_projector = self.temporal_projector = self.temporal_tower = None
        if config.has_two_streams:
            self.spatial_projector, self.temporal_projector = SpatialProjector(config), TemporalProjector(config)
            self.temporal_tower = TemporalTower(config)
            self.vision_tower = AutoModel.from_config(config.vision_config)
        else:
            self.projector = nn.Linear(config.video_qformer_config.hidden_size, config.text_config.hidden_size)
            self.aggregator = Aggregator(config) if config.aggregator else None
            self.video_qformer, self.image_qformer = VideoQFormer(config), ImageQFormer(config)
            self.vision_tower = InstructBlipVisionModel._from_config(config.vision_config)
            self.vision_tower.post_layernorm.eps = config.vision_post_layernorm_eps
        for tower in self._towers():
            tower.requires_grad_(not config.freeze_vision)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.language_model.set_input_embeddings(value)

    def _towers(self) -> list[nn.Module]:
        return [tower for tower in (self.vision_tower, self.temporal_tower) if tower is not None]

    def train(self, mode: bool = True):
        super().train(mode)
        for tower in self._towers() if self.config.freeze_vision else ():
            tower.requires_grad_(False).eval()  # loading replaces the parameters, and with them their flags
        for part in (self.image_qformer, self.video_qformer):
            if part is not None and not _trains(part):
                part.eval()
        return self

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        video_frame_mask: torch.BoolTensor | None = None,
        video_time_input_ids: torch.LongTensor | None = None,
        video_time_attention_mask: torch.LongTensor | None = None,
        video_picture_index: torch.LongTensor | None = None,
        video_patches: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        The LLM tokens of each video in `pooler_output`, a tuple of `(tokens, hidden_size)`; the vision tower's own
        outputs (`last_hidden_state`, `hidden_states`, `attentions`) beside them. For the arguments see `forward`.
        """
        frames = {"pixel_values_videos": pixel_values_videos, "video_patches": video_patches}
        given = [name for name, value in frames.items() if value is not None]
        if len(given) != 1:
            found = "both" if given else "neither"
            raise ValueError(f"exactly one of {' and '.join(frames)} must be given, found {found}")
        if self.config.has_two_streams and video_patches is not None:
            raise ValueError("two streams see frames in two sizes: expected pixel_values_videos, found video_patches")
        pictures = frames[given[0]]
        index, frame_mask = self._check_frames(given[0], pictures, video_frame_mask, video_picture_index)
        num_videos, num_frames = frame_mask.shape
        ragged = not frame_mask.all()
        if index is not None:
            index = index[frame_mask]
        else:
            pictures = pictures[frame_mask] if ragged else pictures.flatten(0, 1)

        if self.config.has_two_streams:
            return self._watch(pictures, index, frame_mask, **kwargs)
        if video_patches is None:
            vision_outputs = self._see(pictures, **kwargs)
        else:
            vision_outputs = BaseModelOutputWithPooling(last_hidden_state=pictures.to(self.vision_tower.dtype))
        patches = vision_outputs.last_hidden_state
        if index is None and not ragged:
            vision_outputs.last_hidden_state = patches.unflatten(0, (num_videos, num_frames))

        time = {}
        num_tokens = patches.new_full((num_videos,), self.config.num_query_tokens, dtype=torch.long)
        if self.config.qformer_reads_time:
            ids, mask = self._check_time_text(video_time_input_ids, video_time_attention_mask, frame_mask)
            time = {"time_input_ids": ids[frame_mask], "time_attention_mask": mask[frame_mask]}
            own_length = mask.sum(dim=-1).masked_fill(~frame_mask, 0).amax(dim=1)
            num_tokens += own_length if self.config.time_text_padding == "video" else ids.shape[-1]

        # Checkpointing hooks every embedding to require gradients, also where nothing trains.
        trains = not self.config.freeze_vision or _trains(self.image_qformer)
        with nullcontext() if trains else torch.no_grad():
            frame_tokens = self.image_qformer(patches if index is None else patches[index], **time)
        if ragged:
            padded = frame_tokens.new_zeros(num_videos, num_frames, *frame_tokens.shape[1:])
            frame_tokens = padded.masked_scatter(frame_mask[:, :, None, None], frame_tokens)
        else:
            frame_tokens = frame_tokens.unflatten(0, (num_videos, num_frames))

        token_mask = torch.arange(frame_tokens.shape[2], device=patches.device) < num_tokens[:, None]
        with nullcontext() if trains or _trains(self.video_qformer) else torch.no_grad():
            windows = self.video_qformer(frame_tokens, frame_mask, token_mask)
        if self.aggregator is not None:
            windows = self.aggregator(windows, frame_mask)
        vision_outputs.pooler_output = tuple(self.projector(video).flatten(0, 1) for video in windows)
        return vision_outputs

    def _see(self, pictures: torch.FloatTensor, **kwargs) -> BaseModelOutputWithPooling:
        # `requires_grad=False` alone is not enough: TRL and PEFT hook every embedding to require gradients.
        with torch.no_grad() if self.config.freeze_vision else nullcontext():
            return self.vision_tower(pictures, **kwargs | {"return_dict": True})

    def _watch(self, pictures, index, frame_mask, **kwargs) -> BaseModelOutputWithPooling:
        """Two streams, from all pictures and, in order of frames, which of them each frame shows, or each its own."""
        segments = Segments(self.config.windows, frame_mask.sum(dim=1).tolist())
        if index is None:
            index = torch.arange(len(pictures), device=pictures.device)
        keys, own = index[segments.keys.to(index.device)].unique(return_inverse=True)
        vision_outputs = self._see(pictures[keys], **kwargs | {"output_hidden_states": True})
        # The last layer but one, without the token of the whole picture, as LLaVA takes it from CLIP.
        spatial = self.spatial_projector(vision_outputs.hidden_states[-2][:, 1:])[own]
        with torch.no_grad() if self.config.freeze_vision else nullcontext():
            frames = self.temporal_tower.resize(pictures)[index[segments.frames.to(index.device)]]
            patches = self.temporal_tower(frames)
        tokens = torch.cat([spatial, self.temporal_projector(patches)], dim=1)
        vision_outputs.pooler_output = tuple(video.flatten(0, 1) for video in tokens.split(segments.counts))
        vision_outputs.last_hidden_state = vision_outputs.last_hidden_state[own]
        if len(set(segments.counts)) == 1:
            vision_outputs.last_hidden_state = vision_outputs.last_hidden_state.unflatten(0, (len(frame_mask), -1))
        return vision_outputs

    def _check_frames(self, name, frames, frame_mask, index):
        """Validates the frames' shapes; returns the picture index, if any, and the mask of existing frames."""
        vision = self.config.vision_config
        each = (3, vision.image_size, vision.image_size)
        if name == "video_patches":
            each = (self.vision_tower.embeddings.num_positions, vision.hidden_size)
        expected, leading = ("videos, frames", 2) if index is None else ("pictures", 1)
        shape = tuple(frames.shape)
        if len(shape) != leading + len(each) or shape[leading:] != each or 0 in shape:
            raise ValueError(f"{name} must have shape ({expected}, {', '.join(map(str, each))}), found {shape}")
        if index is not None:
            if index.ndim != 2 or index.max() >= shape[0]:
                raise ValueError(
                    "video_picture_index must have shape (videos, frames) and point into the "
                    f"{shape[0]} pictures given, found shape {tuple(index.shape)} and largest index {int(index.max())}"
                )
            if frame_mask is None:
                frame_mask = index >= 0
            elif frame_mask.shape == index.shape and index[frame_mask.bool()].min() < 0:
                raise ValueError(
                    "video_picture_index must name a picture for every frame of video_frame_mask, found -1"
                )
        videos_and_frames = shape[:2] if index is None else tuple(index.shape)
        if frame_mask is None:
            frame_mask = torch.ones(videos_and_frames, dtype=torch.bool, device=frames.device)
        frame_mask = frame_mask.bool()
        if tuple(frame_mask.shape) != videos_and_frames:
            raise ValueError(
                f"video_frame_mask must have shape (videos, frames) = {videos_and_frames}, "
                f"found {tuple(frame_mask.shape)}"
            )
        counts = frame_mask.sum(dim=1)
        if (counts == 0).any() or (frame_mask.cummin(dim=1).values != frame_mask).any():
            raise ValueError(
                "every video needs at least one frame, and its frames must come before the padding; "
                f"found {counts.tolist()} frames in video_frame_mask"
            )
        return index, frame_mask

    def _check_time_text(self, ids, mask, frame_mask):
        frames = tuple(frame_mask.shape)
        found = None if ids is None else tuple(ids.shape)
        if ids is None or mask is None or ids.ndim != 3 or found[:2] != frames or mask.shape != ids.shape:
            raise ValueError(
                "the image Q-Former reads each frame's time: video_time_input_ids and video_time_attention_mask must "
                f"have shape (videos, frames, text) with (videos, frames) = {frames}; found "
                f"{found} and {None if mask is None else tuple(mask.shape)}"
            )
        return ids, mask

    def get_placeholder_mask(self, input_ids, inputs_embeds, video_features: torch.FloatTensor) -> torch.BoolTensor:
        """Where the prompt holds video tokens, checked against the number of tokens the videos have."""
        if input_ids is None:
            token = torch.tensor(self.config.video_token_id, device=inputs_embeds.device)
            mask = (inputs_embeds == self.get_input_embeddings()(token)).all(-1)
        else:
            mask = input_ids == self.config.video_token_id
        if mask.sum() != len(video_features):
            raise ValueError(
                f"the videos have {len(video_features)} tokens, but the prompt holds {int(mask.sum())} video tokens "
                f"(id {self.config.video_token_id})"
            )
        return mask.unsqueeze(-1).to(inputs_embeds.device)

    @can_return_tuple
    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")  # as transformers' own models take it
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        pixel_values_videos: torch.FloatTensor | None = None,
        video_frame_mask: torch.BoolTensor | None = None,
        video_time_input_ids: torch.LongTensor | None = None,
        video_time_attention_mask: torch.LongTensor | None = None,
        video_picture_index: torch.LongTensor | None = None,
        video_patches: torch.FloatTensor | None = None,
        video_metadata: list | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | Seq2TimeModelOutput:
        r"""
        Args:
            pixel_values_videos (`torch.FloatTensor` of shape `(videos, frames, 3, size, size)`):
                The frames; with `video_picture_index` the unique pictures, `(pictures, 3, size, size)`.
            video_frame_mask (`torch.BoolTensor` of shape `(videos, frames)`, *optional*):
                Which frames exist, for videos of different lengths. All, or all with an index ≥ 0, if not given.
            video_time_input_ids, video_time_attention_mask (`torch.LongTensor` of shape `(videos, frames, text)`):
                Each frame's time sentence for the image Q-Former, padded on the right. Needed if it reads time.
            video_picture_index (`torch.LongTensor` of shape `(videos, frames)`, *optional*):
                Which picture each frame shows, so that a picture repeated in a batch passes the vision tower once.
            video_patches (`torch.FloatTensor` of shape `(videos, frames, patches, width)`, *optional*):
                In place of `pixel_values_videos`, what the vision tower makes of the frames; with
                `video_picture_index` of the unique pictures, `(pictures, patches, width)`.
            video_metadata (*optional*):
                Not read here: it travels with the processor's output so that answers can be turned into seconds.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds must be given")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)

        video_outputs = (mm_encoder_outputs or {}).get("video")
        if pixel_values_videos is not None or video_patches is not None:
            if video_outputs is not None:
                name = "video_patches" if pixel_values_videos is None else "pixel_values_videos"
                raise ValueError(f"{name} and mm_encoder_outputs['video'] must not be given together")
            video_outputs = self.get_video_features(
                pixel_values_videos,
                video_frame_mask=video_frame_mask,
                video_time_input_ids=video_time_input_ids,
                video_time_attention_mask=video_time_attention_mask,
                video_picture_index=video_picture_index,
                video_patches=video_patches,
                return_dict=True,
            )

        video_features = None
        if video_outputs is not None:
            video_features = tuple(video_outputs.pooler_output)
            flat = torch.cat(video_features).to(inputs_embeds.device, inputs_embeds.dtype)
            inputs_embeds = inputs_embeds.masked_scatter(
                self.get_placeholder_mask(input_ids, inputs_embeds, flat), flat
            )

        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        return Seq2TimeModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            video_hidden_states=video_features,
        )


def _trains(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())


class Seq2TimeForConditionalGeneration(TemporalAnswers, Seq2TimePreTrainedModel, GenerationMixin):
    """Seq2Time with the language model's head: answers *when* and *what* in a notation of time."""

    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: Seq2TimeConfig):
        super().__init__(config)
        text = config.text_config.to_dict()
        for setting in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
            if text.get(setting) not in (None, 1):
                raise ValueError(
                    f"text_config {setting} must be unset: the head of {text['model_type']} changes its scores, which "
                    f"Seq2Time's head does not; found {text[setting]}"
                )
        self.model = Seq2TimeModel(config)
        # Language models keep their embeddings in different places.
        embeddings = self.model.get_input_embeddings()
        name = next(name for name, module in self.model.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"model.{name}.weight"}
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.generation_config.suppress_tokens = [config.video_token_id]  # a placeholder is no answer
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_video_features(self, *args, **kwargs):
        return self.model.get_video_features(*args, **kwargs)

    def _prepare_multimodal_encoder_kwargs_for_generation(self, model_kwargs):
        # transformers encodes what it knows the name of; patches alone it would drop without a word.
        if model_kwargs.get("video_patches") is not None:
            model_kwargs.setdefault("pixel_values_videos", None)
        return super()._prepare_multimodal_encoder_kwargs_for_generation(model_kwargs)

    @torch.no_grad()
    def add_time_tokens(self, tokenizer, notation: str | None = None, **options) -> list[int]:
        """
        Adds the notation's own tokens to the tokenizer and the model. Each new row of the input and output embeddings
        starts as the row of the plain text that the token stands for (`<7>` as `7`), or as the mean of the old rows
        where it stands for none (`<bin_7>`). Rows that the model has already are left as they are, so that calling it
        again, or on a trained model, changes nothing.
        """
        if notation is None:
            notation, options = self.config.time_notation, self.config.time_notation_options or {}
        notation, old_rows = get_notation(notation, **options), self.config.text_config.vocab_size
        tokenizer.add_tokens(time_tokens(notation))
        token_ids = tokenizer.convert_tokens_to_ids(list(notation.tokens))
        if len(tokenizer) > self.config.text_config.vocab_size:
            self.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        if self.config.time_token_ids != token_ids:
            seeds = seed_ids(notation, tokenizer)
            for embedding in (self.get_input_embeddings(), self.get_output_embeddings()):
                if seeds is None:
                    old = [row for row in range(old_rows) if row not in token_ids]
                    embedding.weight[token_ids] = embedding.weight[old].mean(dim=0)
                else:
                    embedding.weight[token_ids] = embedding.weight[seeds]
        self.config.time_notation, self.config.time_token_ids = notation.name, token_ids
        self.config.time_notation_options = notation.options or None
        return token_ids

    @can_return_tuple
    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")  # as transformers' own models take it
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        pixel_values_videos: torch.FloatTensor | None = None,
        video_frame_mask: torch.BoolTensor | None = None,
        video_time_input_ids: torch.LongTensor | None = None,
        video_time_attention_mask: torch.LongTensor | None = None,
        video_picture_index: torch.LongTensor | None = None,
        video_patches: torch.FloatTensor | None = None,
        video_metadata: list | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | Seq2TimeCausalLMOutput:
        r"""
        As [`Seq2TimeModel.forward`], and:

        Args:
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                Targets of the language modeling loss, -100 where there is none.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            pixel_values_videos=pixel_values_videos,
            video_frame_mask=video_frame_mask,
            video_time_input_ids=video_time_input_ids,
            video_time_attention_mask=video_time_attention_mask,
            video_picture_index=video_picture_index,
            video_patches=video_patches,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return Seq2TimeCausalLMOutput(
            loss=loss,
            logits=logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            video_hidden_states=outputs.video_hidden_states,
        )


Seq2TimeModel.register_for_auto_class("AutoModel")
Seq2TimeForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
