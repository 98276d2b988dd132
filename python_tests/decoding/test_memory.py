"""What is predicted against what is allocated, and what is refused."""

from __future__ import annotations

import gc

import pytest
import torch

import dlmcache_cuda
from dlmcache_cuda.decoding import available_memory, memory
from dlmcache_cuda.decoding.arguments import check_settings
from dlmcache_cuda.decoding.decoder import SlotDecoder
from dlmcache_cuda.decoding.defaults import decode_defaults
from dlmcache_cuda.policies import available_policies, make_policy
from dlmcache_cuda.policies.elastic import ElasticConfig
from dlmcache_cuda.testing.tiny_model import random_model

SIZES = {
    "narrow": {"d_model": 64, "n_layers": 3, "n_heads": 4, "n_kv_heads": 4, "vocab_size": 300},
    "wide": {
        "d_model": 384, "n_layers": 4, "n_heads": 8, "n_kv_heads": 2, "mlp_hidden_size": 1000,
        "vocab_size": 12000,
    },
}  # fmt: skip
PROMPT_LENGTHS = [600, 411, 530]
SETTINGS = {"gen_length": 48, "block_length": 24, "batch_size": 2}
SLACK = 8 * 2**20


@pytest.fixture(autouse=True)
def _directions_in_a_folder_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("DLMCACHE_CACHE_DIR", str(tmp_path))


def model_of(size: str):
    return random_model(3, max_sequence_length=2048, **SIZES[size])


def prompts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 200, (n,), generator=generator) for n in PROMPT_LENGTHS]


def measured_peak(run) -> int:
    """Most bytes alive at once of those that torch allocates during ``run``, in C++ too."""
    gc.collect()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        run()
    changes = [
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    live = peak = 0
    for _, change in sorted(changes, key=lambda entry: entry[0]):
        live += change
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("cfg_scale", [0.0, 1.0])
@pytest.mark.parametrize("name", list(available_policies()))
def test_buffers_are_exactly_as_predicted(name, cfg_scale):
    model = model_of("narrow")
    settings = check_settings(
        model,
        make_policy(name),
        **decode_defaults() | {"gen_length": 48, "block_length": 24, "cfg_scale": cfg_scale},
    )
    capacity = memory.slot_capacity(max(PROMPT_LENGTHS) + 48)
    decoder = SlotDecoder(model, make_policy(name), settings, num_slots=2, capacity=capacity)
    predicted = dlmcache_cuda.predict_memory(
        model, PROMPT_LENGTHS, cache=name, cfg_scale=cfg_scale, **SETTINGS
    )
    assert predicted.kv_cache == decoder.canvas.cache.nbytes
    assert predicted.stack == decoder.stack.nbytes
    again = dlmcache_cuda.predict_memory(
        model, PROMPT_LENGTHS, cache=name, cfg_scale=cfg_scale, **SETTINGS
    )
    assert again.weights == model.weight_bytes
    assert again.total == predicted.total  # proxies move from one part to the other
    canvas = decoder.canvas
    held = [canvas.network_tokens, canvas.commit_step, canvas.log_confidence, canvas.given]
    held.append(canvas.positions)
    if canvas.final_mask_id is not None:
        held.append(canvas.tokens)
    assert predicted.canvas == sum(tensor.nbytes for tensor in held)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", list(available_policies()))
def test_the_peak_is_at_most_and_nearly_the_predicted_one(name, size):
    model = model_of(size)
    predicted = dlmcache_cuda.predict_memory(model, PROMPT_LENGTHS, cache=name, **SETTINGS)
    before = [layer.weights.qkv for layer in model.layers]
    peak = measured_peak(
        lambda: dlmcache_cuda.decode(
            model, prompts(), cache=name, steps=4, stop_at_eos=False, **SETTINGS
        )
    )
    # The profiler sees matrices with proxies come, but not those go that were there before.
    now = [layer.weights.qkv for layer in model.layers]
    peak -= sum(old.nbytes for old, new in zip(before, now, strict=True) if old is not new)
    assert peak <= predicted.needed <= 1.1 * peak + SLACK, f"peak {peak}, predicted {predicted}"


@pytest.mark.parametrize(
    "options",
    [{"cfg_scale": 1.5}, {"alg": "entropy", "temperature": 0.5, "top_p": 0.9}],
    ids=["guided", "sampled"],
)
def test_the_peak_with_other_heads(options):
    model = model_of("wide")
    peak = measured_peak(
        lambda: dlmcache_cuda.decode(
            model, prompts(), seed=0, steps=4, stop_at_eos=False, **SETTINGS, **options
        )
    )
    known = {name: options[name] for name in ("cfg_scale", "alg") if name in options}
    predicted = dlmcache_cuda.predict_memory(model, PROMPT_LENGTHS, **SETTINGS, **known)
    assert peak <= predicted.needed <= 1.1 * peak + SLACK, f"peak {peak}, predicted {predicted}"


def test_a_request_that_cannot_fit_is_refused_before_any_work(monkeypatch):
    model = model_of("narrow")
    monkeypatch.setattr(memory, "available_bytes", lambda device: 12345)
    monkeypatch.setattr(type(model), "new_cache", lambda *_: pytest.fail("allocated"))
    needed = dlmcache_cuda.predict_memory(model, PROMPT_LENGTHS, **SETTINGS).needed
    with pytest.raises(MemoryError) as refused:
        dlmcache_cuda.decode(model, prompts(), **SETTINGS)
    message = str(refused.value)
    assert f"needs {needed} bytes" in message
    assert "12345 bytes (12.1 KiB) are available on cpu" in message
    assert "lower batch_size, gen_length or the length of the prompts" in message


@pytest.mark.parametrize("spare", [0, None])
def test_what_just_fits_or_cannot_be_known_is_decoded(monkeypatch, spare):
    model = model_of("narrow")
    ids = prompts()[0][:20]
    needed = dlmcache_cuda.predict_memory(model, 20, gen_length=8).needed
    available = None if spare is None else needed + spare
    monkeypatch.setattr(memory, "available_bytes", lambda device: available)
    out = dlmcache_cuda.decode(model, ids, gen_length=8, stop_at_eos=False)
    assert out.stats.forwards == 8


def test_the_limit_of_a_container_counts(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 600000\ninactive_file 50000\n")
    monkeypatch.setattr(available_memory, "_CGROUP_V2", tmp_path)
    assert available_memory.available_bytes(torch.device("cpu")) == 350000
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(available_memory, "_CGROUP_V1", tmp_path / "none")
    assert available_memory.available_bytes(torch.device("cpu")) > 350000


def test_on_a_gpu_what_torch_holds_unused_is_available(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)
    assert available_memory.available_bytes(torch.device("cuda", 0)) == 1400


@pytest.mark.parametrize(
    "lengths", [0, [], [5, -1], [True], "12", 1.5, None, {3: 4}, torch.ones(2)], ids=str
)
def test_bad_prompt_lengths_are_refused(lengths):
    with pytest.raises(ValueError, match="prompt_lengths must"):
        dlmcache_cuda.predict_memory(model_of("narrow"), lengths)


def test_parts_add_up_and_are_readable():
    parts = memory.MemoryPrediction(2**30, 3 * 2**20, 0, 0, 512, 100, 200)
    assert parts.total == 2**30 + 3 * 2**20 + 512 + 200
    assert parts.needed == parts.total - 2**30
    assert str(parts).startswith("weights 1.0 GiB, kv_cache 3.0 MiB, canvas 512 B, network 100 B")


def test_prompt_lengths_of_a_tensor():
    model = model_of("narrow")
    wanted = dlmcache_cuda.predict_memory(model, [3, 4])
    assert dlmcache_cuda.predict_memory(model, torch.tensor([3, 4])) == wanted


def test_a_canvas_that_the_model_does_not_take_is_not_predicted():
    model = model_of("narrow")
    limit = model.config.max_sequence_length
    dlmcache_cuda.predict_memory(model, limit - 8, gen_length=8)
    with pytest.raises(ValueError, match=f"make a canvas of {limit + 1}; max_sequence_length"):
        dlmcache_cuda.predict_memory(model, [3, limit - 7], gen_length=8)


def test_more_tracked_rows_than_positions_take_no_memory():
    """There are no more rows to track than the canvas has, whatever is asked for."""
    model = dlmcache_cuda.load(device="cpu")
    few, many = (
        dlmcache_cuda.decode(
            model, [5, 6, 7], gen_length=8, seed=0, cache=ElasticConfig(track_num=track_num)
        ).sequences[0]
        for track_num in (16, 2**31 - 1)
    )
    assert torch.equal(few.ids, many.ids) and few.rows_computed == many.rows_computed
