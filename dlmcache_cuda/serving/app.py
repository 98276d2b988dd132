"""The routes."""

from __future__ import annotations

import hmac
import logging
import time
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import dlmcache_cuda
from dlmcache_cuda.model import Llada
from dlmcache_cuda.serving.answers import Answer
from dlmcache_cuda.serving.body import parse_body, read_body
from dlmcache_cuda.serving.delivery import CLIENT_LEFT, EventStream, deliver
from dlmcache_cuda.serving.engine import Engine
from dlmcache_cuda.serving.errors import ApiError
from dlmcache_cuda.serving.intake import Intake, ServerDefaults, check_defaults
from dlmcache_cuda.serving.limits import Limits
from dlmcache_cuda.serving.metrics import Metrics
from dlmcache_cuda.serving.openapi import body_of, describe_bodies
from dlmcache_cuda.serving.protocol import ChatRequest, CompletionRequest
from dlmcache_cuda.serving.text_codec import TextCodec
from dlmcache_cuda.serving.traffic import CHAT, COMPLETIONS, Traffic

_log = logging.getLogger(__name__)


def create_app(
    model: Llada,
    *,
    defaults: ServerDefaults,
    limits: Limits,
    name: str | None = None,
    api_key: str | None = None,
) -> FastAPI:
    """An ASGI application that serves one model. Its engine runs from startup to shutdown, as often
    as there is one after the other, and is found at ``app.state.engine``.

    Args:
        model: from :func:`dlmcache_cuda.load`.
        defaults: what requests get that say nothing.
        limits: what is refused.
        name: what the model is called. Default: ``model.name``.
        api_key: what requests under ``/v1`` must bring as bearer token. Default: nothing.

    Raises:
        FileNotFoundError: the checkpoint has no tokenizer.
        ValueError: the limits are more than the model has positions, the defaults more than the
            limits allow, or the key is empty.
    """
    if api_key == "":
        raise ValueError("api_key must not be empty; None asks for no key")
    limits.fitted_to(model.config.max_sequence_length, ("max_prompt_length", "max_gen_length"))
    check_defaults(defaults, limits)
    name = name or model.name
    metrics = Metrics(limits.num_slots, limits.max_lanes)
    codec = TextCodec(model)
    engine = Engine(model, limits, codec, metrics)
    intake = Intake(model, name, defaults, limits, codec)

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        engine.start()
        try:
            yield
        finally:
            engine.close()

    app = FastAPI(
        title="dlmcache_cuda",
        version=dlmcache_cuda.__version__,
        description="Diffusion language models behind OpenAI's API.",
        lifespan=lifespan,
    )
    app.state.engine = engine
    app.add_middleware(Traffic, metrics=metrics, max_connections=limits.max_connections)
    _answer_errors(app)
    app.include_router(_completions(engine, intake, limits, api_key))
    app.include_router(_about(engine, metrics))
    describe_bodies(app, (CompletionRequest, ChatRequest))
    return app


def _completions(engine: Engine, intake: Intake, limits: Limits, api_key: str | None) -> APIRouter:
    async def authorised(request: Request) -> None:
        if api_key is None:
            return
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {api_key}".encode()):
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")

    router = APIRouter(dependencies=[Depends(authorised)])
    created = int(time.time())

    async def answer(request: Request, kind: type[CompletionRequest] | type[ChatRequest]):
        parsed = parse_body(await read_body(request, limits), kind)
        jobs = await intake.jobs(parsed)
        engine.submit(jobs)
        made = Answer(intake.name, chat=kind is ChatRequest)
        if parsed.stream:
            return EventStream(engine, made, jobs, parsed.include_usage)
        return await deliver(request, engine, made, jobs)

    @router.post(COMPLETIONS, openapi_extra=body_of(CompletionRequest))
    async def completions(request: Request) -> Response:
        """Continue a text."""
        return await answer(request, CompletionRequest)

    @router.post(CHAT, openapi_extra=body_of(ChatRequest))
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation."""
        return await answer(request, ChatRequest)

    def described() -> dict:
        return {"id": intake.name, "object": "model", "created": created, "owned_by": "dlmcache"}

    @router.get("/v1/models")
    async def models() -> dict:
        """The model that is served."""
        return {"object": "list", "data": [described()]}

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> dict:
        """The same by name."""
        intake.check_model(name)
        return described()

    return router


def _about(engine: Engine, metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    async def health() -> Response:
        """200 while requests can be served, 503 with a reason otherwise."""
        problem = engine.problem
        content = {
            "status": problem or "ok",
            "sequences_running": engine.num_running,
            "sequences_waiting": engine.num_waiting,
        }
        return JSONResponse(content, 200 if problem is None else 503)

    @router.get("/metrics")
    async def prometheus() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _answer_errors(app: FastAPI) -> None:
    """All errors are JSON in OpenAI's form."""

    @app.exception_handler(ApiError)
    async def of_ours(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def of_routing(request: Request, error: HTTPException) -> Response:
        where = f"{request.method} {request.url.path}"
        response = ApiError(error.status_code, f"{where}: {error.detail}").response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(ClientDisconnect)
    async def of_clients(_: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_LEFT)

    @app.exception_handler(Exception)
    async def of_bugs(_: Request, error: Exception) -> Response:
        return ApiError(500, "internal error; the server's log has the details").response()
