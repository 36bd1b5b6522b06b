"""Files of Hugging Face checkpoints: where the folder is, what config.json says, tensors read slice by slice.

Only safetensors is read: no pickle, no code from a checkpoint. What the tensors mean is told by `families.py`.
Read `find_tensors`.
"""

import dataclasses
import json
import pathlib
from typing import Any

import huggingface_hub
import numpy as np
import safetensors
from absl import logging
from huggingface_hub.errors import HFValidationError
from jaxtyping import Float

from tokenrec_jax.types import ConfigError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
#: What is fetched from the hub: weights, configs and tokenizers; no pickles and no code.
HUB_PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt")


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, not in memory.

    Attributes:
      path: safetensors file.
      key: name of the tensor there.
      shape: its sizes.
    """

    path: pathlib.Path
    key: str
    shape: tuple[int, ...]

    def read(self, index: tuple[slice, ...]) -> Float[np.ndarray, "..."]:
        """Returns a slice as float32; only its bytes are read.

        The file is opened each time: pages of a memory map count as memory of the process until it is closed, and
        over a whole checkpoint they would add up to a second copy of it.

        Raises:
          ConfigError: the file is damaged.
        """
        try:
            with safetensors.safe_open(self.path, framework="numpy") as file:
                part = file.get_slice(self.key)[index] if index else file.get_tensor(self.key)
                # Also turns bfloat16, which is no type of numpy's own, into float32.
                return np.asarray(part, np.float32)
        except safetensors.SafetensorError as error:
            raise _damaged(self.path, error) from None


def find_tensors(folder: pathlib.Path) -> list[StoredTensor]:
    """Returns all tensors of model.safetensors or of its shards, from the headers of the files.

    Raises:
      ConfigError: files are missing or damaged.
    """
    found = []
    for path in _weight_files(folder):
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                for key in file.keys():  # noqa: SIM118 - not a dict
                    found.append(StoredTensor(path=path, key=key, shape=tuple(file.get_slice(key).get_shape())))
        except safetensors.SafetensorError as error:
            raise _damaged(path, error) from None
    return found


def find_folder(name_or_path: str) -> pathlib.Path:
    """Returns the local folder of a checkpoint, fetched into huggingface_hub's cache if it is a hub id.

    Raises:
      ConfigError: neither an existing folder nor a hub id that is cached or can be reached.
    """
    folder = pathlib.Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder
    # Without a network it takes a minute until the client gives up.
    logging.info("%s is no folder: asking the Hugging Face hub and its cache", name_or_path)
    try:
        return pathlib.Path(huggingface_hub.snapshot_download(name_or_path, allow_patterns=list(HUB_PATTERNS)))
    except HFValidationError:
        raise ConfigError(
            f"{name_or_path}: no such folder, nor a hub id; allowed: a folder with {CONFIG} and {WEIGHTS}, "
            "or an id such as google-t5/t5-small"
        ) from None
    except Exception as error:
        # The hub's client lets errors of several libraries through: offline, unknown id, no permission.
        raise ConfigError(
            f"{name_or_path}: no such folder, and not to be had from the hub ({type(error).__name__}); give "
            f"a folder with {CONFIG} and {WEIGHTS}, or fill the cache (HF_HOME) where there is a network"
        ) from None


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the object that a JSON file holds.

    Raises:
      ConfigError: no such file, or it holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; allowed: a folder in Hugging Face's layout") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not JSON: not UTF-8") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}:1: {type(values).__name__} where an object is allowed")
    return values


def _weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        weight_map = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise ConfigError(f"{folder / INDEX}: no weight_map; allowed: a map of tensor names to file names")
        names = sorted(set(weight_map.values()))
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise ConfigError(f"{folder}: shards are missing: {', '.join(absent)}; download the model again")
        return [folder / name for name in names]
    if (folder / "pytorch_model.bin").is_file() or (folder / "pytorch_model.bin.index.json").is_file():
        raise ConfigError(
            f"{folder}: only pytorch_model.bin, a pickle, which is not read; convert it where you trust it: load it "
            "with from_pretrained(folder) of its class in transformers, then save_pretrained(folder)"
        )
    raise ConfigError(
        f"{folder}: no weights; allowed: {WEIGHTS}, or {INDEX} with its shards (of a hub id that has pickles only "
        "nothing is fetched: load it with from_pretrained of its class in transformers where you trust it, then "
        "save_pretrained(folder))"
    )


def _damaged(path: pathlib.Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path}: truncated, or not safetensors ({error}); download it again")
