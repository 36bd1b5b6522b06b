"""Disks that are full and files that are damaged: one line that names the place, and what was there before stays."""

import contextlib
import errno
import gc
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenrec_jax.array_files import save_arrays
from tokenrec_jax.config import Config, to_json
from tokenrec_jax.data.files import read_json, read_json_lines
from tokenrec_jax.retrieval.index import ItemIndex
from tokenrec_jax.training.checkpoint import CheckpointStore, Position
from tokenrec_jax.training.metric_writer import MetricWriter
from tokenrec_jax.training.state import TrainState
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError, DataError, StorageError

resource = pytest.importorskip("resource")


def noise(seed: int) -> dict[str, jax.Array]:
    return {"table": jax.random.normal(jax.random.key(seed), (512, 128))}


def train_state(seed: int) -> TrainState:
    step, key = jnp.zeros((), jnp.int32), jnp.zeros(2, jnp.uint32)
    return TrainState(step=step, params=noise(seed), buffers=noise(seed + 1), optimizer={}, key=key)


@contextlib.contextmanager
def no_file_above(size: int):
    """Lets no file of this process grow beyond a size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        # What Orbax had begun to write is not left to be collected during another test.
        gc.collect()


ARRAYS = {"table": np.ones((512, 128), np.float32)}
INDEX = ItemIndex.build(ARRAYS["table"], metric="dot")

#: TensorStore tells event loops of Orbax that are closed by then.
LATE_WORDS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def almost_full(monkeypatch):
    """A disk with 100 kB left."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=100_000))


def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path, almost_full):
    store = CheckpointStore(tmp_path)
    refused = r"checkpoints: a checkpoint takes 0\.[35] MB, and less is free; mend that and run the same command again"
    with pytest.raises(StorageError, match=refused):
        store.save_model("best_llm", noise(0))
    with pytest.raises(StorageError, match=refused):
        store.save(train_state(0), Position())
    store.close()
    assert not store.has_model("best_llm") and store.latest is None


@LATE_WORDS
def test_a_disk_that_fills_up_while_a_model_is_written_keeps_the_one_before(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save_model("best_llm", noise(0))
    with no_file_above(50_000), pytest.raises(StorageError, match=r"checkpoints: File too large; mend that"):
        store.save_model("best_llm", noise(1))
    again = CheckpointStore(tmp_path)
    np.testing.assert_array_equal(again.restore_model("best_llm", noise(2))["table"], noise(0)["table"])
    again.save_model("best_llm", noise(1))
    np.testing.assert_array_equal(again.restore_model("best_llm", noise(2))["table"], noise(1)["table"])
    again.close()


@LATE_WORDS
def test_a_disk_that_fills_up_behind_the_training_is_said_when_it_waits(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(train_state(0), Position(total_step=1))
    store.close()
    store = CheckpointStore(tmp_path)
    with no_file_above(50_000), pytest.raises(StorageError, match="mend that"):
        store.save(train_state(3), Position(total_step=2))
        store.close()
    again = CheckpointStore(tmp_path)
    assert again.restore_position() == Position(total_step=1)
    restored = again.restore_state(train_state(5))
    np.testing.assert_array_equal(restored.params["table"], noise(0)["table"])
    again.close()


def test_a_disk_without_figures_counts_as_free(tmp_path, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(total=0, used=0, free=0))
    store = CheckpointStore(tmp_path)
    store.save_model("final", noise(0))
    assert store.has_model("final")
    store.close()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch, wrapped):
    store = CheckpointStore(tmp_path)
    store.save_model("final", noise(0))

    def forbidden(*_, **__):
        refused = PermissionError(13, "Permission denied")
        if wrapped:
            # As Orbax does where it reads an array.
            raise Exception("Encountered error while reading array index: ...") from refused
        raise refused

    monkeypatch.setattr(store._models, "restore", forbidden)
    with pytest.raises(ConfigError, match=r"final: cannot be read \(Permission denied\); mend that and run") as caught:
        store.restore_model("final", noise(0))
    assert "train again" not in str(caught.value)
    store.close()


def test_a_result_that_cannot_be_written_names_the_run(tmp_path):
    workdir = Workdir(tmp_path)
    with no_file_above(10), pytest.raises(StorageError, match=f"{tmp_path}: File too large; mend that"):
        workdir.save_result({"seed": 0, "test": {"hr@10": 0.5}})
    assert not workdir.finished


def test_metrics_that_cannot_be_written_name_the_run(tmp_path):
    writer = MetricWriter(tmp_path, resume_step=0)
    with no_file_above(10), pytest.raises(StorageError, match=f"{tmp_path}: File too large"):
        writer.write(1, {"loss": 1.0}, stage="llm", kind="train")
    with contextlib.suppress(StorageError):
        writer.close()


@pytest.mark.parametrize("damage", ["cut", "gone"])
@pytest.mark.parametrize("which", ["_METADATA", "manifest.ocdbt", "largest"])
def test_a_damaged_checkpoint_is_one_line(tmp_path, which, damage):
    store = CheckpointStore(tmp_path)
    store.save_model("final", noise(0))
    files = [path for path in (tmp_path / "checkpoints" / "final").rglob("*") if path.is_file()]
    if which == "largest":
        file = max(files, key=lambda path: path.stat().st_size)
    else:
        file = tmp_path / "checkpoints" / "final" / which
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ConfigError, match=r"checkpoints/final: cannot be read \(.*\); put back a copy") as caught:
        store.restore_model("final", noise(1))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    store.close()


def test_a_damaged_position_names_its_state(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(train_state(0), Position(total_step=4))
    store.close()
    for file in (tmp_path / "checkpoints" / "state" / "4" / "position").iterdir():
        file.write_text('{"stage": 1, "st')
    with pytest.raises(ConfigError, match=r"state/4: cannot be read \(.*\); remove it to go on from the state before"):
        CheckpointStore(tmp_path).restore_position()


def test_damaged_files_of_a_run_are_named(tmp_path):
    workdir = Workdir(tmp_path)
    (tmp_path / "config.json").write_text(to_json(Config())[:90])
    with pytest.raises(ConfigError, match=r"config\.json: not JSON: .*; put back a copy"):
        workdir.config()
    with pytest.raises(DataError, match=r"config\.json: damaged \(.*\); put back a copy"):
        Workdir.start(str(tmp_path), Config())
    (tmp_path / "result.json").write_text("[1]")
    with pytest.raises(DataError, match=r"result\.json: damaged \(a list, no object\); remove result\.json"):
        workdir.result()
    with pytest.raises(DataError, match="absent: No such file or directory; do this"):
        read_json(tmp_path / "absent", advice="do this")


def test_a_damaged_line_of_metrics_is_named_and_a_cut_one_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = json.dumps({"step": 1, "stage": "llm", "kind": "train", "loss": 2.0})
    path.write_text(f'{good}\n{{"step": 2, "sta')
    assert [event["step"] for event in read_json_lines(path)] == [1]
    path.write_bytes(f"{good}\n".encode() + b'\xff\x00"\n' + f"{good}\n".encode())
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: damaged \(.*\); remove the line"):
        MetricWriter(tmp_path, resume_step=9)
    assert path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("save", [lambda path: save_arrays(path, ARRAYS), lambda path: INDEX.save(path)])
def test_arrays_that_do_not_fit_are_an_error_of_the_file_system(tmp_path, save):
    path = tmp_path / "arrays.safetensors"
    save(path)
    before = path.read_bytes()
    with no_file_above(10_000), pytest.raises(OSError, match="File too large") as caught:
        save(tmp_path / "other.safetensors")
    assert caught.value.errno == errno.EFBIG
    assert [file.name for file in tmp_path.iterdir()] == [path.name] and path.read_bytes() == before
