"""What requests look like: OpenAI's fields, and those of ``decode``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dlmcache_cuda.serving.errors import bad_request

_Text = Annotated[str, Field(min_length=1)]


class DecodeFields(BaseModel):
    """Decoding, by the names of ``dlmcache_cuda.decode``; clients send them as ``extra_body``."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    cache: str | dict[str, Any] | None = None
    threshold: float | None = None
    factor: float | None = None
    steps: int | None = None
    block_length: int | None = None
    cfg_scale: float | None = Field(None, ge=0, le=100)
    remasking: str | None = None
    alg: str | None = None
    alg_temp: float | None = None
    top_k: int | None = None
    min_commit: int | None = None
    logits_eos_inf: bool | None = None
    confidence_eos_eot_inf: bool | None = None

    def decode_fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in DecodeFields.model_fields}

    def asked_for(self) -> list[str]:
        """The fields that are not OpenAI's and were given."""
        given = self.decode_fields().items()
        return [name for name, value in given if value is not None and name not in _OPENAI]


_OPENAI = ("temperature", "top_p")
# Where 0 is a number like others: logprobs=0 asks for those of the chosen tokens.
_ZERO_ASKS = ("logprobs", "best_of")


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool | None = None


class GenerationRequest(DecodeFields):
    """What both kinds of completions share."""

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: _Text | Annotated[list[_Text], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    draft: bool | None = None

    # Understood, and without effect here.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    # Taken only with the value that changes nothing: see refuse_unsupported.
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, Any] | None = None
    logprobs: bool | int | None = None
    best_of: int | None = None

    def refuse_unsupported(self) -> None:
        """400 for what would silently be left out."""
        if self.stream_options is not None and not self.stream:
            raise bad_request("stream_options needs stream=true", "stream_options")
        if self.draft and not self.stream:
            raise bad_request("draft needs stream=true", "draft")
        for name in self.unsupported():
            value = getattr(self, name)
            if value or (name in _ZERO_ASKS and value == 0 and value is not False):
                raise bad_request(
                    f"{name} is not supported by this server, got {value!r}; leave it out",
                    name,
                    code="unsupported_parameter",
                )

    def unsupported(self) -> list[str]:
        return ["frequency_penalty", "presence_penalty", "logit_bias", "logprobs"]

    @property
    def stop_strings(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class CompletionRequest(GenerationRequest):
    """Body of ``POST /v1/completions``."""

    prompt: str | list[int] | list[str] | list[list[int]]
    echo: bool | None = None
    suffix: str | None = None

    def unsupported(self) -> list[str]:
        best_of = ["best_of"] if self.best_of not in (None, 1) else []
        return [*super().unsupported(), "echo", "suffix", *best_of]


class TextPart(BaseModel):
    """A piece of a message; text is all that a language model takes."""

    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    role: str
    content: str | list[TextPart]

    def plain(self) -> dict[str, str]:
        """What chat templates take."""
        if isinstance(self.content, str):
            return {"role": self.role, "content": self.content}
        return {"role": self.role, "content": "".join(part.text for part in self.content)}


class ChatRequest(GenerationRequest):
    """Body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = Field(None, ge=1)
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    top_logprobs: int | None = None
    modalities: list[str] | None = None
    reasoning_effort: str | None = None

    def unsupported(self) -> list[str]:
        names = [*super().unsupported(), "tools", "functions", "top_logprobs"]
        if self.response_format is not None and self.response_format.get("type") != "text":
            names.append("response_format")
        if self.modalities not in (None, ["text"]):
            names.append("modalities")
        return names
