"""Random settings: decode equals the oracle. ``DLMCACHE_TEST_EXAMPLES`` sets how many are tried."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st
from oracles.cases import decode_settings
from oracles.compare import assert_equals_oracle, load_pair, random_prompts

EXAMPLES = int(os.environ.get("DLMCACHE_TEST_EXAMPLES", "25"))


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    options=decode_settings(),
    cache=st.sampled_from(["none", "prefix", "dual"]),
    family=st.sampled_from(["llada", "dream"]),
    model_seed=st.integers(0, 7),
    prompt_seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(1, 14), min_size=1, max_size=4),
    seed=st.integers(0, 2**63 - 5),
    batch_size=st.none() | st.integers(1, 4),
)
def test_decode_equals_the_oracle(
    options, cache, family, model_seed, prompt_seed, lengths, seed, batch_size
):
    prompts = random_prompts(prompt_seed, lengths)
    records = assert_equals_oracle(
        load_pair(model_seed, family=family),
        prompts,
        options,
        cache,
        seeds=[seed + i for i in range(len(prompts))],
        batch_size=batch_size,
    )
    close = records.count(None)
    event(f"too close to call: {close}")
    note(f"smallest margins: {[record and record.margin for record in records]}")
    assert close <= 1
