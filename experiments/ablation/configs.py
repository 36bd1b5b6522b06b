"""Whole configs as values: read from a file, changed by overrides, written as flags, compared. Read `make_config`.

Works on any nested data class, so that configs of baselines may have a type of their own.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.ablation.python_file import load_function
from experiments.baseline_config import BaselineConfig
from tokenrec_jax.config import Config
from tokenrec_jax.config_checks import validate
from tokenrec_jax.data.files import read_json
from tokenrec_jax.types import ConfigError

#: A config as dotted names and values of JSON.
Flat = dict[str, Any]


def make_config(given: str, overrides: Mapping[str, Any]) -> Any:
    """Returns the config of FILE[:ARGUMENT] with some fields replaced, checked if it is one of ours.

    Raises:
      ConfigError: the file cannot be used, a field is unknown or of another type, or the config is not valid.
    """
    _, get_config = load_function(given, "get_config", flag="--config")
    config = get_config()
    if not dataclasses.is_dataclass(config):
        raise ConfigError(f"--config={given}: get_config returned a {type(config).__name__}; allowed is a data class")
    for name, value in overrides.items():
        _override(config, name, value)
    if isinstance(config, Config):
        validate(config)
    elif isinstance(config, BaselineConfig):
        config.loop_config()
    return config


def _override(config: Any, name: str, value: Any) -> None:
    *sections, field = name.split(".")
    target = config
    for section in sections:
        target = getattr(target, section, None)
    if not hasattr(target, field):
        raise ConfigError(f"{name}: there is no such field in {type(config).__name__}")
    old = getattr(target, field)
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(old):
        raise ConfigError(f"{name} is {value!r}; allowed is a {type(old).__name__}, such as {old!r}")
    setattr(target, field, value)


def override_flags(overrides: Mapping[str, Any]) -> list[str]:
    """Returns overrides as the mains read them: --config.NAME=VALUE."""
    return [f"--config.{name}={_flag_value(value)}" for name, value in overrides.items()]


def _flag_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and value and all(isinstance(part, str) for part in value):
        return ",".join(value)
    return str(value)


def flatten(config: Any) -> Flat:
    """Returns a config, or what its config.json holds, as dotted names and values of JSON."""
    tree = config if isinstance(config, dict) else json.loads(json.dumps(dataclasses.asdict(config)))
    flat: Flat = {}
    for key, value in tree.items():
        flat |= (
            {f"{key}.{name}": leaf for name, leaf in flatten(value).items()}
            if isinstance(value, dict)
            else {key: value}
        )
    return flat


def read_config(folder: pathlib.Path) -> Flat | None:
    """Returns what config.json of a run holds, None if the run has not begun.

    Raises:
      DataError: it is damaged.
    """
    file = folder / "config.json"
    return flatten(read_json(file, advice=f"remove {folder} to train it again")) if file.is_file() else None


def differences(there: Flat, here: Flat) -> list[str]:
    """Returns the names of the fields in which two configs differ."""
    return [name for name in sorted(there | here) if there.get(name, _ABSENT) != here.get(name, _ABSENT)]


_ABSENT = object()
