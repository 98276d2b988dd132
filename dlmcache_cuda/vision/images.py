"""From an image to what the vision tower sees, and from its rows to the rows of a prompt.

Source: LLaVA-NeXT's ``process_images`` and ``prepare_inputs_labels_for_multimodal``, as LLaDA-V
uses them.
"""

from __future__ import annotations

import math
from os import PathLike
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlmcache_cuda.vision.config import VisionConfig

# SigLIP's own processor: pixels from -1 to 1.
_MEAN = 0.5
# Beyond this factor anyres_max_N shrinks the rows.
_SHRINK_FROM = 1.1


def pillow() -> Any:
    """The module ``PIL.Image``, or an error that says how to get it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "images need Pillow, the extra 'vision': pip install 'dlmcache_cuda[vision]'"
        ) from error
    return Image


def open_image(image: Any, name: str) -> Any:
    """A PIL image in RGB from one or from a file.

    Raises:
        TypeError, ValueError, FileNotFoundError: neither, or not readable.
    """
    Image = pillow()
    if isinstance(image, (str, PathLike)):
        try:
            with Image.open(image) as opened:
                return opened.convert("RGB")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{name}: no such file: {image}") from error
        except OSError as error:
            raise ValueError(f"{name}: {image} is not a readable image ({error})") from error
    if not isinstance(image, Image.Image):
        raise TypeError(f"{name} must be a PIL image or a path, got {type(image).__name__}")
    return image.convert("RGB")


def crops(image: Any, config: VisionConfig) -> Tensor:
    """``[C, 3, S, S]`` fp32: the image, with ``anyres`` then the crops of its grid by rows."""
    size = config.image_size
    if config.aspect_ratio == "pad":
        return _pixels(_padded_to_square(image), size)[None]
    views = [_pixels(image, size)]
    if config.anyres:
        width, height = grid_of(image.size, config)
        padded = _fitted(image, width, height)
        views += [
            _pixels(padded.crop((x, y, x + size, y + size)), size)
            for y in range(0, height, size)
            for x in range(0, width, size)
        ]
    return torch.stack(views)


def grid_of(image_size: tuple[int, int], config: VisionConfig) -> tuple[int, int]:
    """(width, height) in pixels of the grid that keeps most of an image of this size and wastes
    least."""
    from transformers.image_processing_utils import select_best_resolution

    width, height = image_size
    # The library speaks of (height, width).
    flipped = [(h, w) for w, h in config.grids]
    best_height, best_width = select_best_resolution((height, width), flipped)
    return best_width, best_height


def image_rows(
    features: Tensor, image_size: tuple[int, int], config: VisionConfig, newline: Tensor | None
) -> Tensor:
    """The rows of one image in a prompt.

    Args:
        features: ``[C, side * side, D]``, projected, of its crops.
        image_size: (width, height) of the image.
        newline: ``[D]``, with ``spatial_unpad``.

    Returns:
        ``[R, D]``
    """
    if config.merge_type == "flat":
        return features.flatten(0, 1)
    whole, grid = features[0], features[1:]
    if not len(grid):
        return whole if newline is None else torch.cat((whole, newline[None]))
    side = config.side
    width, height = (pixels // config.image_size for pixels in grid_of(image_size, config))
    grid = grid.view(height, width, side, side, -1)
    if newline is None:
        # As they stand in the image: lines of crops, in them lines of patches.
        return torch.cat((whole, grid.permute(0, 2, 1, 3, 4).flatten(0, 3)))
    plane = grid.permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2)
    plane = _unpadded(plane, image_size)
    if config.max_crops is not None:
        _, lines, columns = plane.shape
        factor = math.sqrt(lines * columns / (config.max_crops * side**2))
        if factor > _SHRINK_FROM:
            shape = [int(lines // factor), int(columns // factor)]
            plane = F.interpolate(plane[None], shape, mode="bilinear")[0]
    ends = newline[:, None, None].expand(-1, plane.shape[1], 1)
    return torch.cat((whole, torch.cat((plane, ends), dim=2).flatten(1).T))


def _pixels(image: Any, size: int) -> Tensor:
    """``[3, size, size]`` fp32 from -1 to 1."""
    image = image.resize((size, size), pillow().Resampling.BICUBIC)
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    values = values.view(size, size, 3).permute(2, 0, 1).float() / 255
    return (values - _MEAN) / _MEAN


def _padded_to_square(image: Any) -> Any:
    width, height = image.size
    side = max(width, height)
    square = pillow().new("RGB", (side, side), (int(_MEAN * 255),) * 3)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def _fitted(image: Any, width: int, height: int) -> Any:
    """The image as large as fits, on black."""
    across, down = width / image.size[0], height / image.size[1]
    if across < down:
        new = (width, min(math.ceil(image.size[1] * across), height))
    else:
        new = (min(math.ceil(image.size[0] * down), width), height)
    fitted = pillow().new("RGB", (width, height))
    fitted.paste(image.resize(new), ((width - new[0]) // 2, (height - new[1]) // 2))
    return fitted


def _unpadded(plane: Tensor, image_size: tuple[int, int]) -> Tensor:
    """``[D, lines, columns]`` without the lines or columns that saw padding only."""
    width, height = image_size
    _, lines, columns = plane.shape
    if width / height > columns / lines:
        padding = (lines - int(height * (columns / width))) // 2
        return plane[:, padding : lines - padding]
    padding = (columns - int(width * (lines / height))) // 2
    return plane[:, :, padding : columns - padding]
