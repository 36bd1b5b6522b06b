"""How the processes of one training find each other before JAX starts, and how they part. Read `join`.

What they then do together is told in `tokenrec_jax/processes.py` and `tokenrec_jax/sharding.py`. When one of them dies
the others end: at once where a collective fails, else when its heartbeats stay away, which JAX reports in its own words
before it aborts. The launch scripts say it in one line and do not wait for that.
"""

import contextlib
import os
import re
import signal
import sys
from typing import Any

import jax
from absl import flags, logging

from tokenrec_jax.processes import wait_for_all
from tokenrec_jax.types import ConfigError

#: Seconds without a sign of life after which a process counts as dead and the others end.
HEARTBEAT_TIMEOUT = 20
#: Seconds to wait for all processes at the start, and at the end.
START_TIMEOUT, END_TIMEOUT = 300, 60

_COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, where several processes meet.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "How many processes train together.")
_PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Number of this process, from 0.")
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed", "off", ["off", "auto"], "auto: a TPU pod, Slurm or Open MPI says which process this is."
)


def join() -> None:
    """Joins the other processes, if the flags ask for it; from then on `jax.devices()` are those of all of them.

    Only process 0 prints and logs afterwards; warnings and errors come from all. Must run before anything else of JAX.

    Raises:
      ConfigError: the flags do not go together, or the other processes cannot be reached.
    """
    asked = _arguments()
    if asked is None:
        return
    # Collectives between CPU processes; says nothing about other backends.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would catch SIGTERM for good, also where nobody looks at it; `training/stopping.py` does what we need.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **asked,
            initialization_timeout=START_TIMEOUT,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=END_TIMEOUT,
        )
    except (ValueError, RuntimeError) as error:
        hint = "start one process for each --process_id" if asked else "no TPU pod, Slurm or Open MPI was found"
        raise ConfigError(f"{_asked_for()}: {_first_line(error)}; {hint}") from None
    # The first exchange finds the way to all others, and waits for half a minute at most; later ones are patient, while
    # process 0 prepares data.
    wait_for_all("joined")
    if jax.process_index():
        logging.set_verbosity(logging.WARNING)
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    here, everywhere = jax.local_device_count(), jax.device_count()
    logging.info("%d processes with %d devices, %d of them here", jax.process_count(), everywhere, here)


def _arguments() -> dict[str, Any] | None:
    """Returns the arguments of `jax.distributed.initialize` that the flags give, None for a process of its own."""
    coordinator, number, own = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    given = bool(coordinator) + (number != 0) + (own != -1)
    if not given:
        return {} if _DISTRIBUTED.value == "auto" else None
    if given != 3 or _DISTRIBUTED.value == "auto":
        raise ConfigError(
            f"{_asked_for()}: --coordinator=HOST:PORT, --num_processes and --process_id go together, without "
            "--distributed=auto"
        )
    if not re.fullmatch(r".+:\d+", coordinator):
        raise ConfigError(f"--coordinator={coordinator}: allowed is HOST:PORT of process 0")
    if number < 1 or not 0 <= own < number:
        raise ConfigError(f"--process_id={own}: allowed is 0 to --num_processes - 1 = {number - 1}")
    return {"coordinator_address": coordinator, "num_processes": number, "process_id": own}


def _asked_for() -> str:
    shown = (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID, _DISTRIBUTED)
    return " ".join(f"--{flag.name}={flag.value}" for flag in shown if flag.value != flag.default)


def lost_process(error: BaseException) -> str:
    """Returns one line if an error means that another process is gone, else nothing."""
    if not jax.distributed.is_initialized() or not _LOST.search(str(error)):
        return ""
    return (
        f"process {jax.process_index()} of {jax.process_count()} lost another process and ends "
        f"({_first_line(error)}); start all of them again with the same command to go on from the last checkpoint"
    )


# What gloo, NCCL, TPU transfers and the coordination service say.
_LOST = re.compile(r"gloo|nccl|connection|coordination|barrier|heartbeat|UNAVAILABLE|DEADLINE_EXCEEDED", re.IGNORECASE)


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else text[:157] + "..."


def leave(status: int, *, at_once: bool = False) -> int:
    """Parts from the other processes, if there are any, and returns the exit status.

    Args:
      status: of this process.
      at_once: end here and now, without waiting for the others; they then notice that this one is gone.
    """
    try:
        if not at_once:
            if jax.distributed.is_initialized():
                jax.distributed.shutdown()
            return status
    except RuntimeError as error:
        logging.warning("the other processes did not end in order: %s", _first_line(error))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    if status == 128 + signal.SIGINT:
        # A shell gives up its loop only if the command died of the signal; the first process of a container cannot.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    # The usual way out waits for a word from all processes.
    os._exit(status or 1)
