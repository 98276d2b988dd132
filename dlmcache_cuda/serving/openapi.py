"""Bodies of requests in /docs: FastAPI does not know them, since they are read by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

_WHERE = "#/components/schemas/{model}"


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """``openapi_extra`` of a route that takes a ``model``."""
    schema = {"$ref": _WHERE.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe_bodies(app: FastAPI, models: Sequence[type[BaseModel]]) -> None:
    """Adds what :func:`body_of` refers to; all routes must be there."""
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_WHERE
    )
    document = app.openapi()
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(definitions["$defs"])
