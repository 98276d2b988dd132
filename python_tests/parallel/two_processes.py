"""Run by test_parallel.py under torchrun: decodes its share of some prompts, gathers the texts."""

from __future__ import annotations

import json
import sys

import dlmcache_cuda
from dlmcache_cuda.assets.questions import make_questions
from dlmcache_cuda.parallel import ProcessGroup, device_of_rank, shard, unshard

with ProcessGroup() as group:
    prompts = [question.prompt for question in make_questions(5, seed=3)]
    model = dlmcache_cuda.load(device=device_of_rank(group.ranks, "cpu"))
    mine = shard(prompts, group.ranks)
    texts = dlmcache_cuda.decode(model, mine, gen_length=32, threshold=0.9, seed=0).text
    group.barrier()
    parts = group.gather(texts)
    ranks = group.all_gather(group.ranks.rank)
    if group.ranks.is_main:
        print(json.dumps({"texts": unshard(parts), "ranks": ranks}))
    elif parts is not None:
        sys.exit("gather must answer on rank 0 only")
