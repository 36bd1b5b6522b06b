"""Builds the composite model of a run from its config and its training interactions. Read `build_model`."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import transformers
from absl import logging
from flax import nnx
from jax.sharding import Mesh

from tokenrec_jax.config import Config
from tokenrec_jax.data import prompts
from tokenrec_jax.data.features import FeatureTable, feature_table
from tokenrec_jax.data.graph import build_graph, graph_shardings, inverse_sqrt_degree, padded_rows
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.data.sources import cache_folder
from tokenrec_jax.data.vocabulary import Vocabulary, load_tokenizer, make_vocabulary, word_tokenizer
from tokenrec_jax.models import llm
from tokenrec_jax.models.tables import ModelShape
from tokenrec_jax.models.tokenrec import TokenRec
from tokenrec_jax.numerics import round_up
from tokenrec_jax.sharding import FSDP, TENSOR, put, state_shardings
from tokenrec_jax.training.item_text import TextMap, fit_text_map, forget_model
from tokenrec_jax.training.state import ModelDefinition, Params, TrainState, abstract_state, define_model, init_state
from tokenrec_jax.types import PADDING, PromptTemplates

#: A vocabulary from scratch is padded to a multiple of this, so that it can be sharded.
TOKEN_MULTIPLE = 128


@dataclasses.dataclass(frozen=True)
class BuiltModel:
    """What the pieces of a run share.

    Attributes:
      config: of the run.
      definition: static half of the model.
      shape: its sizes.
      graph: training graph, on the devices.
      tokenizer: splits text; without the code tokens.
      vocabulary: where text and codes lie.
      unseen_template: index of the template that is never trained on; the "seen" one is 0.
      llm_config: shape of the language model, its own vocabulary only.
      templates: tokenized prompt templates, on the host.
      features: which categorical values of items have a number; None without `llm.item_features`.
      text: how text about items becomes a vector; None without `llm.item_text`.
      pretrained: weights of the language model in their places on the devices, for the first state of a run; None for
        random ones and for runs that have begun.
      tables: what the data say of items, on the host, for the first state of a run; None for runs that have begun.
    """

    config: Config
    definition: ModelDefinition
    shape: ModelShape
    graph: jraph.GraphsTuple
    tokenizer: transformers.PreTrainedTokenizerBase
    vocabulary: Vocabulary
    unseen_template: int
    llm_config: llm.LanguageModelConfig
    templates: PromptTemplates
    features: FeatureTable | None
    text: TextMap | None
    pretrained: Params | None
    tables: dict[str, np.ndarray] | None


def build_model(config: Config, training: Interactions, *, mesh: Mesh, saved: pathlib.Path | None = None) -> BuiltModel:
    """Returns the model definition for a data set; no parameter is made yet.

    Args:
      config: of the run.
      training: training interactions; their graph and their numbers of users and items shape the model.
      mesh: devices.
      saved: folder in which a run keeps shape and tokenizer of its language model, whose weights are in its
        checkpoints; None: `config.llm` says where model and tokenizer are.

    Raises:
      ConfigError: the language model or its tokenizer cannot be had, or prompts are too long for it.
    """
    tokenizer = _tokenizer(config) if saved is None else load_tokenizer(str(saved))
    vocabulary = make_vocabulary(tokenizer, num_books=config.tokenizer.num_books, book_size=config.tokenizer.book_size)
    pretrained = None
    if saved is not None:
        model_config = llm.read_config(saved)
    elif config.llm.name.startswith(llm.SCRATCH):
        rows = round_up(vocabulary.num_text_tokens, multiple=TOKEN_MULTIPLE)
        model_config = llm.preset(config.llm.name.removeprefix(llm.SCRATCH), vocab_size=rows)
    else:
        loaded = llm.load(
            config.llm.name,
            shardings=lambda shapes: state_shardings({"llm": shapes}, mesh)["llm"],
            num_tokens=vocabulary.num_text_tokens,
            vocabulary_multiple=TOKEN_MULTIPLE,
        )
        model_config, pretrained = loaded.config, nnx.to_pure_dict(nnx.state(loaded, nnx.Param))
    texts = (*prompts.TRAINING_TEMPLATES, prompts.UNSEEN_TEMPLATE)
    templates = prompts.tokenize_templates(
        texts,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        encoder_decoder=isinstance(model_config, llm.T5Config),
        with_user=config.llm.user_tokens != "none",
        with_history=config.llm.objective == "prompt",
    )
    features = None
    if config.llm.item_features:
        least = config.llm.min_feature_items
        features = feature_table(training.item_attributes or (), min_items=least)
        if features is None:
            logging.warning(
                "%s: no categorical value has %d items or more (llm.min_feature_items, data.feature_columns); "
                "llm.item_features does nothing",
                training.name,
                least,
            )
    text = None
    if config.llm.item_text:
        text = _text_map(config, training) if saved is None else TextMap.load(saved)
    shape = ModelShape(
        num_users=training.num_users,
        num_items=training.num_items,
        user_rows=padded_rows(training.num_users),
        item_rows=padded_rows(training.num_items),
        first_user_token=vocabulary.first_user_token,
        first_item_token=vocabulary.first_item_token,
        pad_token=vocabulary.pad_token,
        num_text_tokens=int(templates.text_length.sum(axis=1).max()),
        num_features=0 if features is None else len(features.names),
        feature_width=0 if features is None else features.width,
        text_dim=0 if text is None else text.basis.shape[1],
    )
    definition = define(
        config,
        shape=shape,
        llm_config=model_config,
        templates=templates,
    )
    tables = None if saved is not None else _tables(config, features, text, training, shape=shape)
    _check_lengths(definition, config)
    # Training has the memory for itself.
    forget_model()
    return BuiltModel(
        config=config,
        definition=definition,
        shape=shape,
        graph=place_graph(training, mesh),
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        unseen_template=len(texts) - 1,
        llm_config=model_config,
        templates=templates,
        features=features,
        text=text,
        pretrained=pretrained,
        tables=tables,
    )


def first_state(built: BuiltModel, *, seed: int, mesh: Mesh) -> TrainState:
    """Returns the state in which a run begins; `seed` is that of the random parameters."""
    return with_data(init_state(built.definition, seed=seed, mesh=mesh, pretrained=built.pretrained), built)


def with_data(state: TrainState, built: BuiltModel) -> TrainState:
    """Returns a fresh state with what the data say of items in its tables.

    They come from the host, as a program that makes them would have to hold them.
    """
    assert built.tables is not None, "of a run that has begun"
    arrays = dict(state.buffers["tables"])
    for name, table in built.tables.items():
        arrays[name] = put(table, arrays[name].sharding)
    return dataclasses.replace(state, buffers={**state.buffers, "tables": arrays})


def place_graph(interactions: Interactions, mesh: Mesh) -> jraph.GraphsTuple:
    """Returns the graph of interactions on the devices, in as many shards as the tables have."""
    shards = mesh.shape[FSDP] * mesh.shape[TENSOR]
    return jax.tree.map(put, build_graph(interactions, shards=shards), graph_shardings(mesh))


def define(
    config: Config,
    *,
    shape: ModelShape,
    llm_config: llm.LanguageModelConfig,
    templates: PromptTemplates,
) -> ModelDefinition:
    """Returns the definition of a model of these sizes, which need not be those of any data set."""
    dropout = None if config.llm.dropout < 0 else config.llm.dropout
    # Any: of whatever family.
    family_config: Any = llm_config
    family_config = dataclasses.replace(family_config, dropout_each_position=config.llm.dropout_each_position)
    if config.llm.small_start:
        family_config = llm.small_start(family_config)

    def build(key: jax.Array) -> TokenRec:
        llm_key, key = jax.random.split(key)
        rngs = nnx.Rngs(params=llm_key)
        return TokenRec(
            config,
            shape=shape,
            llm=llm.make_model(
                family_config,
                rngs=rngs,
                dtype=config.llm.dtype,
                dropout_rate=dropout,
                calls=llm.LayerCalls(remat=config.llm.remat, scan=config.llm.scan_layers),
            ),
            templates=templates,
            rngs=nnx.Rngs(params=key),
        )

    return define_model(build)


def _text_map(config: Config, training: Interactions) -> TextMap:
    name, dim = config.llm.item_text, config.llm.item_text_dim
    cache = cache_folder(config.data)
    return fit_text_map(name, training.texts(), dim=dim, dataset=training.name, cache=cache)


def _tables(
    config: Config, features: FeatureTable | None, text: TextMap | None, training: Interactions, *, shape: ModelShape
) -> dict[str, np.ndarray]:
    """Returns what the data say of all items, and nothing for the padded rows, by the name of the model's table."""
    tables = {"inverse_sqrt_degree": inverse_sqrt_degree(training)}
    if features is not None:
        tables["item_features"] = np.full((shape.item_rows, shape.feature_width), PADDING, np.int32)
        tables["item_features"][: shape.num_items] = features.encode(training.item_attributes or ())
    if text is not None:
        tables["item_text"] = np.zeros((shape.item_rows, shape.text_dim), np.float32)
        tables["item_text"][: shape.num_items] = text.vectors(training.texts(), cache=cache_folder(config.data))
    return tables


def _check_lengths(definition: ModelDefinition, config: Config) -> None:
    """Raises `ConfigError` if the longest prompt exceeds the language model's positions; only traces."""
    state = abstract_state(definition)
    row = jnp.zeros((1,), jnp.int32)
    history = jnp.zeros((1, config.data.max_history), jnp.int32)

    def query(params: Params, buffers: Params) -> jax.Array:
        return definition.merge(params, buffers).queries(user=row, history=history, template=row)

    jax.eval_shape(query, state.params, state.buffers)


def _tokenizer(config: Config) -> transformers.PreTrainedTokenizerBase:
    name = config.llm.tokenizer or config.llm.name
    if name.startswith(llm.SCRATCH):
        return word_tokenizer((*prompts.TRAINING_TEMPLATES, prompts.ANSWER))
    return llm.gguf_tokenizer(name) if llm.is_gguf(name) else load_tokenizer(name)
