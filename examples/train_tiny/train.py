"""Train the tiny LLaDA on a CPU.

    python train.py --out runs/tiny --steps 4800
    python train.py --out runs/tiny --steps 4800 --resume

Several single-thread processes share one set of weights without locks (Hogwild), each with its own
optimizer. A run that is interrupted (Ctrl-C or a signal) saves before it exits and continues with
``--resume``.
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

import torch
import torch.multiprocessing as multiprocessing
from model import TinyLLaDA
from worker import Settings, checkpoint_path, load_state, new_model, run_worker

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class LocalCount:
    """Step counter and stop flag of a single process."""

    def __init__(self, value: int = 0) -> None:
        self.value, self.stop = value, False

    def take(self) -> int:
        """Number of the next step."""
        self.value += 1
        return self.value - 1

    def peek(self) -> int:
        """Steps taken so far."""
        return self.value

    def stopped(self) -> bool:
        """Was the run asked to stop?"""
        return self.stop


class ProcessCount:
    """The same, shared by processes."""

    def __init__(self, value: int = 0) -> None:
        context = multiprocessing.get_context("spawn")
        self._value = context.Value("q", value)
        self._stop = context.Value("b", 0)

    def take(self) -> int:
        """Number of the next step."""
        with self._value.get_lock():
            self._value.value += 1
            return self._value.value - 1

    def peek(self) -> int:
        """Steps taken so far."""
        return self._value.value

    def stopped(self) -> bool:
        """Was the run asked to stop?"""
        return bool(self._stop.value)

    @property
    def stop(self) -> bool:
        """Set to ask every process to stop."""
        return self.stopped()

    @stop.setter
    def stop(self, value: bool) -> None:
        self._stop.value = int(value)


def child(settings: Settings, rank: int, model: TinyLLaDA, count: ProcessCount) -> None:
    """Entry point of a process; signals are the parent's business."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    run_worker(settings, rank, model, count)


def start_state(settings: Settings) -> tuple[TinyLLaDA, int]:
    """Model and step to start from."""
    model = new_model(settings.seed)
    path = checkpoint_path(settings.out, 0)
    if settings.resume and path.exists():
        state = load_state(path)
        model.load_state_dict(state["model"])
        return model, state["step"]
    if settings.resume:
        print(f"train: nothing to resume in {settings.out}, starting afresh", flush=True)
    return model, 0


def train(settings: Settings) -> None:
    """Run until done or interrupted."""
    settings.out.mkdir(parents=True, exist_ok=True)
    model, step = start_state(settings)
    if settings.workers == 1:
        count = LocalCount(step)
        stop_on_signal(count)
        run_worker(settings, 0, model, count)
    else:
        model.share_memory()
        count = ProcessCount(step)
        stop_on_signal(count)
        context = multiprocessing.get_context("spawn")
        processes = [
            context.Process(target=child, args=(settings, rank, model, count))
            for rank in range(settings.workers)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        failed = [process.exitcode for process in processes if process.exitcode]
        if failed:
            raise SystemExit(f"train: a process ended with status {failed[0]}")
    state = "stopped" if count.stopped() else "done"
    print(f"{state} at step {count.peek()}; state in {settings.out}", flush=True)


def stop_on_signal(count: LocalCount | ProcessCount) -> None:
    """Finish the current step, save and exit when interrupted."""

    def handler(number: int, frame: object) -> None:
        count.stop = True

    for number in SIGNALS:
        signal.signal(number, handler)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=0, help="steps of all processes together")
    length.add_argument("--seconds", type=float, default=1500.0, help="wall time of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2, help="single-thread processes")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train(Settings(**vars(options)))


if __name__ == "__main__":
    main()
