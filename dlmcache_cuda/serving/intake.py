"""From a request to the sequences that answer it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from torch import Tensor

from dlmcache_cuda.decoding.arguments import check_seeds
from dlmcache_cuda.model import Llada
from dlmcache_cuda.serving.decode_settings import LaneSettings, lane_settings
from dlmcache_cuda.serving.errors import ApiError, bad_request
from dlmcache_cuda.serving.job import Job, Mailbox
from dlmcache_cuda.serving.limits import Limits
from dlmcache_cuda.serving.protocol import ChatRequest, CompletionRequest, GenerationRequest
from dlmcache_cuda.serving.text_codec import TextCodec


@dataclass(frozen=True, slots=True)
class ServerDefaults:
    """What a request gets when it says nothing.

    Attributes:
        settings: how it is decoded.
        max_tokens: tokens of an answer.
        fixed: requests may not change how they are decoded, but for ``temperature`` and ``top_p``.
    """

    settings: LaneSettings
    max_tokens: int = 128
    fixed: bool = False


def check_defaults(defaults: ServerDefaults, limits: Limits) -> None:
    """Refuses defaults by which a request that says nothing would be refused.

    Raises:
        ValueError: they are beyond the limits.
    """
    block_length = defaults.settings.block_length
    longest = defaults.settings.longest(limits.max_gen_length)
    if longest < 1:
        raise ValueError(
            f"block_length of the defaults must be at most max_gen_length "
            f"({limits.max_gen_length}), got {block_length}"
        )
    if not 1 <= defaults.max_tokens <= longest:
        raise ValueError(
            f"max_tokens of the defaults must be in [1, {longest}], the whole blocks in "
            f"max_gen_length ({limits.max_gen_length}), got {defaults.max_tokens}"
        )


class Intake:
    """Checks a request against the model and the limits, and makes jobs of it.

    Args:
        name: what the model is called.
    """

    def __init__(
        self,
        model: Llada,
        name: str,
        defaults: ServerDefaults,
        limits: Limits,
        codec: TextCodec,
    ) -> None:
        self.name = name
        self._model = model
        self._defaults = defaults
        self._limits = limits
        self._codec = codec

    async def jobs(self, request: GenerationRequest) -> list[Job]:
        """One for each prompt and choice, in OpenAI's order.

        Raises:
            ApiError: 400, 404.
        """
        self.check_model(request.model)
        request.refuse_unsupported()
        asked = request.asked_for()
        if self._defaults.fixed and asked:
            raise bad_request(
                f"this server's decode settings are fixed; leave out {', '.join(asked)}", asked[0]
            )
        if (request.block_length or 0) > self._limits.max_gen_length:
            raise bad_request(
                f"block_length must be at most {self._limits.max_gen_length} here, the longest "
                f"answer, got {request.block_length}",
                "block_length",
            )
        param, max_tokens = self._max_tokens(request)
        settings, gen_length = lane_settings(
            self._model,
            self._defaults.settings,
            request.decode_fields(),
            max_tokens,
            self._limits.max_length,
        )
        if gen_length > self._limits.max_gen_length:
            rounded = "" if gen_length == max_tokens else f", {gen_length} in whole blocks"
            raise bad_request(
                f"{param} must be at most {self._limits.max_gen_length}, got {max_tokens}{rounded}",
                param,
                code="context_length_exceeded",
            )
        # A long text takes a while; the event loop serves others meanwhile.
        prompts = await asyncio.to_thread(self._encode, request)
        choices = request.n or 1
        most = min(self._limits.max_choices, self._limits.max_queue + self._limits.num_slots)
        if len(prompts) * choices > most:
            raise bad_request(
                f"prompts times n must be at most {most}, got {len(prompts)} x {choices}", "n"
            )
        prompts = [ids for ids in prompts for _ in range(choices)]
        seeds = check_seeds(request.seed, len(prompts))
        return [
            Job(
                prompt_ids=ids,
                settings=settings,
                gen_length=gen_length,
                max_tokens=max_tokens,
                stop=request.stop_strings,
                seed=seed,
                wants_draft=bool(request.draft),
                mailbox=Mailbox(),
            )
            for ids, seed in zip(prompts, seeds, strict=True)
        ]

    def check_model(self, name: str | None) -> None:
        """404 for another model than the one that is served; None is that."""
        if name not in (None, self.name):
            raise ApiError(
                404,
                f"the model {name!r} does not exist; this server has {self.name!r}",
                param="model",
                code="model_not_found",
            )

    def _max_tokens(self, request: GenerationRequest) -> tuple[str, int]:
        if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
            if request.max_tokens not in (None, request.max_completion_tokens):
                raise bad_request(
                    "max_tokens and max_completion_tokens differ; give one", "max_tokens"
                )
            return "max_completion_tokens", request.max_completion_tokens
        if request.max_tokens is not None:
            return "max_tokens", request.max_tokens
        return "max_tokens", self._defaults.max_tokens

    def _encode(self, request: GenerationRequest) -> list[Tensor]:
        if isinstance(request, CompletionRequest):
            param = "prompt"
            prompts = self._codec.encode(request.prompt, param)
        else:
            param = "messages"
            prompts = self._codec.encode_chat([message.plain() for message in request.messages])
        for ids in prompts:
            if ids.numel() > self._limits.max_prompt_length:
                raise bad_request(
                    f"{param} must have at most {self._limits.max_prompt_length} tokens, "
                    f"got {ids.numel()}",
                    param,
                    code="context_length_exceeded",
                )
        return prompts
