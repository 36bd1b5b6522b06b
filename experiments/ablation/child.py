"""A job as a process of its own: its output goes to a file, signals reach it once, and a directory has one runner.

Read `Children`.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import IO

from tokenrec_jax.data.files import hold_or_refuse
from tokenrec_jax.types import ConfigError

#: Buffers of a train step on a CPU come from huge pages: fewer page faults. See README, "A run".
HUGE_PAGES = "glibc.malloc.hugetlb=1"


class Children:
    """Runs commands one after another and passes SIGINT and SIGTERM on to the one that runs.

    The first signal lets the process save and end; a second one kills it.

    Attributes:
      signals: numbers of those that came.
    """

    def __init__(self, lock: IO[str], *, programs: str):
        """Prepares.

        Args:
          lock: what `only_runner` gave.
          programs: folder in which the processes leave compiled programs for each other, unless the environment names
            one. It must not outlive this machine: a program for one CPU can crash on another.
        """
        self.signals: list[int] = []
        self._lock = lock
        self._environment = {"JAX_COMPILATION_CACHE_DIR": programs, "GLIBC_TUNABLES": HUGE_PAGES, **os.environ}
        self._process: subprocess.Popen | None = None
        self._delivered = 0

    @contextlib.contextmanager
    def catching_signals(self) -> Iterator[None]:
        """Handles signals for the time of the block."""
        before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self, command: Sequence[str], log: pathlib.Path) -> int:
        """Runs a command to its end and returns its exit status; what it prints is appended to `log`."""
        with log.open("ab") as output:
            # In a session of its own, or Ctrl-C on a terminal would reach it a second time. It holds the lock too: a
            # runner that is killed leaves it running, and the next runner must not start beside it.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=self._environment,
                pass_fds=[self._lock.fileno()],
            )
            self._deliver()
            status = self._process.wait()
        self._process = None
        return status

    def _receive(self, number: int, _frame: object) -> None:
        self.signals.append(number)
        self._deliver()

    def _deliver(self) -> None:
        """Sends on what came since; a signal may come before the process is known."""
        while self._process is not None and self._delivered < len(self.signals):
            self._delivered += 1
            number = self.signals[self._delivered - 1]
            self._process.send_signal(number if self._delivered == 1 else signal.SIGKILL)


@contextlib.contextmanager
def only_runner(workdir: pathlib.Path) -> Iterator[IO[str]]:
    """Makes the directory of a grid and holds it for this runner and its children.

    Raises:
      ConfigError: another runner, or a child that it left, works there; or the directory cannot be made.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / ".lock").open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--workdir={workdir}: {error.strerror}; give a directory that can be written") from None
    with file:
        busy = "another runner, or a training that it left behind, works there; wait for it"
        hold_or_refuse(file.fileno(), where=f"--workdir={workdir}", busy=busy)
        yield file
