"""What is computed at a step: the cache policies, one small module each."""

from dlmcache_cuda.policies.base import IDLE as IDLE
from dlmcache_cuda.policies.base import CachePolicy as CachePolicy
from dlmcache_cuda.policies.base import Frame as Frame
from dlmcache_cuda.policies.base import PolicyConfig as PolicyConfig
from dlmcache_cuda.policies.base import SlotColumns as SlotColumns
from dlmcache_cuda.policies.base import SlotPlan as SlotPlan
from dlmcache_cuda.policies.base import SlotView as SlotView
from dlmcache_cuda.policies.base import StepPlan as StepPlan
from dlmcache_cuda.policies.base import StepResult as StepResult
from dlmcache_cuda.policies.base import StepView as StepView
from dlmcache_cuda.policies.cache_file import CalibratedCache as CalibratedCache
from dlmcache_cuda.policies.cache_file import load_cache as load_cache
from dlmcache_cuda.policies.registry import Cache as Cache
from dlmcache_cuda.policies.registry import available_policies as available_policies
from dlmcache_cuda.policies.registry import make_policy as make_policy
from dlmcache_cuda.policies.registry import policy_named as policy_named
from dlmcache_cuda.policies.registry import policy_of as policy_of
from dlmcache_cuda.policies.registry import register_policy as register_policy
from dlmcache_cuda.policies.stack_spec import SelectionSpec as SelectionSpec
from dlmcache_cuda.policies.stack_spec import StackSpec as StackSpec
from dlmcache_cuda.policies.stack_spec import TrackingSpec as TrackingSpec
