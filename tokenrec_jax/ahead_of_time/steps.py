"""Compiles the steps of a run for TPUs that are not there. Read `Target`, then `compile_train_step`.

No array is made: the model is defined around a data set of a few users, its sizes are then replaced, and the compiler
sees shapes with shardings. What comes back is text and memory, which `report.py` reads.
"""

import copy
import dataclasses
import functools
import importlib.util
import os
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from tokenrec_jax.ahead_of_time.chips import Chip, chip_of
from tokenrec_jax.ahead_of_time.model_flops import (
    Lengths,
    forward_flops,
    head_flops,
    lengths,
    training_flops,
)
from tokenrec_jax.config import Config, MeshConfig
from tokenrec_jax.data.graph import padded_rows
from tokenrec_jax.data.synthetic import synthetic_interactions
from tokenrec_jax.models import llm
from tokenrec_jax.models.tables import ModelShape
from tokenrec_jax.retrieval.index import ItemIndex
from tokenrec_jax.sharding import batch_sharding, make_mesh, replicated, state_shardings
from tokenrec_jax.training.build import BuiltModel, build_model, define
from tokenrec_jax.training.optimizer import make_optimizer
from tokenrec_jax.training.query import make_query_function
from tokenrec_jax.training.state import ModelDefinition, TrainState, abstract_like, abstract_state, trained
from tokenrec_jax.training.step import make_train_step
from tokenrec_jax.types import ConfigError, HistoryBatch, Stage, TrainBatch

#: The stage whose step is compiled.
STAGE = Stage.LLM

#: libtpu without a TPU: it asks no metadata server, prints nothing and lets others load it too.
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class DoesNotFitError(ConfigError):
    """The compiler found no way to hold a program in the memory of a chip."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A model of given sizes on a given slice of chips.

    Attributes:
      config: of the run; `llm.name` is a preset.
      chip: figures of one device.
      mesh: abstract devices of the topology.
      definition: static half of the model.
      shape: its sizes.
      llm_config: shape of the language model.
      built: the same model around the few users; its graph and templates.
    """

    config: Config
    chip: Chip
    mesh: Mesh
    definition: ModelDefinition
    shape: ModelShape
    llm_config: Any
    built: BuiltModel

    def lengths(self, batch: int) -> Lengths:
        """Returns the positions of a batch."""
        answers = len(self.built.templates.answer)
        return lengths(self.config, self.shape, batch=batch, num_answer_tokens=answers)


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """What the compiler made of a step.

    Attributes:
      text: the program of one device.
      arguments, outputs, temporaries, code: bytes of memory a device; outputs without those that take an argument's
        place.
      model_flops: what the mathematics needs, a device.
      compile_seconds: host time of the compilation.
    """

    text: str
    arguments: int
    outputs: int
    temporaries: int
    code: int
    model_flops: float
    compile_seconds: float

    @property
    def hbm_bytes(self) -> int:
        """Memory that a device needs."""
        return self.arguments + self.outputs + self.temporaries + self.code


def make_target(config: Config, *, topology: str, mesh: MeshConfig, num_users: int, num_items: int) -> Target:
    """Returns the target for a topology such as v5e:2x4.

    Raises:
      ConfigError: no such topology, or a mesh that does not cover it, or tables that cannot be cut over it.
    """
    chip, devices = chip_of(topology), topology_devices(topology)
    cores = len(devices) // len({tuple(device.coords) for device in devices})
    own_mesh = make_mesh(mesh, devices=devices)
    few = synthetic_interactions(name="few", num_users=32, num_items=32, seed=0)
    built = build_model(config, few, mesh=make_mesh(MeshConfig(), devices=jax.devices("cpu")[:1]))
    # With its own vocabulary: the few words that `build_model` knows would make an unlikely shape.
    model = (llm.PRESETS | llm.DECODER_PRESETS)[config.llm.name.removeprefix(llm.SCRATCH)]
    shape = dataclasses.replace(
        built.shape,
        num_users=num_users,
        num_items=num_items,
        user_rows=padded_rows(num_users),
        item_rows=padded_rows(num_items),
    )
    definition = define(
        config,
        shape=shape,
        llm_config=model,
        templates=built.templates,
    )
    return Target(config, chip.core(cores), own_mesh, definition, shape, model, built)


def has_compiler() -> bool:
    """Returns whether libtpu is installed."""
    return importlib.util.find_spec("libtpu") is not None


def topology_devices(topology: str) -> list[Any]:
    """Returns the abstract devices of a topology.

    Raises:
      ConfigError: libtpu is not installed or knows no such topology.
    """
    if not has_compiler():
        raise ConfigError("libtpu is not installed, and it is the compiler; pip install 'tokenrec_jax[tpu]'")
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--topology={topology}: {reason}; allowed are names such as v5e:2x4, v5p:2x2x4") from None


def llm_stage_state(target: Target) -> TrainState:
    """Returns shapes and shardings of a state of stage LLM."""
    state = abstract_state(target.definition)
    moving = trained(state.params, STAGE, tuning=target.config.llm.tuning)
    optimizer = make_optimizer(target.config.stage(STAGE))
    state = dataclasses.replace(state, optimizer=jax.eval_shape(optimizer.init, moving))
    return abstract_like(state, state_shardings(state, target.mesh))


def compile_train_step(target: Target, *, batch: int) -> CompiledStep:
    """Returns the compiled train step of stage LLM for a batch of the longest histories.

    Raises:
      ConfigError: the batch cannot be divided.
      DoesNotFitError: it needs more memory than a chip has.
    """
    rows = _rows(target, batch)
    history = target.config.data.max_history
    positions = history if target.config.llm.objective == "dense" else 1
    negatives = target.config.loss.num_negatives
    histories = HistoryBatch(
        user=rows(),
        history=rows(history),
        target=rows(positions),
        negative=rows(positions, negatives),
    )
    state = llm_stage_state(target)
    config = copy.deepcopy(target.config)
    config.train.batch_size, config.train.llm.batch_size = 0, batch
    step: Any = make_train_step(target.definition, config=config, stage=STAGE, state=state, mesh=target.mesh)
    # The stage reads no graph: the few users' one stands for any other.
    graph = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), target.built.graph)
    flops = training_flops(target.config, target.llm_config, target.shape, target.lengths(batch))
    return _compile(target, functools.partial(step.lower, state, TrainBatch(histories=histories), graph), flops)


def compile_query_step(target: Target, *, batch: int) -> CompiledStep:
    """Returns the compiled map from histories to queries; raises as `compile_train_step` does."""
    rows = _rows(target, batch)
    state = llm_stage_state(target)
    query: Any = make_query_function(target.definition, mesh=target.mesh)
    template = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(target.mesh))
    history = rows(target.config.data.max_history)
    arguments = (state.params, state.buffers, _item_vectors(target), rows(), history, template)
    sizes, hidden = target.lengths(batch), target.llm_config.model_dim
    flops = forward_flops(target.llm_config, sizes)
    flops += head_flops(target.config, target.shape, sizes, hidden=hidden, with_softmax=False)
    return _compile(target, functools.partial(query.lower, *arguments), flops)


def compile_retrieval_step(target: Target, *, batch: int) -> CompiledStep:
    """Returns the compiled search of the best items, seen ones excluded; raises as `compile_train_step` does."""
    k = max(target.config.evaluation.cutoffs)
    rows = _rows(target, batch)
    dim = target.config.lightgcn.embedding_dim
    make_index: Any = ItemIndex
    index = make_index(
        vectors=_item_vectors(target),
        num_items=jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(target.mesh)),
        metric="cosine",
        mesh=target.mesh.abstract_mesh,
    )
    search: Any = ItemIndex.search
    lower = functools.partial(
        search.lower, index, rows(dim, dtype=jnp.float32), k=k, exclude=rows(target.config.data.max_history)
    )
    return _compile(target, lower, 2.0 * batch * target.shape.num_items * dim)


def _item_vectors(target: Target) -> Any:
    """Returns the shape of what queries are matched against, cut over the devices as the tables are."""
    shape = (target.shape.item_rows, target.config.lightgcn.embedding_dim)
    table = {"item_vectors": jax.ShapeDtypeStruct(shape, jnp.float32)}
    return abstract_like(table, state_shardings(table, target.mesh))["item_vectors"]


#: The steps by name.
STEPS = {"train": compile_train_step, "query": compile_query_step, "retrieval": compile_retrieval_step}


def _rows(target: Target, batch: int) -> Any:
    """Returns a function from the other sizes to the shape of a part of a batch."""
    sharding = batch_sharding(target.mesh)
    parts = target.mesh.shape["data"] * target.mesh.shape["fsdp"]
    if batch < 1 or batch % parts:
        raise ConfigError(f"--batch={batch}: not a multiple of mesh.data x mesh.fsdp = {parts}")

    def rows(*sizes: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, *sizes), dtype, sharding=sharding)

    return rows


def _compile(target: Target, lower: Any, model_flops: float) -> CompiledStep:
    begin = time.monotonic()
    try:
        compiled = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
        raise DoesNotFitError(
            f"does not fit a chip: {reason} Lower --batch or --length, raise fsdp or tensor in --mesh"
        ) from None
    memory = compiled.memory_analysis()
    return CompiledStep(
        text=compiled.as_text(),
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        model_flops=model_flops / target.mesh.size,
        compile_seconds=time.monotonic() - begin,
    )
