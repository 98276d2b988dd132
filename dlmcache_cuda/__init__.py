"""Fast, faithful decoding of diffusion language models.

>>> import dlmcache_cuda
>>> model = dlmcache_cuda.load()  # the bundled model; or a folder, or a hub id of a LLaDA
>>> out = dlmcache_cuda.decode(model, [{"role": "user", "content": question}], cache="dual")
>>> out.text[0], out.stats.tokens_per_second
"""

try:
    from dlmcache_cuda import _extension as _extension
except ImportError as error:
    # Everything else needs the operators, but `dlmcache doctor` has to run to tell what is wrong.
    _reason = error

    def __getattr__(name: str):
        if name.startswith("__"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        raise _reason

else:
    from dlmcache_cuda._extension import build_info as build_info
    from dlmcache_cuda.decoding import DecodedSequence as DecodedSequence
    from dlmcache_cuda.decoding import DecodeOutput as DecodeOutput
    from dlmcache_cuda.decoding import Decoder as Decoder
    from dlmcache_cuda.decoding import DecodeStats as DecodeStats
    from dlmcache_cuda.decoding import FillOutput as FillOutput
    from dlmcache_cuda.decoding import MemoryPrediction as MemoryPrediction
    from dlmcache_cuda.decoding import StepEvent as StepEvent
    from dlmcache_cuda.decoding import StreamEvent as StreamEvent
    from dlmcache_cuda.decoding import decode as decode
    from dlmcache_cuda.decoding import fill as fill
    from dlmcache_cuda.decoding import measure_layer_ratios as measure_layer_ratios
    from dlmcache_cuda.decoding import predict_memory as predict_memory
    from dlmcache_cuda.decoding import stream as stream
    from dlmcache_cuda.model import Llada as Llada
    from dlmcache_cuda.model import load as load
    from dlmcache_cuda.policies import CalibratedCache as CalibratedCache
    from dlmcache_cuda.policies import available_policies as available_policies
    from dlmcache_cuda.policies import load_cache as load_cache
    from dlmcache_cuda.policies.presets import Preset as Preset
    from dlmcache_cuda.policies.presets import presets as presets
    from dlmcache_cuda.report import trace_page as trace_page
    from dlmcache_cuda.tuning.calibrate import calibrate as calibrate
    from dlmcache_cuda.tuning.calibration import Calibration as Calibration
    from dlmcache_cuda.tuning.verification import Verification as Verification
    from dlmcache_cuda.tuning.verify import verify as verify
    from dlmcache_cuda.vision import LladaV as LladaV
    from dlmcache_cuda.vision import load_llada_v as load_llada_v

__version__ = "0.1.0"
