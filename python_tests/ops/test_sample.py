"""sample_rows: what the shared samples do not show."""

from __future__ import annotations

import math

import pytest
import torch

from dlmcache_cuda import ops, reference
from dlmcache_cuda.testing.samples.sample import stepped_logits


def noise(rows: int, device: str = "cpu", seed: int = 5) -> dict:
    return {
        "row_index": torch.arange(rows, device=device),
        "capacity": rows,
        "seeds": torch.tensor([seed], device=device),
        "steps": torch.tensor([2], device=device),
    }


def test_top_p_is_that_of_the_reference_code(device):
    """Kept is what stands before the cumulative sum exceeds top_p, and the one that makes it so."""
    p = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05])
    logits = p.log()[None].to(device)
    for top_p, kept in [(0.3, 1), (0.49, 1), (0.6, 2), (0.71, 3), (0.86, 4), (0.96, 5), (1.0, 5)]:
        token, log_confidence, _ = ops.sample_rows(logits, top_p=top_p)
        assert token.tolist() == [0]
        assert math.exp(log_confidence) == pytest.approx(0.5 / p[:kept].sum().item(), rel=1e-5)
    for top_k in range(1, 6):
        _, log_confidence, _ = ops.sample_rows(logits, top_k=top_k)
        assert math.exp(log_confidence) == pytest.approx(0.5 / p[:top_k].sum().item(), rel=1e-5)


def test_draws_follow_the_filtered_distribution(device):
    p = torch.tensor([0.05, 0.5, 0.2, 0.15, 0.1])
    rows = 20000
    logits = (p.log() * 0.5).expand(rows, -1).contiguous().to(device)
    token, log_confidence, score = ops.sample_rows(
        logits, temperature=0.5, top_p=0.8, **noise(rows, device)
    )
    shares = torch.bincount(token.cpu(), minlength=5) / rows
    expected = torch.tensor([0, 0.5, 0.2, 0.15, 0]) / 0.85
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.015)
    torch.testing.assert_close(log_confidence.exp().cpu(), expected[token.cpu()], rtol=1e-4, atol=0)
    assert torch.equal(log_confidence, score)


def test_without_filters_it_is_head_reduce(device):
    logits = torch.randn(6, 400, generator=torch.Generator().manual_seed(1)).to(device)
    eye = torch.eye(400, device=device)
    token, log_confidence, second, second_log, entropy = ops.head_reduce(logits, eye, extras=True)
    for score, expected in (
        (0, log_confidence),
        (1, (log_confidence.exp() - second_log.exp()).log()),
        (2, -entropy),
    ):
        got = ops.sample_rows(logits, score=score)
        assert torch.equal(got[0], token)
        torch.testing.assert_close(got[1], log_confidence)
        torch.testing.assert_close(got[2], expected, rtol=1e-4, atol=1e-5)
    # One noise, whichever operator draws with it; temperature 1 is where both mean the same.
    warm = ops.head_reduce(logits, eye, temperature=1.0, **noise(6, device))
    assert torch.equal(ops.sample_rows(logits, 1.0, **noise(6, device))[0], warm[0])


def test_margin_is_that_of_the_distribution_not_of_the_draw(device):
    logits = torch.tensor([0.6, 0.3, 0.1]).log().expand(64, -1).contiguous().to(device)
    token, _, score = ops.sample_rows(logits, 1.0, score=1, **noise(64, device))
    assert len(token.unique()) == 3
    torch.testing.assert_close(score.exp().cpu(), torch.full((64,), 0.3), rtol=1e-5, atol=1e-6)


def test_ties_share_their_fate(device):
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]], device=device)
    p = logits[0, :4].softmax(-1)
    for options in ({"top_k": 2}, {"top_p": 0.5}):
        _, log_confidence, _ = ops.sample_rows(logits, **options)
        assert log_confidence.exp().item() == pytest.approx(p[0].item(), rel=1e-5)
    token, log_confidence, score = ops.sample_rows(logits[:, 1:4], top_k=1, score=1)
    assert token.item() == 0 and score.item() == -math.inf
    assert log_confidence.exp().item() == pytest.approx(1 / 3)


def test_special_rows(device):
    logits = stepped_logits(5, 300).to(device)
    logits[0, 7], logits[1, 0], logits[2] = math.nan, math.inf, -math.inf
    logits[3, 5:] = -math.inf
    row_index = torch.tensor([0, 1, 2, 3, -1], device=device)
    for score in (0, 1, 2):
        out = ops.sample_rows(logits, top_p=0.9, top_k=3, score=score, row_index=row_index)
        twin = reference.sample_rows(
            logits.cpu(), top_p=0.9, top_k=3, score=score, row_index=row_index.cpu()
        )
        assert out[0].tolist()[:3] == [-1, -1, -1] and out[0][4] == -1
        assert out[1][:3].isnan().all() and out[2][:3].isnan().all()
        assert out[1][4] == out[2][4] == 0
        for result, expected in zip(out, twin, strict=True):
            torch.testing.assert_close(result.cpu(), expected, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_random_logits_equal_the_twin(dtype, seed, device):
    """Large vocabularies, where bfloat16 has thousands of ties."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(4, 20011, generator=generator) * 3).to(dtype)
    settings = {"temperature": 0.6, "top_p": 0.73, "top_k": 5000, "score": 2}
    out = ops.sample_rows(logits.to(device), **settings, **noise(4, device))
    twin = reference.sample_rows(logits.double(), **settings, **noise(4))
    assert out[0].tolist() == twin[0].tolist()
    torch.testing.assert_close(out[1].cpu().double(), twin[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out[2].cpu().double(), twin[2], rtol=1e-4, atol=1e-4)


def test_a_row_depends_on_itself_only(device):
    logits = torch.randn(7, 5000, generator=torch.Generator().manual_seed(2)).to(device)
    settings = {"temperature": 0.8, "top_p": 0.9, "score": 1, "capacity": 7}
    shared = {name: value for name, value in noise(7, device).items() if name in ("seeds", "steps")}
    places = torch.arange(7, device=device)
    together = ops.sample_rows(logits, row_index=places, **settings, **shared)
    for row in range(7):
        part = slice(row, row + 1)
        alone = ops.sample_rows(logits[part], row_index=places[part], **settings, **shared)
        assert torch.equal(alone[0], together[0][part])
        for one, many in zip(alone[1:], together[1:], strict=True):
            torch.testing.assert_close(one, many[part], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"temperature": -1.0}, "temperature must be 0 or a positive finite number, got -1"),
        ({"temperature": math.nan}, "temperature must be 0 or a positive"),
        ({"temperature": math.inf}, "temperature must be 0 or a positive"),
        ({"temperature": 0.5}, "a temperature above 0 needs row_index, seeds and steps"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], got 0"),
        ({"top_p": 1.5}, r"top_p must lie in \(0, 1\], got 1.5"),
        ({"top_p": math.nan}, r"top_p must lie in \(0, 1\], got"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"score": 3}, r"score must be 0 \(confidence\), 1 \(margin\) or 2 \(entropy\), got 3"),
        ({"capacity": 0}, "capacity must be at least 1, got 0"),
        ({"row_index": torch.zeros(3, dtype=torch.int64)}, r"row_index must have shape \[2\]"),
        ({"row_index": torch.zeros(2)}, "row_index must be Long"),
    ],
    ids=str,
)
def test_bad_arguments(options, message):
    with pytest.raises(RuntimeError, match=f"sample_rows: {message}"):
        ops.sample_rows(torch.zeros(2, 5), **options)


def test_the_largest_vocabulary_of_equals():
    """Sums of probabilities come as close to the end of int64 as they may."""
    token = ops.sample_rows(torch.zeros(1, 2**23 - 1), 0.0, 0.5)[0]
    assert token.tolist() == [0]


def test_bad_logits():
    for logits, message in (
        (torch.zeros(5), r"logits must have shape \[\*, \*\], got \[5\]"),
        (torch.zeros(2, 0), "logits must have from 1 to 8388607 columns"),
        (torch.zeros(1, 2**23), "logits must have from 1 to 8388607 columns .*, got 8388608"),
        (torch.zeros(2, 5, dtype=torch.float64), "logits must be float32, float16 or bfloat16"),
        (torch.zeros(5, 2).T, "logits must be contiguous in its last dimension"),
    ):
        with pytest.raises(RuntimeError, match=f"sample_rows: {message}"):
            ops.sample_rows(logits)
    with pytest.raises(RuntimeError, match=r"sample_rows: row_index\[1\] is 9, allowed are -1"):
        bad = noise(2) | {"row_index": torch.tensor([0, 9])}
        ops.sample_rows(torch.zeros(2, 5), 1.0, **bad)
