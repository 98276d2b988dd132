"""Models and settings on which policies are compared with their oracles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from .compare import Pair, load_pair
from .sequence import Settings

MODELS: dict[str, dict[str, Any]] = {
    "llada": {"n_layers": 3},
    "llada-gqa": {"n_layers": 4, "n_kv_heads": 2},
    "dream": {"family": "dream", "n_layers": 3, "n_kv_heads": 2},
    "dream-wide": {"family": "dream", "n_layers": 2, "n_heads": 6, "n_kv_heads": 3, "d_model": 48},
}

COMMITS: dict[str, dict[str, Any]] = {
    "fixed": {},
    "to-the-end": {"stop_at_eos": False},
    "blocks": {"block_length": 4, "stop_at_eos": False},
    "two-per-step": {"block_length": 6, "steps": 6},
    "threshold": {"threshold": 0.3},
    "threshold-blocks": {"threshold": 0.5, "block_length": 3, "stop_at_eos": False},
    "factor": {"factor": 1.2, "block_length": 6},
    "warm": {"temperature": 0.6, "block_length": 4},
    "random": {"remasking": "random", "block_length": 6},
    "guided": {"cfg_scale": 0.5, "stop_at_eos": False},
}


def make_pair(model: str, seed: int) -> Pair:
    return load_pair(seed, **MODELS[model])


@st.composite
def decode_settings(
    draw,
    remaskings: Sequence[str] = ("low_confidence", "random"),
    commits: Sequence[str] = ("fixed", "fixed", "threshold", "factor"),
    longest_block: int = 9,
) -> Settings:
    """The first of ``remaskings`` is what threshold and factor go with."""
    block_length = draw(st.integers(1, longest_block))
    n_blocks = draw(st.integers(1, 4))
    commit = draw(st.sampled_from(commits))
    fixed = commit == "fixed"
    return Settings(
        gen_length=block_length * n_blocks,
        block_length=block_length,
        steps=n_blocks * draw(st.integers(1, block_length + 2)) if fixed else None,
        temperature=draw(st.sampled_from([0.0, 0.0, 0.3, 1.0])),
        cfg_scale=draw(st.sampled_from([0.0, 0.0, 0.5, 2.0])),
        remasking=draw(st.sampled_from(remaskings if fixed else remaskings[:1])),
        threshold=draw(st.floats(0.05, 1.0)) if commit == "threshold" else None,
        factor=draw(st.floats(0.1, 4.0)) if commit == "factor" else None,
        stop_at_eos=draw(st.booleans()),
        logits_eos_inf=draw(st.booleans()),
        confidence_eos_eot_inf=draw(st.booleans()),
    )


@st.composite
def small_settings(draw) -> Settings:
    """Settings of one to three blocks and at most eighteen positions."""
    block_length = draw(st.integers(1, 9))
    n_blocks = draw(st.integers(1, min(3, 18 // block_length)))
    commit = draw(st.sampled_from(["fixed", "fixed", "threshold", "factor"]))
    steps = draw(st.integers(max(1, block_length // 2), block_length + 1))
    return Settings(
        gen_length=block_length * n_blocks,
        block_length=block_length,
        steps=n_blocks * steps if commit == "fixed" else None,
        temperature=draw(st.sampled_from([0.0, 0.0, 0.5])),
        cfg_scale=draw(st.sampled_from([0.0, 0.0, 0.0, 0.6])),
        threshold=draw(st.floats(0.05, 1.0)) if commit == "threshold" else None,
        factor=draw(st.floats(0.1, 4.0)) if commit == "factor" else None,
        stop_at_eos=draw(st.booleans()),
        confidence_eos_eot_inf=draw(st.booleans()),
    )


@st.composite
def elastic_options(draw) -> dict[str, Any]:
    """What ``elastic`` and ``composed`` share; similarities of random models lie above 0.8."""
    return {
        "gamma": draw(st.sampled_from([-1.0, 0.85, 0.92, 0.96, 0.98, 0.99, 2.0])),
        "window_length": draw(st.none() | st.integers(1, 8)),
        "track_num": draw(st.integers(1, 4)),
        "block_caching": draw(st.booleans()),
        "similarity": draw(st.sampled_from(["heads", "rows"])),
        "eos_cut": draw(st.booleans()),
        "refresh_steps": draw(st.none() | st.integers(1, 6)),
    }
