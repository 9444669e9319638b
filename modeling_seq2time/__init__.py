"""Seq2Time for transformers. `from_pretrained(..., trust_remote_code=True)` needs only the Hub folder, not this."""

from .configuration_seq2time import Seq2TimeConfig
from .modeling_seq2time import Seq2TimeForConditionalGeneration, Seq2TimeModel
from .processing_seq2time import Seq2TimeProcessor
from .time_notation import get_notation
from .video_processing_seq2time import Seq2TimeVideoProcessor
