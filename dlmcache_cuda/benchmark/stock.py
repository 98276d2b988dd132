"""What users have without this package: transformers' Llama and the plain reference loop.

The model is ``LlamaForCausalLM`` without its causal mask, with ``sdpa``, its best attention without
extras. The loop is LLaDA's own (arXiv 2502.09992, low-confidence remasking): every step runs the
whole canvas, and softmax and argmax run over all of its logits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda.benchmark.measure import Measured, digest
from dlmcache_cuda.benchmark.prompts import Prompts
from dlmcache_cuda.benchmark.row import Row
from dlmcache_cuda.model.checkpoint_files import CheckpointFiles
from dlmcache_cuda.model.names import LLADA_NAMES


def load_stock(model: Any, folder: Path) -> Any:
    """Stock Llama with the weights, type and device of ``model``, read from its checkpoint.

    Raises:
        ValueError: not a LLaDA under its own names of weights.
    """
    config = model.config
    if config.model_type != "llada":
        raise ValueError(
            f"the stock baseline needs a LLaDA, got a model of type {config.model_type!r}; "
            "leave it out with --no-stock"
        )
    from dlmcache_cuda.testing.stock_llama import stock_model

    files = CheckpointFiles(folder)
    weights = {LLADA_NAMES.strip(name): files.read(name) for name in files.names()}
    sizes = {
        name: getattr(config, name)
        for name in (
            "d_model", "n_layers", "n_heads", "n_kv_heads", "mlp_hidden_size", "embedding_size",
            "rms_norm_eps", "rope_theta", "max_sequence_length", "weight_tying",
        )
    }  # fmt: skip
    stock = stock_model(sizes, weights, model.dtype, attention="sdpa")
    return stock.to(model.device)


@torch.no_grad()
def measure_stock(
    stock: Any,
    model: Any,
    row: Row,
    prompts: Prompts,
    *,
    limit: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Measured:
    """Decodes the row's prompts once, ``batch_size`` of them at a time.

    Args:
        stock: from :func:`load_stock`.
        model: says which tokens are the mask, the padding and the ends.
        limit: end after so many forwards.
        advance: called after every forward.
    """
    found = Measured()
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(model.device)
    size = row.workload.batch_size
    visible: list[Tensor] = []
    cpu, begin = time.process_time(), time.perf_counter()
    for first in range(0, len(prompts.ids), size):
        batch = prompts.ids[first : first + size]
        canvas = _Canvas(model, row, batch)
        at = time.perf_counter()
        for _ in _steps(stock, canvas, row):
            now = time.perf_counter()
            found.step_seconds.append(now - at)
            found.refreshed.append(False)
            found.sequence_forwards += len(batch)
            rows = sum(ids.numel() + row.workload.gen_length for ids in batch)
            found.rows_computed += rows * model.config.n_layers
            advance()
            at = time.perf_counter()
            if found.forwards == limit:
                break
        if found.forwards == limit:
            break
        visible += canvas.visible()
    found.seconds = time.perf_counter() - begin
    found.cpu_seconds = time.process_time() - cpu
    found.rows_vanilla = found.rows_computed
    found.visible_tokens = sum(ids.numel() for ids in visible)
    if len(visible) == len(prompts.ids):
        found.texts = [model.decode_text(ids) for ids in visible]
        found.digests = [digest(ids) for ids in visible]
    if on_gpu:
        found.peak_bytes = torch.cuda.max_memory_allocated(model.device)
    return found


class _Canvas:
    """Prompts padded on the left, then masks; ``tokens [B, N]`` int64."""

    def __init__(self, model: Any, row: Row, prompts: list[Tensor]) -> None:
        self.mask, self.ends = model.mask_token_id, list(model.end_token_ids)
        length = row.workload.gen_length
        lengths = [ids.numel() for ids in prompts]
        self.begin = max(lengths)
        shape = (len(prompts), self.begin + length)
        self.tokens = torch.full(shape, model.pad_token_id, dtype=torch.int64)
        self.tokens[:, self.begin :] = self.mask
        for place, ids in enumerate(prompts):
            self.tokens[place, self.begin - ids.numel() : self.begin] = ids
        self.tokens = self.tokens.to(model.device)
        self.extra: dict[str, Tensor] = {}
        if min(lengths) < self.begin:
            positions = torch.arange(shape[1]) - (self.begin - torch.tensor(lengths))[:, None]
            self.extra = {
                "attention_mask": (positions >= 0).long().to(model.device),
                "position_ids": positions.clamp(min=0).to(model.device),
            }

    @property
    def generated(self) -> Tensor:
        return self.tokens[:, self.begin :]

    def ended(self) -> bool:
        """Whether every sequence has an end token with no mask before it."""
        if not self.ends:
            return False
        ids = self.generated
        is_end = torch.isin(ids, torch.tensor(self.ends, device=ids.device))
        masks_before = (ids == self.mask).cumsum(1)
        return bool((is_end & (masks_before == 0)).any(1).all())

    def visible(self) -> list[Tensor]:
        """The tokens before the first end of each sequence."""
        found = []
        for ids in self.generated.cpu():
            ends = torch.isin(ids, torch.tensor(self.ends, dtype=torch.int64)).nonzero()
            ids = ids[: int(ends[0])] if len(ends) else ids
            found.append(ids[ids != self.mask])
        return found


def _steps(stock: Any, canvas: _Canvas, row: Row) -> Iterator[None]:
    """The reference loop; yields after every step."""
    length = row.workload.gen_length
    block = row.block_length or length
    tokens, mask = canvas.tokens, canvas.mask
    for begin in range(canvas.begin, canvas.begin + length, block):
        end = begin + block
        if row.threshold is None:
            steps = block // row.commits
            masks = (tokens[:, begin:end] == mask).sum(1)
            schedule = [masks // steps + (i < masks % steps) for i in range(steps)]
        number = 0
        while number < len(schedule) if row.threshold is None else _open(tokens, begin, end, mask):
            logits = stock(
                input_ids=tokens, use_cache=False, is_causal=False, **canvas.extra
            ).logits
            predicted = logits.argmax(-1)
            chances = torch.softmax(logits, -1).gather(-1, predicted[..., None])[..., 0]
            masked = tokens == mask
            chances = chances.masked_fill(~masked, -torch.inf)
            chances[:, end:] = -torch.inf
            for place in range(len(tokens)):
                if row.threshold is None:
                    count = int(schedule[number][place])
                    chosen = chances[place].topk(count).indices
                else:
                    sure = chances[place] >= row.threshold
                    sure[chances[place].argmax()] = True
                    chosen = (sure & (chances[place] > -torch.inf)).nonzero()[:, 0]
                tokens[place, chosen] = predicted[place, chosen]
            number += 1
            yield
            if row.workload.early_stop and canvas.ended():
                return


def _open(tokens: Tensor, begin: int, end: int, mask: int) -> bool:
    return bool((tokens[:, begin:end] == mask).any())
