"""What all mains share: flags, one line and exit status 1 for every failure that a user can cause. Read `run`."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from logging import WARNING
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags
from ml_collections.config_flags.config_flags import UnparsedFlagError

from experiments import distributed
from tokenrec_jax.config import Config, MeshConfig
from tokenrec_jax.config_checks import validate
from tokenrec_jax.types import ConfigError, StoppedError, StorageError, TokenRecError

WORKDIR = flags.DEFINE_string("workdir", "", "Directory of the run.")


def define_config(*others: type) -> Callable[[], Any]:
    """Defines --config and returns the function that reads it, a `Config`, checked, or one of `others`, unchecked.

    `--config=experiments/configs/lastfm.py:compact` passes "compact" to the file's get_config; single fields are
    overridden as --config.train.batch_size=64.
    """
    holder = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)

    def read() -> Any:
        config = holder.value
        if config is None:
            raise ConfigError("--config: not given; name a config file such as experiments/configs/quickstart.py")
        if not isinstance(config, (Config, *others)):
            # A file that cannot be read or run is reported by the library only when a field of it is looked at.
            raise ConfigError(f"--config: {_reason(config)}; give a Python file whose get_config returns a Config")
        config.data.feature_columns = _listed(config.data.feature_columns)
        config.data.text_columns = _listed(config.data.text_columns)
        if isinstance(config, Config):
            config.stages = _listed(config.stages)
            validate(config)
        return config

    return read


def define_mesh(text: str) -> Callable[[], MeshConfig | None]:
    """Defines --mesh=DATA,FSDP,TENSOR and returns the function that reads it, None where it is not given."""
    holder = flags.DEFINE_list("mesh", [], text)

    def read() -> MeshConfig | None:
        if not holder.value:
            return None
        if len(holder.value) != 3 or not all(part.isdecimal() for part in holder.value):
            raise ConfigError(f"--mesh={','.join(holder.value)}: allowed are three numbers for data, fsdp and tensor")
        return MeshConfig(*(int(part) for part in holder.value))

    return read


#: For mains that open a run.
OPENED_MESH = "Devices along data, fsdp and tensor; empty: cut as in training, as far as there are devices."


def _listed(given: Sequence[object]) -> tuple[str, ...]:
    """Returns the parts of a list, which comes from the command line as one string or number in a tuple: "a, b"."""
    return tuple(part.strip() for one in given for part in str(one).split(",") if part.strip())


def _reason(config: object) -> str:
    """Returns in one line why `config` is not one."""
    try:
        config.seed  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
    except Exception as error:
        return " ".join(str(error).split())
    return f"got a {type(config).__name__}"


def run(main: Callable[[], None]) -> None:
    """Parses the flags, joins other processes if asked, runs `main` and exits: 0, or 1 after one line on stderr."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    handler = logging.get_absl_handler()
    handler.setFormatter(_Plain())
    handler.addFilter(_ours_or_serious)
    app.run(lambda _: sys.exit(_together(main)), flags_parser=_parse)


def guarded(main: Callable[[], None]) -> int:
    """Runs `main` and returns the exit status; failures that a user can mend become one line.

    With --verbosity=1 the traceback of what the file system refused is logged too.
    """
    try:
        main()
        sys.stdout.flush()
    except StorageError as error:
        return _failed(str(error), status=_STORAGE)
    except StoppedError as error:
        return _failed(str(error), status=128 + error.number)
    except TokenRecError as error:
        return _failed(str(error))
    except BrokenPipeError:
        # Whoever reads the output has seen enough; what Python writes at its end must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _OF_THE_FILE_SYSTEM:
            raise
        logging.debug("traceback", exc_info=True)
        where = f"{error.filename}: " if error.filename else ""
        return _failed(f"{where}{error.strerror}; run the same command again when that is mended", status=_STORAGE)
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        return _failed("stopped; run the same command again", status=128 + number)
    return 0


#: Exit status where files cannot be written or read, as in sysexits.h.
_STORAGE = 74
#: No space, no right, no device, no more files: what a user can mend, whichever file it is about.
_OF_THE_FILE_SYSTEM = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE,
    errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR,
}  # fmt: skip


def _failed(line: str, *, status: int = 1) -> int:
    print(f"error: {line}", file=sys.stderr)
    return status


def _interrupt(number: int, _frame: object) -> None:
    """Ends a main where it stands, with all that it tidies up on its way out."""
    raise KeyboardInterrupt(number)


def _together(main: Callable[[], None]) -> int:
    """Runs `main` as one of several processes, if flags ask for it, and returns the exit status."""

    def joined() -> None:
        distributed.join()
        # Not before: while the processes meet, Python is not asked, and the usual way is to die at once.
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            main()
        except StoppedError:
            # All processes have saved and stop after the same step: they part in order.
            distributed.leave(0)
            raise

    try:
        status = guarded(joined)
        # Stopped, or with a full disk, nothing is left to tidy up; libraries that try would only fail aloud, or wait.
        return distributed.leave(status, at_once=status > 1)
    except Exception as error:
        line = distributed.lost_process(error)
        if line:
            _failed(line)
        elif jax.distributed.is_initialized():
            traceback.print_exc()
        else:
            raise
        return distributed.leave(1, at_once=True)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        program, *left = flags.FLAGS(list(argv))
        if left:
            raise ValueError(f"{left[0]!r} is no flag; flags are given as --name=value, switches as --name or --noname")
        return [program]
    except TokenRecError as error:
        # A config file refuses its argument.
        sys.exit(_failed(f"--config: {error}"))
    except (
        flags.Error,
        UnparsedFlagError,
        KeyError,
        ValueError,
        TypeError,
        OSError,
        AttributeError,
    ) as error:
        sys.exit(_failed(f"command line: {' '.join(str(error).split())}"))


def _ours_or_serious(record) -> bool:
    """Drops the chatter of libraries that log through absl too; their warnings stay."""
    return record.levelno >= WARNING or any(part in record.pathname for part in _OUR_FOLDERS)


_OUR_FOLDERS = tuple(f"{os.sep}{name}{os.sep}" for name in ("tokenrec_jax", "experiments"))


class _Plain(logging.PythonFormatter):
    """Log lines without file names: this is what users read."""

    def format(self, record) -> str:
        return f"[{self.formatTime(record, '%H:%M:%S')}] {record.getMessage()}"
