"""What a step did to one sequence, as told to people who watch it being decoded."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dlmcache_cuda.decoding.output import DecodedSequence
from dlmcache_cuda.decoding.partial_text import TextSpan, spans, stable_text
from dlmcache_cuda.model import Llada


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One sequence after a step; ``G`` positions in its generation region.

    What is committed is final; the draft may be another one at the next step. Texts are made when
    they are asked for.

    Attributes:
        sequence: index of the prompt, or what :meth:`Decoder.add` returned.
        forward: the forward of the call or decoder that the step was part of, from 0.
        step: the sequence's own step just made, from 0.
        ids: ``[G]`` int64, CPU: what is committed or was given, mask tokens elsewhere.
        committed: ``[n]`` int64, CPU: positions in the region committed by this step, ascending.
        draft: ``[G]`` int64, CPU: what this step predicted at positions that are still masked,
            mask tokens where it predicted none: most caches and windows predict some positions
            only, and blocks to come are not predicted at all. None with ``drafts=False``.
        rows: rows of this sequence that the step computed, averaged over layers.
        finished: the whole result, with the sequence's last event; None before.
    """

    sequence: int
    forward: int
    step: int
    ids: Tensor
    committed: Tensor
    draft: Tensor | None
    rows: float
    finished: DecodedSequence | None
    _model: Llada = field(repr=False, compare=False)
    _text_end: int = field(repr=False, compare=False)  # behind the given text of the region

    @property
    def text(self) -> str | None:
        """Text of the committed tokens before the first mask or end token: what is sure already.

        It only grows from event to event; a character whose bytes are not complete is left out.
        The last event has the text of ``finished``. None without a tokenizer.
        """
        if self.finished is not None:
            return self.finished.text
        return stable_text(self._model, self._sure(self.ids))

    @property
    def new_text(self) -> str | None:
        """What this step added to :attr:`text`. All of them joined are the text of ``finished``."""
        before = self.ids.clone()
        before[self.committed] = self._model.mask_token_id
        known = stable_text(self._model, self._sure(before))
        return None if known is None else self.text[len(known) :]

    @property
    def draft_text(self) -> str | None:
        """What would follow :attr:`text` if the draft were committed; positions without a
        prediction are left out. Empty with the last event. None without a tokenizer."""
        parts = self.spans
        return None if parts is None else "".join(span.text for span in parts)[len(self.text) :]

    @property
    def spans(self) -> list[TextSpan] | None:
        """The whole text as it stands now, committed and draft pieces in reading order, to be shown
        in different styles. It ends before the first committed end token. None without a tokenizer.
        """
        if self.text is None:
            return None
        if self.finished is not None:
            return [TextSpan(self.text, True)] if self.text else []
        model = self._model
        visible = self.ids[: self._first_end(self.ids)]
        final = visible != model.mask_token_id
        if self.draft is not None:
            visible = torch.where(final, visible, self.draft[: visible.numel()])
        shown = visible != model.mask_token_id
        return spans(model, visible[shown], final[shown])

    def _first_end(self, ids: Tensor) -> int:
        ends = torch.isin(ids, torch.tensor(self._model.end_token_ids, dtype=torch.int64))
        ends[: self._text_end] = False  # before given text an end token ends nothing
        return int(ends.int().argmax()) if bool(ends.any()) else ids.numel()

    def _sure(self, ids: Tensor) -> Tensor:
        """The committed tokens before the first mask or end token."""
        ids = ids[: self._first_end(ids)]
        masks = ids == self._model.mask_token_id
        return ids[: int(masks.int().argmax())] if bool(masks.any()) else ids
