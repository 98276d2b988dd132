"""The generation region of a sequence: which of its positions are masks when it begins."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Region:
    """Where text is wanted and where it is given; positions count from the start of the canvas.

    The region begins at the first mask of the canvas (what stands before it is the prompt) and ends
    with the canvas.

    Attributes:
        begin: its first position.
        ids: ``[G]`` int64, CPU: masks where text is wanted, given text elsewhere.
        text_end: behind the last given text of the region; ``begin`` where nothing is given. Only
            from there on does an end token end the text: given text is never cut off.
    """

    begin: int
    ids: Tensor
    text_end: int
    _is_mask: tuple[bool, ...]
    _masks_before: tuple[int, ...]

    @classmethod
    def of_ids(cls, begin: int, ids: Tensor, mask_id: int) -> Region:
        """The region ``ids [G]`` behind a prompt of ``begin`` tokens."""
        is_mask = (ids == mask_id).tolist()
        given = [place for place, mask in enumerate(is_mask) if not mask]
        text_end = begin + (given[-1] + 1 if given else 0)
        before = tuple(accumulate(is_mask, initial=0))
        return cls(begin, ids, text_end, tuple(is_mask), before)

    @classmethod
    def of_masks(cls, begin: int, length: int, mask_id: int) -> Region:
        """A region of ``length`` masks: nothing is given behind the prompt."""
        ids = torch.full((length,), mask_id, dtype=torch.int64)
        return cls(begin, ids, begin, (True,) * length, tuple(range(length + 1)))

    @property
    def end(self) -> int:
        """Behind the last position: the length of the canvas."""
        return self.begin + len(self._is_mask)

    @property
    def has_given(self) -> bool:
        """Whether text is given inside the region."""
        return self.text_end > self.begin

    def is_mask(self, position: int) -> bool:
        return self._is_mask[position - self.begin]

    def num_masks(self, begin: int, end: int) -> int:
        """Masks in ``[begin, end)``."""
        return self._masks_before[end - self.begin] - self._masks_before[begin - self.begin]

    def num_blocks(self, block_length: int) -> int:
        """Blocks that hold masks; the others are never decoded."""
        begins = range(self.begin, self.end, block_length)
        return sum(self.num_masks(b, min(b + block_length, self.end)) > 0 for b in begins)
