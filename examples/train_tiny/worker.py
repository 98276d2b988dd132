"""One training process: steps, moving averages, checkpoints, progress."""

from __future__ import annotations

import csv
import os
import random
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from batches import build_batch
from losses import StepLoss, batch_loss
from model import ModelConfig, TinyLLaDA
from progress import Report, open_display
from schedule import PLAN
from task import training_questions
from tokenizer import VOCAB_SIZE

EMA_DECAY = 0.995
WEIGHT_DECAY = 0.05
CLIP_NORM = 1.0
SAVE_SECONDS = 30.0
REPORT_SECONDS = 15.0
# fmt: off
CURVE_FIELDS = (
    "seconds", "cpu_seconds", "step", "stage", "rate", "loss", "random_masks", "cut_masks",
    "first_accuracy", "gather", "match",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is asked to do. It ends after ``steps``, or ``seconds`` if steps is 0."""

    out: Path
    steps: int
    seconds: float
    seed: int
    batch_size: int
    workers: int
    resume: bool


class SharedCount(Protocol):
    """A step counter and a stop flag; processes share them, a single process owns them."""

    def take(self) -> int: ...

    def peek(self) -> int: ...

    def stopped(self) -> bool: ...


def new_model(seed: int) -> TinyLLaDA:
    """A fresh model; the same seed gives the same weights."""
    torch.manual_seed(seed)
    return TinyLLaDA(ModelConfig(vocab_size=VOCAB_SIZE))


def checkpoint_path(out: Path, rank: int) -> Path:
    """Where a process keeps its state. Rank 0 also keeps the weights."""
    return out / f"worker{rank}.pt"


class Worker:
    """State of one process and its training loop."""

    def __init__(self, settings: Settings, rank: int, model: TinyLLaDA, count: SharedCount) -> None:
        self.settings, self.rank, self.model, self.count = settings, rank, model, count
        decayed = [p for p in model.parameters() if p.ndim == 2 and p is not model.wte.weight]
        others = [p for p in model.parameters() if p.ndim != 2 or p is model.wte.weight]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": WEIGHT_DECAY},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=0.0,
            betas=(0.9, 0.98),
            eps=1e-8,
            fused=True,
        )
        self.rng = random.Random(f"train:{settings.seed}:{rank}")
        self.generator = torch.Generator().manual_seed(1000 * settings.seed + rank)
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.own_steps = 0
        self.seconds_before = self.cpu_before = 0.0
        self.started, self.cpu_started = time.monotonic(), time.process_time()
        self.last_step = 0
        self.last: StepLoss | None = None
        if settings.resume and checkpoint_path(settings.out, rank).exists():
            self._restore()

    @property
    def seconds(self) -> float:
        """Wall time spent training, over all sessions of the run."""
        return self.seconds_before + time.monotonic() - self.started

    @property
    def cpu_seconds(self) -> float:
        """CPU time of this process, over all sessions of the run."""
        return self.cpu_before + time.process_time() - self.cpu_started

    def progress(self, step: int) -> float:
        """Share of the run that is done."""
        if self.settings.steps:
            return step / self.settings.steps
        return self.seconds / self.settings.seconds

    def train(self) -> Iterator[StepLoss]:
        """Train until the run ends or is stopped; the state is saved on the way and at the end."""
        saved = time.monotonic()
        try:
            while not self.count.stopped() and self.progress(self.count.peek()) < 1.0:
                self.last_step = self.count.take()
                self.last = self._step(self.progress(self.last_step))
                yield self.last
                if time.monotonic() - saved > SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
        finally:
            self.save()

    def _step(self, progress: float) -> StepLoss:
        _, stage = PLAN.stage_at(progress)
        facts = self.rng.choice(stage.facts)
        batch = build_batch(
            training_questions(self.rng, self.settings.batch_size, stage.hops, facts),
            stage.gen_length,
        )
        attention = PLAN.attention_weight(progress)
        loss = batch_loss(self.model, batch, self.rng, self.generator, attention)
        for group in self.optimizer.param_groups:
            group["lr"] = PLAN.learning_rate(progress)
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.own_steps += 1
        if self.rank == 0:
            decay = min(EMA_DECAY, (1 + self.own_steps) / (10 + self.own_steps))
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)
        return loss

    def save(self) -> None:
        """Write the state of this process; an interrupted write leaves the old file in place."""
        state = {
            "step": self.count.peek(),
            "own_steps": self.own_steps,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.getstate(),
            "generator": self.generator.get_state(),
        }
        if self.rank == 0:
            state["config"] = asdict(self.model.config)
            state["model"] = self.model.state_dict()
            state["average"] = self.average
            state["seed"] = self.settings.seed
        path = checkpoint_path(self.settings.out, self.rank)
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, path)

    def _restore(self) -> None:
        state = load_state(checkpoint_path(self.settings.out, self.rank))
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.setstate(state["rng"])
        self.generator.set_state(state["generator"])
        self.own_steps = state["own_steps"]
        self.seconds_before, self.cpu_before = state["seconds"], state["cpu_seconds"]
        if self.rank == 0:
            self.average = state["average"]


def load_state(path: Path) -> dict:
    """A saved state. The file is our own: it holds the generator's state beside tensors."""
    return torch.load(path, map_location="cpu", weights_only=False)


def run_worker(settings: Settings, rank: int, model: TinyLLaDA, count: SharedCount) -> None:
    """Train as one of ``settings.workers`` processes; rank 0 reports."""
    torch.set_num_threads(1)
    worker = Worker(settings, rank, model, count)
    if rank:
        for _ in worker.train():
            pass
        return
    recent: deque[StepLoss] = deque(maxlen=50)
    reported = time.monotonic()
    with open_display() as display:
        for loss in worker.train():
            recent.append(loss)
            due = time.monotonic() - reported > REPORT_SECONDS
            if due or display.live:
                report = make_report(worker, list(recent))
                display.show(report)
            if due:
                reported = time.monotonic()
                append_curve(worker, report)
        if recent:
            report = make_report(worker, list(recent))
            display.show(report)
            append_curve(worker, report)


def make_report(worker: Worker, recent: list[StepLoss]) -> Report:
    """Means over the recent steps of this process."""

    def mean(field: str) -> float:
        return sum(float(getattr(loss, field)) for loss in recent) / len(recent)

    progress = min(1.0, worker.progress(worker.last_step + 1))
    stage, _ = PLAN.stage_at(progress)
    return Report(
        progress=progress,
        step=worker.last_step + 1,
        stage=stage,
        rate=PLAN.learning_rate(progress),
        seconds=worker.seconds,
        loss=sum(loss.total.item() for loss in recent) / len(recent),
        random_masks=mean("random_masks"),
        cut_masks=mean("cut_masks"),
        first_accuracy=mean("first_accuracy"),
        gather=mean("gather"),
        match=mean("match"),
    )


def append_curve(worker: Worker, report: Report) -> None:
    """Add one row to the learning curve of the run."""
    path = worker.settings.out / "learning_curve.csv"
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(CURVE_FIELDS)
        values = {"cpu_seconds": worker.cpu_seconds}
        values |= {name: getattr(report, name) for name in CURVE_FIELDS if name not in values}
        writer.writerow(
            f"{v:.5g}" if isinstance(v, float) else v for v in (values[n] for n in CURVE_FIELDS)
        )
