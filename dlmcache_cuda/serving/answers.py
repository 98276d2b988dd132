"""What answers look like: OpenAI's objects, with a few fields of our own in each choice."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dlmcache_cuda.serving.job import Job, Snapshot


@dataclass(frozen=True, slots=True)
class Answer:
    """Makes the objects of one answer.

    Attributes:
        model: its name.
        chat: chat completions; False: completions.
    """

    model: str
    chat: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, jobs: Sequence[Job], snapshots: Sequence[Snapshot]) -> dict[str, Any]:
        """The answer in one piece."""
        choices = []
        for index, snapshot in enumerate(snapshots):
            text = snapshot.transcript.text
            content: dict[str, Any] = {"text": text}
            if self.chat:
                content = {"message": {"role": "assistant", "content": text, "refusal": None}}
            choices.append(
                {
                    "index": index,
                    **content,
                    "logprobs": None,
                    "finish_reason": snapshot.transcript.finish_reason,
                    "forwards": snapshot.forwards,
                }
            )
        kind = "chat.completion" if self.chat else "text_completion"
        return self._object(kind, choices) | {"usage": usage(jobs, snapshots)}

    def opening(self, index: int) -> dict[str, Any]:
        """The first chunk of a chat's choice."""
        delta = {"role": "assistant", "content": ""}
        return self._chunk({"index": index, "delta": delta, "finish_reason": None})

    def piece(self, index: int, snapshot: Snapshot, new_text: str) -> dict[str, Any]:
        """A chunk: ``new_text`` is final; a draft, where wanted, is what follows it for now."""
        content: dict[str, Any] = {"text": new_text}
        if self.chat:
            content = {"delta": {"content": new_text} if new_text else {}}
        choice = {
            "index": index,
            **content,
            "logprobs": None,
            "finish_reason": snapshot.transcript.finish_reason,
        }
        if snapshot.draft is not None:
            choice["draft"] = snapshot.draft
        if snapshot.over:
            choice["forwards"] = snapshot.forwards
        return self._chunk(choice)

    def closing(self, jobs: Sequence[Job], snapshots: Sequence[Snapshot]) -> dict[str, Any]:
        """The last chunk, for ``stream_options={"include_usage": true}``."""
        return self._chunk() | {"usage": usage(jobs, snapshots)}

    def _chunk(self, *choices: dict[str, Any]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return self._object(kind, list(choices))

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": ("chatcmpl-" if self.chat else "cmpl-") + self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def usage(jobs: Sequence[Job], snapshots: Sequence[Snapshot]) -> dict[str, int]:
    """Tokens of the prompts, each counted once whatever ``n``, and of the answers."""
    # Choices of one prompt share its tensor.
    prompts = {id(job.prompt_ids): job.prompt_ids.numel() for job in jobs}
    prompt_tokens = sum(prompts.values())
    completion_tokens = sum(snapshot.transcript.num_tokens for snapshot in snapshots)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def sse(content: dict[str, Any]) -> bytes:
    """One server-sent event."""
    # ASCII: some clients take separators of Unicode for the end of a line.
    return f"data: {json.dumps(content)}\n\n".encode()


SSE_END = b"data: [DONE]\n\n"
