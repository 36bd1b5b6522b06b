import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.configs import tiny
from tests.training.conftest import make_setup
from tokenrec_jax.data.batches import train_batches
from tokenrec_jax.sharding import put_batch
from tokenrec_jax.training.build import first_state
from tokenrec_jax.training.stages import begin_stage
from tokenrec_jax.training.state import TRAINED
from tokenrec_jax.training.step import content_loss, make_train_step
from tokenrec_jax.types import Stage


def run(setup, stage: Stage, steps: int):
    """Returns the parameters before, the state after, and the metrics of each step."""
    state = setup.state(stage)
    before = jax.tree.map(np.asarray, state.params)
    step = make_train_step(setup.built.definition, config=setup.config, stage=stage, state=state, mesh=setup.mesh)
    batches = train_batches(setup.training, config=setup.config, stage=stage)
    found = []
    shapes = set()
    for _ in range(steps):
        with jax.transfer_guard("disallow"):
            batch = put_batch(next(batches), setup.mesh)
            state, metrics = step(state, batch, setup.built.graph)
        shapes.add(jax.tree.map(jnp.shape, batch))
        found.append(jax.device_get(metrics))
    return before, state, found, step, shapes


@pytest.mark.parametrize("stage", list(Stage))
def test_a_stage_learns_moves_only_its_parameters_and_compiles_once_a_shape(setup, stage):
    before, state, metrics, step, shapes = run(setup, stage, 16)
    assert all(np.isfinite(m["loss"]) for m in metrics)
    assert np.mean([m["loss"] for m in metrics[-4:]]) < np.mean([m["loss"] for m in metrics[:4]])
    for group, old in before.items():
        moved = any(
            not np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(state.params[group]), strict=True)
        )
        assert moved == (group in TRAINED[stage]), group
    # Buckets 6 and 12 in the stages with histories, one shape else.
    assert len(shapes) == (2 if stage in (Stage.LLM, Stage.JOINT) else 1)
    assert step._cache_size() == len(shapes)
    assert int(state.step) == 16


def test_steps_are_reproducible(setup):
    first = run(setup, Stage.LLM, 3)[2]
    second = run(setup, Stage.LLM, 3)[2]
    assert [m["loss"] for m in first] == [m["loss"] for m in second]


OPTIONS = {
    "paper": {"llm.fold_in": False, "loss.kind": "pairwise", "loss.num_negatives": 3},
    "dense": {"llm.objective": "dense", "llm.item_vectors_at_input": True, "llm.item_residual": True},
    "dense without user, pooled": {
        "llm.objective": "dense", "llm.user_tokens": "none", "llm.item_positions": "pooled",
        "llm.item_vectors_at_input": True,
    },
    "prompt, pooled": {"llm.item_positions": "pooled"},
    "folded user": {"llm.user_tokens": "folded", "llm.user_token_dropout": 0.3, "llm.dropout": 0.1},
    "vectors in the prompt": {"llm.item_vectors_at_input": True, "llm.item_residual": True},
    "residual tokenizer": {"tokenizer.kind": "residual_vq"},
    "k-means tokenizer": {"tokenizer.kind": "kmeans"},
    "random codes": {"tokenizer.kind": "random"},
    "vectors without codes": {
        "llm.codes_at_input": False, "llm.item_vectors_at_input": True, "llm.item_positions": "pooled",
    },
    "content, hidden items, smooth labels": {
        "llm.item_features": True, "llm.item_dropout": 0.2, "loss.label_smoothing": 0.1, "llm.fold_in_recency": 1.0,
        "llm.fold_in_residual": True,
    },
    "free projection": {"llm.projection": "free", "llm.item_dropout": 0.2, "llm.objective": "dense"},
    "small start": {
        "llm.small_start": True, "llm.projection_dim": 0, "llm.dropout": 0.1, "llm.dropout_each_position": True,
        "llm.fold_in_dropout": 0.2, "llm.fold_in_vectors": "space", "llm.projection": "cosine",
        "llm.item_vectors_at_input": True, "llm.item_residual": True,
    },
    "bfloat16": {"llm.dtype": "bfloat16"},
    "bfloat16, pooled": {
        "llm.dtype": "bfloat16", "llm.item_positions": "pooled", "llm.item_vectors_at_input": True,
        "llm.item_features": True,
    },
    "causal, prompt": {"llm.name": "scratch:llama-tiny", "llm.tuning": "lora"},
    "causal, dense": {"llm.name": "scratch:gpt2-tiny", "llm.objective": "dense", "llm.user_tokens": "none"},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options_train(name):
    config = tiny.get_config()
    config.data.history_buckets = ()  # one shape, one compilation
    for path, value in OPTIONS[name].items():
        section, field = path.split(".")
        setattr(getattr(config, section), field, value)
    setup = make_setup(config)
    _, _, metrics, _, _ = run(setup, Stage.LLM, 10)
    losses = [float(m["loss"]) for m in metrics]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


@pytest.mark.parametrize(("tuning", "moving"), [("frozen", set()), ("lora", {"lora"})])
def test_a_frozen_language_model_stays_and_its_adapters_move(tuning, moving):
    config = tiny.get_config()
    config.data.history_buckets = ()
    config.llm.tuning = tuning
    before, state, metrics, _, _ = run(make_setup(config), Stage.LLM, 10)
    moved = {
        group
        for group, old in before.items()
        if not all(
            np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(state.params[group]), strict=True)
        )
    }
    assert moved == {"code_tokens", "head"} | moving
    assert np.mean([m["loss"] for m in metrics[-4:]]) < np.mean([m["loss"] for m in metrics[:4]])


def test_the_graph_encoder_learns_from_the_whole_catalogue():
    config = tiny.get_config()
    config.lightgcn.loss = "softmax"
    _, _, metrics, _, _ = run(make_setup(config), Stage.COLLABORATIVE, 20)
    losses = [float(m["softmax"]) for m in metrics]
    assert losses[0] == pytest.approx(np.log(40), abs=0.5) and losses[-1] < losses[0] - 0.1


def test_content_follows_the_items_and_does_not_move_them():
    config = tiny.get_config()
    config.llm.item_features, config.loss.content_weight = True, 1.0
    setup = make_setup(config)
    state = setup.state(Stage.LLM)
    vectors = state.buffers["tables"]["item_vectors"]

    def loss(params):
        model = setup.built.definition.merge(params, state.buffers)
        return content_loss(model, vectors)

    value, gradient = jax.jit(jax.value_and_grad(loss))(state.params)
    assert 0 < float(value) < 2
    assert float(jnp.abs(gradient["features"]["value_space"]).max()) > 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient["head"]))


def test_hidden_items_change_the_query_in_training_only(setup):
    config = tiny.get_config()
    config.llm.item_dropout = 0.9
    hiding = make_setup(config)
    state = hiding.state(Stage.LLM)
    model = hiding.built.definition.merge(state.params, state.buffers)
    arguments = {
        "user": jnp.arange(2),
        "history": jnp.array([[3, 1, 4, 1, 5, 9]] * 2),
        "template": jnp.zeros(2, jnp.int32),
    }
    plain = setup.built.definition.merge(state.params, state.buffers)
    # Compiled whole: operation by operation takes ten times as long.
    np.testing.assert_array_equal(*(nnx.jit(lambda each: each.queries(**arguments))(each) for each in (model, plain)))
    visible = model._visible(arguments["history"], jax.random.key(0))
    assert visible is not None and 0 < int(visible.sum()) < 6
    assert plain._visible(arguments["history"], jax.random.key(0)) is None


def test_items_are_folded_in_where_they_are_in_the_item_space():
    config = tiny.get_config()
    config.llm.fold_in_vectors, config.llm.projection, config.llm.item_residual = "space", "cosine", True
    moved = make_setup(config)
    state = moved.state(Stage.LLM)
    model = moved.built.definition.merge(state.params, state.buffers)
    residual = model.head.item_residual
    residual[...] = jax.random.normal(jax.random.key(0), residual.shape)
    history = jnp.array([[3, 1, 4, 1, 5, 9]])
    template = jnp.zeros(1, jnp.int32)
    query = nnx.jit(lambda each: each.queries(user=jnp.arange(1), history=history, template=template))(model)
    space = np.asarray(model.item_space(model.tables.item_vectors[...]))
    # All items weigh alike in the tiny config, and a new language model adds nothing.
    expected = space[history[0]].sum(axis=0)
    expected /= np.linalg.norm(expected) * config.loss.temperature
    np.testing.assert_allclose(query[0, -1], expected, rtol=1e-4, atol=1e-4)


def test_joint_sends_the_retrieval_gradient_into_the_graph_encoder(setup):
    """With the pairwise graph loss switched off, its tables still move: through the item space."""
    config = tiny.get_config()
    config.data.history_buckets = ()
    config.loss.collaborative_weight = 0.0
    config.loss.tokenizer_weight = 0.0
    before, state, _, _, _ = run(make_setup(config), Stage.JOINT, 2)
    old, new = before["collaborative"]["item_embedding"], state.params["collaborative"]["item_embedding"]
    assert not np.array_equal(old, new)


def test_codes_at_the_input_come_from_the_tokenizer(setup):
    """The tables of the LLM stage hold the codes that the fitted tokenizers give to the frozen vectors."""
    state = setup.state(Stage.LLM)
    model = setup.built.definition.merge(state.params, state.buffers)
    expected = model.item_tokenizer.encode(model.tables.item_vectors[...])
    np.testing.assert_array_equal(model.tables.item_codes[...], expected)
    assert len(np.unique(np.asarray(expected)[:40], axis=0)) > 10


def test_a_run_without_the_tokenizer_stage_fits_its_codebooks_before_the_next():
    config = tiny.get_config()
    config.stages = ("collaborative", "llm")
    setup = make_setup(config)
    state = begin_stage(
        first_state(setup.built, seed=0, mesh=setup.mesh), setup.built.graph,
        definition=setup.built.definition, config=config, stage=Stage.LLM, mesh=setup.mesh,
    )  # fmt: skip
    codes = np.asarray(state.buffers["tables"]["item_codes"])[: setup.training.num_items]
    assert len(np.unique(codes, axis=0)) > 10
    assert np.asarray(state.params["code_tokens"]).std() > 0


def test_code_tokens_start_from_the_codebooks(setup):
    """Distances between token embeddings follow those between code vectors."""
    state = setup.state(Stage.LLM)
    model = setup.built.definition.merge(state.params, state.buffers)
    vocabulary, size = setup.built.vocabulary, setup.config.tokenizer.book_size
    first = vocabulary.first_item_token - vocabulary.first_user_token
    tokens = np.asarray(model.code_tokens[...])[first : first + size]
    codes = np.asarray(model.item_tokenizer.code_vectors())[0]

    def distances(rows):
        return np.linalg.norm(rows[:, None] - rows[None], axis=-1)[np.triu_indices(size, 1)]

    assert np.corrcoef(distances(tokens), distances(codes))[0, 1] > 0.8
