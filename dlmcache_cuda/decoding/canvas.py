"""The device buffers of a decoder: canvases and caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda.model import Llada

NEVER = -1


class Canvas:
    """Tokens of every slot, when and how surely each was committed, and the K/V cache.

    With guidance every slot has a twin, ``num_slots`` places behind it, whose given text is masked.
    All buffers are flat: position p of slot s is entry ``s * capacity + p``.

    With ``mask_is_final`` a mask that was predicted is a commit like any other: the canvas then
    holds ``final_mask_id`` there, outside the vocabulary, while the network reads a mask.

    With ``own_log_prob`` log-probabilities at commit are kept beside the log-confidences;
    otherwise these are the same.

    With ``embeds`` prompts may have embeddings in place of tokens: ``prompt_embeds``
    ``[num_slots * capacity, W]`` holds them, and the canvas numbers of its rows, see
    :attr:`dlmcache_cuda.model.Llada.first_embed_id`.
    """

    def __init__(
        self,
        model: Llada,
        num_slots: int,
        capacity: int,
        guided: bool,
        mask_is_final: bool = False,
        own_log_prob: bool = False,
        embeds: bool = False,
    ) -> None:
        self.num_slots = num_slots
        self.capacity = capacity
        self.guided = guided
        self.mask_id = model.mask_token_id
        self.pad_id = model.pad_token_id
        self.network_slots = 2 * num_slots if guided else num_slots
        device = model.device
        entries = num_slots * capacity
        self.network_tokens = torch.full(
            (self.network_slots * capacity,), self.pad_id, dtype=torch.int64, device=device
        )
        self.final_mask_id = model.config.embedding_size if mask_is_final else None
        self._own_tokens = self.network_tokens[:entries]
        self.tokens = self._own_tokens.clone() if mask_is_final else self._own_tokens
        self.commit_step = torch.full((entries,), NEVER, dtype=torch.int64, device=device)
        self.log_confidence = torch.full((entries,), float("nan"), device=device)
        self.log_prob = self.log_confidence.clone() if own_log_prob else self.log_confidence
        self.given = torch.zeros(entries, dtype=torch.bool, device=device)
        self.positions = torch.arange(capacity, device=device)
        self.first_embed_id = model.first_embed_id
        self.prompt_embeds: Tensor | None = None
        if embeds:
            shape = (entries, model.config.d_model)
            self.prompt_embeds = torch.zeros(shape, dtype=model.dtype, device=device)
        self.cache = model.new_cache(self.network_slots, capacity)

    def slot_range(self, slot: int, begin: int = 0, end: int | None = None) -> slice:
        """Entries of positions ``[begin, end)`` of a slot."""
        base = slot * self.capacity
        return slice(base + begin, base + (self.capacity if end is None else end))

    def enter(self, slot: int, ids: Tensor, embeds: Tensor | None = None) -> None:
        """Writes a canvas ``[N]``: given text, and masks where text is wanted.

        ``embeds [P, W]`` are what the first P positions have in place of tokens.
        """
        whole, used = self.slot_range(slot), self.slot_range(slot, 0, ids.numel())
        self.tokens[whole] = self.pad_id
        self.tokens[used] = ids.to(self.tokens.device)
        if embeds is not None:
            rows = self.slot_range(slot, 0, len(embeds))
            self.prompt_embeds[rows] = embeds.to(self.prompt_embeds.device)
            numbers = torch.arange(rows.start, rows.stop, device=self.tokens.device)
            self.tokens[rows] = self.first_embed_id + numbers
        self.commit_step[whole] = NEVER
        self.log_confidence[whole] = float("nan")
        self.log_prob[whole] = float("nan")
        self.given[whole] = False
        self.given[used] = (ids != self.mask_id).to(self.given.device)
        self.mirror()

    def twinned(self, values: Sequence[Any]) -> list[Any]:
        """What holds for the slots, for all slots of the network."""
        return list(values) * (2 if self.guided else 1)

    def twins(self, values: Tensor) -> Tensor:
        """The same for a vector on the device, one or more entries per slot."""
        return values.repeat(2) if self.guided else values

    def masked(self) -> Tensor:
        """``[num_slots * capacity]`` bool: masks of the generation regions. Given text is never a
        mask, and nothing is written to it."""
        return self.tokens == self.mask_id

    def ids(self, entries: slice) -> Tensor:
        """A copy of the tokens there, on the CPU; masks that are final are masks."""
        ids = self.tokens[entries].cpu().clone()
        return ids if self.final_mask_id is None else self._with_masks(ids)

    def _with_masks(self, tokens: Tensor) -> Tensor:
        return tokens.masked_fill(tokens == self.final_mask_id, self.mask_id)

    def mirror(self) -> None:
        """Brings up to date what the network reads: also the guidance twins, which have the same
        tokens where they were decoded, and masks where text was given, as in LLaDA's code."""
        if self.final_mask_id is not None:
            self._own_tokens.copy_(self._with_masks(self.tokens))
        if self.guided:
            twins = self.network_tokens[self.tokens.numel() :]
            twins.copy_(self._own_tokens).masked_fill_(self.given, self.mask_id)
