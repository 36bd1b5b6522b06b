"""What passes from one stage to the next: frozen vectors, fitted codebooks, code tables, token embeddings.

Read `begin_stage`. What happens inside of a stage is in `step.py`.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jraph
from jax.sharding import Mesh
from jaxtyping import Array, Float

from tokenrec_jax.config import Config
from tokenrec_jax.models.tokenrec import TokenRec
from tokenrec_jax.partitioned import map_rows
from tokenrec_jax.sharding import on_mesh, state_shardings
from tokenrec_jax.training.optimizer import make_optimizer
from tokenrec_jax.training.state import ModelDefinition, TrainState, abstract_like, split, trained
from tokenrec_jax.types import Stage

#: Rows that a tokenizer encodes at once, in about 100 MB with three books of 512 codes.
ENCODED_ROWS = 8192


def begin_stage(
    state: TrainState,
    graph: jraph.GraphsTuple,
    *,
    definition: ModelDefinition,
    config: Config,
    stage: Stage,
    mesh: Mesh,
) -> TrainState:
    """Returns the state with which a stage starts: step 0, fresh moments, tables that the stages before decide.

    TOKENIZER reads the propagated vectors and fits its codebooks on them; a run without that stage does so before the
    next one. LLM and JOINT read the codes of all users and items, and the first of them starts the embeddings of the
    code tokens, by config from the codebooks. Donates `state`.
    """
    return _jit_on_state(_make_begin(definition, config, stage, mesh), state, graph, mesh=mesh)(state, graph)


def abstract_stage(
    state: TrainState,
    graph: jraph.GraphsTuple,
    *,
    definition: ModelDefinition,
    config: Config,
    stage: Stage,
    mesh: Mesh,
) -> TrainState:
    """Returns shapes and shardings of the states of a stage, which is what a restore wants to know."""
    shapes = jax.eval_shape(_make_begin(definition, config, stage, mesh), state, graph)
    return abstract_like(shapes, state_shardings(shapes, mesh))


def _make_begin(
    definition: ModelDefinition, config: Config, stage: Stage, mesh: Mesh
) -> Callable[[TrainState, jraph.GraphsTuple], TrainState]:
    def begin(state: TrainState, graph: jraph.GraphsTuple) -> TrainState:
        with on_mesh(mesh):
            return begun(state, graph)

    def begun(state: TrainState, graph: jraph.GraphsTuple) -> TrainState:
        model = definition.merge(state.params, state.buffers)
        stage_key = jax.random.key(config.seed * len(Stage) + list(Stage).index(stage))
        fit_key, token_key, beside_key, step_key = jax.random.split(stage_key, 4)
        if stage is not Stage.COLLABORATIVE:
            freeze_vectors(model, graph)
        if _is_first(stage, config, among=(Stage.TOKENIZER, Stage.LLM, Stage.JOINT)):
            fit_tokenizers(model, graph, key=fit_key)
        if stage in (Stage.LLM, Stage.JOINT):
            refresh_codes(model, graph)
        if _is_first(stage, config, among=(Stage.LLM, Stage.JOINT)):
            init_code_tokens(model, from_codebooks=config.llm.init_from_codebooks, key=token_key)
            init_beside_codes(model, key=beside_key)
        params, buffers = split(model)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            buffers=buffers,
            optimizer=make_optimizer(config.stage(stage)).init(trained(params, stage, tuning=config.llm.tuning)),
            key=jax.random.key_data(step_key),
        )

    return begin


def _is_first(stage: Stage, config: Config, *, among: tuple[Stage, ...]) -> bool:
    """Returns whether a stage is the first of some that the run goes through, so that it does what all of them need."""
    return stage in among and str(stage) == next((name for name in config.stages if name in among), str(stage))


def make_table_refresh(
    definition: ModelDefinition, *, stage: Stage, state: TrainState, graph: jraph.GraphsTuple, mesh: Mesh
) -> Callable[[TrainState, jraph.GraphsTuple], TrainState]:
    """Returns the jitted update of the vectors and codes of all users and items from the current parameters.

    It donates its state. Stage JOINT runs it every so many steps, TOKENIZER at its end.
    """

    def refresh(state: TrainState, graph: jraph.GraphsTuple) -> TrainState:
        model = definition.merge(state.params, state.buffers)
        with on_mesh(mesh):
            freeze_vectors(model, graph)
            (follow_codes if stage is Stage.JOINT else refresh_codes)(model, graph)
        _, buffers = split(model)
        return dataclasses.replace(state, buffers=buffers)

    return _jit_on_state(refresh, state, graph, mesh=mesh)


def _jit_on_state(function: Callable, state: TrainState, *rest, mesh: Mesh) -> Callable:
    """Returns a jitted function from a state and replicated arrays to a state in its own layout; donates its input."""
    result = jax.eval_shape(function, state, *rest)
    return jax.jit(function, donate_argnums=(0,), out_shardings=state_shardings(result, mesh))


def freeze_vectors(model: TokenRec, graph: jraph.GraphsTuple) -> None:
    """Writes the propagated vectors of all users and items into the tables."""
    vectors = model.collaborative(graph)
    model.tables.user_vectors[...] = vectors.users
    model.tables.item_vectors[...] = vectors.items


def fit_tokenizers(model: TokenRec, graph: jraph.GraphsTuple, *, key: Array) -> None:
    """Fits standardisation and codebooks of both tokenizers on the real rows of the tables."""
    user_key, item_key = jax.random.split(key)
    items = model.tables.item_vectors[...]
    users = model.user_rows_to_tokenize(items, graph)
    model.user_tokenizer.initialize(users[: model.shape.num_users], key=user_key)
    model.item_tokenizer.initialize(items[: model.shape.num_items], key=item_key)


def refresh_codes(model: TokenRec, graph: jraph.GraphsTuple) -> None:
    """Writes the codes of all users and items into the tables."""
    items = model.tables.item_vectors[...]
    users = model.user_rows_to_tokenize(items, graph)
    model.tables.user_codes[...] = map_rows(model.user_tokenizer.encode, users, at_once=ENCODED_ROWS)
    model.tables.item_codes[...] = map_rows(model.item_tokenizer.encode, items, at_once=ENCODED_ROWS)


def follow_codes(model: TokenRec, graph: jraph.GraphsTuple) -> None:
    """Does so after vectors have moved, unless the codes would have nothing in common with those before."""
    if model.item_tokenizer.codes_follow:
        refresh_codes(model, graph)


def init_code_tokens(model: TokenRec, *, from_codebooks: bool, key: Array) -> None:
    """Writes the first embeddings of the code tokens, as loud as those of the language model's own tokens.

    Random ones, or the code vectors turned into the language model's size: a Gaussian random projection keeps the
    geometry of a codebook up to a scale; where the sizes agree the code vectors are only scaled.

    Differs: TokenRec names the codebooks as an option; its code starts the tokens at random.
    """
    rows, dim = model.code_tokens.shape
    table = jax.random.normal(key, (rows, dim))
    if from_codebooks:
        sides = (model.user_tokenizer, model.item_tokenizer)
        keys = jax.random.split(key, len(sides))
        codes = jnp.concatenate(
            [_as_embeddings(side.code_vectors(), dim=dim, key=k) for side, k in zip(sides, keys, strict=True)]
        )
        table = table.at[: len(codes)].set(codes)
    model.code_tokens[...] = table * jnp.std(model.llm.token_embedding[...])


def init_beside_codes(model: TokenRec, *, key: Array) -> None:
    """Starts the maps of what stands beside the codes so that it is as loud as one of them.

    Random layers would turn unit vectors into embeddings that the codes drown.
    """
    vector_key, value_key, text_key = jax.random.split(key, 3)
    scale = jnp.std(model.llm.token_embedding[...])
    if hasattr(model.head, "input"):
        model.head.input.kernel[...] = scale * jax.random.normal(vector_key, model.head.input.kernel.shape)
    if hasattr(model, "features"):
        model.features.init_inputs(scale, value_key=value_key, text_key=text_key)


def _as_embeddings(codebooks: Float[Array, "book code dim"], *, dim: int, key: Array) -> Float[Array, "tokens model"]:
    """Returns all code vectors as rows of `dim` numbers with unit variance in each book."""
    books, codes, code_dim = codebooks.shape
    centred = codebooks - jnp.mean(codebooks, axis=1, keepdims=True)
    if code_dim != dim:
        projection = jax.random.normal(key, (books, code_dim, dim))
        centred = jnp.einsum("kld,kdm->klm", centred, projection)
    spread = jnp.sqrt(jnp.mean(jnp.square(centred), axis=(1, 2), keepdims=True))
    return (centred / jnp.maximum(spread, 1e-6)).reshape(books * codes, dim)
