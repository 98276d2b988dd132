"""The decoding loop and its results."""

from dlmcache_cuda.decoding.api import decode as decode
from dlmcache_cuda.decoding.continuous import Decoder as Decoder
from dlmcache_cuda.decoding.events import SequenceUpdate as SequenceUpdate
from dlmcache_cuda.decoding.events import StepEvent as StepEvent
from dlmcache_cuda.decoding.measure import measure_layer_ratios as measure_layer_ratios
from dlmcache_cuda.decoding.memory import MemoryPrediction as MemoryPrediction
from dlmcache_cuda.decoding.output import DecodedSequence as DecodedSequence
from dlmcache_cuda.decoding.output import DecodeOutput as DecodeOutput
from dlmcache_cuda.decoding.output import DecodeStats as DecodeStats
from dlmcache_cuda.decoding.partial_text import TextSpan as TextSpan
from dlmcache_cuda.decoding.predict import predict_memory as predict_memory
from dlmcache_cuda.decoding.stream import Stream as Stream
from dlmcache_cuda.decoding.stream import stream as stream
from dlmcache_cuda.decoding.stream_event import StreamEvent as StreamEvent
