"""Samples of the head family.

Tokens must equal the float64 reference's, so every decision has a margin: each row's token and
second token are planted, and other values are small multiples of powers of two, whose logits are
exact in every dtype.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dlmcache_cuda.testing.samples import Sample

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def planted(
    rows: int, width: int, vocab: int, dtype: torch.dtype, seed: int = 0, margin: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden ``[rows, width]``, weight ``[vocab, width]`` and the planted best and second ids.

    Hidden rows are 0, 1 and -1 in few places, so that a logit is a sum of few multiples of 1/8:
    exact in bfloat16. One more dimension per row carries its planted ids: the best one stands
    ``margin`` above the second, and that one ``margin`` above everything else.
    """
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.zeros(rows, width + 1)
    for row in hidden:
        places = torch.randperm(width, generator=generator)[:4]
        row[places] = torch.randint(0, 2, (len(places),), generator=generator) * 2.0 - 1.0
    weight = torch.randint(-4, 5, (vocab, width + 1), generator=generator) / 8.0
    hidden[:, width], weight[:, width] = 1.0, 0.0
    best = torch.randperm(vocab, generator=generator)[:rows]
    second = (best + 1) % vocab
    hidden = torch.cat([hidden, torch.eye(rows)], dim=1)
    weight = torch.cat([weight, torch.zeros(vocab, rows)], dim=1)
    logits = hidden @ weight.T
    for row in range(rows):
        top = logits[row].max()
        if vocab > 1:
            weight[second[row], width + 1 + row] = top + margin - logits[row, second[row]]
        weight[best[row], width + 1 + row] = top + 2 * margin - logits[row, best[row]]
    return hidden.to(dtype), weight.to(dtype), best, second


def samples(device: str = "cpu") -> Iterator[Sample]:
    for sample in _head_samples(device):
        yield sample
        hidden, weight = sample.args
        # Columns beside them: rows may lie apart.
        logits = torch.nn.functional.pad(hidden @ weight.T, (0, 3))[:, : len(weight)]
        yield Sample("logits_reduce", sample.name, (logits,), sample.kwargs)


def _head_samples(device: str) -> Iterator[Sample]:
    for dtype in DTYPES:
        for rows, width, vocab in ((1, 1, 1), (7, 33, 129), (3, 96, 2500)):
            hidden, weight, *_ = planted(rows, width, vocab, dtype, seed=vocab)
            name = f"{dtype}-{rows}x{width}x{vocab}"
            inputs = (hidden.to(device), weight.to(device))
            yield Sample("head_reduce", name, inputs, {"extras": True})
        hidden, weight, best, second = planted(5, 20, 769, dtype, margin=8.0)
        place = torch.tensor([0, 8, 9, 17, -1], device=device)
        noise = {
            "row_index": place,
            "capacity": 9,
            "seeds": torch.tensor([3, 2**40 + 1], device=device),
            "steps": torch.tensor([0, 5], device=device),
        }
        inputs = (hidden.to(device), weight.to(device))
        lists = {
            "suppress_ids": torch.stack([best[0], best[1]]).to(device),
            "confidence_suppress_ids": torch.stack([best[2], second[3]]).to(device),
        }
        yield Sample("head_reduce", f"{dtype}-lists", inputs, {**lists, "extras": True})
        yield Sample(
            "head_reduce",
            f"{dtype}-noise",
            inputs,
            {**lists, **noise, "temperature": 0.25, "extras": True},
        )
    hidden, weight, *_ = planted(4, 20, 300, torch.float32)
    hidden, weight = hidden.to(device), weight.to(device)
    unused = torch.full((4,), -1, device=device)
    yield Sample("head_reduce", "plain", (hidden, weight))
    yield Sample("head_reduce", "strided", (hidden[::2], weight[::3]), {"extras": True})
    yield Sample("head_reduce", "unused", (hidden, weight), {"row_index": unused, "extras": True})
    yield Sample("head_reduce", "empty", (hidden[:0], weight), {"extras": True})
