"""All kinds of tokenizers on a small table: training signal, mask, inference, revival, jit."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tokenrec_jax.config import TokenizerConfig
from tokenrec_jax.models.quantization import measure_usage
from tokenrec_jax.models.stacked_mlp import StackedMLP
from tokenrec_jax.models.tokenizer import build_tokenizer, principal_views
from tokenrec_jax.models.tokenizer_base import Tokenizer, mask_elements
from tokenrec_jax.types import ConfigError

DIM, ROWS = 12, 300
KINDS = ("masked_vq", "residual_vq", "kmeans")
SMALL = TokenizerConfig(num_books=3, book_size=16, code_dim=16, hidden_dims=(24,), kmeans_iterations=8)


@pytest.fixture(scope="module")
def vectors() -> jax.Array:
    """Vectors far from zero mean and unit scale, with unequal dimensions."""
    spread = jnp.linspace(0.5, 3.0, DIM)
    return 40.0 + 7.0 * spread[None] * jax.random.normal(jax.random.key(0), (ROWS, DIM))


# Compilation is what these tests cost. Fields that `initialize` looks at; tokenizers that differ in others share its
# program.
FITTED_FIELDS = ("kind", "num_books", "distinct_views", "kmeans_rows")

_PROGRAMS: dict = {}


@functools.cache
def make_fit(**changes):
    """Returns a jitted function from vectors to the parameters and buffers of a fitted tokenizer."""
    definition, params, buffers = split(build(**changes))

    def fit(vectors):
        tokenizer = nnx.merge(definition, params, buffers)
        tokenizer.initialize(vectors, key=jax.random.key(0))
        return split(tokenizer)[1:]

    return jax.jit(fit)


def build(**changes) -> Tokenizer:
    return build_tokenizer(dataclasses.replace(SMALL, **changes), dim=DIM, rngs=nnx.Rngs(0))


def make(vectors: jax.Array, **changes) -> Tokenizer:
    """Returns a fitted tokenizer."""
    fit = make_fit(**{name: value for name, value in changes.items() if name in FITTED_FIELDS})
    return nnx.merge(split(build(**changes))[0], *fit(vectors))


def run(tokenizer: Tokenizer, method: str, *arguments, **keywords):
    """Calls a method and leaves the tokenizer as it was; one program a config and method."""
    definition, params, buffers = split(tokenizer)

    def call(params, buffers, arguments, keywords):
        return getattr(nnx.merge(definition, params, buffers), method)(*arguments, **keywords)

    program = _PROGRAMS.setdefault((method, repr(tokenizer.config)), jax.jit(call))
    return program(params, buffers, arguments, keywords)


def split(tokenizer: Tokenizer):
    definition, params, buffers = nnx.split(tokenizer, nnx.Param, ...)
    return definition, nnx.to_pure_dict(params), nnx.to_pure_dict(buffers)


def unexplained(tokenizer: Tokenizer, vectors: jax.Array) -> float:
    """Share of the variance that encoding and decoding loses."""
    error = run(tokenizer, "decode", run(tokenizer, "encode", vectors)) - vectors
    return float(jnp.sum(error**2) / jnp.sum((vectors - jnp.mean(vectors, axis=0)[None]) ** 2))


def train(tokenizer: Tokenizer, vectors: jax.Array, *, steps: int) -> Tokenizer:
    """The product's step in small: pure dicts through jit, merge inside, revive after the optimizer."""
    definition, params, buffers = split(tokenizer)
    optimizer = optax.adamw(3e-3, weight_decay=0.01)

    @jax.jit
    def step(params, buffers, moments, key):
        loss_key, revive_key = jax.random.split(key)

        def loss_of(params):
            tokenizer = nnx.merge(definition, params, buffers)
            output = tokenizer.loss(vectors, key=loss_key)
            return output.total, (output, split(tokenizer)[2])

        (_, (output, after)), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        tokenizer = nnx.merge(definition, optax.apply_updates(params, updates), after)
        tokenizer.revive(output, key=revive_key)
        return *split(tokenizer)[1:], moments

    moments = optimizer.init(params)
    for key in jax.random.split(jax.random.key(1), steps):
        params, buffers, moments = step(params, buffers, moments, key)
    assert step._cache_size() == 1, "the step compiled again"
    return nnx.merge(definition, params, buffers)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_ranges(kind, vectors):
    tokenizer = make(vectors, kind=kind)
    codes = run(tokenizer, "encode", vectors)
    assert codes.shape == (ROWS, 3) and codes.dtype == jnp.int32
    assert int(codes.min()) >= 0 and int(codes.max()) < 16
    assert run(tokenizer, "decode", codes).shape == (ROWS, DIM)
    assert tokenizer.code_vectors().shape == (3, 16, DIM if kind == "kmeans" else 16)
    assert run(tokenizer, "encode", vectors[:1]).shape == (1, 3)


@pytest.mark.parametrize("kind", ("masked_vq", "residual_vq"))
def test_every_parameter_gets_a_gradient(kind, vectors):
    """With commitment 0 the only signal of the encoders is the straight-through gradient."""
    tokenizer = make(vectors, kind=kind, commitment_weight=0.0)
    definition, params, buffers = split(tokenizer)
    gradients = jax.jit(
        jax.grad(lambda params: nnx.merge(definition, params, buffers).loss(vectors, key=jax.random.key(0)).total)
    )(params)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(gradient).all(), name
        # A bias in front of a batch norm is taken away again.
        if "bias" not in name:
            assert np.abs(gradient).max() > 1e-6, name
    kernels = gradients["encoders" if kind == "masked_vq" else "encoder"]["linears"][0]["kernel"]
    assert (np.abs(kernels).max(axis=(1, 2)) > 1e-6).all(), "an encoder of some book has no gradient"


def test_mask_hides_about_rho_of_each_row_independently(vectors):
    rows = jnp.ones((4000, 64))
    masked = np.asarray(mask_elements(rows, mask_ratio=0.3, key=jax.random.key(0)))
    assert np.all(np.isin(masked, (0.0, 1.0)))
    hidden = 1 - masked
    assert hidden.mean() == pytest.approx(0.3, abs=0.005)
    np.testing.assert_allclose(hidden.mean(axis=0), 0.3, atol=0.04)
    assert hidden.mean(axis=1).std() == pytest.approx(np.sqrt(0.3 * 0.7 / 64), rel=0.05)
    assert len(np.unique(masked, axis=0)) == 4000
    assert np.any(masked != np.asarray(mask_elements(rows, mask_ratio=0.3, key=jax.random.key(1))))
    np.testing.assert_array_equal(mask_elements(rows, mask_ratio=0.0, key=jax.random.key(0)), rows)


def test_target_is_not_masked(vectors, monkeypatch):
    """With all elements hidden from the encoders, the error is that against the whole vector."""
    tokenizer = make(vectors)
    before = np.array(vectors)
    monkeypatch.setattr("tokenrec_jax.models.tokenizer.mask_elements", lambda rows, **_: jnp.zeros_like(rows))
    # Not `run`, which keeps programs for other tests.
    output = tokenizer.loss(vectors, key=jax.random.key(0))
    assert len(np.unique(output.codes, axis=0)) == 1
    assert float(output.reconstruction) > 0.5
    np.testing.assert_array_equal(vectors, before)


def test_loss_is_the_weighted_sum_of_its_terms(vectors):
    tokenizer = make(vectors, codebook_weight=2.0, commitment_weight=0.5)
    output = run(tokenizer, "loss", vectors, key=jax.random.key(0))
    expected = output.reconstruction + 2.0 * output.codebook + 0.5 * output.commitment
    assert float(output.total) == pytest.approx(float(expected), rel=1e-6)
    assert output.encoded.shape == (ROWS, 3, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_inference_is_unmasked_deterministic_and_row_by_row(kind, vectors):
    tokenizer = make(vectors, kind=kind, mask_ratio=0.9, dropout=0.5)
    buffers = split(tokenizer)[2]
    codes = run(tokenizer, "encode", vectors)
    np.testing.assert_array_equal(codes, run(tokenizer, "encode", vectors))
    # No statistics of the batch: a row alone and in another order gets the same codes.
    np.testing.assert_array_equal(run(tokenizer, "encode", vectors[::-1])[::-1], codes)
    np.testing.assert_array_equal(run(tokenizer, "encode", vectors[7:8])[0], codes[7])
    assert len(np.unique(codes, axis=0)) > ROWS // 2, "codes look masked"
    jax.tree.map(np.testing.assert_array_equal, split(tokenizer)[2], buffers)


def test_training_draws_mask_and_dropout_from_its_key(vectors):
    for changes in ({"mask_ratio": 0.3}, {"mask_ratio": 0.0, "dropout": 0.3}):
        tokenizer = make(vectors, **changes)
        totals = [float(run(tokenizer, "loss", vectors, key=jax.random.key(k)).total) for k in (0, 0, 1)]
        assert totals[0] == totals[1] != totals[2]


@pytest.mark.parametrize("kind", ("masked_vq", "residual_vq"))
def test_training_lowers_the_reconstruction_error(kind, vectors):
    tokenizer = make(vectors, kind=kind)
    before = unexplained(tokenizer, vectors)
    after = unexplained(train(tokenizer, vectors, steps=150), vectors)
    assert after < 0.6 and after < 0.7 * before


def test_kmeans_needs_no_training(vectors):
    tokenizer = make(vectors, kind="kmeans")
    assert not jax.tree.leaves(split(tokenizer)[1])
    assert unexplained(tokenizer, vectors) < 0.4
    fewer = make(vectors, kind="kmeans", num_books=1)
    assert unexplained(fewer, vectors) > 1.2 * unexplained(tokenizer, vectors)
    trained = train(tokenizer, vectors, steps=2)
    np.testing.assert_array_equal(trained.code_vectors(), tokenizer.code_vectors())


@pytest.mark.parametrize("kind", KINDS)
def test_scale_and_offset_of_the_vectors_do_not_matter(kind, vectors):
    plain = make(vectors, kind=kind)
    moved = make(vectors * 1e-3 + 5e-3, kind=kind)
    same = np.mean(np.asarray(run(plain, "encode", vectors)) == np.asarray(run(moved, "encode", vectors * 1e-3 + 5e-3)))
    # Rounding may move a row over a border.
    assert same > 0.97


@pytest.mark.parametrize("kind", ("masked_vq", "residual_vq"))
def test_dead_codes_are_revived_and_then_used(kind, vectors):
    tokenizer = make(vectors, kind=kind, revival_threshold=0.1)
    # All codes but the first of each book move where no row is.
    away = tokenizer.codebooks[...].at[:, 1:].add(1e3)
    tokenizer.codebooks[...] = away
    assert measure_usage(np.asarray(run(tokenizer, "encode", vectors)), book_size=16).used.max() == 1
    tokenizer.usage[...] = tokenizer.usage[...].at[:, 1:].set(0.0)
    output = run(tokenizer, "loss", vectors, key=jax.random.key(0))
    tokenizer.revive(output, key=jax.random.key(1))
    moved = np.asarray(tokenizer.codebooks[...])
    np.testing.assert_array_equal(moved[:, 0], away[:, 0])
    rows = np.moveaxis(np.asarray(output.encoded), 0, 1)
    for book in range(3):
        distance = np.abs(moved[book, 1:, None] - rows[book][None]).max(axis=-1)
        assert (distance.min(axis=1) == 0).all(), "a revived code is not an encoder output of the batch"
        assert len(np.unique(moved[book], axis=0)) == 16
    usage = measure_usage(np.asarray(run(tokenizer, "encode", vectors)), book_size=16)
    assert usage.used.min() >= (13 if kind == "masked_vq" else 2)
    assert usage.used[0] >= 13
    # The moved codes have time before they are judged again.
    assert np.asarray(tokenizer.usage[...])[:, 1:].min() == 1.0


def test_codes_in_use_stay_and_usage_follows_the_batches(vectors):
    tokenizer = make(vectors, revival_threshold=1e-6)
    before = np.asarray(tokenizer.codebooks[...])
    for step in range(3):
        output = run(tokenizer, "loss", vectors, key=jax.random.key(step))
        tokenizer.revive(output, key=jax.random.key(step))
    np.testing.assert_array_equal(tokenizer.codebooks[...], before)
    np.testing.assert_allclose(np.asarray(tokenizer.usage[...]).mean(axis=1), 1.0, rtol=1e-5)
    assert np.asarray(tokenizer.usage[...]).std() > 0


def test_views_share_out_the_principal_directions(vectors):
    rows = (vectors - jnp.mean(vectors, axis=0)[None]) / 7.0
    views = np.asarray(principal_views(rows, num_books=3))
    np.testing.assert_allclose(views, views.transpose(0, 2, 1), atol=1e-4)
    assert [np.linalg.matrix_rank(view, tol=1e-3) for view in views] == [4, 4, 4]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        np.testing.assert_allclose(views[one] @ views[other], 0.0, atol=1e-3)
    assert np.linalg.matrix_rank(views.sum(axis=0), tol=1e-3) == DIM
    np.testing.assert_allclose((views**2).sum(axis=(1, 2)), DIM, rtol=1e-4)
    seen = np.asarray(rows) @ views
    variances = seen.var(axis=1).sum(axis=1)
    assert variances.max() < 2 * variances.min()


def test_without_views_every_encoder_reads_the_whole_vector(vectors):
    tokenizer = make(vectors, distinct_views=False)
    np.testing.assert_array_equal(tokenizer.views[...], np.tile(np.eye(DIM), (3, 1, 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_table_of_constant_or_few_rows_gives_finite_numbers(kind):
    for rows in (jnp.ones((5, DIM)), jax.random.normal(jax.random.key(0), (5, DIM))):
        tokenizer = make(rows, kind=kind)
        decoded = run(tokenizer, "decode", run(tokenizer, "encode", rows))
        assert np.isfinite(decoded).all()
        assert np.isfinite(float(run(tokenizer, "loss", rows, key=jax.random.key(0)).total))


def test_more_rows_than_kmeans_looks_at(vectors):
    tokenizer = make(vectors, kind="kmeans", kmeans_rows=100)
    assert unexplained(tokenizer, vectors) < 0.6


def test_initialize_is_the_same_outside_of_jit(vectors):
    tokenizer = build_tokenizer(SMALL, dim=DIM, rngs=nnx.Rngs(0))
    tokenizer.initialize(vectors, key=jax.random.key(0))
    inside = run(make(vectors), "encode", vectors)
    same = np.mean(np.asarray(run(tokenizer, "encode", vectors)) == np.asarray(inside))
    # Rounding may move a row over a border.
    assert same > 0.97


def test_stacked_mlp_is_separate_networks():
    """Gradients and values of one network do not depend on another's input."""
    mlp = StackedMLP(2, (4, 6, 3), dropout=0.0, rngs=nnx.Rngs(0))
    inputs = jax.random.normal(jax.random.key(0), (10, 2, 4))
    outputs = mlp(inputs, training=True)
    changed = mlp(inputs.at[:, 1].mul(-2.0), training=True)
    np.testing.assert_allclose(outputs[:, 0], changed[:, 0], rtol=1e-5)
    assert np.abs(np.asarray(outputs[:, 1] - changed[:, 1])).max() > 0.1
    # By hand, with the statistics of the batch.
    first, last = mlp.linears[0], mlp.linears[1]
    hidden = np.asarray(inputs[:, 0]) @ np.asarray(first.kernel[...][0])
    hidden = np.maximum((hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5), 0)
    np.testing.assert_allclose(outputs[:, 0], hidden @ np.asarray(last.kernel[...][0]), atol=1e-4)


def test_running_statistics_of_a_whole_batch_make_inference_equal_training():
    mlp = StackedMLP(2, (4, 6, 3), dropout=0.0, rngs=nnx.Rngs(0))
    inputs = 5.0 + 3.0 * jax.random.normal(jax.random.key(0), (50, 2, 4))
    trained = mlp(inputs, training=True, momentum=0.0)
    np.testing.assert_allclose(mlp(inputs, training=False), trained, atol=1e-4)
    other = StackedMLP(2, (4, 6, 3), dropout=0.0, rngs=nnx.Rngs(0))
    for _ in range(100):
        other(inputs, training=True)
    np.testing.assert_allclose(other(inputs, training=False), trained, atol=1e-3)


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", "vq"), ("num_books", 0), ("num_books", DIM + 1), ("mask_ratio", 1.0), ("hidden_dims", (0,))],
)
def test_config_out_of_range_is_refused(field, value):
    config = dataclasses.replace(SMALL, **{field: value})
    with pytest.raises(ConfigError, match=rf"tokenizer\.{field}: .*; allowed is") as caught:
        build_tokenizer(config, dim=DIM, rngs=nnx.Rngs(0))
    assert "\n" not in str(caught.value)
