"""Servers over the fake recommender; skipped where the extra `serve` is not installed."""

import contextlib
import threading
import time

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
uvicorn = pytest.importorskip("uvicorn")

from tests.serving.fake import FakeRecommender  # noqa: E402
from tokenrec_jax.serving.access import Access  # noqa: E402
from tokenrec_jax.serving.app import create_app  # noqa: E402
from tokenrec_jax.serving.batcher import Limits  # noqa: E402
from tokenrec_jax.serving.engine import Engine, fingerprint  # noqa: E402
from tokenrec_jax.serving.http import BoundedHttp  # noqa: E402
from tokenrec_jax.serving.log import InteractionLog  # noqa: E402
from tokenrec_jax.serving.metrics import Metrics  # noqa: E402


def make_engine(folder, recommender=None, **limits):
    recommender = recommender or FakeRecommender()
    log = InteractionLog.open(folder / "interactions.jsonl", run=fingerprint(recommender))
    return Engine(recommender, log, limits=Limits(**limits), metrics=Metrics())


@contextlib.contextmanager
def listening(app):
    """Yields the address of an app on a real port of this machine."""
    server = uvicorn.Server(uvicorn.Config(app, http=BoundedHttp, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def engine(tmp_path):
    return make_engine(tmp_path)


@pytest.fixture
def client(engine):
    """A client of an app that runs; its address is that of this machine."""
    from starlette.testclient import TestClient

    with TestClient(create_app(engine, access=Access()), base_url="http://127.0.0.1") as client:
        yield client
