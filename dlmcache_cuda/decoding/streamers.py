"""transformers' streamers: objects that are handed tokens while a sequence is decoded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda.decoding.arguments import DecodeSettings
from dlmcache_cuda.decoding.events import SequenceUpdate, StepEvent
from dlmcache_cuda.decoding.output import DecodedSequence
from dlmcache_cuda.decoding.prompt_embeds import NO_TOKEN
from dlmcache_cuda.model import Llada


class StreamerFeed:
    """Calls a streamer as transformers' generation loops do.

    First ``put`` of the prompt; then, at every step, ``put_draft`` of the block being decoded, if
    the streamer has it; ``put`` of each block that is committed as a whole; ``end``. All tokens are
    ``[1, n]`` int64 on the CPU. Where an end of text ended the sequence, nothing is put of the
    blocks behind it.

    Args:
        streamer: any object with ``put`` and ``end``, such as ``transformers.TextStreamer``.
        model: for its mask and end tokens.

    Raises:
        TypeError: it lacks one of the two.
        ValueError: it wants logits.

    Source: transformers 5, ``generate`` of ``DiffusionGemma``.
    """

    def __init__(self, streamer: Any, model: Llada) -> None:
        for name in ("put", "end"):
            if not callable(getattr(streamer, name, None)):
                raise TypeError(
                    "streamer must have methods put(tokens) and end(), and may have "
                    f"put_draft(tokens); {type(streamer).__name__} has no {name}()"
                )
        if getattr(streamer, "_takes_logits", False):
            raise ValueError(
                f"streamer must take tokens; {type(streamer).__name__} asks for logits "
                "(_takes_logits), which are never held for the whole vocabulary"
            )
        self._streamer = streamer
        self._drafts = callable(getattr(streamer, "put_draft", None))
        self._mask_id = model.mask_token_id
        self._end_ids = torch.tensor(model.end_token_ids, dtype=torch.int64)
        self._block_length = 0
        self._begin = 0  # of the first position that was not put
        self._reached = 0  # behind the last block that a token was committed in

    def attach(self, settings: DecodeSettings, num_sequences: int) -> DecodeSettings:
        """The settings with which the streamer is told of every step.

        Raises:
            ValueError: several sequences.
        """
        if num_sequences > 1:
            raise ValueError(
                f"streamer takes one sequence, got {num_sequences} of them; "
                "dlmcache_cuda.stream() takes any number"
            )
        self._block_length = self._reached = settings.block_length
        callback = settings.callback

        def report(event: StepEvent) -> None:
            self._step(event.updates[0])
            if callback is not None:
                callback(event)

        return replace(settings, callback=report, drafts=self._drafts)

    def put_prompt(self, prompt_ids: Tensor) -> None:
        """Puts the prompt; of embeddings, as in transformers, no tokens: ``[1, 0]``."""
        self._streamer.put(prompt_ids[None, prompt_ids != NO_TOKEN])

    def finish(self, sequence: DecodedSequence) -> None:
        """Puts what is left of the last block that was decoded, and ends."""
        stop = sequence.ids.numel()
        if sequence.stop_reason == "end_of_text":
            # Before given text an end token ends nothing.
            given = sequence.given.nonzero().flatten()
            text_end = int(given[-1]) + 1 if len(given) else 0
            ends = torch.isin(sequence.ids[text_end:], self._end_ids)
            stop = self._block_end(text_end + int(ends.int().argmax()))
        if stop > self._begin:
            self._streamer.put(sequence.ids[None, self._begin : stop])
        self._streamer.end()

    def _step(self, update: SequenceUpdate) -> None:
        ids = update.ids
        if update.committed.numel():
            self._reached = max(self._reached, self._block_end(int(update.committed[-1])))
        if self._drafts:
            now = torch.where(ids == self._mask_id, update.draft, ids)
            self._streamer.put_draft(now[None, self._begin : self._reached])
        if update.stop_reason is not None:
            return  # the rest is put when masks behind the end have become padding
        reached = min(self._reached, ids.numel())  # the last block of a canvas may be shorter
        masks = (ids[self._begin : reached] == self._mask_id).nonzero().flatten()
        stop = self._begin + int(masks[0]) if len(masks) else reached
        stop -= stop % self._block_length
        if stop > self._begin:
            self._streamer.put(ids[None, self._begin : stop])
            self._begin = stop
            self._reached = max(self._reached, stop + self._block_length)

    def _block_end(self, position: int) -> int:
        return (position // self._block_length + 1) * self._block_length
