"""A server that is killed while it writes, and starts again: all that it acknowledged is there."""

import concurrent.futures
import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from tests.conftest import REPOSITORY
from tests.serving.conftest import make_engine
from tokenrec_jax.serving.access import Access
from tokenrec_jax.serving.app import create_app

CLIENTS = 6


def serve(folder: str) -> None:
    """Serves the fake until a signal comes; runs in a process of its own."""
    import socket

    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    pathlib.Path(folder, "port").write_text(str(listener.getsockname()[1]))
    app = create_app(make_engine(pathlib.Path(folder)), access=Access())
    uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).run(sockets=[listener])


def start(folder: pathlib.Path) -> tuple[subprocess.Popen[bytes], int]:
    port = folder / "port"
    port.unlink(missing_ok=True)
    code = f"from tests.serving.test_crash import serve; serve({str(folder)!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    deadline = time.monotonic() + 60
    while not (port.exists() and port.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    return process, int(port.read_text())


def tell(port: int, name: str, stop: threading.Event, acknowledged: list[str]) -> None:
    """Tells of one interaction after another; the users of those that are acknowledged go to `acknowledged`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    number = 0
    while not stop.is_set():
        user = f"{name}-{number}"
        body = json.dumps({"interactions": [{"user": user, "item": f"i{number % 40}"}]})
        try:
            connection.request("POST", "/interactions", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            break
        assert answer.status == 200
        acknowledged.append(user)
        number += 1
    connection.close()


def test_nothing_acknowledged_is_lost(tmp_path):
    acknowledged: list[str] = []
    for end in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        process, port = start(tmp_path)
        stop, enough = threading.Event(), len(acknowledged) + 60
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            clients = [
                pool.submit(tell, port, f"{process.pid}-{client}", stop, acknowledged) for client in range(CLIENTS)
            ]
            deadline = time.monotonic() + 60
            while len(acknowledged) < enough and time.monotonic() < deadline:
                time.sleep(0.01)
            # The clients go on telling while it ends.
            process.send_signal(end)
            process.wait(timeout=60)
            stop.set()
            for client in clients:
                client.result()
    assert len(acknowledged) >= enough
    engine = make_engine(tmp_path)
    missing = [user for user in acknowledged if not engine.catalogue.has_user(user)]
    engine.log.close()
    assert not missing
