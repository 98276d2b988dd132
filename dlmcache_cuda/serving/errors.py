"""Errors of the API: an HTTP status and a body as OpenAI's."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse


class ApiError(Exception):
    """What a client is told.

    Args:
        status: HTTP status.
        message: names the field, what came and what is allowed.
        param: the field of the request, if one is to blame.
        code: a short name of the reason, for programs.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    @property
    def kind(self) -> str:
        """OpenAI's ``type``."""
        types = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        if self.status >= 500:
            return "server_error"
        return types.get(self.status, "invalid_request_error")

    def response(self) -> JSONResponse:
        """What the client gets."""
        headers = {"Retry-After": "1"} if self.status in (429, 503) else None
        return JSONResponse(self.body(), self.status, headers=headers)

    def body(self) -> dict[str, Any]:
        """The response, which OpenAI's clients turn into exceptions."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def shutting_down() -> ApiError:
    return ApiError(503, "the server is shutting down", code="shutting_down")
