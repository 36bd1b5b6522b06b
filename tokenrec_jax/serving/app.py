"""The routes. What they do is in `engine.py`, what they say in `wire.py`, who gets so far in `guard.py`."""

import base64
import contextlib
import hashlib
import importlib.resources
import re
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException as StarletteHTTPException

from tokenrec_jax.serving import engine as serving
from tokenrec_jax.serving import wire
from tokenrec_jax.serving.access import Access
from tokenrec_jax.serving.batcher import Closed, Full
from tokenrec_jax.serving.engine import Engine
from tokenrec_jax.serving.guard import Guard
from tokenrec_jax.serving.log import Add, AddItem, Event, LogError, Remove, Restore
from tokenrec_jax.types import ConfigError, DataError

#: Seconds after which a client may come again.
RETRY_AFTER = "1"
MAX_PAGE = 200

_UserPath = Annotated[str, Path(max_length=wire.MAX_ID, description="Id of a user.")]
_ItemPath = Annotated[str, Path(max_length=wire.MAX_ID, description="Id of an item.")]
_User = Annotated[str, Query(max_length=wire.MAX_ID, description="Id of a user.")]
_Item = Annotated[str, Query(max_length=wire.MAX_ID, description="Id of an item.")]
_Text = Annotated[str, Query(max_length=wire.MAX_ID, description="What ids or titles have in them, in any case.")]
_Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many.")]
_Offset = Annotated[int, Query(ge=0, le=1_000_000_000, description="How many to leave out first.")]


def _fails(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns what OpenAPI shall say of the failures of a route."""
    texts = {
        404: "An id is unknown.", 422: "The request is not as described.",
        503: "Busy, stopping, or unable to read or keep it; see Retry-After.",
    }  # fmt: skip
    return {status: {"model": wire.Failure, "description": texts[status]} for status in statuses}


_SHARED: dict[int | str, dict[str, Any]] = {
    401: {"model": wire.Failure, "description": "The API key is missing or wrong."},
    403: {"model": wire.Failure, "description": "Without an API key only this machine is served."},
    408: {"model": wire.Failure, "description": "The body did not come in time."},
    413: {"model": wire.Failure, "description": "The body is too large."},
}


def create_app(engine: Engine, *, access: Access) -> FastAPI:
    """Returns the ASGI application; the engine runs from its start to its end."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await engine.close()

    app = FastAPI(
        title="tokenrec_jax",
        summary="Recommendations of a trained TokenRec, and what it learns of while it runs.",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=_SHARED,
    )
    app.include_router(_pages())
    app.include_router(_state(engine))
    # The guard checks the key; this only tells OpenAPI of it.
    keyed: Sequence[Any] = [Depends(HTTPBearer(auto_error=False))] if access.key else []
    for router in (_recommendations(engine), _lists(engine), _changes(engine), _metrics(engine)):
        app.include_router(router, dependencies=keyed)
    _say_errors(app)
    app.add_middleware(Guard, access=access, metrics=engine.metrics)
    return app


def _recommendations(engine: Engine) -> APIRouter:
    router = APIRouter(tags=["recommendations"])

    @router.post("/recommend", responses=_fails(404, 422, 503))
    async def recommend(body: wire.RecommendationRequest) -> wire.Recommendations:
        """The best items after a history: that of a known user, or one given."""
        query = serving.Query(
            user=body.user,
            history=None if body.history is None else tuple(body.history),
            k=body.k,
            exclude_seen=body.exclude_seen,
            filter=None if body.filter is None else tuple(body.filter),
        )
        found = await engine.recommend(query)
        return wire.Recommendations(
            recommendations=[wire.Recommended(item=one.item, title=one.title, score=one.score) for one in found]
        )

    # A plain function, so run in a thread: it computes, beside the batches.
    @router.get("/explain", responses=_fails(404, 422))
    def explain(user: _User, item: _Item, limit: _Limit = 5) -> wire.Explanation:
        """Why an item is recommended to a user: the items of the history that are nearest to it, and its codes."""
        engine.require(user=user, items=[item])
        why = engine.recommender.explain(user, item)
        nearest = [
            wire.Neighbour(item=one.item, title=one.title, similarity=one.cosine, shared_codes=list(one.shared))
            for one in why.nearest[:limit]
        ]
        return wire.Explanation(
            user=user, item=item, title=why.title, score=why.score, codes=list(why.codes), nearest=nearest
        )

    return router


def _lists(engine: Engine) -> APIRouter:
    router = APIRouter(tags=["users and items"])
    catalogue = engine.catalogue

    # Plain functions run in threads: a search may take milliseconds.
    @router.get("/items", responses=_fails(422))
    def items(query: _Text = "", limit: _Limit = 20, offset: _Offset = 0) -> wire.Items:
        """Items whose title or id has a text in it."""
        found = catalogue.find_items(query, limit=limit, offset=offset)
        return wire.Items(items=[wire.Item(item=one.id, title=one.title) for one in found], total=catalogue.num_items)

    @router.get("/users", responses=_fails(422))
    def users(query: _Text = "", limit: _Limit = 20, offset: _Offset = 0) -> wire.Users:
        """Users whose id has a text in it."""
        found = catalogue.find_users(query, limit=limit, offset=offset)
        return wire.Users(users=[one.id for one in found], total=catalogue.num_users)

    @router.get("/users/{user:path}/history", responses=_fails(404, 422))
    def history(user: _UserPath, limit: _Limit = 50) -> wire.History:
        """What a user did."""
        engine.require(user=user)
        every = engine.recommender.history(user)
        newest = [wire.Item(item=item, title=engine.recommender.title(item)) for item in every[-limit:]]
        return wire.History(user=user, history=newest, total=len(every))

    return router


def _changes(engine: Engine) -> APIRouter:
    router = APIRouter(tags=["changes"])

    @router.post("/interactions", responses=_fails(422, 503))
    async def interactions(body: wire.Interactions) -> wire.Receipt:
        """Interactions to learn of; when this answers they are on the disk and in use. Twice is as once."""
        now = int(time.time())
        events = [
            Add(one.user, one.item, now if one.timestamp is None else one.timestamp, one.title)
            for one in body.interactions
        ]
        return await take_new(events)

    @router.post("/items", responses=_fails(422, 503))
    async def add_items(body: wire.NewItems) -> wire.Receipt:
        """Items that nobody has touched, recommended by what is said of them; needs a run that has learned content."""
        return await take_new([AddItem(one.item, one.title, tuple(one.attributes), one.text) for one in body.items])

    async def take_new(events: Sequence[Event]) -> wire.Receipt:
        try:
            return wire.Receipt(accepted=len(events), sequence=await engine.record(events))
        except DataError as error:
            # Not 404: what is new may name unknown users and items, so this is something else.
            raise HTTPException(422, str(error)) from None

    @router.delete("/items/{item:path}", responses=_fails(404, 422, 503))
    async def remove(item: _ItemPath) -> wire.Receipt:
        """An item that shall not be recommended any more; it stays in histories. Twice is as once."""
        engine.require(items=[item])
        return wire.Receipt(accepted=1, sequence=await engine.record([Remove(item)]))

    @router.put("/items/{item:path}", responses=_fails(404, 422, 503))
    async def restore(item: _ItemPath) -> wire.Receipt:
        """An item that may be recommended again after it was removed. Twice is as once."""
        engine.require(items=[item])
        return wire.Receipt(accepted=1, sequence=await engine.record([Restore(item)]))

    return router


def _state(engine: Engine) -> APIRouter:
    router = APIRouter(tags=["state"])

    @router.get("/health", responses={503: {"model": wire.Health, "description": "Nothing can be recorded."}})
    async def health(response: Response) -> wire.Health:
        """Whether the server can do its work."""
        if engine.log.broken:
            response.status_code = 503
        return wire.Health(
            status=engine.log.broken or "ok",
            users=engine.catalogue.num_users,
            items=engine.catalogue.num_items,
            sequence=engine.log.sequence,
        )

    return router


def _metrics(engine: Engine) -> APIRouter:
    router = APIRouter(tags=["state"])

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(engine.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _pages() -> APIRouter:
    router = APIRouter(include_in_schema=False)
    for path, name in (("/", "page.html"), ("/docs", "docs.html")):
        text = importlib.resources.files("tokenrec_jax.serving").joinpath(name).read_text(encoding="utf-8")
        page = HTMLResponse(text, headers={"content-security-policy": _policy(text), "cache-control": "no-cache"})
        router.add_api_route(path, lambda page=page: page, methods=["GET"], response_class=HTMLResponse)
    return router


def _policy(page: str) -> str:
    """Returns a policy under which a page runs its own script and style, and talks to its own server, no more."""

    def hashes(tag: str) -> Iterable[str]:
        for text in re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL):
            yield f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {' '.join(hashes('script'))}; style-src {' '.join(hashes('style'))}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _say_errors(app: FastAPI) -> None:
    """Makes every failure a JSON object with one line."""

    def say(status: int, error: str, **headers: str) -> JSONResponse:
        # What a client sent may be in it, halves of surrogate pairs included.
        text = error.encode("utf-8", "backslashreplace").decode()
        return JSONResponse({"error": " ".join(text.split())}, status, headers)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        if "json" not in request.headers.get("content-type", "") and any(e["loc"] == ("body",) for e in error.errors()):
            return say(422, "body: is not read; send JSON with the header content-type: application/json")
        return say(422, "; ".join(_told(one) for one in error.errors()[:3]))

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, StarletteHTTPException)
        # FastAPI's word for bodies that even its JSON reader gave up on.
        status = 422 if error.status_code == 400 else error.status_code
        return say(status, str(error.detail), **(error.headers or {}))

    async def unknown(_: Request, error: Exception) -> JSONResponse:
        return say(404, str(error))

    async def busy(_: Request, error: Exception) -> JSONResponse:
        texts = {Full: "too many requests wait; try again later", Closed: "the server is stopping"}
        return say(503, texts.get(type(error), f"not recorded yet: {error}"), **{"Retry-After": RETRY_AFTER})

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(StarletteHTTPException, http)
    app.add_exception_handler(DataError, unknown)
    for kind in (Full, Closed, LogError, ConfigError):
        app.add_exception_handler(kind, busy)


def _told(error: dict[str, Any]) -> str:
    """Returns one finding of pydantic as `body.k: what is wrong`, without what the client sent."""
    place = ".".join(str(part) for part in error["loc"])
    return f"{place}: {error['msg'].removeprefix('Value error, ')}"
