"""What one row of a table measures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from typing import Any

DLMCACHE, STOCK = "dlmcache", "stock"


@dataclass(frozen=True, slots=True)
class Workload:
    """What is decoded. Rows of one workload are compared with each other.

    Attributes:
        model: ``bundled``, ``random:LAYERSxWIDTH`` or a checkpoint; see ``models.ModelSpec``.
        prompts: ``questions`` (bundled model), ``random`` ids, or a file of prompts, one a line.
        sequences: how many prompts.
        batch_size: sequences in flight.
        gen_length: positions to decode for each.
        prompt_length: tokens of a random prompt; None for texts.
        ragged: random prompts have lengths from half of ``prompt_length`` to all of it.
        early_stop: a sequence ends with its text, whatever decodes it; else every step is made.
        seed: of prompts and random orders.
        files: digest of the files that it is made of, see ``files.digest_of_files``; None: of none.
    """

    model: str
    prompts: str
    sequences: int
    batch_size: int
    gen_length: int
    prompt_length: int | None = None
    ragged: bool = False
    early_stop: bool = True
    seed: int = 0
    files: str | None = None

    @property
    def label(self) -> str:
        prompt = "" if self.prompt_length is None else f", prompt {self.prompt_length}"
        ragged = " (ragged)" if self.ragged else ""
        stop = "early stop" if self.early_stop else "no early stop"
        return (
            f"{self.model}{prompt}{ragged}, {self.gen_length} generated, {self.sequences} "
            f"sequences, batch {self.batch_size}, {stop}"
        )


@dataclass(frozen=True)
class Row:
    """One way to decode a workload.

    Attributes:
        engine: ``dlmcache``, or ``stock``: transformers' ``LlamaForCausalLM`` driven by the
            reference loop.
        cache: name of the policy, ``none`` for vanilla and stock.
        settings: of the policy, where they are not its defaults.
        block_length: None: one block.
        commits: tokens per step; None with ``threshold``.
        threshold: commit every token at least this probable.
        limit: forwards that are measured; None: all. Only where every forward costs the same and
            their number is known: vanilla with fixed commits and no early stop.
    """

    workload: Workload
    cache: str = "none"
    settings: dict[str, Any] = field(default_factory=dict)
    block_length: int | None = None
    commits: int | None = 1
    threshold: float | None = None
    engine: str = DLMCACHE
    limit: int | None = None

    @property
    def key(self) -> str:
        """Tells rows apart, in files too."""
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "workload"}
        content["workload"] = {
            f.name: getattr(self.workload, f.name) for f in fields(self.workload)
        }
        if self.workload.files is None:
            del content["workload"]["files"]  # the key of before there was such a digest
        text = json.dumps(content, sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def is_vanilla(self) -> bool:
        return self.engine == DLMCACHE and self.cache == "none"

    @property
    def steps(self) -> int | None:
        """Over all blocks; None with a threshold."""
        return None if self.commits is None else self.workload.gen_length // self.commits

    @property
    def commit(self) -> str:
        if self.threshold is not None:
            return f"threshold {self.threshold:g}"
        return f"{self.commits} per step"

    @property
    def name(self) -> str:
        """The method and its settings."""
        if self.engine == STOCK:
            return "stock transformers"
        settings = " ".join(f"{key}={_text(value)}" for key, value in self.settings.items())
        return f"{'vanilla' if self.cache == 'none' else self.cache} {settings}".strip()

    @property
    def block(self) -> str:
        whole = self.block_length in (None, self.workload.gen_length)
        return "one" if whole else f"{self.block_length}"

    def __str__(self) -> str:
        return f"{self.name}, blocks: {self.block}, {self.commit}, batch {self.workload.batch_size}"

    def to_dict(self) -> dict[str, Any]:
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        content["workload"] = {
            f.name: getattr(self.workload, f.name) for f in fields(self.workload)
        }
        return content

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Row:
        return cls(**{**content, "workload": Workload(**content["workload"])})


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
