"""Steps of a decoder, told as events: what Decoder and stream() share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from dlmcache_cuda.decoding.arguments import DecodeSettings
from dlmcache_cuda.decoding.decoder import SlotDecoder
from dlmcache_cuda.decoding.events import StepEvent
from dlmcache_cuda.decoding.regions import Region
from dlmcache_cuda.decoding.stream_event import StreamEvent
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import PolicyConfig, make_policy


class EventDecoder:
    """A :class:`SlotDecoder` whose steps return events.

    Args:
        model: the network.
        cache: the cache method.
        settings: checked; the callback is replaced.
        num_slots: sequences in flight.
        lengths: of the canvases to be expected, one at least; what memory is predicted for.
        drafts: whether events bring drafts.
        embeds: whether prompts are given as embeddings.

    Attributes:
        slots: the decoder itself.

    Raises:
        MemoryError: the device has less memory available than that takes.
    """

    def __init__(
        self,
        model: Llada,
        cache: str | PolicyConfig,
        settings: DecodeSettings,
        *,
        num_slots: int,
        lengths: Sequence[int],
        drafts: bool,
        embeds: bool = False,
    ) -> None:
        policy = make_policy(cache)
        # The list's method, not one of this object: a decoder that refers to itself would keep its
        # caches until the garbage collector comes.
        self._events: list[StepEvent] = []
        settings = replace(settings, callback=self._events.append, drafts=drafts)
        self.slots = SlotDecoder.fitting(
            model, policy, settings, num_slots=num_slots, lengths=lengths, embeds=embeds
        )
        self._model = model
        self._text_ends: dict[int, int] = {}

    def add(
        self,
        sequence: int,
        prompt_ids: Tensor,
        region: Region,
        seed: int,
        settings: DecodeSettings | None = None,
        prompt_embeds: Tensor | None = None,
    ) -> None:
        """Puts a sequence into a free slot, see :meth:`SlotDecoder.add`."""
        self.slots.add(sequence, prompt_ids, seed, settings, region, prompt_embeds)
        self._text_ends[sequence] = region.text_end - region.begin

    def remove(self, sequence: int) -> None:
        """Frees the slot of a sequence in flight."""
        self.slots.remove(sequence)
        del self._text_ends[sequence]

    def step(self) -> list[StreamEvent]:
        """One forward and one commit; an event for every sequence in flight, by slot."""
        finished = self.slots.step()
        event = self._events.pop()
        events = [
            StreamEvent(
                sequence=update.sequence,
                forward=event.forward,
                step=update.step,
                ids=update.ids,
                committed=update.committed,
                draft=update.draft,
                rows=update.rows,
                finished=finished.get(update.sequence),
                _model=self._model,
                _text_end=self._text_ends[update.sequence],
            )
            for update in event.updates
        ]
        for sequence in finished:
            del self._text_ends[sequence]
        return events
