"""Decoder: sequences that join and leave a running batch."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from torch import Tensor

from dlmcache_cuda.decoding.arguments import (
    DEFAULT_BATCH_SIZE,
    DecodeSettings,
    check_seeds,
)
from dlmcache_cuda.decoding.decoder import SlotDecoder
from dlmcache_cuda.decoding.events import SequenceUpdate, StepEvent
from dlmcache_cuda.decoding.memory import check_memory, predict, slot_capacity
from dlmcache_cuda.decoding.output import DecodedSequence
from dlmcache_cuda.decoding.prompts import tokenize_prompt
from dlmcache_cuda.decoding.sequence_settings import SequenceSettings, integer_between
from dlmcache_cuda.decoding.stream_event import StreamEvent
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import make_policy


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
        num_slots: sequences in flight, at least 1. Default: 16.
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
        self._settings = SequenceSettings(model, settings, "Decoder()", self._keep, drafts)
        longest = self._settings.longest
        limit = model.config.max_sequence_length
        self.max_length = integer_between("max_length", max_length, longest.gen_length + 1, limit)
        self.num_slots = integer_between("num_slots", num_slots, 1, None)
        policy = make_policy(self._settings.cache)
        prompts = [self.max_length - longest.gen_length] * self.num_slots
        check_memory(model, predict(model, policy, longest, prompts, self.num_slots))
        self.model = model
        self._decoder = SlotDecoder(
            model,
            policy,
            longest,
            num_slots=self.num_slots,
            capacity=slot_capacity(self.max_length),
        )
        self._next = 0
        self._event: StepEvent | None = None

    @property
    def gen_length(self) -> int:
        """Positions to decode at most, and where :meth:`add` is told nothing else."""
        return self._settings.longest.gen_length

    @property
    def in_flight(self) -> tuple[int, ...]:
        """The sequences that were added and have neither ended nor been removed, oldest first."""
        return tuple(sorted(number for number in self._decoder.sequences if number is not None))

    @property
    def has_free_slot(self) -> bool:
        return self._decoder.has_free_slot

    @property
    def idle(self) -> bool:
        """Whether no sequence is in flight."""
        return self._decoder.idle

    @property
    def forwards(self) -> int:
        """Steps made so far; one serves all sequences in flight."""
        return self._decoder.forwards

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time of all steps so far by phase, as in :class:`DecodeStats`."""
        return self._decoder.timer.result()

    def add(self, prompt: Any, *, gen_length: int | None = None, seed: int | None = None) -> int:
        """Puts a sequence into a free slot; it takes part from the next step on.

        Args:
            prompt: a string, a chat (list of ``{"role", "content"}`` messages) or token ids (a list
                or ``[P]``), as for :func:`dlmcache_cuda.decode`.
            gen_length: positions to decode, at most the decoder's ``gen_length``, which is the
                default; a multiple of ``block_length``, where that was given, while one block stays
                one block. ``steps`` shrinks with it, rounded up.
            seed: of the sequence's random numbers, in [0, 2^63). Default: drawn from torch's
                default generator.

        Returns:
            The number by which events and :meth:`remove` know the sequence: 0, 1, 2, ...

        Raises:
            TypeError, ValueError: an argument is not as above, or prompt and ``gen_length`` exceed
                ``max_length``. Nothing has changed then.
            RuntimeError: no slot is free.
        """
        settings = self._settings.of_length(gen_length)
        prompt_ids = tokenize_prompt(self.model, prompt, settings.gen_length)
        (seed,) = check_seeds(seed, 1)
        return self._add(prompt_ids, seed, settings)

    def _add(self, prompt_ids: Tensor, seed: int, settings: DecodeSettings | None = None) -> int:
        settings = settings or self._settings.longest
        length = prompt_ids.numel() + settings.gen_length
        if length > self.max_length:
            raise ValueError(
                f"prompt has {prompt_ids.numel()} tokens, and with gen_length="
                f"{settings.gen_length} the canvas has {length}; max_length of this decoder is "
                f"{self.max_length}"
            )
        if not self.has_free_slot:
            raise RuntimeError(
                f"no slot is free: {self.num_slots} sequences are in flight; call step() until one "
                "has ended, or remove() one"
            )
        number = self._next
        self._decoder.add(number, prompt_ids, seed, settings)
        self._next += 1
        return number

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
        finished = self._decoder.step()
        event, self._event = self._event, None
        return [
            self._stream_event(event.forward, update, finished.get(update.sequence))
            for update in event.updates
        ]

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

    def _keep(self, event: StepEvent) -> None:
        self._event = event

    def _stream_event(
        self, forward: int, update: SequenceUpdate, finished: DecodedSequence | None
    ) -> StreamEvent:
        return StreamEvent(
            sequence=update.sequence,
            forward=forward,
            step=update.step,
            ids=update.ids,
            committed=update.committed,
            draft=update.draft,
            rows=update.rows,
            finished=finished,
            _model=self.model,
        )
