"""Checkpoints of a run with Orbax: the train state with its position, and models by name. Read `CheckpointStore`.

Every write is atomic: a checkpoint is there whole or as it was.
"""

import contextlib
import dataclasses
import errno
import functools
import json
import logging
import math
import os
import pathlib
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp

from tokenrec_jax.data.files import storage_error
from tokenrec_jax.processes import is_main, said_by_main, wait_for_all
from tokenrec_jax.training.state import TrainState
from tokenrec_jax.types import ConfigError, Stage

#: Name of the model that a finished run is used with.
FINAL = "final"

#: What to do with a file of a run that is damaged.
PUT_BACK = "put back a copy of it, or train again in a new --workdir"
#: How Orbax ends the names of folders that it has not finished.
_HALF_WRITTEN = ".orbax-checkpoint-tmp"
_STATE_BEFORE = "remove it to go on from the state before"
_OTHER_VERSION = "was it written by another version of tokenrec_jax? Go on with that one, or train in a new --workdir"


@dataclasses.dataclass
class Position:
    """Where a run stands; JSON beside the state, so that a resumed run is the run that was not interrupted.

    Attributes:
      stage: index of the current stage in `Config.stages`; their number once all have ended.
      step: optimizer steps done in that stage.
      total_step: optimizer steps done over all stages.
      data: position of the data pipeline, as grain gives it.
      best_score: best validation score of the stage so far; -1 before the first evaluation.
      best_step: step at which it was reached.
      evaluations_since_best: how many evaluations did not reach it since.
      seconds: time spent in each stage so far, by name.
      chosen_steps: after how many steps each finished stage had the model that it handed on, by name.
    """

    stage: int = 0
    step: int = 0
    total_step: int = 0
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    best_score: float = -1.0
    best_step: int = 0
    evaluations_since_best: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    chosen_steps: dict[str, int] = dataclasses.field(default_factory=dict)

    def stage_among(self, stages: Sequence[str]) -> Stage:
        """Returns the stage whose arrays the state has: the current one, or the last."""
        return Stage(stages[min(self.stage, len(stages) - 1)])


class CheckpointStore:
    """The folder DIR/checkpoints: `state/<number>` (the newest two), `best_<stage>` and `final` models.

    The number of a state is its total step plus its stage: the end of a stage and the start of the next are two states.
    """

    def __init__(self, workdir: pathlib.Path):
        """Opens the folder; nothing is made before states are asked for."""
        _write_small_arrays_whole()
        self._root = (workdir / "checkpoints").resolve()
        self._models = ocp.StandardCheckpointer()

    @functools.cached_property
    def _states(self) -> ocp.CheckpointManager:
        # Who asks for states trains, alone in this directory: what a kill left half-written is nobody's any more.
        if is_main():
            for left in self._root.glob(f"**/*{_HALF_WRITTEN}"):
                shutil.rmtree(left, ignore_errors=True)
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True)
        return ocp.CheckpointManager(self._root / "state", options=options)

    @property
    def latest(self) -> pathlib.Path | None:
        """Folder of the newest state, None before the first."""
        step = self._states.latest_step()
        return None if step is None else self._root / "state" / str(step)

    def save(self, state: TrainState, position: Position) -> None:
        """Writes the state in the background; one of the same step and stage that is there already stays.

        Raises:
          StorageError: this state, or the one before, does not fit on the disk.
        """
        number = position.total_step + position.stage
        if self._states.latest_step() == number:
            return
        with self._room_for(state):
            self._states.save(
                number,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_as_dict(state)),
                    position=ocp.args.JsonSave(dataclasses.asdict(position)),
                ),
            )

    def restore_position(self) -> Position | None:
        """Returns where the newest state stands, None if there is none.

        Raises:
          ConfigError: it is damaged, or another version wrote it, with other fields.
        """
        step = self._states.latest_step()
        if step is None:
            return None
        with _readable(self._root / "state" / str(step), advice=_STATE_BEFORE):
            restored = self._states.restore(step, args=ocp.args.Composite(position=ocp.args.JsonRestore()))["position"]
        if unknown := restored.keys() - {field.name for field in dataclasses.fields(Position)}:
            raise ConfigError(f"{self.latest}: its position has {', '.join(sorted(unknown))}; {_OTHER_VERSION}")
        return Position(**restored)

    def restore_state(self, abstract: TrainState) -> TrainState:
        """Returns the newest state; `abstract` gives shapes, types and shardings.

        Raises:
          ConfigError: there is none, it is damaged, or it has other arrays than `abstract`.
        """
        if (newest := self.latest) is None:
            raise ConfigError(f"{self._root}: no state was saved; the run has not got that far")
        target = ocp.args.StandardRestore(_as_dict(abstract))
        with _same_arrays(newest / "state", _as_dict(abstract), advice=_STATE_BEFORE):
            restored = self._states.restore(int(newest.name), args=ocp.args.Composite(state=target))
        return TrainState(**restored["state"])

    def save_model(self, name: str, model: dict[str, Any]) -> None:
        """Writes parameters and buffers under a name; what was there stays until they are whole.

        Raises:
          StorageError: they do not fit on the disk.
        """
        target = self._root / name
        with self._room_for(model):
            _take_draft(target)
            self._models.save(_draft(target), model, force=True)
            self._models.wait_until_finished()
            _take_draft(target)

    def has_model(self, name: str) -> bool:
        """Returns whether a model of that name was saved."""
        return self._model(name).is_dir()

    def _model(self, name: str) -> pathlib.Path:
        """Returns the folder of a model: a whole draft where `save_model` was killed before it renamed it."""
        target = self._root / name
        return target if target.is_dir() or not _draft(target).is_dir() else _draft(target)

    def restore_model(self, name: str, abstract: dict[str, Any]) -> dict[str, Any]:
        """Returns the model of a name.

        Raises:
          ConfigError: there is none, it is damaged, or it has other arrays than `abstract`.
        """
        if not self.has_model(name):
            raise ConfigError(f"{self._root / name}: no such checkpoint; the run has not got that far")
        path = self._model(name)
        with _same_arrays(path, abstract, advice=PUT_BACK):
            return self._models.restore(path, abstract)

    @contextlib.contextmanager
    def _room_for(self, tree: Any) -> Iterator[None]:
        """Says in one line that the disk is full, or takes nothing: before Orbax begins to write, where it can be seen.

        Args:
          tree: the arrays to be written.
        """
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array))
        if said_by_main(is_main() and needed > _free(self._root)):
            raise storage_error(self._root, f"a checkpoint takes {needed / 1e6:.1f} MB, and less is free")
        with self._refusals():
            yield

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turns what a file system says that takes nothing more into one line."""
        try:
            yield
        except Exception as error:
            if (reason := _file_trouble(error)) is None:
                raise
            raise storage_error(self._root, reason) from error

    def close(self) -> None:
        """Waits for writes in the background.

        Raises:
          StorageError: they do not fit on the disk.
        """
        with self._refusals():
            if "_states" in self.__dict__:
                self._states.wait_until_finished()
                self._states.close()
            self._models.close()


@functools.cache
def _write_small_arrays_whole() -> None:
    """Lets one device write an array below a MiB a device, however many hold it.

    Orbax cuts each into a slice for every device, and compiles a program for every kind of slice: for small arrays that
    takes far longer than it saves.
    """
    # It is one setting for the process, and Orbax warns of the change that is asked for.
    warnings = logging.getLogger("absl")
    warnings.disabled = True
    try:
        ocp.type_handlers.register_type_handler(
            jax.Array, ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=2**20), override=True
        )
    finally:
        warnings.disabled = False


def _draft(target: pathlib.Path) -> pathlib.Path:
    return target.with_name(f"{target.name}.new")


def _take_draft(target: pathlib.Path) -> None:
    """Puts a whole draft, if there is one, where it belongs."""
    draft, outdated = _draft(target), target.with_name(f"{target.name}.old")
    if is_main() and draft.is_dir():
        shutil.rmtree(outdated, ignore_errors=True)
        if target.exists():
            target.rename(outdated)
        draft.rename(target)
        shutil.rmtree(outdated, ignore_errors=True)
    wait_for_all(f"saved {target.name}")


@contextlib.contextmanager
def _same_arrays(path: pathlib.Path, abstract: Any, *, advice: str) -> Iterator[None]:
    """Turns a checkpoint with other arrays than asked for into one line.

    Shapes are compared first: where Orbax finds a wrong one, it has begun to read.
    """
    # Of the arrays alone: a state is one item of its checkpoint, and Orbax warns that it has no record of its own.
    with _readable(path, advice=advice):
        arrays = ocp.StandardCheckpointHandler().metadata(path)  # pyright: ignore[reportArgumentType]
    there = _shapes(arrays)
    for name, shape in _shapes(abstract).items():
        if there.get(name, shape) != shape:
            raise _other_arrays(path, f"{name} is {there[name]} there, {shape} here")
    try:
        with _readable(path, advice=advice):
            yield
    except ValueError as error:
        # The names of arrays stand on the lines after the first, where it has any.
        head, *arrays = (line.strip() for line in str(error).splitlines())
        what = arrays[0].rstrip(":") if arrays else head
        # Orbax goes on with the names of all arrays.
        raise _other_arrays(path, textwrap.shorten(what, 200, placeholder=" …")) from error


@contextlib.contextmanager
def _readable(path: pathlib.Path, *, advice: str) -> Iterator[None]:
    """Turns what Orbax says of a checkpoint that it cannot read into one line.

    Args:
      path: of the checkpoint.
      advice: what to do with one that is damaged; one that the system keeps from us may be whole.
    """
    try:
        yield
    except Exception as error:
        if (reason := _file_trouble(error)) is None:
            raise
        advice = "mend that and run the same command again" if _KEPT_FROM_US.search(reason) else advice
        raise ConfigError(f"{path}: cannot be read ({reason}); {advice}") from error


def _file_trouble(error: Exception) -> str | None:
    """Returns in a few words what is wrong with files, None if the error is about something else."""
    if type(error) is Exception and isinstance(error.__cause__, Exception):
        # What Orbax makes of an array that TensorStore cannot read.
        error = error.__cause__
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror
    text = " ".join(str(error).split())
    if _TENSORSTORE.match(text):
        # What, within what, within what, the cause; then where in its source, and all that it was asked to open.
        text = re.split(r" \[[a-z]", text)[0].rpartition(": ")[2]
    elif not isinstance(error, OSError | json.JSONDecodeError | UnicodeDecodeError):
        return None
    return textwrap.shorten(text, 200, placeholder=" …")


#: What the system says of files that are there: no right, no more open files, an error of the disk.
_KEPT_FROM_US = re.compile(
    "|".join(re.escape(os.strerror(n)) for n in (errno.EACCES, errno.EPERM, errno.EMFILE, errno.EIO))
)
#: How TensorStore, which reads and writes for Orbax, begins to speak of files.
_TENSORSTORE = re.compile(r"[A-Z_]+: .*local file")


def _free(path: pathlib.Path) -> float:
    """Returns how many bytes are free where a path is, or will be; as many as you like where nobody knows."""
    usage = shutil.disk_usage(next(parent for parent in (path, *path.parents) if parent.exists()))
    # Some file systems of networks and objects say nothing but zeros.
    return float(usage.free) if usage.total else math.inf


def _as_dict(state: TrainState) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array by its name, its keys with dots between them.

    Args:
      tree: arrays, what stands for them, or what Orbax says of a checkpoint, which has the tree of them inside.
    """
    leaves = jax.tree_util.tree_leaves_with_path(getattr(tree, "tree", tree))
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(getattr(leaf, "shape", ()))
        for path, leaf in leaves
    }


def _other_arrays(path: pathlib.Path, what: str) -> ConfigError:
    return ConfigError(f"{path}: holds other arrays than this config's model ({what}); {_OTHER_VERSION}")
