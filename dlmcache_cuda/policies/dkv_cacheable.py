"""Which rows of a canvas dKV-Cache may keep: those of decoded tokens (arXiv 2505.15781).

A token's keys and values move most at the step that decodes it, so a row enters the cache one step
later. With Dream's shifted prediction (row p predicts position p + 1) three maps are published:

* ``un``: the row's *output* is no longer needed: token j + 1 is decoded;
* ``un_right``: tokens j and j + 1 are decoded;
* ``right``: token j is decoded. Rows that predict a mask can then be missing; their positions are
  no candidates until the next refresh (the authors' code computes a NaN confidence for them).

The last row has no successor and takes the flag of token 0, as in the authors' code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda.policies.base import Frame, StepView

SHIFT_TYPES = ("un", "un_right", "right")


def cacheable_rows(step: StepView, frame: Frame, shift_type: str) -> Tensor:
    """``[S * capacity]`` bool: rows that may stay as they are, from the masks of the canvases."""
    decoded = (~step.masked).view(frame.num_slots, frame.capacity)
    if frame.shift == 0:
        return decoded.flatten()
    following = decoded.roll(-1, dims=1)
    columns = step.columns
    positions = torch.arange(frame.capacity, device=frame.device)
    if shift_type != "right":
        last = positions == columns.length[:, None] - 1
        following = following.where(~last, decoded[:, :1])
    rows = (
        following
        if shift_type == "un"
        else following & decoded
        if shift_type == "un_right"
        else decoded
    )
    # The last prompt row predicts the first generated token.
    first_step = (columns.step == 0)[:, None] & (positions >= columns.prompt_length[:, None] - 1)
    return (rows & ~first_step).flatten()
