"""What a LLaDA-V checkpoint says about images."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# SigLIP (and SigLIP 2) so400m-patch14-384, as its config.json on the hub has it.
SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
MERGE_TYPES = ("flat", "spatial", "spatial_unpad")
ASPECT_RATIOS = ("square", "pad", "anyres", "anyres_max_N")


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """The keys of LLaVA-NeXT's ``config.json`` that decide how an image becomes rows.

    Attributes:
        tower: what ``mm_vision_tower`` names: a hub id, or a folder.
        sizes: of the SigLIP tower, keywords of transformers' ``SiglipVisionConfig``.
        merge_type: ``mm_patch_merge_type``: ``flat`` and ``spatial`` put the rows of all crops one
            after the other or by place; ``spatial_unpad`` also leaves out what was padding and
            ends every line of patches with ``image_newline``.
        aspect_ratio: ``image_aspect_ratio``: ``square`` squeezes the image, ``pad`` pads it,
            ``anyres`` takes it whole and as a grid of crops; ``anyres_max_N`` with no more rows
            than N crops have.
        grids: ``image_grid_pinpoints``: (width, height) in pixels that a grid may have.
    """

    tower: str
    sizes: Mapping[str, int]
    merge_type: str
    aspect_ratio: str
    grids: tuple[tuple[int, int], ...]

    @property
    def image_size(self) -> int:
        """Pixels of a side of what the tower sees."""
        return self.sizes["image_size"]

    @property
    def side(self) -> int:
        """Patches of a side."""
        return self.image_size // self.sizes["patch_size"]

    @property
    def anyres(self) -> bool:
        return self.aspect_ratio.startswith("anyres")

    @property
    def max_crops(self) -> int | None:
        """N of ``anyres_max_N``."""
        found = re.fullmatch(r"anyres_max_(\d+)", self.aspect_ratio)
        return int(found[1]) if found else None

    @classmethod
    def from_folder(cls, folder: Path) -> VisionConfig:
        """Reads ``config.json``.

        Raises:
            ValueError: not a LLaDA-V, or a setting that is not implemented; named with its value.
        """
        path = folder / "config.json"
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("model_type") != "llava_llada":
            raise ValueError(
                f"{path}: model_type {data.get('model_type')!r} has no images; LLaDA-V is "
                "'llava_llada'"
            )
        _check(path, data, "mm_projector_type", ("mlp2x_gelu",))
        merge_type = data.get("mm_patch_merge_type") or "flat"
        _check(path, {"mm_patch_merge_type": merge_type}, "mm_patch_merge_type", MERGE_TYPES)
        aspect_ratio = data.get("image_aspect_ratio") or "square"
        if aspect_ratio not in ASPECT_RATIOS and not re.fullmatch(r"anyres_max_\d+", aspect_ratio):
            _check(path, data, "image_aspect_ratio", ASPECT_RATIOS)
        sizes = _tower_sizes(path, data.get("mm_vision_tower"))
        grids: tuple[tuple[int, int], ...] = ()
        if aspect_ratio.startswith("anyres"):
            grids = _grids(path, data.get("image_grid_pinpoints"), sizes["image_size"])
        return cls(str(data["mm_vision_tower"]), sizes, merge_type, aspect_ratio, grids)


def _check(path: Path, data: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> None:
    if data.get(key) not in allowed:
        raise ValueError(
            f"{path}: {key} = {data.get(key)!r} is not implemented, only {', '.join(allowed)}"
        )


def _tower_sizes(path: Path, tower: Any) -> dict[str, int]:
    if not isinstance(tower, str):
        raise ValueError(f"{path}: mm_vision_tower must name a SigLIP tower, got {tower!r}")
    own = path.parent / tower / "config.json"
    if own.exists():
        data = json.loads(own.read_text(encoding="utf-8"))
        data = data.get("vision_config", data)
        missing = [name for name in SO400M if name not in data]
        if missing:
            raise ValueError(f"{own}: missing {', '.join(missing)}")
        return {name: data[name] for name in SO400M}
    if tower.endswith("so400m-patch14-384"):
        return dict(SO400M)
    raise ValueError(
        f"{path}: mm_vision_tower {tower!r} is neither a folder with a config.json nor a "
        "so400m-patch14-384"
    )


def _grids(path: Path, pinpoints: Any, size: int) -> tuple[tuple[int, int], ...]:
    """``[[w, h], ...]``, the same as text, or ``(1x1),...,(6x6)`` in crops."""
    try:
        if isinstance(pinpoints, str) and "x" in pinpoints:
            pairs = [tuple(map(int, pair)) for pair in re.findall(r"\((\d+)x(\d+)\)", pinpoints)]
            (first_w, first_h), (last_w, last_h) = pairs[0], pairs[-1]
            return tuple(
                (w * size, h * size)
                for w in range(first_w, last_w + 1)
                for h in range(first_h, last_h + 1)
            )
        listed = ast.literal_eval(pinpoints) if isinstance(pinpoints, str) else pinpoints
        grids = tuple((int(w), int(h)) for w, h in listed)
    except (ValueError, TypeError, SyntaxError, IndexError):
        grids = ()
    if not grids or any(w % size or h % size or w < 1 or h < 1 for w, h in grids):
        raise ValueError(
            f"{path}: image_grid_pinpoints must be pairs of multiples of {size}, or "
            f"'(1x1),...,(6x6)', got {pinpoints!r}"
        )
    return grids
