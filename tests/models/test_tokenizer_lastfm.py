"""The tokenizer keeps its promise on real vectors: books in full use, few items that share a code."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse
from flax import nnx

from tokenrec_jax.config import TokenizerConfig
from tokenrec_jax.models.quantization import measure_usage
from tokenrec_jax.models.tokenizer import build_tokenizer

STEPS, BATCH_SIZE, LEARNING_RATE = 200, 512, 3e-3


def item_vectors(folder) -> np.ndarray:
    """Released layer-0 vectors, propagated as LightGCN does over all but the last two items of each user."""
    released = np.load(folder / "lgn_official_64.npz")
    layer = np.concatenate([released["user"], released["item"]])
    num_users, num_nodes = len(released["user"]), len(layer)
    rows = [[int(word) for word in line.split()] for line in (folder / "test.txt").read_text().splitlines()]
    users = np.concatenate([np.full(len(row) - 3, row[0]) for row in rows])
    items = np.concatenate([row[1:-2] for row in rows]) + num_users
    half = scipy.sparse.coo_matrix((np.ones(len(users)), (users, items)), shape=(num_nodes, num_nodes))
    adjacency = (half + half.T).tocsr()
    degree = np.maximum(np.asarray(adjacency.sum(axis=1))[:, 0], 1)
    scale = scipy.sparse.diags(degree**-0.5)
    layers = [layer]
    for _ in range(3):
        layers.append(scale @ (adjacency @ (scale @ layers[-1])))
    return np.mean(layers, axis=0)[num_users:].astype(np.float32)


def test_books_are_in_full_use_and_items_keep_their_own_code(shared_data):
    rows = jnp.asarray(item_vectors(shared_data / "LastFM"))
    assert rows.shape == (3646, 64)
    config = TokenizerConfig(kind="masked_vq", num_books=3, book_size=256)
    tokenizer = build_tokenizer(config, dim=64, rngs=nnx.Rngs(0))
    definition, params, buffers = nnx.split(tokenizer, nnx.Param, ...)
    params, buffers = nnx.to_pure_dict(params), nnx.to_pure_dict(buffers)
    optimizer = optax.adamw(optax.cosine_decay_schedule(LEARNING_RATE, STEPS), weight_decay=0.01)

    def leave(tokenizer):
        _, params, buffers = nnx.split(tokenizer, nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(buffers)

    @jax.jit
    def initialize(params, buffers, key):
        tokenizer = nnx.merge(definition, params, buffers)
        tokenizer.initialize(rows, key=key)
        return leave(tokenizer)

    @jax.jit
    def step(params, buffers, moments, key):
        batch_key, loss_key, revive_key = jax.random.split(key, 3)
        batch = rows[jax.random.randint(batch_key, (BATCH_SIZE,), 0, len(rows))]

        def loss_of(params):
            tokenizer = nnx.merge(definition, params, buffers)
            output = tokenizer.loss(batch, key=loss_key)
            return output.total, (output, leave(tokenizer)[1])

        (_, (output, after)), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        tokenizer = nnx.merge(definition, optax.apply_updates(params, updates), after)
        tokenizer.revive(output, key=revive_key)
        return *leave(tokenizer), moments

    @jax.jit
    def encode(params, buffers):
        tokenizer = nnx.merge(definition, params, buffers)
        codes = tokenizer.encode(rows)
        return codes, tokenizer.decode(codes)

    params, buffers = initialize(params, buffers, jax.random.key(0))
    moments = optimizer.init(params)
    for key in jax.random.split(jax.random.key(1), STEPS):
        params, buffers, moments = step(params, buffers, moments, key)
    codes, decoded = encode(params, buffers)

    usage = measure_usage(np.asarray(codes), book_size=256)
    lost = float(jnp.sum((decoded - rows) ** 2) / jnp.sum((rows - jnp.mean(rows, axis=0)[None]) ** 2))
    report = f"{usage}, explained variance {1 - lost:.3f}"
    assert usage.used.min() >= 0.8 * 256, report
    assert usage.perplexity.min() > 128, report
    assert usage.sharing_rows <= 0.03 * 3646, report
    assert lost < 0.6, report
