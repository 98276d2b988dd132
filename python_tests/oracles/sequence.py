"""What decoding oracles share: settings, the canvas of one sequence, commit rules, the record."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from . import noise

STALL_STEPS = 4  # with threshold or factor: giving up after so many steps of mask ids only


@dataclass(frozen=True)
class TokenIds:
    mask: int
    end: tuple[int, ...]  # EOS first, then EOT if there is one
    pad: int


@dataclass(frozen=True)
class Settings:
    """The arguments of ``decode`` that decide what is computed; ``seed`` is the sequence's own."""

    gen_length: int
    block_length: int | None = None
    steps: int | None = None
    temperature: float = 0.0
    cfg_scale: float = 0.0
    remasking: str = "low_confidence"
    threshold: float | None = None
    factor: float | None = None
    stop_at_eos: bool = True
    seed: int = 0
    logits_eos_inf: bool = False
    confidence_eos_eot_inf: bool = False
    # what stands behind the prompt, masks where text is wanted; None: gen_length masks
    region: tuple[int, ...] | None = None

    @property
    def fixed_k(self) -> bool:
        return self.threshold is None and self.factor is None

    def blocks(self, prompt_length: int) -> list[tuple[int, int]]:
        size = self.block_length or self.gen_length
        first, last = prompt_length, prompt_length + self.gen_length
        return [(start, min(start + size, last)) for start in range(first, last, size)]

    def schedule(self, masks: int, n_blocks: int) -> list[int]:
        """Commits of each step of a block with ``masks`` masks; the remainder comes first."""
        if self.steps is None and self.region is not None:
            return [1] * masks
        steps = (self.steps or self.gen_length) // n_blocks
        return [masks // steps + (i < masks % steps) for i in range(steps)]


@dataclass
class Record:
    """What happened. Lists ``[per step]`` have one entry per forward.

    Two numbers say how close a step's decisions were to others: ``margins``, in logits, for tokens
    and commits; ``row_gaps`` for rows that were chosen by drift, as the difference of distances
    between unit vectors (the square root of twice the drift), inf where nothing was chosen so. The
    gaps also cover tests of similarity, and choices by attention or confidence, in logarithms.
    """

    ids: list[int] = field(default_factory=list)
    commit_step: list[int] = field(default_factory=list)
    log_confidence: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # rows that entered the stack, per step
    layer_rows: list[list[frozenset[int]]] = field(default_factory=list)  # computed, [step][layer]
    rows_computed: int = 0  # the same counted, over steps, layers and guidance
    refresh_steps: list[int] = field(default_factory=list)
    boundaries: list[int | None] = field(default_factory=list)  # per step
    # Elastic-Cache's test, [step][layer], None where there was none; other methods: empty
    similarities: list[tuple[float | None, ...]] = field(default_factory=list)
    tracked: list[list[frozenset[int]]] = field(default_factory=list)  # found by [step][layer]
    stop_reason: str = "length"
    margins: list[float] = field(default_factory=list)  # per step
    row_gaps: list[float] = field(default_factory=list)  # per step
    masks_chosen: int = 0  # how often the mask id itself was chosen

    @property
    def forwards(self) -> int:
        return len(self.rows)

    @property
    def margin(self) -> float:
        return min(self.margins, default=math.inf)

    @property
    def row_gap(self) -> float:
        return min(self.row_gaps, default=math.inf)


@dataclass(frozen=True)
class Turn:
    """A step that is to be made: the ``i``-th, from 0, of the block ``[begin, end)``.

    ``count`` is how many positions it commits (None with threshold and factor). ``due`` and
    ``due_before`` are set with ``random_order``: what this step and the one before in this block
    commit, in that order.
    """

    begin: int
    end: int
    i: int
    count: int | None
    due: list[int] | None = None
    due_before: list[int] | None = None


@dataclass(frozen=True)
class Candidate:
    """A masked position with its prediction; confidence and odds are without noise."""

    position: int
    token: int
    log_confidence: float
    log_rest: float  # ln(1 - confidence), without cancellation
    score: float
    token_margin: float
    row: int  # that predicted it

    def is_tied_to(self, other: Candidate) -> bool:
        """Whether both are one prediction, exactly: no rounding decides between them."""
        return (self.row, self.token) == (other.row, other.token)

    @property
    def odds(self) -> float:
        if self.log_confidence == -math.inf:
            return -math.inf
        return math.inf if self.log_rest == -math.inf else self.log_confidence - self.log_rest


class Canvas:
    """One sequence: prompt, then masks; with guidance a second copy whose prompt is masked."""

    def __init__(
        self, prompt: Sequence[int], settings: Settings, ids: TokenIds, shift: int = 0
    ) -> None:
        self.settings = settings
        self.ids = ids
        self.shift = shift  # the token at p is predicted by row p - shift
        self.prompt_length = len(prompt)
        self.length = len(prompt) + settings.gen_length
        self.end = self.length  # behind the last position that will be decoded
        self.tokens = list(prompt) + list(settings.region or [ids.mask] * settings.gen_length)
        self.given = [p for p, token in enumerate(self.tokens) if token != ids.mask]
        # behind the last given text: from here on an end token ends the text
        self.text_end = max([self.prompt_length, *(p + 1 for p in self.given)])
        self.step = 0
        self.stalled = 0
        self.stopped = False
        self.mask_is_final = False  # Elastic-Cache: a position that got the mask is done
        self.final_masks: set[int] = set()
        self.record = Record(
            commit_step=[-1] * settings.gen_length, log_confidence=[math.nan] * settings.gen_length
        )

    def inputs(self, begin: int = 0, end: int | None = None) -> torch.Tensor:
        """Tokens of the positions [begin, end): ``[1, R]``, with guidance ``[2, R]``."""
        rows = [self.tokens]
        if self.settings.cfg_scale > 0:
            rows.append(list(self.tokens))
            for p in self.given:
                rows[1][p] = self.ids.mask
        return torch.tensor(rows)[:, begin:end]

    def masks(self, begin: int, end: int) -> list[int]:
        return [
            p
            for p in range(begin, end)
            if self.tokens[p] == self.ids.mask and p not in self.final_masks
        ]

    @property
    def passes(self) -> int:
        return 2 if self.settings.cfg_scale > 0 else 1

    def turns(self) -> Iterator[Turn]:
        """The steps of LLaDA's loop; each is to end with ``decide``."""
        blocks = self.settings.blocks(self.prompt_length)
        n_blocks = sum(bool(self.masks(begin, end)) for begin, end in blocks)
        for number, (begin, last) in enumerate(blocks):
            end = min(last, self.end)
            masks = self.masks(begin, end)
            schedule = self.settings.schedule(len(masks), n_blocks)
            order = self.random_order(masks, number)
            i = begun = begun_before = 0
            while self.masks(begin, end):
                if not self.settings.fixed_k:
                    yield Turn(begin, end, i, None)
                elif i == len(schedule) or schedule[i] == 0:
                    break
                else:
                    ended = begun + schedule[i]
                    due = (order[begun:ended], order[begun_before:begun]) if order else ()
                    yield Turn(begin, end, i, schedule[i], *due)
                    begun_before, begun = begun, ended
                i += 1
                if self.stopped:
                    return
                end = min(last, self.end)

    def random_order(self, masks: list[int], block: int) -> list[int] | None:
        """The order in which a block is committed, with ``random_order``."""
        s = self.settings
        if s.remasking != "random_order":
            return None
        draw = {p: noise.uniform(s.seed, block, p, noise.RANDOM_ORDER_STREAM) for p in masks}
        return sorted(masks, key=lambda p: (-draw[p], p))

    def computed(
        self,
        layer_rows: Sequence[Iterable[int]],
        refresh: bool,
        row_gap: float = math.inf,
        boundary: int | None = None,
        entered: int | None = None,
        other_rows: Sequence[Iterable[int]] | None = None,
    ) -> None:
        """Records a forward; ``layer_rows`` are those of one pass, of which guidance makes two.

        ``refresh``: cached rows were recomputed by schedule. ``entered``: rows that entered the
        stack, if not those of layer 0. ``other_rows``: those of guidance's other pass, if they may
        differ.
        """
        record = self.record
        record.layer_rows.append([frozenset(rows) for rows in layer_rows])
        counts = [len(rows) for rows in record.layer_rows[-1]]
        record.rows.append((counts[0] if entered is None else entered) * self.passes)
        record.rows_computed += sum(counts) * self.passes
        if other_rows is not None and self.passes == 2:
            others = [len(list(rows)) for rows in other_rows]
            record.rows[-1] += others[0] - counts[0]
            record.rows_computed += sum(others) - sum(counts)
        record.row_gaps.append(row_gap)
        record.boundaries.append(boundary)
        if refresh:
            record.refresh_steps.append(self.step)

    def decide(
        self,
        turn: Turn,
        rows: Sequence[int],
        logits: torch.Tensor,
        only: Sequence[int] | None = None,
        first_row: int = 0,
    ) -> None:
        """Ends a step: predictions from the logits ``[1 or 2, R, V]`` of ``rows``, and the commit.

        Candidates are the masks before the end of the block whose predicting row is among the rows;
        those that earlier blocks left behind (the mask id itself was predicted) are among them.
        ``only``: no others than these, where the order is not fixed anyway. ``first_row`` predicts
        its own position as well, if that is shifted.
        """
        guided = self.guided(logits)
        place = {row: i for i, row in enumerate(rows)}
        positions = self.masks(self.prompt_length, turn.end)
        if turn.due is not None:
            positions = [p for p in turn.due if p in positions]
        elif only is not None:
            positions = [p for p in only if p in positions]
        predicting = ((p, max(p - self.shift, first_row)) for p in positions)
        candidates = [
            self.predict(p, guided[place[row]], row) for p, row in predicting if row in place
        ]
        self.commit(candidates, turn.count)

    def guided(self, logits: torch.Tensor) -> torch.Tensor:
        """``[1 or 2, R, V]`` -> ``[R, V]``."""
        if self.settings.cfg_scale == 0:
            return logits[0]
        conditional, unconditional = logits
        return unconditional + (self.settings.cfg_scale + 1) * (conditional - unconditional)

    def predict(self, position: int, logits: torch.Tensor, row: int) -> Candidate:
        """Token and confidence of one position from its logits ``[V]``, as in LLaDA's code."""
        s, ids = self.settings, self.ids
        logits = logits.double().clone()
        if s.logits_eos_inf:
            logits[ids.end[0]] = -math.inf
        noised = logits.clone()
        if s.temperature > 0:
            # argmax of exp(logits) / (-ln U)^temperature, in logarithms
            draw = noise.gumbel(s.seed, self.step, position, len(logits))
            noised += s.temperature * torch.from_numpy(draw)
        token = first_argmax(noised)
        token_margin = margin_of_max(noised, token)
        if s.confidence_eos_eot_inf:
            # In the reference EOS goes to -inf in the noised logits and EOT in the raw ones;
            # without noise both are one tensor.
            excluded = ids.end if s.temperature == 0 else ids.end[1:]
            logits[list(excluded)] = -math.inf
        total = torch.logsumexp(logits, 0)
        others = logits.clone()
        others[token] = -math.inf
        log_rest = (torch.logsumexp(others, 0) - total).item()
        # 1 - p is exact where p is near 1, p is exact where it is small
        log_p = (logits[token] - total).item()
        if log_rest < math.log(0.5):
            log_p = math.log1p(-math.exp(log_rest))
        if s.remasking == "random":
            score = noise.uniform(s.seed, self.step, position, noise.RANDOM_REMASKING_STREAM)
        else:
            score = log_p
        return Candidate(position, token, log_p, log_rest, score, token_margin, row)

    def commit(self, candidates: list[Candidate], number: int | None) -> None:
        """Chooses candidates (``number`` of them with fixed-k), writes them and ends the step."""
        self.record.margins.append(math.inf)
        chosen = self.choose(candidates, number)
        for c in chosen:
            self.note(c.token_margin, 0)
            if c.token == self.ids.mask:
                self.record.masks_chosen += 1  # LLaDA "commits" it: the position stays a mask
                if not self.mask_is_final:
                    continue
                self.final_masks.add(c.position)
            g = c.position - self.prompt_length
            self.tokens[c.position] = c.token
            self.record.commit_step[g] = self.step
            self.record.log_confidence[g] = c.log_confidence
        self.step += 1
        nothing = not self.mask_is_final and all(c.token == self.ids.mask for c in chosen)
        self.stalled = self.stalled + 1 if nothing else 0
        if self.settings.stop_at_eos and self.end_reached():
            self.record.stop_reason = "end_of_text"
            self.stopped = True
        elif not self.settings.fixed_k and self.stalled == STALL_STEPS:
            self.record.stop_reason = "stalled"
            self.stopped = True

    def choose(self, candidates: list[Candidate], number: int | None) -> list[Candidate]:
        """Fixed-k, threshold or factor; ties go to the lowest position."""
        ranked = sorted(candidates, key=lambda c: (-c.score, c.position))
        s = self.settings
        if s.threshold is not None:
            limit = math.log(s.threshold)
            chosen = ranked[:1] + [c for c in ranked[1:] if c.log_confidence >= limit]
            for c in ranked:
                self.note(c.odds, odds_of(s.threshold))
        elif s.factor is not None:
            count = 0
            while count < len(ranked):
                n = count + 1
                self.note(ranked[count].odds, odds_of(1 - s.factor / (n + 1)))
                if not (n + 1) * math.exp(ranked[count].log_rest) < s.factor:
                    break
                count = n
            chosen = ranked[: max(count, 1)]
        else:
            chosen = ranked[:number]
        if s.remasking == "low_confidence":
            for one, other in itertools.product(chosen[-2:], ranked[len(chosen) :][:2]):
                if not one.is_tied_to(other):
                    self.note(one.odds, other.odds)
        return chosen

    def note(self, a: float, b: float) -> None:
        if math.isfinite(a) and math.isfinite(b):
            self.record.margins[-1] = min(self.record.margins[-1], abs(a - b))

    def pad_behind_the_end(self) -> None:
        """SPA-Cache's early stop: all behind the first end token is padding, committed or not."""
        end = self.end_position()
        if end is not None:
            self.end = end + 1
            self.tokens[self.end :] = [self.ids.pad] * (self.length - self.end)

    def end_position(self) -> int | None:
        behind = range(self.text_end, self.length)
        return next((p for p in behind if self.tokens[p] in self.ids.end), None)

    def end_reached(self) -> bool:
        end = self.end_position()
        return end is not None and not self.masks(self.prompt_length, end)

    def finish(self) -> Record:
        if self.end < self.length and not self.stopped:
            self.record.stop_reason = "end_of_text"
        end = self.end_position()
        if end is not None:
            for p in range(end, self.length):
                if self.tokens[p] == self.ids.mask:
                    self.tokens[p] = self.ids.pad
        self.record.ids = self.tokens[self.prompt_length :]
        return self.record


def odds_of(p: float) -> float:
    return math.log(p / (1 - p)) if 0 < p < 1 else math.inf


def first_argmax(x: torch.Tensor) -> int:
    return int((x == x.max()).nonzero()[0])


def margin_of_max(x: torch.Tensor, token: int) -> float:
    rest = x.clone()
    rest[token] = -math.inf
    return (x[token] - rest.max()).item()
