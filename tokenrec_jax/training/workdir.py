"""The working directory of a run: which files lie in it and what may be done with it. Read `Workdir`.

config.json      the whole config, written first
dataset/         the prepared interactions with id maps and titles: a run needs nothing outside of its directory
metrics.jsonl, tensorboard/
checkpoints/
ranks.safetensors   rank of every evaluated user's target: what result.json's figures are means of
result.json      written last; a run that has it is finished
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import transformers
from absl import logging
from jaxtyping import Int

from tokenrec_jax.config import Config, from_json, to_json
from tokenrec_jax.data.files import (
    content_hash,
    empty_target,
    hold,
    new_folder,
    read_json,
    storage_error,
    write_whole,
)
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.models.llm import LanguageModelConfig
from tokenrec_jax.processes import is_main, main_first, said_by_main, wait_for_all
from tokenrec_jax.training.checkpoint import FINAL, PUT_BACK
from tokenrec_jax.training.item_text import TextMap
from tokenrec_jax.types import ConfigError

_RANK_AGAIN = "remove result.json and run the training command again, which goes on from its last checkpoint"

#: Field of a result.json: `Workdir.result_hash` of the run that this one rests on.
BUILT_ON = "built_on"


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Paths and JSON files of a run."""

    path: pathlib.Path

    @classmethod
    def start(cls, path: str, config: Any) -> "Workdir":
        """Opens a directory for training with a config: a new one, or one that this very config has begun.

        Nothing is written before `begin`, so that a run that cannot start leaves nothing behind. The config is a
        `Config`, or the data class of a run that trains something else, such as a baseline.

        Raises:
          ConfigError: it belongs to a run with another config.
        """
        workdir = cls(_given(path))
        if workdir.begun:
            _same_config(workdir._config, config)
        return workdir

    def begin(
        self,
        config: Any,
        interactions: Interactions,
        *,
        language_model: LanguageModelConfig | None = None,
        tokenizer: transformers.PreTrainedTokenizerBase | None = None,
        text: TextMap | None = None,
    ) -> None:
        """Writes what a run needs besides its checkpoints, so that it depends on no other file from now on.

        A directory that has it already stays as it is; so it is written once, however many processes call this. A
        baseline has no language model to write.

        Raises:
          ConfigError: the directory cannot be written.
        """
        with main_first("begin run"):
            if not self.begun:
                self._write(config, interactions, language_model=language_model, tokenizer=tokenizer, text=text)

    def _write(
        self,
        config: Any,
        interactions: Interactions,
        *,
        language_model: LanguageModelConfig | None,
        tokenizer: transformers.PreTrainedTokenizerBase | None,
        text: TextMap | None,
    ) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            interactions.save(self.path / "dataset")
            if language_model is not None and tokenizer is not None:
                with new_folder(self.language_model, replace=True) as folder:
                    (folder / "config.json").write_text(json.dumps(language_model.to_hf(), indent=2), encoding="utf-8")
                    tokenizer.save_pretrained(folder)
                    if text is not None:
                        text.save(folder)
            # The last one: its presence means that the others are there.
            write_whole(self._config, to_json(config))
        except OSError as error:
            raise self._refused(error) from None

    def _refused(self, error: OSError | None) -> ConfigError:
        """Returns what to raise; without an error where another process has had it."""
        reason = error.strerror if error else "cannot be written"
        return ConfigError(f"--workdir={self.path}: {reason}; give a directory that can be written and has room")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other trainings out of a directory that has begun; process 0 does it for all of them.

        Raises:
          ConfigError: another training works there, or it cannot be written.
        """
        with contextlib.ExitStack() as stack:
            free, refused = True, None
            if is_main():
                try:
                    file = stack.enter_context((self.path / ".lock").open("w", encoding="utf-8"))
                except OSError as error:
                    refused = error
                else:
                    free = self._hold(file.fileno())
            if said_by_main(refused is not None):
                raise self._refused(refused)
            if not said_by_main(free):
                raise ConfigError(f"--workdir={self.path}: another training works there; wait for it, or stop it")
            yield

    def _hold(self, file: int) -> bool:
        """Locks an open file; returns False if another process has it."""
        try:
            return hold(file)
        except OSError as error:
            logging.warning("%s: %s; start no second training there", self.path, error.strerror)
            return True

    @classmethod
    def open_begun(cls, path: str, *, flag: str) -> "Workdir":
        """Opens the directory of a run, finished or not, which a flag named.

        Raises:
          ConfigError: there is no run, or it is a finished one of a baseline.
          DataError: its result.json is damaged.
        """
        workdir = cls(_given(path))
        if not workdir.begun:
            raise ConfigError(f"{flag}={path}: holds no run; train one with python -m experiments.train")
        if workdir.finished and (system := workdir.result().get("system")):
            raise ConfigError(f"{flag}={path}: is a run of the baseline {system}; allowed are TokenRec's own")
        return workdir

    @classmethod
    def open_finished(cls, path: str, *, flag: str = "--workdir") -> "Workdir":
        """Opens the directory of a finished run, which a flag named.

        Raises:
          ConfigError: there is no run, it has not finished, or it is one of a baseline.
          DataError: its result.json is damaged.
        """
        workdir = cls.open_begun(path, flag=flag)
        if not workdir.finished:
            raise ConfigError(f"{flag}={path}: the run has not finished; run its training command again to go on")
        return workdir

    @property
    def _config(self) -> pathlib.Path:
        return self.path / "config.json"

    @property
    def language_model(self) -> pathlib.Path:
        """Folder with the shape of the language model and its tokenizer, in Hugging Face's layout without weights."""
        return self.path / "language_model"

    @property
    def begun(self) -> bool:
        """Whether a run has written what it needs."""
        return self._config.is_file()

    @property
    def has_state(self) -> bool:
        """Whether a train state was saved, from which a stopped run goes on."""
        return any(child.name.isdigit() for child in (self.path / "checkpoints" / "state").glob("*"))

    @property
    def finished(self) -> bool:
        """Whether the run wrote its result."""
        return (self.path / "result.json").is_file()

    def config(self) -> Config:
        """Returns the config of the run.

        Raises:
          ConfigError: the file is damaged, or no config of this version.
        """
        try:
            return from_json(self._config.read_text(encoding="utf-8"))
        except (ConfigError, OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self._config}: {error}; {PUT_BACK}") from None

    def interactions(self) -> Interactions:
        """Returns the data set of the run, held-out interactions included."""
        return Interactions.load(self.path / "dataset")

    def result(self) -> dict[str, Any]:
        """Returns what `save_result` wrote.

        Raises:
          DataError: the file is damaged.
        """
        return read_json(self.path / "result.json", advice=_RANK_AGAIN)

    @property
    def _ranks(self) -> pathlib.Path:
        return self.path / "ranks.safetensors"

    def ranks(self) -> dict[str, Int[np.ndarray, " users"]]:
        """Returns what `save_result` was given: "<system>/<split>" and "users/<split>", by name.

        Raises:
          ConfigError: the file is missing, as in runs from before it was written, or cannot be read.
        """
        try:
            return safetensors.numpy.load_file(self._ranks)
        except (OSError, safetensors.SafetensorError) as error:
            reason = "is not there" if not self._ranks.exists() else " ".join(str(error).split())
            raise ConfigError(f"{self._ranks}: {reason}; {_RANK_AGAIN}") from None

    def copy_model(self, folder: str) -> None:
        """Copies what a finished run needs to recommend into a new folder, which is then a run like this one.

        Train states and the best models of the stages are left out; the folder appears whole or not at all.

        Raises:
          ConfigError: the folder holds something, or cannot be written.
        """
        path = empty_target(folder)
        try:
            with new_folder(path, replace=True) as draft:
                for name in ("dataset", "language_model", f"checkpoints/{FINAL}"):
                    shutil.copytree(self.path / name, draft / name)
                for name in ("config.json", "result.json"):
                    shutil.copyfile(self.path / name, draft / name)
        except shutil.Error as error:
            # Of a whole tree: one (from, to, reason) a file.
            reason = error.args[0][0][2]
            raise ConfigError(f"--output={folder}: {reason}; give a folder that can be written") from None
        except OSError as error:
            raise ConfigError(f"--output={folder}: {error.strerror}; give a folder that can be written") from None

    def result_hash(self) -> str:
        """Returns what tells this finished run from another one in the same place."""
        return content_hash(self.path / "result.json")

    def save_result(
        self, result: dict[str, Any], *, ranks: Mapping[str, Int[np.ndarray, " users"]] | None = None
    ) -> None:
        """Marks the run as finished; with several processes the result of process 0 counts.

        Args:
          result: what result.json holds.
          ranks: "<system>/<split>": 1-based rank of the target of each evaluated user, users ascending;
            "users/<split>": those users. Saved as int32, before result.json: a finished run has both.

        Raises:
          StorageError: they cannot be written.
        """
        if is_main():
            try:
                if ranks is not None:
                    arrays = {name: np.ascontiguousarray(array, np.int32) for name, array in ranks.items()}
                    write_whole(self._ranks, safetensors.numpy.save(arrays))
                write_whole(self.path / "result.json", json.dumps(result, indent=2) + "\n")
            except OSError as error:
                raise storage_error(self.path, error.strerror or str(error)) from error
        wait_for_all("save result")


def _given(path: str) -> pathlib.Path:
    if not path:
        raise ConfigError("--workdir: not given; name the directory of the run")
    return pathlib.Path(path)


def _same_config(file: pathlib.Path, config: Any) -> None:
    """Raises ConfigError naming the fields in which a config on disk differs from this one; see `from_json`."""
    default = _flat(json.loads(to_json(type(config)())))
    old, new = default | _flat(read_json(file, advice=PUT_BACK)), _flat(json.loads(to_json(config)))
    changed = [
        f"{key}: {old.get(key)} there, {new.get(key)} here" for key in sorted(old | new) if old.get(key) != new.get(key)
    ]
    if changed:
        raise ConfigError(
            f"{file}: belongs to a run with another config ({'; '.join(changed)}); "
            "give the same config to go on, or another --workdir"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
