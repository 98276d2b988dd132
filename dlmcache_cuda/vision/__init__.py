"""LLaDA-V: from images and text to prompts as embeddings."""

from dlmcache_cuda.vision.llada_v import LladaV as LladaV
from dlmcache_cuda.vision.loading import load_llada_v as load_llada_v
