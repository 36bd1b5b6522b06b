"""Builds the composite model of a run from its config and its training interactions. Read `build_model`."""

import dataclasses

import jax
import jraph
import transformers
from flax import nnx
from jax.sharding import Mesh

from tokenrec_jax.config import Config
from tokenrec_jax.data import prompts
from tokenrec_jax.data.graph import build_graph, inverse_sqrt_degree, padded_rows
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.data.vocabulary import Vocabulary, load_tokenizer, make_vocabulary, word_tokenizer
from tokenrec_jax.models import llm
from tokenrec_jax.models.tokenrec import ModelShape, TokenRec
from tokenrec_jax.numerics import round_up
from tokenrec_jax.sharding import replicated
from tokenrec_jax.training.state import ModelDefinition, Params, define_model

#: A vocabulary from scratch is padded to a multiple of this, so that it can be sharded.
TOKEN_MULTIPLE = 128


@dataclasses.dataclass(frozen=True)
class BuiltModel:
    """What the pieces of a run share.

    Attributes:
      definition: static half of the model.
      shape: its sizes.
      graph: training graph, on the devices.
      tokenizer: splits text; without the code tokens.
      vocabulary: where text and codes lie.
      unseen_template: index of the template that is never trained on; the "seen" one is 0.
      pretrained: weights of the language model on the host, None for random ones.
    """

    definition: ModelDefinition
    shape: ModelShape
    graph: jraph.GraphsTuple
    tokenizer: transformers.PreTrainedTokenizerBase
    vocabulary: Vocabulary
    unseen_template: int
    pretrained: Params | None


def build_model(config: Config, training: Interactions, *, mesh: Mesh) -> BuiltModel:
    """Returns the model definition for a data set; no parameter is made yet.

    Args:
      config: of the run.
      training: training interactions; their graph and their numbers of users and items shape the model.
      mesh: devices.

    Raises:
      ConfigError: the language model or its tokenizer cannot be had.
    """
    tokenizer = _tokenizer(config)
    vocabulary = make_vocabulary(tokenizer, num_books=config.tokenizer.num_books, book_size=config.tokenizer.book_size)
    dropout = None if config.llm.dropout < 0 else config.llm.dropout
    if config.llm.name.startswith(llm.SCRATCH):
        loaded = None
        rows = round_up(vocabulary.num_text_tokens, multiple=TOKEN_MULTIPLE)
        model_config = llm.preset(config.llm.name.removeprefix(llm.SCRATCH), vocab_size=rows)
    else:
        loaded = llm.load(config.llm.name, dtype=config.llm.dtype, dropout_rate=dropout)
        llm.check_vocabulary(vocabulary.num_text_tokens, loaded)
        model_config = loaded.config
    texts = (*prompts.TRAINING_TEMPLATES, prompts.UNSEEN_TEMPLATE)
    templates = prompts.tokenize_templates(
        texts,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        encoder_decoder=isinstance(model_config, llm.T5Config),
        with_user=config.llm.user_tokens != "none",
        with_history=config.llm.objective == "prompt",
    )
    shape = ModelShape(
        num_users=training.num_users,
        num_items=training.num_items,
        user_rows=padded_rows(training.num_users),
        item_rows=padded_rows(training.num_items),
        first_user_token=vocabulary.first_user_token,
        first_item_token=vocabulary.first_item_token,
        pad_token=vocabulary.pad_token,
        num_text_tokens=int(templates.text_length.sum(axis=1).max()),
    )
    degrees = inverse_sqrt_degree(training)

    def build(key: jax.Array) -> TokenRec:
        llm_key, key = jax.random.split(key)
        rngs = nnx.Rngs(params=llm_key)
        if loaded is None:
            size = model_config.vocab_size
            name, dtype = config.llm.name, config.llm.dtype
            model = llm.build(name, vocab_size=size, rngs=rngs, dtype=dtype, dropout_rate=dropout)
        else:
            model = llm.make_model(loaded.config, rngs=rngs, dtype=loaded.dtype)
        return TokenRec(
            config,
            shape=shape,
            llm=model,
            templates=templates,
            inverse_sqrt_degree=degrees,
            rngs=nnx.Rngs(params=key),
        )

    return BuiltModel(
        definition=define_model(build),
        shape=shape,
        graph=jax.device_put(build_graph(training), replicated(mesh)),
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        unseen_template=len(texts) - 1,
        pretrained=None if loaded is None else nnx.to_pure_dict(nnx.state(loaded, nnx.Param)),
    )


def _tokenizer(config: Config) -> transformers.PreTrainedTokenizerBase:
    if config.llm.tokenizer:
        return load_tokenizer(config.llm.tokenizer)
    if config.llm.name.startswith(llm.SCRATCH):
        return word_tokenizer((*prompts.TRAINING_TEMPLATES, prompts.ANSWER))
    if llm.is_gguf(config.llm.name):
        return llm.gguf_tokenizer(config.llm.name)
    return load_tokenizer(config.llm.name)
