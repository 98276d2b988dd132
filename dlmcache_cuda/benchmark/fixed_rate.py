"""How policies that refresh by drift are set where the weights are random.

Random weights have no real drift, so refreshes that drift would trigger come at a fixed rate. Drift
is tested all the same, so that its work is in the times.
"""

from __future__ import annotations

from typing import Any

# Elastic-Cache's ablation on LLaDA-1.5, GSM8K, 512 positions, gamma 0.9 (arXiv 2510.14973): share
# of layers recomputed with threshold 0.9, and with threshold 1.0, which is one token per step.
PUBLISHED_RATE_THRESHOLD, PUBLISHED_RATE_ONE = 0.102, 0.056
REFRESH_STEPS = 10
ONE_TOKEN_REFRESH_STEPS = 18
DRIFT_POLICIES = ("elastic", "composed")
STATED = (
    "Random weights: tokens per step are fixed, and `elastic` and `composed` refresh at a fixed "
    f"rate whatever drifts, every {ONE_TOKEN_REFRESH_STEPS} steps with one token per step and "
    f"every {REFRESH_STEPS} steps with several. That is the share of layers that Elastic-Cache "
    f"reports as recomputed with gamma 0.9: {100 * PUBLISHED_RATE_ONE:g} % at threshold 1 and "
    f"{100 * PUBLISHED_RATE_THRESHOLD:g} % at threshold 0.9. Drift is measured all the same."
)


def fixed_rate(cache: str, commits: int = 1) -> dict[str, Any]:
    """Settings of a policy for random weights, with so many tokens per step; empty for policies
    that refresh by schedule anyway."""
    if cache not in DRIFT_POLICIES:
        return {}
    steps = ONE_TOKEN_REFRESH_STEPS if commits == 1 else REFRESH_STEPS
    return {"gamma": -1.0, "refresh_steps": steps, "eos_cut": False}
