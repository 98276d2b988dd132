"""Results as figures (SVG). Needs matplotlib, extra ``bench``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from dlmcache_cuda.benchmark.results import Result
from dlmcache_cuda.benchmark.row import STOCK
from dlmcache_cuda.policies import available_policies


def draw_all(results: Sequence[Result], folder: Path) -> list[Path]:
    """Draws every figure that the results have data for; returns the files.

    Raises:
        RuntimeError: there is no matplotlib.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise RuntimeError("figures need matplotlib: pip install 'dlmcache_cuda[bench]'") from error
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "dlmcache"
    timed = [result for result in results if result.timed]
    drawn = [_lengths(timed, folder), _rows(timed, folder), _frontier(timed, folder)]
    return [path for path in drawn if path is not None]


def pareto(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one beats in both coordinates, by the first one ascending."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points, reverse=True):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best[::-1]


def _lengths(results: Sequence[Result], folder: Path) -> Path | None:
    """Speed-up against the generation length, where several were measured."""
    lines: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        row = result.row
        if result.speed_up is not None and not row.is_vanilla:
            setting = f"{row.workload.model}, batch {row.workload.batch_size}, {row.commit}"
            lines.setdefault((setting, _method(result)), []).append(result)
    lines = {
        key: sorted(found, key=lambda r: r.row.workload.gen_length)
        for key, found in lines.items()
        if len({r.row.workload.gen_length for r in found}) > 1
    }
    if not lines:
        return None
    figure, axes = _axes(len({setting for setting, _ in lines}))
    ordered = sorted(lines.items(), key=lambda item: item[0][0])
    for axis, (setting, group) in zip(
        axes, groupby(ordered, key=lambda item: item[0][0]), strict=True
    ):
        for (_, method), found in group:
            x = [r.row.workload.gen_length for r in found]
            y = [r.speed_up.median for r in found]
            low = [r.speed_up.median - r.speed_up.low for r in found]
            high = [r.speed_up.high - r.speed_up.median for r in found]
            axis.errorbar(x, y, [low, high], marker="o", capsize=2, **_look(method))
        axis.set(title=setting, xlabel="generated positions", ylabel="speed-up over vanilla")
    return _save(figure, axes, folder / "speed_up_by_length.svg")


def _rows(results: Sequence[Result], folder: Path) -> Path | None:
    """Time of a forward against its rows, both relative to vanilla's forward."""
    vanilla: dict[Any, Result] = {}
    for result in results:
        if result.row.is_vanilla:
            best = vanilla.get(result.row.workload, result)
            faster = result.forward_seconds.median <= best.forward_seconds.median
            vanilla[result.row.workload] = result if faster else best
    points = [
        (result, vanilla[result.row.workload].forward_seconds.median)
        for result in results
        if result.row.workload in vanilla and result.row.cache != "none"
    ]
    if not points:
        return None
    models = list(dict.fromkeys(result.row.workload.model for result, _ in points))
    figure, axes = _axes(len(models))
    for axis, model in zip(axes, models, strict=True):
        for result, whole in points:
            if result.row.workload.model == model:
                x, y = 100 * result.forward_rows, 100 * result.forward_seconds.median / whole
                axis.plot([x], [y], "o", **_look(_method(result)))
        axis.axline((1, 1), (10, 10), color="grey", linewidth=0.8, linestyle=":")
        axis.set(title=model, xlabel="rows of a forward, % of vanilla", xscale="log", yscale="log",
                 ylabel="time of a forward, % of vanilla")  # fmt: skip
        _plain_ticks(axis.xaxis, axis.yaxis)
    return _save(figure, axes, folder / "time_by_rows.svg")


def _frontier(results: Sequence[Result], folder: Path) -> Path | None:
    """Right answers against speed: all settings of a policy, and the line of its best ones."""
    groups: dict[Any, list[Result]] = {}
    for result in results:
        if result.accuracy is not None:
            groups.setdefault(result.row.workload, []).append(result)
    groups = {workload: found for workload, found in groups.items() if len(found) > 2}
    if not groups:
        return None
    figure, axes = _axes(len(groups))
    for axis, (workload, found) in zip(axes, groups.items(), strict=True):
        for method in dict.fromkeys(map(_method, found)):
            points = [
                (r.tokens_per_second.median, 100 * r.accuracy)
                for r in found
                if _method(r) == method
            ]
            look = _look(method)
            axis.plot(*zip(*points, strict=True), "o", markersize=3, alpha=0.5, color=look["color"])
            axis.plot(*zip(*pareto(points), strict=True), "-", marker="o", markersize=4, **look)
        axis.set(title=workload.label, xlabel="visible tokens per second", xscale="log",
                 ylabel="right answers, %")  # fmt: skip
        _plain_ticks(axis.xaxis)
        axis.title.set_fontsize(8)
    return _save(figure, axes, folder / "quality_by_speed.svg")


def _plain_ticks(*scales: Any) -> None:
    """1, 2, 5, 10, 20 ... on logarithmic scales, few enough to be read."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for scale in scales:
        scale.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        scale.set_major_formatter(StrMethodFormatter("{x:g}"))
        scale.set_minor_formatter(NullFormatter())


def _method(result: Result) -> str:
    if result.row.engine == STOCK:
        return STOCK
    return "vanilla" if result.row.is_vanilla else result.row.cache


def _look(method: str) -> dict[str, Any]:
    from matplotlib import pyplot

    names = [name for name in available_policies() if name != "none"]
    fixed = {"vanilla": "black", STOCK: "grey"}
    color = fixed.get(method) or pyplot.get_cmap("tab20")(names.index(method))
    return {"color": color, "label": method}


def _axes(count: int) -> tuple[Any, list[Any]]:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, count, figsize=(5.5 * count + 1.5, 4.2), squeeze=False)
    return figure, list(axes[0])


def _save(figure: Any, axes: list[Any], path: Path) -> Path:
    from matplotlib import pyplot

    handles = {}
    for axis in axes:
        axis.grid(alpha=0.3)
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    axes[-1].legend(
        handles.values(), handles.keys(), fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5)
    )
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path
