"""What each cache costs and loses on the bundled model: ``python -m benchmarks.quality``.

Decodes held-out questions of both splits with every policy: with the published settings scaled to
this model's length, and with the setting of least work that loses less than one point of exact
answers. The latter is searched on other questions (``--tune-questions``): all candidates below
answer a quarter of them, those that lose far too much are out, the others answer all of them,
cheapest first, until one loses less than a point; that one is then measured like the rest. Results
are kept after every setting; run it again to go on. Writes a JSON file, a Markdown table and a
figure.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

import dlmcache_cuda
from dlmcache_cuda import available_policies
from dlmcache_cuda.assets.questions import SPLITS, check_answer, check_final, make_questions
from dlmcache_cuda.benchmark.machine import describe
from dlmcache_cuda.benchmark.policies import BLOCK_LENGTH

SEED, TUNE_SEED = 77, 78
THRESHOLD = 0.9
MAX_LOSS = 0.01  # of exact answers, for the settings of least work
HOPELESS_LOSS = 0.1  # on a quarter of the questions, far beyond what chance adds to MAX_LOSS
BATCH_SIZE = 50


@dataclass(frozen=True)
class Setting:
    """One way to decode."""

    policy: str
    config: dict[str, Any] = field(default_factory=dict)
    block_length: int | None = None
    threshold: float | None = None
    remasking: str | None = None

    @property
    def key(self) -> str:
        parts = [self.policy, *(f"{name}={value}" for name, value in self.config.items())]
        block = "one block" if self.block_length is None else f"blocks of {self.block_length}"
        commit = "1 token/step" if self.threshold is None else f"threshold {self.threshold}"
        order = [] if self.remasking is None else [self.remasking.replace("_", " ")]
        return ", ".join([" ".join(parts), block, commit, *order])

    @property
    def vanilla(self) -> Setting:
        """The same commits without a cache."""
        return Setting("none", {}, self.block_length, self.threshold, self.remasking)

    def arguments(self) -> dict[str, Any]:
        arguments = asdict(self)
        policy = available_policies()[arguments.pop("policy")]
        config = policy.Config(**arguments.pop("config"))
        return {**arguments, "cache": config}


def published() -> list[Setting]:
    """The bundled model's presets: published settings, shrunk to its length."""
    settings = []
    for policy, preset in dlmcache_cuda.presets("tiny_llada").items():
        if policy == "none":
            continue
        default = type(preset.config)()
        config = {
            name: value
            for name, value in asdict(preset.config).items()
            if value != getattr(default, name)
        }
        block_length = None if preset.block_length == preset.gen_length else preset.block_length
        remasking = available_policies()[policy].remasking
        settings.append(Setting(policy, config, block_length, remasking=remasking))
    return settings


def candidates(policy: str) -> Iterator[Setting]:
    """Settings among which the one of least work is searched."""
    if policy in ("prefix", "dual"):
        for block_length in (8, 16, 32, 48):
            yield Setting(policy, {}, block_length)
    elif policy == "dkv-decode":
        for interval in (16, 32):
            yield Setting(policy, {"cache_reloading_step": interval}, BLOCK_LENGTH)
    elif policy == "dkv-greedy":
        for interval, window in ((2, 2), (2, 8), (3, 8)):
            config = {"cache_reloading_step": interval, "window_length": window}
            yield Setting(policy, config, BLOCK_LENGTH, remasking="random_order")
    elif policy == "dkv-pd":
        for interval in (8, 16, 96):
            yield Setting(policy, {"cache_reloading_step": interval})
    elif policy == "elastic":
        for gamma, window in ((0.5, 4), (0.5, 8), (0.5, 16), (0.8, 4), (0.8, 8)):
            yield Setting(policy, {"gamma": gamma, "window_length": window})
    elif policy == "spa":
        for gen, ratio in ((2, 0.25), (2, 0.125), (4, 0.5), (8, 0.5)):
            config = {"refresh_steps": 96, "refresh_gen_steps": gen, "max_update_ratio": ratio}
            yield Setting(policy, {**config, "min_update_ratio": ratio}, BLOCK_LENGTH)
    elif policy == "dllm":
        for gen, ratio in ((2, 0.25), (4, 0.25), (8, 0.25), (4, 0.125), (96, 0.25)):
            config = {"prompt_interval_steps": 96, "gen_interval_steps": gen}
            yield Setting(policy, {**config, "transfer_ratio": ratio}, BLOCK_LENGTH)
    elif policy == "d2":
        for k, share in ((4, 0.02), (8, 0.02), (8, 0.1), (12, 0.05)):
            yield Setting(policy, {"current_k": k, "rollout_p": share})
    elif policy == "composed":
        for gamma, window, ratio in (
            (0.5, 4, 0.25), (0.5, 8, 0.25), (0.5, 8, 0.5), (0.8, 8, 0.25), (0.8, 8, 0.5),
        ):  # fmt: skip
            config = {"gamma": gamma, "window_length": window, "max_update_ratio": ratio}
            yield Setting(policy, config)


class Bench:
    """Decodes questions and remembers what came out, in a file that survives an interruption."""

    def __init__(self, model, store: Path, progress: Progress) -> None:
        self.model = model
        self.store = store
        self.progress = progress
        self.results: dict[str, dict] = json.loads(store.read_text()) if store.exists() else {}

    def run(self, setting: Setting, split: str, count: int, seed: int) -> dict:
        """Figures of a setting, with the ids of every response."""
        key = f"{split}, {count} questions of seed {seed}: {setting.key}"
        if key not in self.results:
            task = self.progress.add_task(key, total=count)
            self.results[key] = self._decode(
                setting, split, count, seed, lambda: self.progress.advance(task)
            )
            self.store.write_text(json.dumps(self.results))
            self.progress.remove_task(task)
        return self.results[key]

    def _decode(
        self, setting: Setting, split: str, count: int, seed: int, advance: Callable[[], None]
    ) -> dict:
        asked = make_questions(count, seed, split)
        chats = [[{"role": "user", "content": question.prompt}] for question in asked]

        def on_step(event) -> None:
            for update in event.updates:
                if update.stop_reason is not None:
                    advance()

        out = dlmcache_cuda.decode(
            self.model,
            chats,
            gen_length=SPLITS[split].gen_length,
            callback=on_step,
            batch_size=BATCH_SIZE,
            seed=seed,
            **setting.arguments(),
        )
        return {
            "exact": sum(map(check_answer, asked, out.text)) / count,
            "final": sum(map(check_final, asked, out.text)) / count,
            "forwards": out.stats.sequence_forwards / count,
            "tokens_per_forward": out.stats.tokens_per_forward,
            "rows_computed": out.stats.rows_computed,
            "refreshes": out.stats.refreshes / count,
            "visible": [sequence.visible_ids.tolist() for sequence in out.sequences],
        }

    def compare(self, setting: Setting, split: str, count: int, seed: int) -> dict:
        """One line of the table."""
        result = self.run(setting, split, count, seed)
        vanilla = self.run(setting.vanilla, split, count, seed)
        line = {name: value for name, value in result.items() if name != "visible"}
        line["loss"] = vanilla["exact"] - result["exact"]
        line["tokens_that_differ"] = differing(result["visible"], vanilla["visible"])
        line["rows"] = line.pop("rows_computed") / vanilla["rows_computed"]
        return line

    def least_work(self, policy: str, split: str, count: int) -> Setting | None:
        """The candidate with the fewest rows that loses less than a point, on questions apart."""
        preset = next(setting for setting in published() if setting.policy == policy)
        hopeful = []
        for setting in [preset, *candidates(policy)]:
            line = self.compare(setting, split, max(count // 4, 1), TUNE_SEED)
            if line["loss"] < HOPELESS_LOSS:
                hopeful.append((line["rows"], setting.key, setting))
        for _, _, setting in sorted(hopeful):
            if self.compare(setting, split, count, TUNE_SEED)["loss"] < MAX_LOSS:
                return setting
        return None


def differing(responses: list[list[int]], others: list[list[int]]) -> float:
    """Share of visible tokens that are not the same at the same place."""
    differ = total = 0
    for one, other in zip(responses, others, strict=True):
        length = max(len(one), len(other))
        padded = [torch.nn.functional.pad(torch.tensor(ids), (0, length - len(ids)), value=-1)
                  for ids in (one, other)]  # fmt: skip
        differ += int((padded[0] != padded[1]).sum())
        total += length
    return differ / total if total else 0.0


def lines_of(bench: Bench, arguments: argparse.Namespace) -> Iterator[dict]:
    """All lines of the table, in its order."""
    policies = [name for name in available_policies() if name != "none"]
    for split in arguments.splits:
        vanilla = [Setting("none"), Setting("none", {}, BLOCK_LENGTH)]
        order = [Setting("none", {}, BLOCK_LENGTH, remasking="random_order")]
        rows: list[tuple[str, Setting]] = [("vanilla", setting) for setting in vanilla + order]
        rows += [("published, scaled", setting) for setting in published()]
        rows += [
            ("published, scaled", Setting(s.policy, s.config, s.block_length, THRESHOLD))
            for s in [*vanilla, *published()]
            if s.remasking is None
        ]
        for policy in policies:
            setting = bench.least_work(policy, split, arguments.tune_questions)
            if setting is not None:
                rows.append(("least work", setting))
        for kind, setting in rows:
            line = bench.compare(setting, split, arguments.questions, SEED)
            yield {"split": split, "kind": kind, "policy": setting.policy, "setting": setting.key,
                   **line}  # fmt: skip


def table(lines: list[dict]) -> str:
    """Markdown."""
    text = [
        "| setting | exact | lost | tokens that differ | rows | forwards | tokens/forward |",
        "|---|---|---|---|---|---|---|",
    ]
    group = None
    for line in lines:
        if (line["split"], line["kind"]) != group:
            group = line["split"], line["kind"]
            text.append(f"| **{group[0]}, {group[1]}** | | | | | | |")
        cells = [
            line["setting"],
            f"{100 * line['exact']:.1f} %",
            f"{100 * line['loss']:.1f}",
            f"{100 * line['tokens_that_differ']:.1f} %",
            f"{100 * line['rows']:.1f} %",
            f"{line['forwards']:.1f}",
            f"{line['tokens_per_forward']:.2f}",
        ]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def summary(lines: list[dict], split: str) -> str:
    """Markdown: one line per policy, for the README."""
    text = [
        "| cache | exact | tokens that differ | rows | exact, threshold | least work: setting | "
        "exact | tokens that differ | rows |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    mine = [line for line in lines if line["split"] == split]

    def cells(line: dict | None, *names: str) -> list[str]:
        return ["" if line is None else f"{100 * line[name]:.1f} %" for name in names]

    for policy in available_policies():
        of_policy = [line for line in mine if line["policy"] == policy]
        plain = [line for line in of_policy if "threshold" not in line["setting"]]
        sure = next((line for line in of_policy if "threshold" in line["setting"]), None)
        least = next((line for line in plain if line["kind"] == "least work"), None)
        setting = "" if least is None else least["setting"].removesuffix(", 1 token/step")
        names = "exact", "tokens_that_differ", "rows"
        row = [f"`{policy}`", *cells(plain[0], *names), *cells(sure, "exact")]
        row += [setting.removeprefix(f"{policy} ").removeprefix(f"{policy}, ")]
        text.append(f"| {' | '.join([*row, *cells(least, *names)])} |")
    return "\n".join(text)


def draw(lines: list[dict], path: Path) -> None:
    """Exact answers against rows computed: both settings of every policy, one token per step.

    Random orders cost so many answers by themselves that they would flatten everything else.
    """
    try:
        import matplotlib
    except ModuleNotFoundError:
        print("no figure: it needs matplotlib (pip install 'dlmcache_cuda[bench]')")
        return
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "dlmcache"
    from matplotlib import pyplot

    splits = list(dict.fromkeys(line["split"] for line in lines))
    figure, axes = pyplot.subplots(1, len(splits), figsize=(11, 4.2), sharex=True, squeeze=False)
    names = [name for name in available_policies() if name != "none"]
    colors = {name: pyplot.get_cmap("tab20")(i) for i, name in enumerate(names)}
    for axis, split in zip(axes[0], splits, strict=True):
        axis.axhline(
            100 * next(line["exact"] for line in lines if line["split"] == split),
            color="grey", linewidth=0.8, linestyle=":", label="vanilla",
        )  # fmt: skip
        for line in lines:
            left_out = "threshold" in line["setting"] or "random order" in line["setting"]
            if line["split"] != split or line["policy"] == "none" or left_out:
                continue
            published = line["kind"] != "least work"
            axis.plot(
                100 * line["rows"], 100 * line["exact"], "o" if published else "^",
                color=colors[line["policy"]], label=line["policy"] if published else None,
            )  # fmt: skip
        axis.set_title(split)
        axis.set_xlabel("rows computed, % of vanilla")
        axis.set_ylabel("exact answers, %")
        axis.grid(alpha=0.3)
    axes[0, -1].legend(
        fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5),
        title="o published, scaled\n^ least work",
    )  # fmt: skip
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--questions", type=int, default=500, help="of each split")
    parser.add_argument("--tune-questions", type=int, default=100, help="for the search")
    parser.add_argument("--splits", nargs="+", choices=list(SPLITS), default=list(SPLITS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("build/bench/quality.json"))
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    store = arguments.out.with_suffix(".partial.json")
    model = dlmcache_cuda.load(device=arguments.device)
    with Progress() as progress:
        lines = list(lines_of(Bench(model, store, progress), arguments))
    machine = {**describe(arguments.device), "seed": SEED, "tune_seed": TUNE_SEED}
    result = {"machine": machine, "questions": arguments.questions,
              "tune_questions": arguments.tune_questions, "lines": lines}  # fmt: skip
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    draw(lines, arguments.out.with_suffix(".svg"))
    text = [f"## {split}\n\n{summary(lines, split)}" for split in arguments.splits]
    text += [f"## All lines\n\n{table(lines)}"]
    arguments.out.with_suffix(".md").write_text("\n\n".join(text) + "\n")
    print("\n\n".join(text))
    print(f"\nwritten to {arguments.out}, and beside it as .md and .svg")


if __name__ == "__main__":
    main()
