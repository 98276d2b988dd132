"""What is computed at a step: the cache policies, one small module each."""

from dlmcache_cuda.policies.base import CachePolicy as CachePolicy
from dlmcache_cuda.policies.base import PolicyConfig as PolicyConfig
from dlmcache_cuda.policies.base import SlotPlan as SlotPlan
from dlmcache_cuda.policies.base import SlotView as SlotView
from dlmcache_cuda.policies.registry import available_policies as available_policies
from dlmcache_cuda.policies.registry import make_policy as make_policy
from dlmcache_cuda.policies.registry import register_policy as register_policy
