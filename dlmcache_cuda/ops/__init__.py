"""The operators: typed functions over ``torch.ops.dlmcache.*``, one module per family."""

from dlmcache_cuda.ops.attention import attention_rows as attention_rows
from dlmcache_cuda.ops.attention_mass import attention_mass as attention_mass
from dlmcache_cuda.ops.attention_mass import rollout_step as rollout_step
from dlmcache_cuda.ops.commit import commit_ as commit_
from dlmcache_cuda.ops.delta import delta_update_ as delta_update_
from dlmcache_cuda.ops.density import density as density
from dlmcache_cuda.ops.drift import cosine_drift_ as cosine_drift_
from dlmcache_cuda.ops.head import head_reduce as head_reduce
from dlmcache_cuda.ops.head import logits_reduce as logits_reduce
from dlmcache_cuda.ops.layers import forward_layers_ as forward_layers_
from dlmcache_cuda.ops.norm import add_rms_norm as add_rms_norm
from dlmcache_cuda.ops.norm import rms_norm as rms_norm
from dlmcache_cuda.ops.random import uniform_rows as uniform_rows
from dlmcache_cuda.ops.rope_cache import rope_scatter_kv_ as rope_scatter_kv_
from dlmcache_cuda.ops.row_list import build_rows as build_rows
from dlmcache_cuda.ops.row_list import find_rows as find_rows
from dlmcache_cuda.ops.rows import gather_rows as gather_rows
from dlmcache_cuda.ops.rows import scatter_rows_ as scatter_rows_
from dlmcache_cuda.ops.sample import sample_rows as sample_rows
from dlmcache_cuda.ops.select import select_rows as select_rows
from dlmcache_cuda.ops.selected_layers import select_layers_ as select_layers_
from dlmcache_cuda.ops.swiglu import swiglu as swiglu
from dlmcache_cuda.ops.tracked_drift import tracked_similarity as tracked_similarity
from dlmcache_cuda.ops.tracked_layers import track_layers_ as track_layers_
