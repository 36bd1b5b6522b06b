"""A tiny model on the synthetic data set, one device, shared by the tests of training."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh

from experiments.configs import tiny
from tokenrec_jax.config import Config, MeshConfig
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.data.synthetic import synthetic_interactions
from tokenrec_jax.sharding import make_mesh, state_shardings
from tokenrec_jax.training.build import BuiltModel, build_model, with_data
from tokenrec_jax.training.stages import begin_stage
from tokenrec_jax.training.state import TrainState, fresh_state
from tokenrec_jax.types import Stage


@dataclasses.dataclass(frozen=True)
class Setup:
    """A built model with what its steps need."""

    config: Config
    training: Interactions
    mesh: Mesh
    built: BuiltModel

    def state(self, stage: Stage) -> TrainState:
        """Returns a state at the start of a stage, after that of TOKENIZER, whose codebooks are only fitted."""
        return self._begin(_copy(self._fitted), stage)

    @functools.cached_property
    def _fitted(self) -> TrainState:
        # Without jit: to compile the start of a model takes longer than all that most tests do with it.
        key = jax.random.key(0)
        state = fresh_state(self.built.definition.init(key), key)
        state = jax.device_put(state, state_shardings(state, self.mesh))
        return self._begin(with_data(state, self.built), Stage.TOKENIZER)

    def _begin(self, state: TrainState, stage: Stage) -> TrainState:
        return begin_stage(
            state, self.built.graph, definition=self.built.definition, config=self.config, stage=stage, mesh=self.mesh
        )


#: One program a layout, not one an array.
_copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state))


def make_setup(config: Config, devices: list[jax.Device] | None = None) -> Setup:
    data = synthetic_interactions(name="synthetic", num_users=60, num_items=40, seed=0)
    training = data.without_last(2)
    mesh = make_mesh(config.mesh, devices=devices or jax.devices()[:1])
    return Setup(config=config, training=training, mesh=mesh, built=build_model(config, training, mesh=mesh))


@pytest.fixture(scope="session")
def setup() -> Setup:
    config = tiny.get_config()
    config.mesh = MeshConfig()
    return make_setup(config)
