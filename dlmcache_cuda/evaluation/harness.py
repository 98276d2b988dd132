"""The model class ``dlmcache`` of lm-eval."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import has_bos_prefix, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

import dlmcache_cuda
from dlmcache_cuda.evaluation.settings import GenerationSettings, RequestSettings
from dlmcache_cuda.evaluation.throughput import Throughput
from dlmcache_cuda.likelihood import DEFAULT_MC_NUM, is_greedy, log_likelihood
from dlmcache_cuda.model import Llada
from dlmcache_cuda.parallel import ProcessGroup, device_of_rank

# Batches between two reports of progress; slots run empty at the end of each.
BATCHES_PER_CALL = 16


@register_model("dlmcache")
class DlmcacheLM(TemplateLM):
    """LLaDA and Dream under lm-eval; ``--model_args pretrained=...,cache=elastic,gamma=0.9``.

    Args:
        pretrained: folder, hub id, or a model from :func:`dlmcache_cuda.load`. Default: the
            bundled model.
        device, dtype, weights: as in :func:`dlmcache_cuda.load`. Under a launcher every process
            takes the GPU of its ``LOCAL_RANK``.
        batch_size: sequences in flight. Default, and ``auto``: 16.
        max_batch_size: as lm-eval passes it; without meaning here.
        max_length: positions of a canvas at most. Default: what the model was made for.
        mc_num, mc_batch_size: of :func:`dlmcache_cuda.likelihood.log_likelihood`.
        is_check_greedy: also find out whether an answer is the greedy one (one forward per token
            of it). Only some metrics ask: off, every answer counts as not greedy.
        seed: of all random numbers. A request's depend on it and on the request, not on the batch
            or the process.
        group: processes that share the work. Default: those of the launcher.
        arguments: ``gen_length``, ``cache``, settings of the cache and of
            :func:`dlmcache_cuda.decode`.

    Raises:
        TypeError, ValueError: an argument is not as above; no request was looked at.
    """

    def __init__(
        self,
        pretrained: str | Llada | None = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        weights: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        mc_num: int = DEFAULT_MC_NUM,
        mc_batch_size: int | None = None,
        is_check_greedy: bool = True,
        seed: int = 0,
        group: ProcessGroup | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        self.settings = GenerationSettings.from_arguments(arguments)
        if not isinstance(is_check_greedy, bool):
            raise TypeError(f"is_check_greedy must be True or False, got {is_check_greedy!r}")
        self.batch_size = _batch_size(batch_size)
        self.is_check_greedy = is_check_greedy
        self.group = ProcessGroup().__enter__() if group is None else group
        self._rank, self._world_size = self.group.ranks.rank, self.group.ranks.world_size
        if isinstance(pretrained, Llada):
            self.model = pretrained
        else:
            if self.group.ranks.world_size > 1 and device == "cuda:0":
                device = "cuda"  # what lm-eval's command line says when nobody said anything
            place = device_of_rank(self.group.ranks, device)
            self.model = dlmcache_cuda.load(pretrained, device=place, dtype=dtype, weights=weights)
        self._device = self.model.device
        self.max_length = _max_length(max_length, self.model)
        self.seed = seed
        self.likelihood = {
            "mc_num": mc_num,
            "mc_batch_size": mc_batch_size,
            "cfg_scale": self.settings.decode.get("cfg_scale", 0.0),
            "seed": seed,
        }
        log_likelihood(self.model, [], **self.likelihood)  # refuses what cannot be
        self._check_decoding()
        self.throughput = Throughput()

    def _check_decoding(self) -> None:
        """Refuses settings before a long evaluation begins: by decoding next to nothing."""
        request = self.settings.of_request({"max_gen_toks": 1})
        if self.settings.gen_length is None:
            # Steps and blocks fit the length of a request, which is not known yet.
            kept = {k: v for k, v in request.decode if k not in ("steps", "block_length")}
            request = dataclasses.replace(request, decode=tuple(sorted(kept.items())))
        elif request.gen_length >= self.max_length:
            raise ValueError(
                f"gen_length must leave room for a prompt: less than max_length "
                f"({self.max_length}), got {request.gen_length}"
            )
        with contextlib.suppress(_Ended):
            dlmcache_cuda.decode(
                self.model, [[self.eot_token_id]], seed=0, callback=_end, **request.arguments()
            )

    # What lm-eval asks of a model.

    @property
    def tokenizer(self) -> Any:
        return self.model.tokenizer

    @property
    def tokenizer_name(self) -> str:
        return self.model.name.replace("/", "__")

    @property
    def eot_token_id(self) -> int:
        return self.model.end_token_ids[0] if self.model.end_token_ids else self.model.pad_token_id

    @property
    def prefix_token_id(self) -> int:
        """Stands before a text without context, as lm-eval wants it."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else begin

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        if add_special_tokens is None:
            # A chat template writes the begin token itself.
            add_special_tokens = not has_bos_prefix(string, self.tokenizer.bos_token)
        return self.tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        parts = self.group.all_gather(tensor.detach().cpu())
        return torch.cat([part.reshape(-1) for part in parts])

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        if dst != 0:
            raise ValueError(f"objects are gathered on rank 0, got dst={dst}")
        return self.group.gather(obj)

    def barrier(self) -> None:
        self.group.barrier()

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes down about the model; the throughput is this process' own."""
        return {
            "model_name": self.model.name,
            "model_bytes": self.model.weight_bytes,
            "model_dtype": str(self.model.dtype),
            "model_device": str(self.model.device),
            "throughput": self.throughput.to_dict(),
        }

    # Likelihoods.

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        pairs = [
            (self._fitting(context, self.max_length - len(continuation)), continuation)
            for _, context, continuation in requests
        ]
        total = len(pairs) * (2 if self.is_check_greedy else 1)
        with self._progress("Likelihoods", total, disable_tqdm) as progress:
            values = log_likelihood(self.model, pairs, progress=progress.update, **self.likelihood)
            greedy = [False] * len(pairs)
            if self.is_check_greedy:
                greedy = is_greedy(
                    self.model,
                    pairs,
                    cfg_scale=self.likelihood["cfg_scale"],
                    batch_size=self.batch_size,
                    progress=progress.update,
                )
        answers = list(zip(values, greedy, strict=True))
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Estimates of whole texts: each token is predicted once, in windows of ``max_length`` that
        begin with as much of the text before as there is room for."""
        pairs, owners = [], []
        for index, request in enumerate(requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,  # beside the token before them
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, windows):
                pairs.append((context, continuation))
                owners.append(index)
        with self._progress("Likelihoods", len(pairs), disable_tqdm) as progress:
            values = log_likelihood(self.model, pairs, progress=progress.update, **self.likelihood)
        sums = [0.0] * len(requests)
        for index, value in zip(owners, values, strict=True):
            sums[index] += value
        for request, value in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return sums

    # Texts.

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        groups: dict[RequestSettings, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[self.settings.of_request(request.args[1])].append(index)
        self._warn_of_ignored([request.args[1] for request in requests])
        prompts = self._prompts(requests, groups)
        seeds = self._seeds(requests)
        texts: list[str] = [""] * len(requests)
        with self._progress("Answers", len(requests), disable_tqdm) as progress:
            for settings, indices in groups.items():
                # Long ones first: what does not fit into memory is refused at once.
                indices.sort(key=lambda index: -len(prompts[index]))
                size = self.batch_size * BATCHES_PER_CALL
                for begin in range(0, len(indices), size):
                    part = indices[begin : begin + size]
                    out = dlmcache_cuda.decode(
                        self.model,
                        [prompts[index] for index in part],
                        seed=[seeds[index] for index in part],
                        batch_size=self.batch_size,
                        **settings.arguments(),
                    )
                    self.throughput = self.throughput.with_call(out.stats, len(part))
                    for index, sequence in zip(part, out.sequences, strict=True):
                        context, gen_kwargs = requests[index].args
                        ids = sequence.visible_ids.tolist()[: settings.max_tokens]
                        texts[index] = self._text(ids, gen_kwargs.get("until") or [])
                        self.cache_hook.add_partial(
                            "generate_until", (context, gen_kwargs), texts[index]
                        )
                    progress.update(len(part))
        return texts

    def _prompts(
        self, requests: Sequence[Instance], groups: Mapping[RequestSettings, Sequence[int]]
    ) -> list[list[int]]:
        prompts: list[list[int]] = [[] for _ in requests]
        for settings, indices in groups.items():
            room = self.max_length - settings.gen_length
            if room < 1:
                raise ValueError(
                    f"gen_length (or max_gen_toks in blocks) must leave room for a prompt: less "
                    f"than max_length ({self.max_length}), got {settings.gen_length}"
                )
            for index in indices:
                ids = self.tok_encode(requests[index].args[0]) or [self.prefix_token_id]
                prompts[index] = self._fitting(ids, room)
        return prompts

    def _fitting(self, ids: list[int], room: int) -> list[int]:
        """The end of a prompt that fits, as lm-eval's other models take it."""
        if len(ids) <= room:
            return ids
        if room < 1:
            raise ValueError(f"an answer does not fit into max_length ({self.max_length})")
        if not self.throughput.truncated_prompts:
            self._say(f"a prompt of {len(ids)} tokens is cut at its beginning to {room}")
        count = self.throughput.truncated_prompts + 1
        self.throughput = dataclasses.replace(self.throughput, truncated_prompts=count)
        return ids[-room:]

    def _seeds(self, requests: Sequence[Instance]) -> list[int]:
        """By content, so that a request gets its numbers whichever process has it; repeats of one
        get different ones."""
        seen: Counter[str] = Counter()
        seeds = []
        for request in requests:
            context = request.args[0]
            content = f"{self.seed} {seen[context]} {context}".encode()
            seen[context] += 1
            seeds.append(int.from_bytes(hashlib.sha256(content).digest()[:7], "little"))
        return seeds

    def _text(self, ids: list[int], until: str | Sequence[str]) -> str:
        stops = [until] if isinstance(until, str) else list(until)
        special = self.tokenizer.get_added_vocab()
        for stop in stops:
            # Special tokens are no text, and gone once ids have become one.
            if stop in special and special[stop] in ids:
                ids = ids[: ids.index(special[stop])]
        return postprocess_generated_text(self.model.decode_text(ids), stops, None)

    def _warn_of_ignored(self, gen_kwargs: Sequence[Mapping[str, Any]]) -> None:
        names = sorted(set().union(*map(self.settings.ignored, gen_kwargs)))
        if names:
            self._say(f"generation arguments without meaning here: {', '.join(names)}")

    def _say(self, text: str) -> None:
        if self.rank == 0:
            tqdm.write(f"dlmcache: {text}", file=sys.stderr)

    def _progress(self, what: str, total: int, disable: bool) -> tqdm:
        return tqdm(total=total, desc=what, disable=disable or self.rank != 0)


class _Ended(Exception):
    """A call of ``decode`` got as far as its first step: its arguments are good."""


def _end(event: Any) -> None:
    raise _Ended


def _batch_size(value: int | str | None) -> int:
    if value is None or (isinstance(value, str) and value.startswith("auto")):
        return 16
    try:
        number = int(value)
    except ValueError:
        raise ValueError(f"batch_size must be an integer >= 1 or auto, got {value!r}") from None
    if number < 1:
        raise ValueError(f"batch_size must be an integer >= 1 or auto, got {value}")
    return number


def _max_length(value: int | None, model: Llada) -> int:
    limit = model.config.max_sequence_length
    if value is None:
        return limit
    if not isinstance(value, int) or not 1 < value <= limit:
        raise ValueError(f"max_length must be an integer from 2 to {limit}, got {value!r}")
    return value
