"""What is particular about delta_update_: rounding like the layer itself, reuse, messages."""

from __future__ import annotations

import pytest
import torch

from dlmcache_cuda.ops import delta_update_, rms_norm

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def randn(*shape: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    return torch.randn(*shape).to(device, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 96, 131, 2048])
def test_computed_rows_are_those_of_the_layer(dtype, width, device):
    # To the bit: with all rows computed, reuse must not change what a model answers.
    h, attn_out, ff_out = (randn(7, width, dtype=dtype, device=device) for _ in range(3))
    weight = randn(width, dtype=dtype, device=device)
    index = torch.arange(2, 9, device=device)
    places = torch.arange(7, device=device)
    for absolute in (False, True):
        delta = randn(10, width, dtype=dtype, device=device)
        before = delta.clone()
        h_next, normed = delta_update_(
            delta, h, index, attn_out, ff_out, places, weight, 1e-5, absolute
        )
        added = h + attn_out + ff_out if absolute else attn_out + ff_out
        assert torch.equal(delta[2:9], added)
        assert torch.equal(h_next, added if absolute else h + added)
        assert torch.equal(normed, rms_norm(h_next, weight, 1e-5))
        assert torch.equal(delta[:2], before[:2]) and torch.equal(delta[9:], before[9:])


@pytest.mark.parametrize("absolute", [False, True])
def test_other_rows_take_what_was_kept(absolute, device):
    delta, h = torch.randn(6, 33, device=device), torch.randn(3, 33, device=device)
    attn_out, ff_out = torch.randn(1, 33, device=device), torch.randn(1, 33, device=device)
    index = torch.tensor([1, 4, 5], device=device)
    before = delta.clone()
    h_next, normed = delta_update_(
        delta, h, index, attn_out, ff_out, torch.tensor([1], device=device), absolute=absolute
    )
    others = torch.tensor([0, 2], device=device)
    kept = before[index[others]]
    assert torch.equal(h_next[others], kept if absolute else h[others] + kept)
    assert torch.equal(delta[[0, 1, 2, 3, 5]], before[[0, 1, 2, 3, 5]])
    assert normed.shape == (0,)


def test_two_steps(device):
    # What a step computes is what the next one adds.
    delta = torch.zeros(4, 16, device=device)
    index, none = torch.tensor([0, 3], device=device), torch.empty(0, 16, device=device)
    h, attn_out, ff_out = (torch.randn(2, 16, device=device) for _ in range(3))
    delta_update_(delta, h, index, attn_out, ff_out, torch.tensor([0, 1], device=device))
    other = torch.randn(2, 16, device=device)
    no_places = torch.empty(0, dtype=torch.int64, device=device)
    h_next, _ = delta_update_(delta, other, index, none, none, no_places)
    assert torch.equal(h_next, other + (attn_out + ff_out))


def test_unused_entries_read_and_write_nothing(device):
    nan = float("nan")
    delta = torch.ones(2, 64, device=device)
    h, out = torch.full((3, 64), nan, device=device), torch.full((2, 64), nan, device=device)
    h[0] = 1.0
    index, places = torch.tensor([1, -1, -1], device=device), torch.tensor([1, -1], device=device)
    weight = torch.full((64,), -1.0, device=device)
    h_next, normed = delta_update_(delta, h, index, out, out, places, weight)
    assert torch.equal(delta, torch.ones_like(delta))
    assert torch.equal(h_next[0], torch.full((64,), 2.0, device=device))
    for result in (h_next, normed):
        assert torch.equal(result[1:], torch.zeros(2, 64, device=device))


def test_a_row_does_not_depend_on_the_others(device):
    delta, h = torch.randn(300, 771, device=device), torch.randn(300, 771, device=device)
    attn_out, ff_out = (torch.randn(150, 771, device=device) for _ in range(2))
    index, places = torch.arange(300, device=device), torch.arange(0, 300, 2, device=device)
    weight = torch.randn(771, device=device)
    everything = delta_update_(delta.clone(), h, index, attn_out, ff_out, places, weight)
    part = slice(122, 124)
    alone = delta_update_(
        delta.clone(), h[part], index[part], attn_out[61:62], ff_out[61:62], places[:1], weight
    )
    for all_rows, two_rows in zip(everything, alone, strict=True):
        assert torch.equal(all_rows[part], two_rows)


ERRORS = [
    ("h", lambda t: t[0], r"h must have shape \[\*, \*\], got \[6\]"),
    ("delta", lambda t: t[:, 1:], r"delta must have shape \[\*, 6\], got \[5, 5\]"),
    ("attn_out", lambda t: t[:, 1:], r"attn_out must have shape \[\*, 6\], got \[2, 5\]"),
    ("ff_out", lambda t: t[1:], r"ff_out must have shape \[2, 6\], got \[1, 6\]"),
    ("norm_weight", lambda t: t[1:], r"norm_weight must have shape \[6\], got \[5\]"),
    ("row_index", lambda t: t[1:], r"row_index must have shape \[3\], got \[2\]"),
    ("places", lambda t: t[1:], r"places must have shape \[2\], got \[1\]"),
    ("h", lambda t: t.double(), r"h must be float32, float16 or bfloat16, got Double"),
    ("delta", lambda t: t.half(), r"delta must be Float, got Half"),
    ("attn_out", lambda t: t.half(), r"attn_out must be Float, got Half"),
    ("ff_out", lambda t: t.half(), r"ff_out must be Float, got Half"),
    ("norm_weight", lambda t: t.half(), r"norm_weight must be Float, got Half"),
    ("row_index", lambda t: t.int(), r"row_index must be Long, got Int"),
    ("places", lambda t: t.int(), r"places must be Long, got Int"),
    ("delta", lambda t: t.t().contiguous().t(), r"delta must be contiguous"),
    ("h", lambda t: t.t().contiguous().t(), r"h must be contiguous in its last dimension"),
    ("attn_out", lambda t: t.t().contiguous().t(), r"attn_out must be contiguous in its last"),
    ("ff_out", lambda t: t.t().contiguous().t(), r"ff_out must be contiguous in its last"),
    ("norm_weight", lambda t: torch.cat((t, t))[::2], r"norm_weight must be contiguous"),
    ("row_index", lambda t: t + 1, r"row_index\[2\] is 5, allowed are -1 \(unused\) to 4"),
    ("places", lambda t: t + 1, r"places\[1\] is 3, allowed are -1 \(unused\) to 2"),
    ("places", lambda t: t.flip(0), r"places must ascend, but places\[1\] is 0 behind 2"),
    ("places", lambda t: t * 0, r"places must ascend, but places\[1\] is 0 behind 0"),
    ("places", lambda t: t - 1, r"places must ascend, but places\[1\] is 1 behind -1"),
]


@pytest.mark.parametrize(("name", "change", "message"), ERRORS)
def test_rejects(name, change, message):
    inputs = {
        "delta": torch.zeros(5, 6),
        "h": torch.zeros(3, 6),
        "row_index": torch.tensor([0, 2, 4]),
        "attn_out": torch.zeros(2, 6),
        "ff_out": torch.zeros(2, 6),
        "places": torch.tensor([0, 2]),
        "norm_weight": torch.zeros(6),
    }
    inputs[name] = change(inputs[name])
    with pytest.raises(RuntimeError, match="delta_update_: " + message):
        delta_update_(**inputs)
