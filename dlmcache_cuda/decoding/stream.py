"""stream(): decoding step by step, as an iterator of events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from dlmcache_cuda.decoding.api import decode_stats
from dlmcache_cuda.decoding.arguments import (
    check_batch_size,
    check_model,
    check_one_of,
    check_seeds,
)
from dlmcache_cuda.decoding.canvases import split_canvases, split_prompts
from dlmcache_cuda.decoding.event_decoder import EventDecoder
from dlmcache_cuda.decoding.output import DecodedSequence, DecodeOutput
from dlmcache_cuda.decoding.prompt_embeds import check_prompt_embeds, embedded_prompts
from dlmcache_cuda.decoding.regions import Region
from dlmcache_cuda.decoding.sequence_settings import SequenceSettings, check_drafts
from dlmcache_cuda.decoding.stream_event import StreamEvent
from dlmcache_cuda.model import Llada


class Stream(Iterator[StreamEvent]):
    """The events of a :func:`stream` call.

    A step is computed when its first event is asked for. Whoever needs no more leaves the loop;
    :meth:`close`, or the end of a ``with`` block, gives the memory back at once.
    """

    def __init__(
        self,
        decoder: EventDecoder,
        split: Sequence[tuple[Tensor, Region]],
        seeds: Sequence[int],
        embeds: Sequence[Tensor] | None,
    ) -> None:
        self._decoder: EventDecoder | None = decoder
        rows = embeds or [None] * len(split)
        self._waiting = iter(list(enumerate(zip(split, seeds, rows, strict=True))))
        self._events: Iterator[StreamEvent] = iter(())
        self._num_sequences = len(split)
        self._finished: dict[int, DecodedSequence] = {}
        self._output: DecodeOutput | None = None

    @property
    def output(self) -> DecodeOutput:
        """What ``decode`` would have returned, once all events were taken.

        Raises:
            RuntimeError: they were not.
        """
        if self._output is None:
            raise RuntimeError(
                f"the stream has no output before its last event; {len(self._finished)} of "
                f"{self._num_sequences} sequences are finished"
            )
        return self._output

    def close(self) -> None:
        """Ends the stream: no step is computed any more, and its buffers are let go."""
        self._decoder = None
        self._events = iter(())

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> StreamEvent:
        event = next(self._events, None)
        if event is None:
            self._step()
            event = next(self._events)
        if event.finished is not None:
            self._finished[event.sequence] = event.finished
            if len(self._finished) == self._num_sequences:
                self._finish()
        return event

    def _step(self) -> None:
        decoder = self._decoder
        if decoder is None:
            raise StopIteration
        while decoder.slots.has_free_slot and (entry := next(self._waiting, None)) is not None:
            index, ((prompt_ids, region), seed, rows) = entry
            decoder.add(index, prompt_ids, region, seed, prompt_embeds=rows)
        self._events = iter(decoder.step())

    def _finish(self) -> None:
        sequences = [self._finished[index] for index in range(self._num_sequences)]
        slots = self._decoder.slots
        stats = decode_stats(sequences, slots.forwards, slots.timer.result())
        self._output = DecodeOutput(sequences, stats)
        self._decoder = None


def stream(
    model: Llada,
    prompts: str | Sequence[Any] | Tensor | None = None,
    *,
    canvas: Tensor | Sequence[Any] | None = None,
    prompt_embeds: Tensor | Sequence[Tensor] | None = None,
    seed: int | Sequence[int] | None = None,
    batch_size: int | None = None,
    drafts: bool = True,
    **settings: Any,
) -> Stream:
    """Decodes prompts and tells after every step what happened to each sequence.

    >>> for event in dlmcache_cuda.stream(model, "The capital of France is", cache="dual"):
    ...     print(event.new_text, end="", flush=True)

    Args:
        model, prompts, canvas, prompt_embeds, seed, batch_size: as for
            :func:`dlmcache_cuda.decode`.
        drafts: events bring what was predicted at positions that stay masked. Default: True.
        settings: the other settings of ``decode`` by keyword, but ``callback`` and ``streamer``.

    Returns:
        An iterator of :class:`StreamEvent`: at every step one for each sequence in flight. The last
        event of a sequence has ``finished`` set. When all were taken, ``.output`` is what
        ``decode`` would have returned: the tokens are the same.

    Raises:
        TypeError, ValueError, MemoryError: as ``decode``, by this call; nothing was computed.
        FloatingPointError: logits were NaN or infinite; while iterating.
    """
    check_model(model)
    check_one_of("stream", prompts=prompts, canvas=canvas, prompt_embeds=prompt_embeds)
    split = None if canvas is None else split_canvases(model, canvas)
    regions = None if split is None else [region for _, region in split]
    checked = SequenceSettings(model, settings, "stream()", regions)
    embeds = None
    if prompt_embeds is not None:
        embeds = check_prompt_embeds(model, prompt_embeds, checked.longest.gen_length)
        split = embedded_prompts(model, embeds, checked.longest.gen_length)
    elif split is None:
        split = split_prompts(model, prompts, checked.longest.gen_length)
    seeds = check_seeds(seed, len(split))
    decoder = EventDecoder(
        model,
        checked.cache,
        checked.longest,
        num_slots=check_batch_size(batch_size, len(split)),
        lengths=[region.end for _, region in split],
        drafts=check_drafts(drafts),
        embeds=embeds is not None,
    )
    return Stream(decoder, split, seeds, embeds)
