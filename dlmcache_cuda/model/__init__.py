"""LLaDA and Dream: reading a checkpoint and computing rows of it."""

from dlmcache_cuda.model.config import LladaConfig as LladaConfig
from dlmcache_cuda.model.llada import Llada as Llada
from dlmcache_cuda.model.llada import Prediction as Prediction
from dlmcache_cuda.model.loading import load as load
