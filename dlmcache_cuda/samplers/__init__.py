"""What is committed at a step: the commit rules and the sampler that applies one."""

from dlmcache_cuda.samplers.rules import CommitRule as CommitRule
from dlmcache_cuda.samplers.rules import DreamSchedule as DreamSchedule
from dlmcache_cuda.samplers.rules import Factor as Factor
from dlmcache_cuda.samplers.rules import FixedK as FixedK
from dlmcache_cuda.samplers.rules import Origin as Origin
from dlmcache_cuda.samplers.rules import Threshold as Threshold
from dlmcache_cuda.samplers.sampler import ALGORITHMS as ALGORITHMS
from dlmcache_cuda.samplers.sampler import REMASKINGS as REMASKINGS
from dlmcache_cuda.samplers.sampler import Sampler as Sampler
from dlmcache_cuda.samplers.schedule import num_transfer_tokens as num_transfer_tokens
