"""Compiles the steps of a config for a TPU topology on this machine and says what they would cost; nothing is run.

  python -m experiments.compile --config=experiments/configs/lastfm.py:t5-small --topology=v5e:2x4
      [--llm=t5-large] [--batch=1024] [--length=50] [--items=100000] [--mesh=1,8,1] [--output=FILE.json] [--search]

Needs libtpu (extra `tpu`) but no TPU. --search walks batch sizes and remat policies.
"""

import os

# Before JAX starts: arrays, of which there are hardly any, stay here; the TPU is only compiled for.
os.environ["JAX_PLATFORMS"] = "cpu"

import importlib.metadata
import json
import pathlib
from typing import Any

import jax
from absl import flags, logging

from experiments import cli
from tokenrec_jax import ahead_of_time as aot
from tokenrec_jax.config import Config
from tokenrec_jax.models import llm
from tokenrec_jax.types import ConfigError

_CONFIG = cli.define_config()
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x4", "Chip and slice, for example v5e:2x4 or v5p:2x2x4.")
_LLM = flags.DEFINE_string("llm", "", "Preset of the language model; empty: the config's own.")
_BATCH = flags.DEFINE_integer("batch", 0, "Examples a step over all chips; 0: the config's own.")
_LENGTH = flags.DEFINE_integer("length", 0, "Items of a history; 0: the config's own.")
_USERS = flags.DEFINE_integer("users", 200_000, "Users.")
_ITEMS = flags.DEFINE_integer("items", 100_000, "Items.")
_MESH = cli.define_mesh("Chips along data, fsdp and tensor; empty: the config's own.")
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "Type of activations.")
_STEPS = flags.DEFINE_list("steps", ["train", "query", "retrieval"], "Which steps to compile.")
_SEARCH = flags.DEFINE_bool("search", False, "Find the batch size, and remat policy, that allows the most.")
_OUTPUT = flags.DEFINE_string("output", "", "JSON file for the figures; empty: standard output only.")
_TEXTS = flags.DEFINE_string("texts", "", "Folder for the compiled programs' text; empty: not kept.")


def main() -> None:
    """Compiles, prints the table and writes the figures."""
    unknown = set(_STEPS.value) - set(aot.STEPS)
    if unknown or not _STEPS.value:
        raise ConfigError(f"--steps={','.join(_STEPS.value)}: allowed are {', '.join(aot.STEPS)}")
    config = _config()
    mesh = _MESH() or config.mesh
    options = {"topology": _TOPOLOGY.value, "mesh": mesh, "num_users": _USERS.value, "num_items": _ITEMS.value}
    batch = _BATCH.value or config.stage(aot.STAGE).batch_size
    result: dict[str, Any] = {
        "label": aot.LABEL,
        "topology": _TOPOLOGY.value,
        "llm": config.llm.name.removeprefix(llm.SCRATCH),
        "max_history": config.data.max_history,
        "objective": config.llm.objective,
        "users": _USERS.value,
        "items": _ITEMS.value,
        "jax": jax.__version__,
        "libtpu": importlib.metadata.version("libtpu") if aot.has_compiler() else "",
    }
    if _SEARCH.value:
        found = aot.search(config, first_batch=_BATCH.value, on_candidate=logging.info, **options)
        result["search"], batch, config = found.candidates, found.batch, found.config
    target = aot.make_target(config, **options)
    result |= {"batch": batch, "mesh": dict(target.mesh.shape)}
    for name in _STEPS.value:
        logging.info("compiling the %s step for %s", name, _TOPOLOGY.value)
        step = aot.STEPS[name](target, batch=batch)
        if _TEXTS.value:
            _write(pathlib.Path(_TEXTS.value) / f"{name}.hlo.txt", step.text, flag="--texts")
        result[f"{name}_step"] = aot.step_report(step, target)
    chips = " x ".join(f"{axis} {size}" for axis, size in target.mesh.shape.items())
    print(f"\n{result['llm']} on {_TOPOLOGY.value} ({chips}), batch {batch}, {_ITEMS.value} items: {aot.LABEL}\n")
    print(aot.table({name: result[f"{name}_step"] for name in _STEPS.value}))
    if _OUTPUT.value:
        _write(pathlib.Path(_OUTPUT.value), json.dumps(result, indent=2) + "\n", flag="--output")


def _config() -> Config:
    """Returns the config with the flags applied; its language model is a preset, as no weights are needed."""
    config = _CONFIG()
    known = llm.PRESETS | llm.DECODER_PRESETS
    name = (_LLM.value or config.llm.name).removeprefix(llm.SCRATCH)
    if name not in known:
        raise ConfigError(f"--llm={name}: no such preset; allowed: {', '.join(known)}")
    config.llm.name, config.llm.dtype = llm.SCRATCH + name, _DTYPE.value
    if _LENGTH.value:
        config.data.max_history, config.data.history_buckets = _LENGTH.value, ()
    return config


def _write(path: pathlib.Path, text: str, *, flag: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{flag}={path}: {error.strerror}; name a file that can be written") from None


if __name__ == "__main__":
    cli.run(main)
