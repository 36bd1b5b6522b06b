"""Functions out of Python files that a flag names. Read `load_function`."""

import contextlib
import importlib.util
import pathlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from tokenrec_jax.types import ConfigError


def load_function(given: str, name: str, *, flag: str) -> tuple[ModuleType, Callable[[], Any]]:
    """Returns the module of FILE[:ARGUMENT], and its function `name` with the argument, if there is one, filled in.

    Args:
      given: FILE[:ARGUMENT]; relative to the current directory.
      name: of the function.
      flag: for messages.

    Raises:
      ConfigError: there is no such file or function, or the file cannot be run; calling the function raises no other
        error either.
    """
    file, colon, argument = given.partition(":")
    path = pathlib.Path(file)
    if path.suffix != ".py" or not path.is_file():
        raise ConfigError(f"{flag}={given}: no such file; allowed is FILE.py or FILE.py:ARGUMENT")
    spec = importlib.util.spec_from_file_location(f"_given_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _as_config_error(f"{flag}={given}", f"the file must define {name}"):
        spec.loader.exec_module(module)
        function = getattr(module, name)

    def call() -> Any:
        with _as_config_error(
            f"{flag}={given}", f"{name} was called with {f'the argument {argument!r}' if colon else 'no argument'}"
        ):
            return function(*([argument] if colon else []))

    return module, call


@contextlib.contextmanager
def _as_config_error(where: str, advice: str) -> Iterator[None]:
    """Turns whatever goes wrong in a user's file, which may be anything, into one line."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"{where}: {reason}; {advice}") from None
