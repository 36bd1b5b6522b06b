"""The train state: everything that a step reads and writes, as one pytree of plain arrays. Read `TrainState`.

Flax NNX objects stay inside jitted functions: `split` and `merge` are the border.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from tokenrec_jax.models.tokenrec import TokenRec
from tokenrec_jax.sharding import state_shardings
from tokenrec_jax.types import Stage

#: Nested dict of arrays, keyed by the attribute names of the modules.
Params = dict[str, Any]

_COLLABORATIVE = ("collaborative",)
_TOKENIZER = ("user_tokenizer", "item_tokenizer")
_LLM = ("llm", "code_tokens", "head", "features")

#: Parameter groups (top-level keys of the parameters) that move in each stage.
TRAINED: dict[Stage, tuple[str, ...]] = {
    Stage.COLLABORATIVE: _COLLABORATIVE,
    Stage.TOKENIZER: _TOKENIZER,
    Stage.LLM: _LLM,
    Stage.JOINT: _COLLABORATIVE + _TOKENIZER + _LLM,
}
#: What moves in the place of the group "llm", by `llm.tuning`.
LLM_GROUP = {"full": "llm", "frozen": "", "lora": "lora"}


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step carries.

    Attributes:
      step: optimizer steps done in the current stage, int32.
      params: trained arrays of all parts of the model.
      buffers: all its other arrays.
      optimizer: moments of the parameters that the current stage moves; empty between stages.
      key: raw bits of the random key of the stage; a step folds its number in.
    """

    step: jax.Array
    params: Params
    buffers: Params
    optimizer: Any
    key: jax.Array


#: Validation metrics of a state, by name.
Evaluator = Callable[[TrainState], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class ModelDefinition:
    """The static half of the model: its graph definition, how to build it from a key, and the shapes that this gives.

    Attributes:
      graphdef: structure of the module.
      build: returns the module.
      shapes: of its parameters and of its other arrays.
    """

    graphdef: nnx.GraphDef
    build: Callable[[jax.Array], TokenRec]
    shapes: tuple[Params, Params]

    def merge(self, params: Params, buffers: Params) -> TokenRec:
        """Returns the module around the arrays."""
        return nnx.merge(self.graphdef, params, buffers)

    def init(self, key: jax.Array) -> tuple[Params, Params]:
        """Returns fresh parameters and buffers."""
        return split(self.build(key))


def define_model(build: Callable[[jax.Array], TokenRec]) -> ModelDefinition:
    """Returns the definition of the model that `build` makes from a key, without making any array."""
    abstract = nnx.eval_shape(build, jax.random.key(0))
    return ModelDefinition(graphdef=nnx.graphdef(abstract), build=build, shapes=split(abstract))


def split(model: TokenRec) -> tuple[Params, Params]:
    """Returns the parameters and the other arrays of a module."""
    _, params, buffers = nnx.split(model, nnx.Param, ...)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(buffers)


def trained(params: Params, stage: Stage, *, tuning: str) -> Params:
    """Returns the parameter groups that move in a stage; `tuning` is that of the language model."""
    names = (LLM_GROUP[tuning] if name == "llm" else name for name in TRAINED[stage])
    return {name: params[name] for name in names if name in params}


def init_state(definition: ModelDefinition, *, seed: int, mesh: Mesh, pretrained: Params | None = None) -> TrainState:
    """Returns a fresh state; each array is made in its place, nothing is ever whole on one device.

    Random weights of the language model are not made where there are others.

    Args:
      definition: static half of the model.
      seed: of the initial parameters.
      mesh: devices.
      pretrained: weights of the language model, in their places.
    """
    given = {} if pretrained is None else {"llm": pretrained}

    def without_given(state: TrainState) -> TrainState:
        return dataclasses.replace(state, params={k: v for k, v in state.params.items() if k not in given})

    def fresh(key: jax.Array) -> TrainState:
        return without_given(fresh_state(definition.init(key), key))

    shardings = state_shardings(without_given(abstract_state(definition)), mesh)
    state = jax.jit(fresh, out_shardings=shardings)(jax.random.key(seed))
    return dataclasses.replace(state, params={**state.params, **given})


def fresh_state(arrays: tuple[Params, Params], key: jax.Array) -> TrainState:
    """Returns the state at step 0, without moments, of a model whose parameters and other arrays a key has made."""
    params, buffers = arrays
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        buffers=buffers,
        optimizer={},
        key=jax.random.key_data(key),
    )


def abstract_state(definition: ModelDefinition) -> TrainState:
    """Returns the shapes of a fresh state, whose optimizer has no moments yet; traces nothing of the model."""
    return jax.eval_shape(fresh_state, definition.shapes, jax.random.key(0))


def abstract_model(definition: ModelDefinition, mesh: Mesh) -> dict[str, Any]:
    """Returns shapes with shardings of {"params", "buffers"}, the target of restoring a model."""
    state = abstract_state(definition)
    tree = {"params": state.params, "buffers": state.buffers}
    return abstract_like(tree, state_shardings(tree, mesh))


def abstract_like(tree: Any, shardings: Any) -> Any:
    """Returns shapes with shardings, the form in which restores want to know their target."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )
