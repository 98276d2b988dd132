"""Peak memory of a row, measured in a process of its own, which this module is.

A process that has decoded before holds memory that it may use again, so that nothing could be seen
there. The child loads the model, then counts by how much its resident memory grows at most.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from dlmcache_cuda.benchmark.row import STOCK, Row

# The first step computes the whole canvas; the first refresh by a published rate comes by then.
FORWARDS = 20
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def peak_of(row: Row, out: Path, dtype: str | None) -> dict[str, Any]:
    """Peak of a row on the CPU, in bytes: ``peak_bytes`` with the weights, and ``predicted_bytes``.

    Both are None where they cannot be had: without Linux's /proc, and for the stock baseline.
    """
    asked = json.dumps({"row": row.to_dict(), "out": str(out), "dtype": dtype,
                        "threads": torch.get_num_threads()})  # fmt: skip
    call = [sys.executable, "-m", __name__]
    done = subprocess.run(call, input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"failed": f"measuring the peak: {lines[-1]}"}
    return json.loads(done.stdout.splitlines()[-1])


def predicted_bytes(model: Any, row: Row, prompt_lengths: list[int]) -> int | None:
    """What ``predict_memory`` says in all; None for the stock baseline."""
    from dlmcache_cuda import predict_memory
    from dlmcache_cuda.benchmark.policies import make_config

    if row.engine == STOCK:
        return None
    return predict_memory(
        model,
        prompt_lengths,
        gen_length=row.workload.gen_length,
        block_length=row.block_length,
        batch_size=row.workload.batch_size,
        cache=make_config(row.cache, row.settings),
    ).total


def _measure(row: Row, out: Path, dtype: str | None) -> dict[str, Any]:
    from dlmcache_cuda.benchmark.models import ModelSpec
    from dlmcache_cuda.benchmark.prompts import make_prompts
    from dlmcache_cuda.benchmark.runner import Subject
    from dlmcache_cuda.freed_memory import give_back

    spec = ModelSpec.parse(row.workload.model)
    _warm_up(row)
    subject = Subject(spec, out, "cpu", dtype, with_stock=row.engine == STOCK)
    prompts = make_prompts(subject.model, row.workload)
    predicted = predicted_bytes(subject.model, row, [ids.numel() for ids in prompts.ids])
    weights = subject.weight_bytes(row)
    gc.collect()
    give_back()  # so that taking it again is seen
    before = _reset_peak()
    if before is None:
        return {"peak_bytes": None, "predicted_bytes": predicted}
    subject.measure(row, prompts, limit=FORWARDS)
    return {"peak_bytes": weights + _status("VmHWM") - before, "predicted_bytes": predicted}


def _warm_up(row: Row) -> None:
    """Loads what libraries load when first used, with the bundled model."""
    import dataclasses

    from dlmcache_cuda.benchmark.models import BUNDLED, ModelSpec
    from dlmcache_cuda.benchmark.prompts import make_prompts
    from dlmcache_cuda.benchmark.runner import Subject

    workload = dataclasses.replace(
        row.workload, model=BUNDLED, prompts="random", prompt_length=16, gen_length=32,
        sequences=1, batch_size=1,
    )  # fmt: skip
    small = dataclasses.replace(
        row, workload=workload, block_length=None, commits=1, threshold=None
    )
    subject = Subject(ModelSpec(BUNDLED), Path(), "cpu", None, with_stock=row.engine == STOCK)
    subject.measure(small, make_prompts(subject.model, workload), limit=3)


def _reset_peak() -> int | None:
    """Forgets the peak so far; the resident bytes now, or None where that cannot be done."""
    try:
        _CLEAR.write_text("5")
        return _status("VmRSS")
    except (OSError, StopIteration):
        return None


def _status(name: str) -> int:
    lines = _STATUS.read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    asked = json.loads(sys.stdin.read())
    torch.set_num_threads(asked["threads"])
    print(json.dumps(_measure(Row.from_dict(asked["row"]), Path(asked["out"]), asked["dtype"])))


if __name__ == "__main__":
    main()
