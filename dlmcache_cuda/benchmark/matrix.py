"""Rows from lists of everything that varies: ``dlmcache bench`` without a suite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dlmcache_cuda.benchmark.files import digest_of_files
from dlmcache_cuda.benchmark.models import ModelSpec
from dlmcache_cuda.benchmark.policies import BLOCK_LENGTH, PolicySetting, parse_policies
from dlmcache_cuda.benchmark.prompts import QUESTIONS, RANDOM
from dlmcache_cuda.benchmark.row import STOCK, Row, Workload


@dataclass(frozen=True, slots=True)
class Commit:
    """A number of tokens per step, or a threshold; the other one is None."""

    tokens: int | None
    threshold: float | None

    @classmethod
    def parse(cls, text: str) -> Commit:
        """``4``: tokens per step. ``0.9`` or ``threshold:0.9``: a threshold.

        Raises:
            ValueError: neither.
        """
        value = text.removeprefix("threshold:")
        try:
            if value == text and "." not in text:
                tokens = int(text)
                if tokens >= 1:
                    return cls(tokens, None)
            elif 0 < float(value) <= 1:
                return cls(None, float(value))
        except ValueError:
            pass
        raise ValueError(
            f"commits must be tokens per step (an integer >= 1) or a threshold in (0, 1] such as "
            f"0.9, got {text!r}"
        )


@dataclass(frozen=True, slots=True)
class Matrix:
    """What is combined with what; see ``dlmcache bench --help``."""

    models: Sequence[str]
    policies: Sequence[str]
    batch_sizes: Sequence[int] = (1,)
    gen_lengths: Sequence[int] | None = None
    prompt_lengths: Sequence[int] | None = None
    commits: Sequence[str] | None = None
    block_length: int | None = None
    sequences: int | None = None
    prompts: str | None = None
    ragged: bool = False
    early_stop: bool = True
    stock: bool = True
    vanilla_steps: int | None = None
    seed: int = 0

    def rows(self) -> list[Row]:
        """All combinations, vanilla (and stock) first in each workload.

        Raises:
            ValueError: something cannot be combined.
            OSError: the file of prompts cannot be read.
        """
        found: list[Row] = []
        for text in self.models:
            spec = ModelSpec.parse(text)
            for workload in self._workloads(spec):
                found += [row for row in self._of(spec, workload) if row not in found]
        return found

    def _workloads(self, spec: ModelSpec) -> Iterator[Workload]:
        default_length = 96 if spec.is_bundled else 128
        prompts = self.prompts or (QUESTIONS if spec.is_bundled else RANDOM)
        lengths: Sequence[int | None] = self.prompt_lengths or (128,)
        if prompts != RANDOM:
            if self.prompt_lengths:
                raise ValueError(
                    f"--prompt-lengths goes with random prompts; those of {spec.text} are "
                    f"{prompts!r} (--prompts random changes that)"
                )
            lengths = (None,)
        elif self.ragged is False and spec.is_bundled and self.prompt_lengths is None:
            lengths = (64,)
        if prompts.startswith(QUESTIONS) and not spec.is_bundled:
            raise ValueError(f"--prompts questions are those of the bundled model, not {spec.text}")
        files = digest_of_files(spec, prompts)
        sequences = self.sequences or max(*self.batch_sizes, 8 if spec.is_bundled else 1)
        for batch in self.batch_sizes:
            for prompt in lengths:
                for length in self.gen_lengths or (default_length,):
                    yield Workload(
                        spec.text,
                        prompts,
                        max(sequences, batch),
                        batch,
                        length,
                        prompt,
                        self.ragged,
                        self.early_stop and not spec.is_random,
                        self.seed,
                        files,
                    )

    def _of(self, spec: ModelSpec, workload: Workload) -> Iterator[Row]:
        texts = self.commits or (("1",) if spec.is_random else ("1", "0.9"))
        commits = [Commit.parse(text) for text in texts]
        if spec.is_random and any(commit.threshold is not None for commit in commits):
            raise ValueError(
                "random weights have no confidences that mean anything: --commits must be tokens "
                f"per step for {spec.text}, got {', '.join(texts)}"
            )
        for commit in commits:
            settings = parse_policies(self.policies, spec, workload.gen_length, commit.tokens)
            yield from rows_of(
                workload,
                commit,
                [self._blocks(setting, workload) for setting in settings],
                block_length=self._block_length(workload),
                stock=self.stock,
                vanilla_steps=self.vanilla_steps if spec.is_random else None,
            )

    def _block_length(self, workload: Workload) -> int | None:
        block = self.block_length or BLOCK_LENGTH
        if workload.gen_length % block == 0:
            return block
        if self.block_length is not None:
            raise ValueError(
                f"--block-length must divide the generation length ({workload.gen_length}), got "
                f"{self.block_length}"
            )
        return None

    def _blocks(self, setting: PolicySetting, workload: Workload) -> PolicySetting:
        if self.block_length is None:
            return setting
        return PolicySetting(setting.cache, setting.settings, self._block_length(workload))


def rows_of(
    workload: Workload,
    commit: Commit,
    settings: Sequence[PolicySetting],
    *,
    block_length: int | None = BLOCK_LENGTH,
    stock: bool = False,
    vanilla_steps: int | None = None,
) -> list[Row]:
    """Vanilla, stock if asked for, and the policies. A policy with an order of its own is left out
    with a threshold, which compares confidences.

    Args:
        vanilla_steps: forwards of vanilla and stock that are measured; None: all.

    Raises:
        ValueError: tokens per step do not divide the blocks.
    """
    from dlmcache_cuda.policies import available_policies

    policies = available_policies()
    limited = None if workload.early_stop or commit.tokens is None else vanilla_steps
    rows = [Row(workload, "none", {}, block_length, commit.tokens, commit.threshold, limit=limited)]
    if stock:
        rows.append(
            Row(workload, "none", {}, block_length, commit.tokens, commit.threshold, STOCK, limited)
        )
    for setting in settings:
        if commit.threshold is None or policies[setting.cache].remasking is None:
            rows.append(
                Row(
                    workload, setting.cache, setting.settings, setting.block_length,
                    commit.tokens, commit.threshold,
                )
            )  # fmt: skip
    for row in rows:
        block = row.block_length or workload.gen_length
        if commit.tokens is not None and block % commit.tokens:
            raise ValueError(
                f"commits must divide the block length ({block}), got {commit.tokens} per step"
            )
    return rows
