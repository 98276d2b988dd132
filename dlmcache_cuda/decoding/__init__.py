"""The decoding loop and its results."""

from dlmcache_cuda.decoding.api import decode as decode
from dlmcache_cuda.decoding.decoder import Decoder as Decoder
from dlmcache_cuda.decoding.events import SequenceUpdate as SequenceUpdate
from dlmcache_cuda.decoding.events import StepEvent as StepEvent
from dlmcache_cuda.decoding.measure import measure_layer_ratios as measure_layer_ratios
from dlmcache_cuda.decoding.memory import MemoryPrediction as MemoryPrediction
from dlmcache_cuda.decoding.output import DecodedSequence as DecodedSequence
from dlmcache_cuda.decoding.output import DecodeOutput as DecodeOutput
from dlmcache_cuda.decoding.output import DecodeStats as DecodeStats
from dlmcache_cuda.decoding.predict import predict_memory as predict_memory
from dlmcache_cuda.decoding.trace import SelectionDrift as SelectionDrift
from dlmcache_cuda.decoding.trace import SequenceTrace as SequenceTrace
from dlmcache_cuda.decoding.trace import StepTrace as StepTrace
