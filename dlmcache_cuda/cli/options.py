"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from dlmcache_cuda.policies import CalibratedCache, PolicyConfig, available_policies, make_policy
from dlmcache_cuda.policies.cache_file import load_cache
from dlmcache_cuda.policies.registry import is_cache_file, policy_of
from dlmcache_cuda.samplers import ALGORITHMS, REMASKINGS


def add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--model", help="checkpoint folder or hub id (default: the bundled model)")
    group.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where it can be used)")
    group.add_argument("--dtype", help="float32, bfloat16 or float16 (default: see the docs)")
    group.add_argument("--weights", help="fp8: matrices of the blocks in 8 bits, half of bfloat16")


def load_model(arguments: argparse.Namespace):
    import dlmcache_cuda

    return dlmcache_cuda.load(
        arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        weights=arguments.weights,
    )


def add_decode_options(
    parser: argparse.ArgumentParser,
    gen_length: int | None,
    blocks: str = "one block",
    of_one_call: bool = True,
) -> None:
    """The options of ``dlmcache_cuda.decode``, under its names.

    Args:
        gen_length: the default; None leaves that option out.
        blocks: what stands for no ``--block-length``, for the help.
        of_one_call: also what belongs to a call rather than to many: the seed.
    """
    group = parser.add_argument_group("decoding")
    if gen_length is not None:
        group.add_argument(
            "--gen-length", type=int, default=gen_length, help="default: %(default)s"
        )
    group.add_argument("--block-length", type=int, help=f"default: {blocks}")
    group.add_argument("--steps", type=int, help="default: one token per step")
    group.add_argument("--temperature", type=float, default=0.0, help="default: %(default)s")
    group.add_argument("--cfg-scale", type=float, default=0.0, help="default: %(default)s")
    group.add_argument("--remasking", help=f"{' or '.join(REMASKINGS)}")
    group.add_argument("--threshold", type=float, help="commit all tokens at least this sure")
    group.add_argument("--factor", type=float, help="Fast-dLLM's factor rule")
    group.add_argument("--alg", help=f"Dream's sampling: {', '.join(ALGORITHMS)}")
    group.add_argument("--alg-temp", type=float, help="draw positions instead of ranking them")
    group.add_argument("--top-p", type=float, help="with --alg: probability to draw tokens from")
    group.add_argument("--top-k", type=int, help="with --alg: number of tokens to draw from")
    group.add_argument("--min-commit", type=int, help="with --alg: tokens of a step at least")
    group.add_argument(
        "--cache",
        default="none",
        help=f"one of {', '.join(available_policies())}, or a .json file of `dlmcache calibrate`",
    )
    group.add_argument(
        "--cache-arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the cache: refresh_steps=4, gamma=none, layer_ratios=0.1,1/8; may be "
        "repeated",
    )
    group.add_argument(
        "--no-cuda-graphs", action="store_true", help="launch kernels one by one (debugging)"
    )
    if of_one_call:
        group.add_argument("--no-stop-at-eos", action="store_true", help="make every step")
        group.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    else:
        parser.set_defaults(no_stop_at_eos=False, seed=None)


def decode_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of ``dlmcache_cuda.decode`` from the parsed options."""
    lengths = {"gen_length": arguments.gen_length} if hasattr(arguments, "gen_length") else {}
    return lengths | {
        "block_length": arguments.block_length,
        "steps": arguments.steps,
        "temperature": arguments.temperature,
        "cfg_scale": arguments.cfg_scale,
        "remasking": arguments.remasking,
        "threshold": arguments.threshold,
        "factor": arguments.factor,
        "alg": arguments.alg,
        "alg_temp": arguments.alg_temp,
        "top_p": arguments.top_p,
        "top_k": arguments.top_k,
        "min_commit": arguments.min_commit,
        "cache": cache_config(arguments.cache, arguments.cache_arg),
        "stop_at_eos": not arguments.no_stop_at_eos,
        "cuda_graphs": False if arguments.no_cuda_graphs else None,
        "seed": arguments.seed,
    }


def cache_config(name: str, settings: list[str]) -> PolicyConfig | CalibratedCache:
    """The config of policy ``name``, or of the file of that name, with settings applied.

    Args:
        name: of a policy, or a file that ends in ``.json``.
        settings: ``NAME=VALUE``, one for each setting that differs.
    """
    if is_cache_file(name):
        calibrated = load_cache(name)
        values = setting_values(calibrated.config, settings)
        if not values:
            return calibrated
        config = dataclasses.replace(calibrated.config, **values)
        return dataclasses.replace(calibrated, config=config)
    config = make_policy(name).config
    return dataclasses.replace(config, **setting_values(config, settings))


def setting_values(
    config: PolicyConfig, settings: list[str], option: str = "--cache-arg"
) -> dict[str, Any]:
    """What ``NAME=VALUE`` texts stand for as settings of a policy."""
    name = policy_of(config).name
    types = {field.name: str(field.type) for field in dataclasses.fields(config)}
    values: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or key not in types:
            allowed = ", ".join(types) or "it has no settings"
            raise ValueError(
                f"{option} must be NAME=VALUE with a setting of {name!r} ({allowed}), "
                f"got {setting!r}"
            )
        if key in values:
            raise ValueError(f"{option} {key} is given twice")
        values[key] = _value(text.strip(), types[key])
    return values


def _value(text: str, field_type: str) -> Any:
    """What a setting's text stands for; text that fits no type is left for the config to refuse."""
    types = {part.strip() for part in field_type.split("|")}
    if "None" in types and text.lower() == "none":
        return None
    if "bool" in types and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if any(part.startswith("tuple") for part in types):
        items = text.strip("()[]").split(",")
        return tuple(_number(item.strip()) for item in items if item.strip())
    return text if types <= {"str", "None"} else _number(text)


def _number(text: str) -> int | float | str:
    """``3``, ``0.25`` or ``1/4``; anything else stays text."""
    try:
        return int(text)
    except ValueError:
        pass
    above, _, below = text.partition("/")
    try:
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        return text
