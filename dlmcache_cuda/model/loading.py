"""``load()``: from a folder or a hub id to a model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import torch

from dlmcache_cuda import _extension, assets
from dlmcache_cuda.model.checkpoint_files import CheckpointFiles
from dlmcache_cuda.model.config import LladaConfig
from dlmcache_cuda.model.fp8 import check_device
from dlmcache_cuda.model.llada import Llada
from dlmcache_cuda.model.native import native_dtypes
from dlmcache_cuda.model.token_ids import resolve_token_ids
from dlmcache_cuda.model.weights import DTYPES, load_weights

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Data only: no code of the repository is fetched, let alone run.
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt"]


def load(
    path: str | PathLike[str] | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    weights: str | None = None,
    mask_token_id: int | None = None,
    end_token_ids: Iterable[int] | None = None,
) -> Llada:
    """Read a LLaDA (Base, Instruct, 1.5, iLLaDA or a descendant) or a Dream as published.

    Args:
        path: folder with config.json and safetensors weights, or an id on the Hugging Face hub.
            Default: the small trained checkpoint that comes with the package.
        device: "cpu", "cuda" or "cuda:N". Default: a GPU where one is present and the package was
            built with CUDA operators, otherwise the CPU.
        dtype: float32, float16 or bfloat16, as torch dtype or by name. Default: the checkpoint's
            own where the device has instructions for it, else float32, which many processors
            compute faster and which needs twice the memory. ``Llada.dtype`` tells the choice, and
            ``dlmcache env`` what this processor has.
        weights: "fp8" stores the matrices of the blocks as float8_e4m3fn with one scale per row,
            and quantises what they are multiplied with row by row; embedding, head, norms, biases,
            activations and caches stay in ``dtype``. Half the memory of bfloat16, and other
            numbers: answers may differ. On CUDA it needs a compute capability of 8.9 or newer; on
            a CPU it computes the same numbers slower than without. Default: all in ``dtype``.
        mask_token_id: overrides the mask token of the config.
        end_token_ids: overrides the tokens that end a text; empty: nothing does.

    Raises:
        FileNotFoundError: no such folder or hub id, or files missing in it.
        NotADirectoryError: ``path`` is a file.
        ValueError: a bad argument, or a checkpoint that is damaged or not implemented.
    """
    target = choose_device(device)
    target_dtype = _dtype(dtype)
    fp8 = _fp8(weights, target)
    folder, name = _folder(path)
    source = str(folder)
    config = LladaConfig.from_file(folder / "config.json")
    token_ids = resolve_token_ids(config, source, mask_token_id, end_token_ids)
    keep = native_dtypes(target)
    packed = load_weights(CheckpointFiles(folder), config, target, target_dtype, fp8, keep)
    return Llada(config, packed, token_ids, folder, name)


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device that a model is loaded to; None: a GPU where one can be used.

    Raises:
        ValueError: it is none, or cannot be used here.
    """
    if device is None:
        usable = _extension.has_cuda() and torch.cuda.is_available()
        return torch.device("cuda" if usable else "cpu")
    try:
        target = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"load: device must be cpu, cuda or cuda:N, got {device!r}") from error
    if target.type not in ("cpu", "cuda"):
        raise ValueError(f"load: device must be cpu, cuda or cuda:N, got {device!r}")
    if target.type == "cuda":
        if not _extension.has_cuda():
            reason = _extension.build_info()["cuda_reason"]
            raise ValueError(
                f"load: device {str(target)!r} needs CUDA operators, but dlmcache_cuda was built "
                f"without ({reason}); rebuild with DLMCACHE_WITH_CUDA=1"
            )
        if not torch.cuda.is_available():
            raise ValueError(
                f"load: device {str(target)!r}, but torch {torch.__version__} sees no GPU"
            )
    return target


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None:
        return None
    names = {str(allowed).removeprefix("torch."): allowed for allowed in DTYPES}
    target = names.get(dtype) if isinstance(dtype, str) else dtype
    if target not in DTYPES:
        raise ValueError(f"load: dtype must be {', '.join(names)}, got {dtype!r}")
    return target


def _fp8(weights: str | None, device: torch.device) -> bool:
    if weights is None:
        return False
    if weights != "fp8":
        raise ValueError(f"load: weights must be 'fp8' or None, got {weights!r}")
    check_device(device)
    return True


def _folder(path: str | PathLike[str] | None) -> tuple[Path, str]:
    """The checkpoint's folder, with config.json in it, and its name."""
    if path is None:
        folder = assets.tiny_llada_path()
        name = folder.name
    elif not isinstance(path, (str, PathLike)):
        raise TypeError(f"load: path must be a folder, a hub id or None, got {type(path).__name__}")
    else:
        folder, name = Path(path).expanduser(), str(path)
        if folder.is_dir():
            folder = folder.resolve()
            name = folder.name
        elif folder.exists():
            raise NotADirectoryError(
                f"load: {path} is a file; pass the folder that holds config.json and the weights"
            )
        elif isinstance(path, str) and _HUB_ID.fullmatch(path):
            folder = _download(path)
        else:
            raise FileNotFoundError(f"load: {path} does not exist")
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"load: {folder} has no config.json")
    return folder, name


def _download(hub_id: str) -> Path:
    """The hub's checkpoint in the local cache, fetched where it is not there yet."""
    # The config alone first: gigabytes of another architecture stay where they are.
    config = _fetch(hub_id, ["config.json"]) / "config.json"
    if config.exists():
        LladaConfig.from_file(config)
    return _fetch(hub_id, _HUB_FILES)


def _fetch(hub_id: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises what its transports raise
        reason = (str(error).strip() or "no message").splitlines()[0]
        raise FileNotFoundError(
            f"load: {hub_id!r} is neither a folder here nor a checkpoint that could be fetched "
            f"from the Hugging Face hub ({type(error).__name__}: {reason})"
        ) from error
