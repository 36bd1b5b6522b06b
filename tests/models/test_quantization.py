"""Nearest codes, straight-through gradient, losses, usage, and k-means against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenrec_jax.models import quantization
from tokenrec_jax.models.kmeans import fit_kmeans


@pytest.fixture
def vectors() -> jax.Array:
    return jax.random.normal(jax.random.key(0), (40, 3, 8))


@pytest.fixture
def codebooks() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (3, 16, 8))


def test_nearest_codes_equal_brute_force(vectors, codebooks):
    codes = jax.jit(quantization.nearest_codes)(vectors, codebooks)
    distances = ((np.asarray(vectors)[:, :, None] - np.asarray(codebooks)[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(codes, distances.argmin(-1))


def test_nearest_codes_of_code_vectors_are_themselves_and_ties_go_to_the_lowest(codebooks):
    rows = jnp.moveaxis(codebooks, 0, 1)
    expected = np.tile(np.arange(16)[:, None], (1, 3))
    np.testing.assert_array_equal(quantization.nearest_codes(rows, codebooks), expected)
    twice = jnp.concatenate([codebooks, codebooks], axis=1)
    np.testing.assert_array_equal(quantization.nearest_codes(rows, twice), expected)


def test_look_up_reads_each_book(codebooks):
    codes = jnp.array([[0, 5, 15], [3, 3, 3]])
    found = quantization.look_up(codebooks, codes)
    for row in range(2):
        for book in range(3):
            np.testing.assert_array_equal(found[row, book], codebooks[book, codes[row, book]])


def test_straight_through_has_the_codes_value_and_the_encoders_gradient(vectors, codebooks):
    weights = jax.random.normal(jax.random.key(2), vectors.shape)

    def value(vectors, codebooks):
        codes = quantization.nearest_codes(vectors, codebooks)
        passed = quantization.straight_through(vectors, quantization.look_up(codebooks, codes))
        return jnp.sum(passed * weights), passed

    (to_vectors, to_codebooks), passed = jax.grad(value, argnums=(0, 1), has_aux=True)(vectors, codebooks)
    quantized = quantization.look_up(codebooks, quantization.nearest_codes(vectors, codebooks))
    np.testing.assert_allclose(passed, quantized, atol=1e-6)
    np.testing.assert_allclose(to_vectors, weights)
    assert not np.any(to_codebooks)


def test_losses_sum_over_books_and_each_moves_one_side(vectors):
    quantized = vectors + 2.0
    losses = quantization.quantization_losses(vectors, quantized)
    assert float(losses.codebook) == pytest.approx(3 * 4.0, rel=1e-5)
    assert float(losses.commitment) == pytest.approx(3 * 4.0, rel=1e-5)

    def gradients(name):
        return jax.grad(lambda v, q: getattr(quantization.quantization_losses(v, q), name), argnums=(0, 1))(
            vectors, quantized
        )

    for name, moved, still in (("codebook", 1, 0), ("commitment", 0, 1)):
        found = gradients(name)
        assert np.all(np.asarray(found[moved]) != 0)
        assert not np.any(found[still])


def test_usage_of_a_known_table():
    codes = np.array([[0, 0], [0, 1], [1, 2], [1, 2], [1, 2], [0, 0]])
    usage = quantization.measure_usage(codes, book_size=4)
    np.testing.assert_array_equal(usage.used, [2, 3])
    np.testing.assert_array_equal(usage.dead, [2, 1])
    entropy = -(2 / 6 * np.log(2 / 6) + 1 / 6 * np.log(1 / 6) + 3 / 6 * np.log(3 / 6))
    np.testing.assert_allclose(usage.perplexity, [2.0, np.exp(entropy)])
    assert usage.sharing_rows == 5
    assert usage.sharing_ratio == pytest.approx(5 / 6)
    assert usage.largest_group == 3
    np.testing.assert_array_equal(
        quantization.count_codes(jnp.asarray(codes), book_size=4), [[3, 3, 0, 0], [2, 1, 3, 0]]
    )


def test_kmeans_centers_are_means_of_their_rows_and_near_them():
    centers = 20.0 * jax.random.normal(jax.random.key(3), (2, 12, 5))
    noise = jax.random.normal(jax.random.key(4), (2, 12, 30, 5))
    rows = (centers[:, :, None] + noise).reshape(2, 360, 5)
    found = fit_kmeans(rows, num_centers=20, iterations=25, key=jax.random.key(0))
    nearest = np.asarray(quantization.nearest_codes(jnp.moveaxis(rows, 0, 1), found))
    for book in range(2):
        own = np.asarray(rows[book])
        means = [own[nearest[:, book] == code].mean(axis=0) for code in range(20)]
        np.testing.assert_allclose(found[book], means, atol=0.3)
        error = ((own - np.asarray(found[book])[nearest[:, book]]) ** 2).sum(axis=1).mean()
        assert error < 0.05 * own.var(axis=0).sum()
    assert np.any(nearest[:, 0] != nearest[:, 1])


def test_kmeans_is_a_function_of_its_key_and_leaves_no_center_empty():
    rows = jax.random.normal(jax.random.key(5), (2, 500, 4)) ** 3
    fit = lambda key: fit_kmeans(rows, num_centers=64, iterations=12, key=jax.random.key(key))  # noqa: E731
    np.testing.assert_array_equal(fit(0), fit(0))
    assert np.any(np.asarray(fit(0)) != np.asarray(fit(1)))
    codes = quantization.nearest_codes(jnp.moveaxis(rows, 0, 1), fit(0))
    np.testing.assert_array_equal(quantization.measure_usage(np.asarray(codes), book_size=64).dead, 0)


def test_kmeans_repairs_empty_centers():
    # Most random rows are copies of one point, so most centers start empty.
    copies = jnp.zeros((1, 2000, 3))
    others = jax.random.normal(jax.random.key(6), (1, 40, 3)) * 5
    rows = jnp.concatenate([copies, others], axis=1)
    found = fit_kmeans(rows, num_centers=20, iterations=20, key=jax.random.key(0))
    codes = quantization.nearest_codes(jnp.moveaxis(rows, 0, 1), found)
    assert quantization.measure_usage(np.asarray(codes), book_size=20).used[0] == 20


def test_kmeans_of_fewer_rows_than_centers_keeps_each_row():
    rows = jax.random.normal(jax.random.key(7), (1, 5, 3))
    found = fit_kmeans(rows, num_centers=8, iterations=5, key=jax.random.key(0))
    assert found.shape == (1, 8, 3)
    distance = np.linalg.norm(np.asarray(rows[0])[:, None] - np.asarray(found[0])[None], axis=-1)
    np.testing.assert_allclose(distance.min(axis=1), 0.0, atol=1e-5)


def test_kmeans_in_chunks_equals_kmeans_at_once(monkeypatch):
    rows = jax.random.normal(jax.random.key(8), (1, 100, 3))
    whole = fit_kmeans(rows, num_centers=10, iterations=5, key=jax.random.key(0))
    monkeypatch.setattr("tokenrec_jax.models.kmeans.CHUNK_ROWS", 32)
    fit_kmeans.clear_cache()
    np.testing.assert_allclose(
        fit_kmeans(rows, num_centers=10, iterations=5, key=jax.random.key(0)), whole, rtol=1e-5, atol=1e-5
    )
