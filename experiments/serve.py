"""Serves a finished run over HTTP, with a page for people at `/` and the API's description at `/docs`.

  python -m experiments.serve --workdir=DIR [--host=127.0.0.1] [--port=8000] [--state=DIR/serving]

Other machines are served with an API key only: TOKENREC_API_KEY=... python -m experiments.serve --host=0.0.0.0 ...
SIGTERM or Ctrl-C ends it after the requests that it has taken. Needs the extra `serve`.
"""

import contextlib
import os
import pathlib
import signal
import socket
import sys
from collections.abc import Iterator

from absl import flags, logging

from experiments import cli
from tokenrec_jax.recommender import Recommender
from tokenrec_jax.types import ConfigError

try:
    import uvicorn

    from tokenrec_jax.serving.access import KEY_VARIABLE, Access
    from tokenrec_jax.serving.app import create_app
    from tokenrec_jax.serving.batcher import Limits
    from tokenrec_jax.serving.engine import K_STEPS, Engine, fingerprint
    from tokenrec_jax.serving.http import BoundedHttp
    from tokenrec_jax.serving.log import InteractionLog
    from tokenrec_jax.serving.metrics import Metrics
    from tokenrec_jax.serving.wire import MAX_HISTORY
except ModuleNotFoundError as error:
    print(f"error: the package {error.name} is missing; pip install -e '.[serve]'", file=sys.stderr)
    sys.exit(1)

#: Seconds that taken requests have when the server ends.
GRACE = 30

_MESH = cli.define_mesh(cli.OPENED_MESH)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.")
_PORT = flags.DEFINE_integer("port", 8000, "Port to listen on, 0: any free one.", lower_bound=0, upper_bound=65535)
_STATE = flags.DEFINE_string("state", "", "Directory of the log of what is told, empty: WORKDIR/serving.")
_BATCH = flags.DEFINE_integer("max_batch", 64, "Most requests that are answered together.", lower_bound=1)
_WAIT = flags.DEFINE_float("max_wait_ms", 2.0, "Milliseconds that a request waits for company.", lower_bound=0.0)
_QUEUE = flags.DEFINE_integer("max_queue", 1024, "Most waiting requests; more are answered 503.", lower_bound=1)


def main() -> None:
    """Loads the run, replays the log, listens until a signal comes."""
    access = Access.of(_HOST.value, key=os.environ.get(KEY_VARIABLE, ""))
    # All that can be wrong with the command line is said before the model is loaded.
    with contextlib.closing(_bound(_HOST.value, _PORT.value)) as listener:
        recommender = Recommender.load(cli.WORKDIR.value, mesh=_MESH())
        folder = pathlib.Path(_STATE.value or pathlib.Path(cli.WORKDIR.value, "serving"))
        log = InteractionLog.open(folder / "interactions.jsonl", run=fingerprint(recommender))
        with contextlib.closing(log):
            limits = Limits(batch=_BATCH.value, wait=_WAIT.value / 1000, pending=_QUEUE.value)
            engine = Engine(recommender, log, limits=limits, metrics=Metrics())
            logging.info("compiling what requests will run")
            larger = [size for size in recommender.batch_sizes if size >= _BATCH.value]
            sizes = [size for size in recommender.batch_sizes if size < _BATCH.value] + larger[:1]
            for k in K_STEPS:
                recommender.warm_up(batch_sizes=sizes, k=k, longest=MAX_HISTORY)
            app = create_app(engine, access=access)
            config = uvicorn.Config(
                app,
                http=BoundedHttp,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE,
            )
            with _ended_by_signals():
                _Server(config).run(sockets=[listener])
    logging.info("all requests are answered, the log has %d lines", log.sequence + 1)


class _Server(uvicorn.Server):
    """Says where it is, once a client that reads this would be answered."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            logging.info("listening on http://%s:%d/", f"[{host}]" if ":" in host else host, port)


def _bound(host: str, port: int) -> socket.socket:
    """Returns a socket that has the address, and refuses connections until the server listens."""
    listener = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        if listener:
            listener.close()
        raise ConfigError(f"--host={host} --port={port}: {error.strerror}; give an address and a free port") from None
    return listener


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Lets the server handle SIGTERM and SIGINT; afterwards it raises them once more, for whoever comes after it."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    cli.run(main)
