"""How the rows of a step go through the layers: dense, tracked, selected, with rollout."""

from dlmcache_cuda.stack.budgets import BudgetPlan as BudgetPlan
from dlmcache_cuda.stack.budgets import SlotRows as SlotRows
from dlmcache_cuda.stack.budgets import plan_budgets as plan_budgets
from dlmcache_cuda.stack.stack import Stack as Stack
from dlmcache_cuda.stack.step import LayerBudgets as LayerBudgets
from dlmcache_cuda.stack.step import LayerSelection as LayerSelection
from dlmcache_cuda.stack.step import StackResult as StackResult
from dlmcache_cuda.stack.step import StackStep as StackStep
