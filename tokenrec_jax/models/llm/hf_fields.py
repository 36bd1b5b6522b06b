"""Fields of a Hugging Face config.json, read with their types checked; what they mean is told by the families."""

from typing import Any

from tokenrec_jax.types import ConfigError

#: Marks a field without a default.
REQUIRED: Any = object()

_KINDS = {bool: "true or false", int: "an integer", float: "a number"}


def read_field(values: dict[str, Any], name: str, kind: Any, *, default: Any = REQUIRED) -> Any:
    """Returns a number or a flag; a field that is absent or null takes the default.

    Args:
      values: dict of a config.json.
      name: of the field.
      kind: bool, int or float; a float may be written as an integer.
      default: for absent fields.

    Raises:
      ConfigError: absent without a default, or of another type.
    """
    value = values.get(name)
    if value is None:
        if default is REQUIRED:
            raise ConfigError(f"{name} is missing; allowed: {_KINDS[kind]}")
        return default
    if kind is bool:
        good = isinstance(value, bool)
    else:
        good = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if not good:
        raise ConfigError(f"{name} is {value!r}; allowed: {_KINDS[kind]}")
    return kind(value)


def refuse(values: dict[str, Any], allowed: dict[str, tuple[Any, ...]]) -> None:
    """Raises `ConfigError` if an option is there with another value than those that we compute.

    Args:
      values: dict of a config.json.
      allowed: for each option the values that are fine; null and absence always are.
    """
    for name, good in allowed.items():
        value = values.get(name)
        if value is not None and value not in good:
            listed = ", ".join(map(repr, good)) or "nothing"
            raise ConfigError(f"{name} is {value!r}, which is not supported; allowed: {listed}")


def check_range(name: str, value: int | float, *, good: bool, allowed: str) -> None:
    """Raises `ConfigError` about a value that makes no model unless it is good."""
    if not good:
        raise ConfigError(f"{name} is {value}; allowed: {allowed}")
