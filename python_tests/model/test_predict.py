"""The final norm and the head at chosen places."""

from __future__ import annotations

import pytest
import torch

from dlmcache_cuda import reference
from dlmcache_cuda.cache import RowList
from dlmcache_cuda.model import ranking


def hidden_of(model, ids):
    rows = RowList.from_ranges([0], [len(ids)], len(ids), model.device)
    cache = model.new_cache(1, len(ids))
    lengths = torch.tensor([len(ids)], device=model.device)
    return model.forward_rows(ids.to(model.device), rows, cache, lengths, [len(ids)])


def test_prediction_is_that_of_the_logits(model):
    ids = torch.randint(0, 60, (40,))
    log_p = model.logits(ids[None])[0].double().log_softmax(-1)
    places = torch.tensor([7, 39, 0, -1], device=model.device)
    prediction = model.predict(hidden_of(model, ids), places, extras=True)
    best = log_p[places[:3]].topk(2)
    assert prediction.token.tolist()[:3] == best.indices[:, 0].tolist()
    assert prediction.second_token.tolist()[:3] == best.indices[:, 1].tolist()
    for result, expected in (
        (prediction.log_confidence, best.values[:, 0]),
        (prediction.second_log_confidence, best.values[:, 1]),
        (prediction.entropy, -(log_p.exp() * log_p).sum(-1)[places[:3]]),
    ):
        torch.testing.assert_close(result[:3].double(), expected, rtol=1e-4, atol=1e-4)
    without = model.predict(hidden_of(model, ids), places)
    assert without.entropy.numel() == without.second_token.numel() == 0


def test_guidance_combines_logits(model):
    ids = torch.randint(0, 60, (40,))
    masked = ids.clone()
    masked[:20] = model.mask_token_id
    cond, uncond = model.logits(ids[None])[0].double(), model.logits(masked[None])[0].double()
    expected = (uncond + 2.5 * (cond - uncond)).log_softmax(-1)
    hidden = torch.cat((hidden_of(model, ids), hidden_of(model, masked)))
    places = torch.arange(20, 40, device=model.device)
    prediction = model.predict(hidden, places, uncond_places=places + 40, cfg_scale=1.5)
    assert prediction.token.tolist() == expected[20:].argmax(-1).tolist()
    torch.testing.assert_close(
        prediction.log_confidence.double(), expected[20:].amax(-1), rtol=1e-4, atol=1e-4
    )


def test_suppressed_ids_are_passed_on(model):
    hidden, places = (
        hidden_of(model, torch.randint(0, 60, (40,))),
        torch.arange(40).to(model.device),
    )
    first = model.predict(hidden, places)
    banned = first.token.unique()
    second = model.predict(hidden, places, suppress_ids=banned)
    assert not torch.isin(second.token, banned).any()


RANKINGS = {"confidence": 0, "margin": 1, "entropy": 2}


@pytest.mark.parametrize("name", RANKINGS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.7}, {"top_p": 0.8}, {"temperature": 0.5, "top_p": 0.9, "top_k": 6}],
    ids=str,
)
def test_rankings_are_those_of_the_logits(model, name, settings, monkeypatch):
    """Whatever way they take: through head_reduce, or through tiles of five rows of logits."""
    monkeypatch.setattr(ranking, "TILE_LOGITS", 5 * model.head.shape[0])
    ids = torch.randint(0, 60, (40,), generator=torch.Generator().manual_seed(4))
    places = torch.arange(3, 15, device=model.device)
    noise = {
        "row_index": places,
        "capacity": 40,
        "seeds": torch.tensor([3], device=model.device),
        "steps": torch.tensor([1], device=model.device),
    }
    banned = torch.tensor([5, 6], device=model.device)
    prediction = model.predict(
        hidden_of(model, ids), places, ranking=name, suppress_ids=banned, **settings, **noise
    )
    logits = model.logits(ids[None])[0, 3:15].double()
    logits[:, banned] = -torch.inf
    token, log_confidence, score = reference.sample_rows(
        logits, score=RANKINGS[name], **settings, **noise
    )
    assert prediction.token.tolist() == token.tolist()
    torch.testing.assert_close(
        prediction.log_confidence.double(), log_confidence, rtol=1e-4, atol=1e-4
    )
    if name == "confidence":
        assert prediction.score is None
    else:
        torch.testing.assert_close(prediction.score.double(), score, rtol=1e-3, atol=1e-4)


def test_margin_is_lossless_at_both_ends():
    first = torch.tensor([-1e-20, -0.6931472, -3.0])
    second = torch.tensor([-46.0, -0.6931472, -3.00001])
    margin = ranking.margin_score(first, second)
    exact = (first.double().exp() - second.double().exp()).log()
    assert margin[1] == -torch.inf
    assert -3e-20 < margin[0] < 0
    torch.testing.assert_close(margin[2].double(), exact[2], rtol=1e-3, atol=0)
