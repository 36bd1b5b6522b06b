"""Functions out of Python files that a flag names. Read `load_function`."""

import importlib.util
import pathlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tokenrec_jax.types import ConfigError


def load_function(given: str, name: str, *, flag: str) -> tuple[ModuleType, Callable[..., Any], list[str]]:
    """Returns the module of FILE[:ARGUMENT], its function `name`, and the argument in a list, empty if there is none.

    Args:
      given: FILE[:ARGUMENT]; relative to the current directory.
      name: of the function.
      flag: for messages.

    Raises:
      ConfigError: there is no such file or function, or the file cannot be run.
    """
    file, colon, argument = given.partition(":")
    path = pathlib.Path(file)
    if path.suffix != ".py" or not path.is_file():
        raise ConfigError(f"{flag}={given}: no such file; allowed is FILE.py or FILE.py:ARGUMENT")
    spec = importlib.util.spec_from_file_location(f"_given_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module, getattr(module, name), [argument] if colon else []
    # What a user wrote may fail in any way.
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"{flag}={given}: {reason}; the file must define {name}") from None
