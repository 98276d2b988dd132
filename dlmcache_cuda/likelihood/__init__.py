"""How probable a model finds a text."""

from dlmcache_cuda.likelihood.estimate import DEFAULT_MC_NUM as DEFAULT_MC_NUM
from dlmcache_cuda.likelihood.estimate import log_likelihood as log_likelihood
from dlmcache_cuda.likelihood.greedy import is_greedy as is_greedy
from dlmcache_cuda.likelihood.mask_sets import MaskSets as MaskSets
from dlmcache_cuda.likelihood.mask_sets import all_mask_sets as all_mask_sets
from dlmcache_cuda.likelihood.mask_sets import draw_mask_sets as draw_mask_sets
