"""The text of items as vectors, by a frozen language model that reads each text once. Read `fit_text_map`.

What a model learns from these vectors is in `models/item_features.py`.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import secrets
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from absl import logging
from flax import nnx
from jaxtyping import Float

from tokenrec_jax.array_files import save_arrays
from tokenrec_jax.data.files import content_hash
from tokenrec_jax.data.vocabulary import load_tokenizer
from tokenrec_jax.models import llm
from tokenrec_jax.numerics import round_up
from tokenrec_jax.types import ConfigError, DataError

#: Tokens of a text that are read; titles and categories are shorter.
MAX_TOKENS = 64
#: Texts that are read at once, and the multiple that their lengths are padded to.
BATCH, LENGTH_MULTIPLE = 64, 16

_FILE = "item_text.safetensors"


@dataclasses.dataclass(frozen=True)
class TextMap:
    """From the states of a language model to the text vectors of a run.

    Attributes:
      name: of the language model.
      mean: of the states over the items of the run.
      basis: principal directions, scaled so that the first component has variance 1.
    """

    name: str
    mean: Float[np.ndarray, " hidden"]
    basis: Float[np.ndarray, "hidden text"]

    def vectors(self, texts: Sequence[str], *, cache: pathlib.Path | None = None) -> Float[np.ndarray, "texts text"]:
        """Returns the vectors of texts; those of empty texts are zero. `cache` as for `text_states`."""
        said = np.array([bool(text) for text in texts])
        vectors = np.zeros((len(texts), self.basis.shape[1]), np.float32)
        if said.any():
            states = text_states(self.name, [text for text in texts if text], cache=cache)
            vectors[said] = (states - self.mean) @ self.basis
        return vectors

    def warm_up(self) -> None:
        """Loads the language model and compiles it for texts of all lengths.

        Raises:
          ConfigError: there is no such model.
        """
        _, read, _ = _load(self.name)
        for length in range(LENGTH_MULTIPLE, MAX_TOKENS + 1, LENGTH_MULTIPLE):
            ids, mask = np.zeros((BATCH, length), np.int32), np.ones((BATCH, length), bool)
            jax.block_until_ready(read(*jax.device_put((ids, mask))))

    def save(self, folder: pathlib.Path) -> None:
        """Writes the map into a folder."""
        arrays = {"mean": self.mean, "basis": np.ascontiguousarray(self.basis)}
        save_arrays(folder / _FILE, arrays, metadata={"name": self.name})

    @classmethod
    def load(cls, folder: pathlib.Path) -> "TextMap":
        """Reads what `save` wrote.

        Raises:
          ConfigError: it is not there or damaged.
        """
        try:
            with safetensors.safe_open(folder / _FILE, framework="numpy") as file:
                return cls(name=file.metadata()["name"], mean=file.get_tensor("mean"), basis=file.get_tensor("basis"))
        except (OSError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise ConfigError(f"{folder / _FILE}: cannot be read ({' '.join(str(error).split())})") from None


def fit_text_map(
    name: str, texts: Sequence[str], *, dim: int, dataset: str, cache: pathlib.Path | None = None
) -> TextMap:
    """Returns the principal components of what a language model makes of the texts of all items.

    Args:
      name: of the language model, as `llm.name`.
      texts: one an item, "" where there is none.
      dim: components that are kept.
      dataset: name of the data set, for errors.
      cache: as for `text_states`; with one, `TextMap.vectors` of the same texts reads nothing again.

    Raises:
      ConfigError: there are fewer texts than components, or no such model.
    """
    filled = [text for text in texts if text]
    if len(filled) < dim:
        raise ConfigError(
            f"{dataset}: {len(filled)} items have text for llm.item_text_dim = {dim}; name data.text_columns or "
            "title_column, or leave llm.item_text empty"
        )
    states = text_states(name, filled, cache=cache)
    mean = states.mean(axis=0)
    _, strength, directions = np.linalg.svd(states - mean, full_matrices=False)
    deviation = max(float(strength[0]) / len(filled) ** 0.5, 1e-12)
    return TextMap(name=name, mean=mean, basis=np.ascontiguousarray(directions[:dim].T / deviation))


def text_states(name: str, texts: Sequence[str], *, cache: pathlib.Path | None) -> Float[np.ndarray, "texts hidden"]:
    """Returns the mean of a language model's last hidden states over the tokens of each text, float32.

    Args:
      name: of the language model, as `llm.name`.
      texts: not empty; the first `MAX_TOKENS` tokens of each count.
      cache: folder that keeps what was read once; None: it is read.

    Raises:
      ConfigError: there is no such model.
      DataError: the cache cannot be written.
    """
    if cache is None:
        return _read(name, texts)
    asked = [name, _files(name), MAX_TOKENS, list(texts)]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    file = cache / f"item-text-{digest}.safetensors"
    if file.is_file():
        try:
            return safetensors.numpy.load_file(file)["states"]
        except (safetensors.SafetensorError, KeyError, OSError):
            logging.warning("%s: damaged; the texts are read again", file)
    states = _read(name, texts)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Whoever writes the same at the same time has a draft of its own.
        draft = file.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}.draft")
        try:
            save_arrays(draft, {"states": states})
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{cache}: cannot keep text vectors here ({error.strerror}); set data.cache_dir or $TOKENREC_CACHE to a "
            "folder that may be written"
        ) from None
    return states


def _files(name: str) -> dict[str, str]:
    """Returns the hashes of the files of a language model that is a path: what it holds may change."""
    path = pathlib.Path(name).expanduser()
    files = sorted(child for child in path.iterdir() if child.is_file()) if path.is_dir() else [path]
    return {file.name: content_hash(file) for file in files if file.is_file()}


def _read(name: str, texts: Sequence[str]) -> Float[np.ndarray, "texts hidden"]:
    tokenizer, read, hidden_size = _load(name)
    tokens = [tokenizer(text)["input_ids"][:MAX_TOKENS] or [tokenizer.eos_token_id] for text in texts]
    states = np.zeros((len(texts), hidden_size), np.float32)
    # Texts of about the same length share a batch.
    order = np.argsort([len(ids) for ids in tokens], kind="stable")
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        length = round_up(max(len(tokens[row]) for row in rows), multiple=LENGTH_MULTIPLE)
        ids, mask = np.zeros((BATCH, length), np.int32), np.zeros((BATCH, length), bool)
        # Rows that only fill the batch read one token.
        mask[:, 0] = True
        for place, row in enumerate(rows):
            ids[place, : len(tokens[row])] = tokens[row]
            mask[place, : len(tokens[row])] = True
        found = read(jax.device_put(ids), jax.device_put(mask))
        states[rows] = jax.device_get(found)[: len(rows)]
        if start // BATCH % 20 == 0:
            logging.info("item text: %d of %d read by %s", min(start + BATCH, len(order)), len(order), name)
    return states


def forget_model() -> None:
    """Frees the language model that texts were read with; it is loaded again when there is need."""
    _load.cache_clear()


@functools.lru_cache(maxsize=1)
def _load(name: str) -> Any:
    """Returns (tokenizer, reader, size of a state); the last ones stay, for items that are added one after another.

    The reader takes ids and a mask [BATCH, length] and is compiled once a length.
    """
    if name.startswith(llm.SCRATCH):
        raise ConfigError(f"llm.item_text is {name!r}; random weights cannot read: give a pretrained model")
    tokenizer = llm.gguf_tokenizer(name) if llm.is_gguf(name) else load_tokenizer(name)
    model = llm.load(name, dropout_rate=0.0, num_tokens=len(tokenizer))
    graphdef, params = nnx.split(model)
    read = jax.jit(functools.partial(_mean_state, graphdef))
    return tokenizer, functools.partial(read, params), model.hidden_size


def _mean_state(graphdef, params, ids, mask):
    """Returns the mean over the tokens that count of the last states: of the encoder, where there is one."""
    model = nnx.merge(graphdef, params)
    states = model.encode(model.embed(ids), mask) if isinstance(model, llm.T5) else model(ids, mask)
    weights = mask[..., None].astype(jnp.float32)
    return jnp.sum(states.astype(jnp.float32) * weights, axis=1) / jnp.sum(weights, axis=1)
