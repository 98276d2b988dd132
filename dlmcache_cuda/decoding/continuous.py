"""Decoder: sequences that join and leave a running batch."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from torch import Tensor

from dlmcache_cuda.decoding.arguments import (
    DEFAULT_BATCH_SIZE,
    DecodeSettings,
    check_integer,
    check_model,
    check_one_of,
    check_seeds,
)
from dlmcache_cuda.decoding.canvases import split_canvas
from dlmcache_cuda.decoding.event_decoder import EventDecoder
from dlmcache_cuda.decoding.prompts import tokenize_prompt
from dlmcache_cuda.decoding.regions import Region
from dlmcache_cuda.decoding.sequence_settings import (
    SequenceSettings,
    check_drafts,
)
from dlmcache_cuda.decoding.stream_event import StreamEvent
from dlmcache_cuda.model import Llada

MOST_SLOTS = 2**16


class Decoder:
    """Decodes sequences that come and go: continuous batching.

    A sequence takes a free slot with :meth:`add`, every :meth:`step` brings all sequences in flight
    one step further, and a slot is free again when its sequence has ended or was taken out with
    :meth:`remove`. Each sequence gets the tokens that :func:`dlmcache_cuda.decode` gives it alone,
    whatever the others do.

    >>> decoder = dlmcache_cuda.Decoder(model, max_length=512, num_slots=8, cache="dual")
    >>> number = decoder.add("The capital of France is")
    >>> while not decoder.idle:
    ...     for event in decoder.step():
    ...         if event.finished is not None:
    ...             print(event.sequence, event.finished.text)

    All state is in the object: decoders on different threads may share a model. One decoder is used
    by one thread at a time.

    Args:
        model: from :func:`dlmcache_cuda.load`.
        max_length: positions of the longest canvas, prompt and generation region together; at most
            the model's ``max_sequence_length``. Memory is taken for ``num_slots`` of them.
        num_slots: sequences in flight, from 1 to 65536. Default: 16.
        drafts: events bring what was predicted at positions that stay masked. False: they do not,
            and one small copy per step is saved. Default: False.
        settings: those of :func:`dlmcache_cuda.decode` by keyword (``gen_length``, ``cache``,
            ``threshold``, ``trace``, ...), but ``seed``, ``callback``, ``streamer`` and
            ``batch_size``. ``gen_length`` is the longest that :meth:`add` accepts.

    Raises:
        TypeError, ValueError: an argument is not as above.
        MemoryError: the device has less memory available than the slots need.
    """

    def __init__(
        self,
        model: Llada,
        *,
        max_length: int,
        num_slots: int = DEFAULT_BATCH_SIZE,
        drafts: bool = False,
        **settings: Any,
    ) -> None:
        check_model(model)
        self.model = model
        self._settings = SequenceSettings(model, settings, "Decoder()")
        longest, limit = self._settings.longest, model.config.max_sequence_length
        self.max_length = check_integer("max_length", max_length, longest.gen_length + 1, limit)
        self.num_slots = check_integer("num_slots", num_slots, 1, MOST_SLOTS)
        self._decoder = EventDecoder(
            model,
            self._settings.cache,
            longest,
            num_slots=self.num_slots,
            lengths=[self.max_length] * self.num_slots,
            drafts=check_drafts(drafts),
        )
        self._slots = self._decoder.slots
        self._next = 0

    @property
    def gen_length(self) -> int:
        """Positions to decode at most, and where :meth:`add` is told nothing else."""
        return self._settings.longest.gen_length

    @property
    def in_flight(self) -> tuple[int, ...]:
        """The sequences that were added and have neither ended nor been removed, oldest first."""
        return tuple(sorted(number for number in self._slots.sequences if number is not None))

    @property
    def has_free_slot(self) -> bool:
        return self._slots.has_free_slot

    @property
    def idle(self) -> bool:
        """Whether no sequence is in flight."""
        return self._slots.idle

    @property
    def forwards(self) -> int:
        """Steps made so far; one serves all sequences in flight."""
        return self._slots.forwards

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time of all steps so far by phase, as in :class:`DecodeStats`."""
        return self._slots.timer.result()

    def add(
        self,
        prompt: Any = None,
        *,
        canvas: Any = None,
        gen_length: int | None = None,
        seed: int | None = None,
    ) -> int:
        """Puts a sequence into a free slot; it takes part from the next step on.

        Args:
            prompt: a string, a chat (list of ``{"role", "content"}`` messages) or token ids (a list
                or ``[P]``), as for :func:`dlmcache_cuda.decode`.
            canvas: in place of a prompt, ``[N]`` token ids with mask tokens where text is wanted,
                as for ``decode``; at most the decoder's ``gen_length`` from the first mask on.
            gen_length: positions to decode, at most the decoder's ``gen_length``, which is the
                default; a multiple of ``block_length``, where that was given, while one block stays
                one block. ``steps`` shrinks with it, rounded up. Not with ``canvas``.
            seed: of the sequence's random numbers, in [0, 2^63). Default: drawn from torch's
                default generator.

        Returns:
            The number by which events and :meth:`remove` know the sequence: 0, 1, 2, ...

        Raises:
            TypeError, ValueError: an argument is not as above, or the canvas exceeds
                ``max_length``. Nothing has changed then.
            RuntimeError: no slot is free.
        """
        prompt_ids, region, settings = self._checked(prompt, canvas, gen_length)
        (seed,) = check_seeds(seed, 1)
        if region.end > self.max_length:
            raise ValueError(
                f"the canvas has {region.end} positions ({region.begin} of the prompt, "
                f"{len(region.ids)} behind it); max_length of this decoder is {self.max_length}"
            )
        if not self.has_free_slot:
            raise RuntimeError(
                f"no slot is free: {self.num_slots} sequences are in flight; call step() until one "
                "has ended, or remove() one"
            )
        sequence = self._next
        self._decoder.add(sequence, prompt_ids, region, seed, settings)
        self._next += 1
        return sequence

    def _checked(
        self, prompt: Any, canvas: Any, gen_length: int | None
    ) -> tuple[Tensor, Region, DecodeSettings]:
        check_one_of("add", prompt=prompt, canvas=canvas)
        if canvas is None:
            settings = self._settings.of_length(gen_length)
            prompt_ids = tokenize_prompt(self.model, prompt, settings.gen_length)
            mask_id = self.model.mask_token_id
            region = Region.of_masks(prompt_ids.numel(), settings.gen_length, mask_id)
            return prompt_ids, region, settings
        if gen_length is not None:
            raise TypeError(f"gen_length does not go with canvas, got gen_length={gen_length!r}")
        prompt_ids, region = split_canvas(self.model, canvas, "canvas")
        return prompt_ids, region, self._settings.of_region(region)

    def step(self) -> list[StreamEvent]:
        """One forward and one commit for every sequence in flight.

        Returns:
            An event for each of them, by slot; those of sequences that ended have ``finished`` set.
            Without sequences in flight: nothing, and nothing is computed.

        Raises:
            FloatingPointError: logits were NaN or infinite. The decoder can not go on.
        """
        if self.idle:
            return []
        return self._decoder.step()

    def remove(self, sequence: int) -> None:
        """Gives up a sequence in flight and frees its slot at once; others do not notice.

        Args:
            sequence: what :meth:`add` returned.

        Raises:
            ValueError: it is not in flight.
        """
        if not isinstance(sequence, Integral) or sequence not in self.in_flight:
            raise ValueError(
                f"sequence must be one in flight ({list(self.in_flight)}), got {sequence!r}"
            )
        self._decoder.remove(int(sequence))
