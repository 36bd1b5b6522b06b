import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from tokenrec_jax.config import MeshConfig
from tokenrec_jax.sharding import make_mesh, put_batch, state_shardings
from tokenrec_jax.training.state import abstract_state
from tokenrec_jax.types import ConfigError, RowBatch


def test_the_mesh_must_cover_the_devices():
    with pytest.raises(ConfigError, match="does not cover 1 devices"):
        make_mesh(MeshConfig(data=3), devices=jax.devices()[:1])
    for none in (MeshConfig(fsdp=0), MeshConfig(data=1, tensor=0)):
        with pytest.raises(ConfigError, match="does not cover 1 devices"):
            make_mesh(none, devices=jax.devices()[:1])


@pytest.mark.parametrize("preset", ["tiny", "t5-v1_1-base"])
def test_every_array_of_the_state_has_exactly_one_rule(preset):
    from experiments.configs import tiny
    from tests.training.conftest import make_setup

    config = tiny.get_config(preset)
    config.llm.item_residual = config.llm.item_vectors_at_input = True
    setup = make_setup(config)
    shardings = state_shardings(abstract_state(setup.built.definition), setup.mesh)
    assert shardings.params["llm"]["token_embedding"].spec == PartitionSpec("tensor", "fsdp")


def test_unknown_arrays_and_indivisible_dimensions_are_errors():
    mesh = make_mesh(MeshConfig(), devices=jax.devices()[:1])
    with pytest.raises(ConfigError, match="0 rules match 'surprise/kernel'"):
        state_shardings({"surprise": {"kernel": jnp.zeros(3)}}, mesh)

    four = jax.sharding.AbstractMesh((1, 4, 1), ("data", "fsdp", "tensor"))
    with pytest.raises(ConfigError, match=r"user_embedding has a dimension of 6, not divisible by mesh.fsdp"):
        state_shardings({"user_embedding": jnp.zeros((6, 8))}, four)


def test_batches_are_put_whole():
    mesh = make_mesh(MeshConfig(), devices=jax.devices()[:1])
    batch = put_batch(RowBatch(user=np.arange(4), item=np.arange(4)), mesh)
    assert isinstance(batch.user, jax.Array) and batch.item.shape == (4,)
