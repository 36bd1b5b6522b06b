"""Sizes of the composite model, and the arrays that its stages hand to later stages. Read `Tables`.

The model that reads them is in `tokenrec.py`; what fills them is in `training/stages.py`.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from tokenrec_jax.config import Config
from tokenrec_jax.models.buffer import Buffer
from tokenrec_jax.types import PADDING, PromptTemplates


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """Sizes that come from the data and the vocabulary rather than from the config.

    Attributes:
      num_users: users of the data set.
      num_items: items of the data set.
      user_rows: padded rows of the user tables.
      item_rows: padded rows of the item tables.
      first_user_token: vocabulary id of user book 0, code 0, which is the first one that is not text.
      first_item_token: vocabulary id of item book 0, code 0.
      pad_token: fills prompts.
      num_text_tokens: text tokens of the longest template.
      num_features: categorical values of items that have a number; 0 without `llm.item_features`.
      feature_width: values that an item has at most.
      text_dim: size of the text vectors of items; 0 without `llm.item_text`.
    """

    num_users: int
    num_items: int
    user_rows: int
    item_rows: int
    first_user_token: int
    first_item_token: int
    pad_token: int
    num_text_tokens: int
    num_features: int = 0
    feature_width: int = 0
    text_dim: int = 0


class Tables(nnx.Module):
    """Arrays that stages hand to later stages; one row a user or an item, padded rows at the end.

    Attributes:
      user_vectors, item_vectors: collaborative embeddings, frozen when the stage COLLABORATIVE ended.
      user_codes, item_codes: their codes.
      inverse_sqrt_degree: weight of an item in a fold-in.
      item_features, item_text: numbers of the categorical values of each item, right-padded with `PADDING`, and its
        text vector; only with `llm.item_features` and `llm.item_text`.
      text, text_length, slot, answer: the prompt templates, see `PromptTemplates`. The last template is the unseen one.
    """

    def __init__(
        self,
        config: Config,
        *,
        shape: ModelShape,
        templates: PromptTemplates,
    ):
        """Makes the tables; what a data set says of items is put into them later, see `training/build.py`."""
        dim, books = config.lightgcn.embedding_dim, config.tokenizer.num_books
        self.user_vectors = Buffer(jnp.zeros((shape.user_rows, dim)))
        self.item_vectors = Buffer(jnp.zeros((shape.item_rows, dim)))
        self.user_codes = Buffer(jnp.zeros((shape.user_rows, books), jnp.int32))
        self.item_codes = Buffer(jnp.zeros((shape.item_rows, books), jnp.int32))
        self.inverse_sqrt_degree = Buffer(jnp.zeros(shape.item_rows))
        if shape.num_features:
            self.item_features = Buffer(jnp.full((shape.item_rows, shape.feature_width), PADDING, jnp.int32))
        if shape.text_dim:
            self.item_text = Buffer(jnp.zeros((shape.item_rows, shape.text_dim)))
        self.text = Buffer(jnp.asarray(templates.text))
        self.text_length = Buffer(jnp.asarray(templates.text_length))
        self.slot = Buffer(jnp.asarray(templates.slot))
        self.answer = Buffer(jnp.asarray(templates.answer))

    @property
    def templates(self) -> PromptTemplates:
        """The prompt templates as one object."""
        return PromptTemplates(
            text=self.text[...],
            text_length=self.text_length[...],
            slot=self.slot[...],
            answer=self.answer[...],
        )
