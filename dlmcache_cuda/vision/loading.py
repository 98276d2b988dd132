"""``load_llada_v()``: the language tower and the vision tower of a LLaDA-V."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from dlmcache_cuda.model import load
from dlmcache_cuda.model.checkpoint_files import CheckpointFiles
from dlmcache_cuda.vision.config import VisionConfig
from dlmcache_cuda.vision.llada_v import LladaV
from dlmcache_cuda.vision.tower import NEWLINE, PROJECTOR, TOWER, VisionTower

_PREFIX = "model."


def load_llada_v(path: str | PathLike[str], **options: Any) -> LladaV:
    """Read a LLaDA-V as published.

    >>> llada_v = dlmcache_cuda.load_llada_v("GSAI-ML/LLaDA-V")
    >>> rows = llada_v.prompt_embeds(messages)
    >>> dlmcache_cuda.decode(llada_v.model, prompt_embeds=rows, cache="dllm")

    Where only the language tower is wanted, ``load(path)`` reads it.

    Args:
        path: folder with config.json and safetensors weights, or an id on the Hugging Face hub.
        options: of :func:`dlmcache_cuda.load`: ``device``, ``dtype``, ``weights`` (fp8 is for the
            language tower), ``mask_token_id``, ``end_token_ids``.

    Raises:
        as ``load``; ValueError also where images are handled in a way that is not implemented, or
        weights of the vision tower or projector are missing or of another shape.
    """
    model = load(path, **options)
    config = VisionConfig.from_folder(model.path)
    tower = VisionTower(
        config, _vision_weights(model.path, config), model.device, model.dtype, str(model.path)
    )
    if tower.width != model.config.d_model:
        raise ValueError(
            f"{model.path}: the projector makes rows of {tower.width}, the language tower takes "
            f"{model.config.d_model}"
        )
    return LladaV(model, tower)


def _vision_weights(folder: Path, config: VisionConfig) -> dict[str, Tensor]:
    """By name, without prefix; a tower that the checkpoint leaves out comes from its own folder."""
    files = CheckpointFiles(folder)
    weights = {}
    for name in files.names():
        plain = name.removeprefix(_PREFIX)
        if plain.startswith((TOWER, PROJECTOR)) or plain == NEWLINE:
            weights[plain] = files.read(name)
    if not any(name.startswith(TOWER) for name in weights):
        weights |= _tower_weights(folder, config.tower)
    return weights


def _tower_weights(folder: Path, tower: str) -> dict[str, Tensor]:
    own = folder / tower
    if own.is_dir():
        files = CheckpointFiles(own)
        return {TOWER + name: files.read(name) for name in files.names()}
    from transformers import SiglipVisionModel

    try:
        whole = SiglipVisionModel.from_pretrained(tower)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or "no message").splitlines()[0]
        raise FileNotFoundError(
            f"{folder}: has no weights of its vision tower, and {tower!r} could not be fetched "
            f"({reason})"
        ) from error
    return {TOWER + name: value for name, value in whole.state_dict().items()}
