"""Random arguments of ``decode`` for property tests."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from .sequence import Settings


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
