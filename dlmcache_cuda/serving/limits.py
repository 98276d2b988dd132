"""How much a server takes on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Limits:
    """What is beyond a limit is refused with a status, never queued without end.

    Attributes:
        num_slots: sequences that decode at once with equal settings: slots of a lane.
        max_lanes: different decode settings served at once; each has slots and a cache of its own.
        max_queue: sequences that wait for a slot; 429 beyond.
        max_connections: completion requests being answered at once, waiting ones included; 429
            beyond.
        max_prompt_length: tokens of a prompt; 400 beyond.
        max_gen_length: tokens of an answer, after rounding up to whole blocks; 400 beyond.
        max_choices: sequences of one request: prompts times ``n``; 400 beyond.
        max_body_bytes: bytes of a request's body; 413 beyond.
        body_seconds: time that a client has to send its body; 408 beyond.
        lane_idle_seconds: an unused lane, and its memory, is given back after this time.
    """

    num_slots: int = 8
    max_lanes: int = 2
    max_queue: int = 256
    max_connections: int = 512
    max_prompt_length: int = 2048
    max_gen_length: int = 1024
    max_choices: int = 16
    max_body_bytes: int = 1 << 20
    body_seconds: float = 30.0
    lane_idle_seconds: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            integer = field.type == "int"
            right_type = isinstance(value, int if integer else (int, float))
            if not right_type or isinstance(value, bool):
                kind = "an integer" if integer else "a number"
                raise TypeError(f"{field.name} must be {kind}, got {value!r}")
            least = 1 if integer else 0
            if not least <= value < float("inf"):
                raise ValueError(f"{field.name} must be at least {least}, got {value}")

    @property
    def max_length(self) -> int:
        """Positions of a slot."""
        return self.max_prompt_length + self.max_gen_length

    def fitted_to(self, max_sequence_length: int, given: Collection[str] = ()) -> Limits:
        """The same, with lengths that a model of so many positions can hold.

        Args:
            given: of ``max_prompt_length`` and ``max_gen_length`` those that the user chose; they
                stay as they are.

        Raises:
            ValueError: they leave no room.
        """
        if self.max_length <= max_sequence_length:
            return self
        gen_length, prompt_length = self.max_gen_length, self.max_prompt_length
        if "max_gen_length" not in given:
            left = max_sequence_length // 2
            if "max_prompt_length" in given:
                left = max_sequence_length - prompt_length
            gen_length = min(gen_length, left)
        if "max_prompt_length" not in given:
            prompt_length = min(prompt_length, max_sequence_length - gen_length)
        if min(gen_length, prompt_length) < 1 or gen_length + prompt_length > max_sequence_length:
            raise ValueError(
                f"max_prompt_length and max_gen_length must be at most {max_sequence_length} "
                f"together, the model's max_sequence_length, got {self.max_prompt_length} and "
                f"{self.max_gen_length}"
            )
        return replace(self, max_gen_length=gen_length, max_prompt_length=prompt_length)
