"""
Seq2Time for transformers. Importing this package makes the Auto classes know it. Without it, a model's folder brings
its own code: `from_pretrained(..., trust_remote_code=True)`.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoVideoProcessor,
)

from .answer_form import AnswerForm
from .configuration_seq2time import Seq2TimeConfig
from .modeling_seq2time import Seq2TimeForConditionalGeneration, Seq2TimeModel
from .moments import Answer, Moment, failure_rate
from .processing_seq2time import Seq2TimeProcessor
from .time_decoding import TimeLogitsProcessor
from .time_notation import escape, get_notation, mark, parse, render
from .video_processing_seq2time import Seq2TimeVideoProcessor


AutoConfig.register(Seq2TimeConfig.model_type, Seq2TimeConfig)
AutoModel.register(Seq2TimeConfig, Seq2TimeModel)
AutoModelForImageTextToText.register(Seq2TimeConfig, Seq2TimeForConditionalGeneration)
AutoModelForMultimodalLM.register(Seq2TimeConfig, Seq2TimeForConditionalGeneration)
AutoProcessor.register(Seq2TimeConfig, Seq2TimeProcessor)
AutoVideoProcessor.register(Seq2TimeConfig, Seq2TimeVideoProcessor)

__all__ = [
    "Answer",
    "AnswerForm",
    "Moment",
    "Seq2TimeConfig",
    "Seq2TimeForConditionalGeneration",
    "Seq2TimeModel",
    "Seq2TimeProcessor",
    "Seq2TimeVideoProcessor",
    "TimeLogitsProcessor",
    "escape",
    "failure_rate",
    "get_notation",
    "mark",
    "parse",
    "render",
]
