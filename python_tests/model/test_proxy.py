"""The singular proxies: what they are, that they are computed once, and what the disk may do."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dlmcache_cuda.model import direction_file
from dlmcache_cuda.model.direction_file import cache_folder, read_directions
from dlmcache_cuda.model.proxy import singular_proxies, stack_proxies
from dlmcache_cuda.model.weights import BlockWeights
from dlmcache_cuda.testing.tiny_model import random_model

SIZES = {"d_model": 32, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2}
KV_WIDTH = 16


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test has an empty cache of its own, and warnings are errors unless expected."""
    monkeypatch.setenv("DLMCACHE_CACHE_DIR", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield tmp_path / "cache"


@pytest.fixture
def decompositions(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of all matrices that are decomposed from now on."""
    seen, svd = [], torch.linalg.svd

    def counted(matrix, **options):
        seen.append(tuple(matrix.shape))
        return svd(matrix, **options)

    monkeypatch.setattr(torch.linalg, "svd", counted)
    return seen


def value_weights(model) -> list[torch.Tensor]:
    weights = [layer.weights for layer in model.layers]
    return [block.qkv.rows(block.qkv_rows - KV_WIDTH, block.qkv_rows) for block in weights]


def only_file(folder):
    (path,) = folder.iterdir()
    return path


@pytest.mark.parametrize("kind", ["llada", "Dream"])
@pytest.mark.parametrize("rank", [1, 5, KV_WIDTH, 1000, 0.25])
def test_proxies_are_the_scaled_directions(kind, rank):
    model = random_model(3, model_type=kind, **SIZES)
    r = {1: KV_WIDTH, 1000: KV_WIDTH, 0.25: 4}.get(rank, rank)
    proxies = singular_proxies(model, rank)
    assert len(proxies) == 3
    for proxy, weight in zip(proxies, value_weights(model), strict=True):
        _, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
        assert proxy.shape == (r, 32) and proxy.is_contiguous() and proxy.dtype == weight.dtype
        expected = s[:r, None] * vh[:r]
        signs = (proxy.double() * expected).sum(1, keepdim=True).sign()
        torch.testing.assert_close(proxy.double() * signs, expected, atol=1e-5, rtol=1e-4)


def test_cosines_at_full_rank_are_those_of_the_values():
    model = random_model(4, **SIZES)
    rows, others = torch.randn(20, 32), torch.randn(20, 32)
    for proxy, weight in zip(singular_proxies(model, 1.0), value_weights(model), strict=True):
        seen = torch.cosine_similarity(rows @ proxy.T, others @ proxy.T)
        values = torch.cosine_similarity(rows @ weight.T, others @ weight.T)
        torch.testing.assert_close(seen, values, atol=1e-5, rtol=1e-4)


def test_half_precision_models_get_proxies_of_their_dtype():
    model = random_model(4, dtype="bfloat16", **SIZES)
    assert all(proxy.dtype == torch.bfloat16 for proxy in singular_proxies(model, 4))


def test_a_model_is_decomposed_once(decompositions, folder):
    model = random_model(5, **SIZES)
    first = singular_proxies(model, 4)
    assert decompositions == [(KV_WIDTH, 32)] * 3
    again = singular_proxies(model, 4)
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(first, again, strict=True))
    assert len(singular_proxies(model, 9)[0]) == 9
    only_file(folder).unlink()
    singular_proxies(model, 3)
    assert len(decompositions) == 3


def test_the_file_serves_other_processes(decompositions, folder):
    first = singular_proxies(random_model(6, **SIZES), 4)
    assert only_file(folder).name.startswith("singular-")
    decompositions.clear()
    again = singular_proxies(random_model(6, **SIZES), 4)
    assert not decompositions
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)


def test_other_weights_and_dtypes_have_files_of_their_own(decompositions, folder):
    for seed, dtype in ((7, "float32"), (8, "float32"), (7, "bfloat16")):
        singular_proxies(random_model(seed, dtype=dtype, **SIZES), 4)
    assert len(list(folder.iterdir())) == 3 and len(decompositions) == 9


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def fill_with_noise(path):
    path.write_bytes(bytes(range(256)) * 8)


def replace_by_a_folder(path):
    path.unlink()
    path.mkdir()


def rewritten(metadata=None, **tensors):
    """A change of single tensors and entries, with a checksum that fits."""

    def rewrite(path):
        with safe_open(path, "pt") as file:
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = file.metadata()
        for name, change in tensors.items():
            changed = change(held.pop(name))
            if changed is not None:
                held[name] = changed.contiguous()
        if set(held) == {"values", "vectors"} and held["values"].dim() and held["values"].numel():
            facts["checksum"] = direction_file._checksum(direction_file.Directions(**held))
        save_file(held, path, metadata=facts | (metadata or {}))

    return rewrite


DAMAGES = {
    "one bit": (flip_a_bit, "checksum"),
    "truncated": (truncate, ""),
    "empty": (empty, ""),
    "noise": (fill_with_noise, ""),
    "other version": (rewritten({"version": "0"}), "version '0'"),
    "other format": (rewritten({"format": "mine"}), "something else"),
    "other weights": (rewritten({"weights": "0"}), "other weights"),
    "wrong checksum": (rewritten({"checksum": "0"}), "checksum"),
    "no vectors": (rewritten(vectors=lambda held: None), "vectors"),
    "fewer layers": (rewritten(values=lambda held: held[:2]), "shapes"),
    "other width": (rewritten(vectors=lambda held: held[..., :8]), "shapes"),
    "a number": (rewritten(values=lambda held: torch.tensor(1.0)), "shapes"),
    "no directions": (
        rewritten(values=lambda held: held[:, :0], vectors=lambda held: held[:, :0]),
        "holds 0 directions",
    ),
    "other dtype": (rewritten(values=lambda held: held.double()), "float32"),
    "not finite": (rewritten(values=lambda held: held * float("nan")), "NaN"),
    "too few": (
        rewritten(values=lambda held: held[:, :3], vectors=lambda held: held[:, :3]),
        "holds 3 directions, 4 are needed",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unusable_file_is_reported_and_rebuilt(damage, decompositions, folder):
    apply, reason = DAMAGES[damage]
    first = singular_proxies(random_model(9, **SIZES), 4)
    apply(only_file(folder))
    decompositions.clear()
    with pytest.warns(RuntimeWarning, match="computed anew") as caught:
        again = singular_proxies(random_model(9, **SIZES), 4)
    assert reason in str(caught[0].message)
    assert len(decompositions) == 3
    rebuilt = singular_proxies(random_model(9, **SIZES), 4)
    assert len(decompositions) == 3
    for a, b, c in zip(first, again, rebuilt, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


def test_a_foreign_safetensors_file_is_rebuilt(folder):
    singular_proxies(random_model(9, **SIZES), 4)
    save_file({"weight": torch.ones(3)}, only_file(folder))
    with pytest.warns(RuntimeWarning, match="something else"):
        singular_proxies(random_model(9, **SIZES), 4)


def test_more_directions_than_stored_are_computed_anew(monkeypatch, decompositions, folder):
    monkeypatch.setattr("dlmcache_cuda.model.proxy.STORED_RANK", 6)
    model = random_model(10, **SIZES)
    singular_proxies(model, 4)
    with pytest.warns(RuntimeWarning, match="holds 6 directions, 9 are needed"):
        assert len(singular_proxies(model, 9)[0]) == 9
    singular_proxies(random_model(10, **SIZES), 9)
    assert len(decompositions) == 6


def test_a_folder_that_cannot_be_written_costs_a_warning(monkeypatch, tmp_path, decompositions):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("DLMCACHE_CACHE_DIR", str(tmp_path / "file" / "below"))
    model = random_model(11, **SIZES)
    with pytest.warns(RuntimeWarning, match="could not be stored"):
        assert len(singular_proxies(model, 4)) == 3
    singular_proxies(model, 5)
    assert len(decompositions) == 3


def test_a_path_that_cannot_be_replaced_costs_warnings(folder):
    singular_proxies(random_model(9, **SIZES), 4)
    replace_by_a_folder(only_file(folder))
    with pytest.warns(RuntimeWarning) as caught:
        assert len(singular_proxies(random_model(9, **SIZES), 4)) == 3
    assert ["computed anew" in str(w.message) for w in caught] == [True, False]
    assert [path.is_dir() for path in folder.iterdir()] == [True]  # nothing temporary is left


def test_two_threads_decompose_once(decompositions):
    model = random_model(12, **SIZES)
    start, results = threading.Barrier(2), []

    def ask():
        start.wait()
        results.append(singular_proxies(model, 4))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decompositions) == 3
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(*results, strict=True))


def test_models_are_let_go():
    import gc
    import weakref

    model = random_model(13, **SIZES)
    singular_proxies(model, 4)
    watched = weakref.ref(model)
    del model
    gc.collect()
    assert watched() is None


def test_tiny_models_show_no_progress(capsys):
    singular_proxies(random_model(14, **SIZES), 4)
    assert capsys.readouterr().err == ""


def test_long_decompositions_show_progress(monkeypatch, capsys):
    monkeypatch.setattr("dlmcache_cuda.model.proxy._PROGRESS_DELAY", 0.0)
    singular_proxies(random_model(15, **SIZES), 4)
    assert "SVD of the value weights" in capsys.readouterr().err


def test_where_files_go(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("DLMCACHE_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "dlmcache_cuda"
    monkeypatch.setenv("HOME", str(tmp_path))
    for unusable in ("relative", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert cache_folder() == tmp_path / ".cache" / "dlmcache_cuda"
    assert read_directions("0" * 64, (1, 1, 1)) is None


def test_proxies_stand_below_the_projections():
    model = random_model(16, model_type="Dream", **SIZES)
    rows, held = torch.randn(9, 32), model.weight_bytes
    before = [layer.project(rows) for layer in model.layers]
    biases = [layer.weights.qkv_bias for layer in model.layers]
    small = [proxy.clone() for proxy in singular_proxies(model, 4)]
    proxies = singular_proxies(model, 9)
    assert model.weight_bytes == held + 3 * 9 * (32 + 1) * 4  # with a bias of zero
    assert stack_proxies(model, 5) == 5 and model.layers[0].weights.proxy_rank == 9
    for layer, proxy, part, plain, bias in zip(
        model.layers, proxies, small, before, biases, strict=True
    ):
        assert torch.equal(part, proxy[:4])
        assert torch.equal(layer.project(rows), plain)
        assert torch.equal(layer.weights.qkv_bias, bias)
        kv, signal = layer.project_with_proxy(rows, 5, 32)
        torch.testing.assert_close(kv, plain[:, 32:])
        torch.testing.assert_close(signal, rows @ proxy[:5].T)
        nothing, alone = layer.project_with_proxy(rows, 5)
        assert nothing.shape == (9, 0)
        torch.testing.assert_close(alone, signal)


def test_proxies_of_fp8_weights():
    model = random_model(17, weights="fp8", **SIZES)
    held = model.weight_bytes
    proxies = singular_proxies(model, 5)
    assert model.weight_bytes == held + 3 * 16 * (32 + 4)  # rows come in sixteens
    for proxy, weight in zip(proxies, value_weights(model), strict=True):
        _, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
        expected = s[:5, None] * vh[:5]
        signs = (proxy.double() * expected).sum(1, keepdim=True).sign()
        error = (proxy.double() * signs - expected).norm() / expected.norm()
        assert proxy.shape == (5, 32) and error < 0.04


def test_a_failure_halfway_is_made_good(monkeypatch):
    model = random_model(18, **SIZES)
    with_proxy, calls = BlockWeights.with_proxy, []

    def fails_once(weights, proxy):
        calls.append(proxy)
        if len(calls) == 2:
            raise MemoryError
        return with_proxy(weights, proxy)

    monkeypatch.setattr(BlockWeights, "with_proxy", fails_once)
    with pytest.raises(MemoryError):
        singular_proxies(model, 4)
    again = singular_proxies(model, 4)
    assert len(calls) == 4
    for a, b in zip(again, singular_proxies(random_model(18, **SIZES), 4), strict=True):
        assert torch.equal(a, b)


def test_another_thread_computes_while_proxies_are_stacked():
    model = random_model(19, model_type="Dream", **SIZES)
    rows = torch.randn(9, 32)
    ready, done, differences = threading.Event(), threading.Event(), []

    def compute():
        # In this thread: libraries may compute other bits with another number of threads.
        expected = [layer.project(rows) for layer in model.layers]
        ready.set()
        while not done.is_set():
            for layer, plain in zip(model.layers, expected, strict=True):
                differences.append(not torch.equal(layer.project(rows), plain))

    thread = threading.Thread(target=compute)
    thread.start()
    ready.wait()
    for rank in range(2, KV_WIDTH + 1):
        stack_proxies(model, rank)
    done.set()
    thread.join()
    assert differences and not any(differences)
