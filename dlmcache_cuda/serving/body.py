"""Reading and checking the body of a request."""

from __future__ import annotations

import asyncio
import difflib
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from dlmcache_cuda.serving.errors import ApiError, bad_request
from dlmcache_cuda.serving.limits import Limits

_PATIENCE = 8
_Model = TypeVar("_Model", bound=BaseModel)


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body, as far as it is neither too long nor too slow.

    Raises:
        ApiError: 408, 413.
    """
    too_long = ApiError(
        413,
        f"the request's body must have at most {limits.max_body_bytes} bytes",
        code="body_too_large",
    )
    # Who is still sending does not see an answer, so a body that is somewhat too long is taken in.
    patience = _PATIENCE * limits.max_body_bytes
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > patience:
        raise too_long

    body, size = bytearray(), 0

    async def collect() -> None:
        nonlocal body, size
        async for chunk in request.stream():
            size += len(chunk)
            if size > patience:
                break
            if size <= limits.max_body_bytes:
                body += chunk

    try:
        await asyncio.wait_for(collect(), limits.body_seconds)
    except asyncio.TimeoutError:
        if size <= limits.max_body_bytes:
            raise ApiError(
                408, f"the request's body did not arrive within {limits.body_seconds:g} seconds"
            ) from None
    if size > limits.max_body_bytes:
        raise too_long
    return bytes(body)


def parse_body(body: bytes, model: type[_Model]) -> _Model:
    """The request, if it is one.

    Raises:
        ApiError: 400, names the first field that is wrong.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error, model) from error


def _explain(error: ValidationError, model: type[BaseModel]) -> ApiError:
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return bad_request(f"the body is not JSON: {first['msg']}", code="invalid_json")
    if not first["loc"]:
        return bad_request(f"the body must be a JSON object: {first['msg']}")
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, model.model_fields, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return bad_request(f"unknown field {name!r}.{hint}", name, code="unknown_parameter")
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return bad_request(f"{name} is required", name, code="missing_required_parameter")
    # For a field of several types there is an entry for each of them.
    same_field = [entry for entry in error.errors(include_url=False) if entry["loc"][0] == name]
    reasons = dict.fromkeys(_reason(entry) for entry in same_field)
    given = repr(_given(first))
    shown = given if len(given) <= 80 else given[:77] + "..."
    return bad_request(f"{name}: {', or '.join(reasons)}; got {shown}", name)


def _reason(entry: dict) -> str:
    # Type names of a union stand in the path too; places in lists and fields of messages help.
    path = [str(part) for part in entry["loc"][1:] if isinstance(part, int) or part in _PATH]
    message = entry["msg"][:1].lower() + entry["msg"][1:]
    return f"{'.'.join(path)} {message}" if path else message


_PATH = ("role", "content", "type", "text")


def _given(entry: dict) -> object:
    return entry.get("input")
