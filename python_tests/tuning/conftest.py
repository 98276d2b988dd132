import pytest
import torch

from dlmcache_cuda.testing.tiny_model import random_model

SIZES = {"d_model": 32, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2}


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def llada():
    return random_model(2, **SIZES)


@pytest.fixture(scope="session", params=["llada", "Dream"])
def either(request, llada):
    return llada if request.param == "llada" else random_model(2, model_type="Dream", **SIZES)
