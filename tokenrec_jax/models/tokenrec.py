"""TokenRec: graph encoder, two tokenizers, language model and query head as one module. Read `TokenRec.queries`.

What is trained when, and with which loss, is in `training/`. Top-level attributes name the parameter groups:
`collaborative`, `user_tokenizer`, `item_tokenizer`, `llm` or its adapters `lora`, `code_tokens`, `head`; `tables` holds
what was computed and is not trained.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jraph
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from tokenrec_jax.config import Config
from tokenrec_jax.models.item_features import ItemFeatures, rows_of
from tokenrec_jax.models.lightgcn import LightGCN, propagate
from tokenrec_jax.models.llm.interface import LanguageModel
from tokenrec_jax.models.llm.lora import LowRankAdapters
from tokenrec_jax.models.projection import QueryHead, close_up, fold_in, take_newest
from tokenrec_jax.models.prompting import (
    assemble_prompt,
    code_tokens,
    history_lengths,
    prompt_length,
)
from tokenrec_jax.models.tables import ModelShape, Tables
from tokenrec_jax.models.tokenizer import build_tokenizer
from tokenrec_jax.numerics import round_up
from tokenrec_jax.partitioned import take_rows
from tokenrec_jax.types import PADDING, PromptTemplates

#: The table of code tokens is padded to a multiple of this many rows, so that it can be sharded.
CODE_TOKEN_MULTIPLE = 128


class TokenRec(nnx.Module):
    """The composite model."""

    def __init__(
        self,
        config: Config,
        *,
        shape: ModelShape,
        llm: LanguageModel,
        templates: PromptTemplates,
        rngs: nnx.Rngs,
    ):
        """Composes the parts around a language model that knows only its own vocabulary."""
        self.config = config
        self.shape = shape
        dim = config.lightgcn.embedding_dim
        self.collaborative = LightGCN(config.lightgcn, num_users=shape.user_rows, num_items=shape.item_rows, rngs=rngs)
        self.user_tokenizer = build_tokenizer(config.tokenizer, dim=dim, rngs=rngs)
        self.item_tokenizer = build_tokenizer(config.tokenizer, dim=dim, rngs=rngs)
        self.llm = llm
        if config.llm.tuning == "lora":
            self.lora = LowRankAdapters(llm, rank=config.llm.lora_rank, alpha=config.llm.lora_alpha, rngs=rngs)
        # The embeddings of the code tokens are a table of their own: the vocabulary of a frozen model need not move,
        # nor have moments, for them to be learned. Rows are those of the vocabulary from `first_user_token` on.
        # The stage LLM fills it when it begins.
        codes = 2 * config.tokenizer.num_books * config.tokenizer.book_size
        rows = round_up(codes, multiple=CODE_TOKEN_MULTIPLE)
        self.code_tokens = nnx.Param(jnp.zeros((rows, llm.hidden_size)))
        self.head = QueryHead(config, hidden_size=llm.hidden_size, num_items=shape.item_rows, rngs=rngs)
        if shape.num_features or shape.text_dim:
            self.features = ItemFeatures(
                num_values=shape.num_features,
                text_dim=shape.text_dim,
                dim=dim,
                hidden_size=llm.hidden_size,
                rngs=rngs,
            )
        self.tables = Tables(config, shape=shape, templates=templates)

    def queries(
        self,
        *,
        user: Int[Array, " batch"],
        history: Int[Array, "batch history"],
        template: Int[Array, " template"],
        item_vectors: Float[Array, "items emb"] | None = None,
        item_space: Float[Array, "items emb"] | None = None,
        key: jax.Array | None = None,
    ) -> Float[Array, "batch position emb"]:
        """Returns the query at every supervised position: one (objective "prompt") or one an item ("dense").

        Args:
          user: user ids; read only when user tokens are learned.
          history: item ids, oldest first, right-padded with `PADDING`.
          template: index of the prompt template of each row, or of all rows. Where `shares_instruction`, only one.
          item_vectors: collaborative embeddings of the items; None takes the frozen ones.
          item_space: what `item_space` makes of them, where it is at hand; else it is computed, of all items.
          key: decides dropout; None switches it off.
        """
        vectors = self.tables.item_vectors[...] if item_vectors is None else item_vectors
        space = self.item_space(vectors) if item_space is None else item_space
        drop_key = item_key = llm_key = fold_key = None
        if key is not None:
            drop_key, item_key, llm_key = jax.random.split(key, 3)
            fold_key = jax.random.fold_in(item_key, 1)
        visible = self._visible(history, item_key)
        with jax.named_scope("llm"):
            if self.config.llm.objective == "dense":
                hidden = self._dense_hidden(user, history, template, space, visible, drop_key=drop_key, llm_key=llm_key)
            else:
                # The user's tokens stand for all of the history that the batch has, of items that are hidden too.
                degree = self.tables.inverse_sqrt_degree[...]
                whole = fold_in(history, item_vectors=vectors, inverse_sqrt_degree=degree)[:, -1]
                hidden = self._prompt_hidden(
                    user, history, template, space, whole, visible, drop_key=drop_key, llm_key=llm_key
                )
        if not self.config.llm.fold_in:
            return self.head.queries(hidden, None)
        if visible is None:
            folded = self._folded(history, vectors, space, key=fold_key)
        else:
            shorter, newest = close_up(jnp.where(visible, history, PADDING))
            folded = take_newest(self._folded(shorter, vectors, space, key=fold_key), newest)
        return self.head.queries(hidden, folded if hidden.shape[1] > 1 else self._last(folded, history))

    def item_space(self, item_vectors: Float[Array, "items emb"]) -> Float[Array, "items emb"]:
        """Returns the unit vectors of items that queries are matched against, from collaborative embeddings."""
        return self.head.item_space(item_vectors, self.content_vectors() if hasattr(self, "features") else None)

    def content_vectors(self) -> Float[Array, "items emb"]:
        """Returns what content says of the place of each item in the item space."""
        return self.features.in_space(self._feature_table("item_features"), self._feature_table("item_text"))

    def _feature_table(self, name: str) -> Array | None:
        return getattr(self.tables, name)[...] if hasattr(self.tables, name) else None

    @property
    def shares_instruction(self) -> bool:
        """Whether what stands before the history is the same for all rows of a batch, and thus read only once."""
        return self.config.llm.objective == "dense" and self.config.llm.user_tokens == "none"

    def adapted_llm(self) -> LanguageModel:
        """Returns the language model with its adapters at work, if it has any."""
        return self.lora.beside(self.llm) if hasattr(self, "lora") else self.llm

    def merged_llm(self) -> LanguageModel:
        """Returns a copy of the language model with its adapters, if it has any, added to its weights."""
        return self.lora.merged(self.llm) if hasattr(self, "lora") else nnx.merge(*nnx.split(self.llm))

    def _prompt_hidden(self, user, history, template, space, folded, visible, *, drop_key, llm_key):
        """Returns hidden states [batch, 1, model]: user and history in the prompt, a fixed answer after it."""
        pooled = self.config.llm.item_positions == "pooled"
        user_tokens = self._user_tokens(user, folded)
        history_tokens = self._item_tokens(history)
        if pooled:
            # One token an item keeps its place; its embedding is replaced below.
            history_tokens = history_tokens[..., :1]
        prompt = assemble_prompt(
            self.tables.templates,
            template=jnp.broadcast_to(template, user.shape),
            user_tokens=user_tokens,
            use_user=self._use_user(user.shape[0], drop_key),
            history_tokens=history_tokens,
            history_length=history_lengths(history),
            length=prompt_length(
                num_text_tokens=self.shape.num_text_tokens,
                num_user_tokens=user_tokens.shape[1],
                num_history_tokens=history.shape[1] * history_tokens.shape[2],
            ),
            pad_token=self.shape.pad_token,
        )
        embedded = self._embed(prompt.tokens)
        # One row a history position, from which each token of the prompt picks that of its item.
        rows = self._pooled_items(history, space) if pooled else self._beside_codes(history, space)
        place = jnp.maximum(prompt.history_index, 0)
        of_item = (prompt.history_index != PADDING)[..., None]
        if rows is not None:
            picked = jnp.take_along_axis(rows.astype(embedded.dtype), place[..., None], axis=1)
            embedded = jnp.where(of_item, picked if pooled else embedded + picked, embedded)
        if visible is not None:
            hidden = of_item & ~jnp.take_along_axis(visible, place, axis=1)[..., None]
            embedded = jnp.where(hidden, 0, embedded)
        answer = self._embed(self.tables.answer[...])
        answer = jnp.broadcast_to(answer[None], (user.shape[0], *answer.shape))
        return self.adapted_llm().hidden_states(embedded, prompt.mask, query_embeds=answer, key=llm_key)[:, -1:]

    def _dense_hidden(self, user, history, template, space, visible, *, drop_key, llm_key):
        """Returns hidden states [batch, history, model]: an instruction, then the items, each seeing those before it.

        The history is what a decoder reads: T5's own, or the rest of the sequence of a causal model. Where an item has
        a position for each of its codes, its state is that of the last one.
        """
        if self.shares_instruction:
            embedded, mask = self._instruction(template, jnp.zeros((1, 1), jnp.int32), None)
        else:
            template = jnp.broadcast_to(template, user.shape)
            embedded, mask = self._instruction(template, self._user_tokens(user, None), drop_key)
        per_item = 1
        if self.config.llm.item_positions == "pooled":
            items = self._pooled_items(history, space)
        else:
            items = self._embed_codes(self._item_tokens(history))
            beside = self._beside_codes(history, space)
            if beside is not None:
                items = items + beside[:, :, None].astype(items.dtype)
            per_item = items.shape[2]
            items = items.reshape(items.shape[0], -1, items.shape[3])
        if visible is not None:
            items = jnp.where(jnp.repeat(visible, per_item, axis=1)[..., None], items, 0)
        hidden = self.adapted_llm().hidden_states(embedded, mask, query_embeds=items, key=llm_key)
        return hidden[:, per_item - 1 :: per_item]

    def _instruction(self, template, user_tokens, drop_key):
        """Returns (embeddings, mask) of the templates without their history."""
        rows = template.shape[0]
        prompt = assemble_prompt(
            self.tables.templates,
            template=template,
            user_tokens=user_tokens,
            use_user=self._use_user(rows, drop_key),
            history_tokens=jnp.zeros((rows, 1, 1), jnp.int32),
            history_length=jnp.zeros((rows,), jnp.int32),
            length=prompt_length(
                num_text_tokens=self.shape.num_text_tokens,
                num_user_tokens=user_tokens.shape[1],
                num_history_tokens=0,
            ),
            pad_token=self.shape.pad_token,
        )
        return self._embed(prompt.tokens), prompt.mask

    def _embed(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch model"]:
        """Returns the embeddings of text and code tokens."""
        first = self.shape.first_user_token
        text = self.llm.embed(jnp.minimum(tokens, first - 1))
        code = self._embed_codes(jnp.maximum(tokens, first)).astype(text.dtype)
        return jnp.where((tokens >= first)[..., None], code, text)

    def _embed_codes(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch model"]:
        """Returns the embeddings of tokens that are all code tokens."""
        # Not the other way round: gradients of all places of a token are summed in the table's type.
        return self.code_tokens[...][tokens - self.shape.first_user_token].astype(self.llm.dtype)

    def _sum_of_codes(self, tokens: Int[Array, "batch history book"]) -> Float[Array, "batch history model"]:
        """Returns the sum of the embeddings of each item's code tokens."""
        users = self.shape.first_item_token - self.shape.first_user_token
        table, codes = self.code_tokens[...][users:], tokens - self.shape.first_item_token
        product, lookup = (functools.partial(each, dtype=self.llm.dtype) for each in (_sum_by_product, _sum_by_lookup))
        return jax.lax.platform_dependent(table, codes, tpu=product, default=lookup)

    def _user_tokens(self, user, folded) -> Int[Array, "batch book"]:
        """Returns the tokens of each user, or one column that no template shows."""
        if self.config.llm.user_tokens == "none":
            return jnp.zeros((user.shape[0], 1), jnp.int32)
        if self.config.llm.user_tokens == "folded":
            codes = self.user_tokenizer.encode(folded)
        else:
            codes = take_rows(self.tables.user_codes[...], user)
        return code_tokens(codes, first_token=self.shape.first_user_token, book_size=self.config.tokenizer.book_size)

    def _use_user(self, batch: int, key: jax.Array | None) -> Bool[Array, " batch"]:
        if key is None or self.config.llm.user_token_dropout == 0:
            return jnp.ones((batch,), bool)
        return jax.random.bernoulli(key, 1 - self.config.llm.user_token_dropout, (batch,))

    def _item_tokens(self, history) -> Int[Array, "batch history book"]:
        return code_tokens(
            take_rows(self.tables.item_codes[...], jnp.maximum(history, 0)),
            first_token=self.shape.first_item_token,
            book_size=self.config.tokenizer.book_size,
        )

    def _folded(self, history, vectors, space, *, key) -> Float[Array, "batch history emb"]:
        """Returns the fold-in that queries start from."""
        weight = self.tables.inverse_sqrt_degree[...]
        if self.config.llm.fold_in_vectors == "space":
            vectors, weight = space, jnp.ones_like(weight)
        return self.head.fold_in(history, item_vectors=vectors, inverse_sqrt_degree=weight, key=key)

    def _pooled_items(self, history, space) -> Float[Array, "batch history model"]:
        """Returns one embedding an item: the sum of those of its codes and of what stands beside them, by config."""
        parts = [] if (beside := self._beside_codes(history, space)) is None else [beside]
        if self.config.llm.codes_at_input:
            parts.append(self._sum_of_codes(self._item_tokens(history)))
        return functools.reduce(jnp.add, parts).astype(self.llm.dtype)

    def _beside_codes(self, history, space) -> Float[Array, "batch history model"] | None:
        """Returns what the language model reads of each item besides its codes; None where that is nothing."""
        parts = []
        if self.config.llm.item_vectors_at_input:
            parts.append(self.head.read(take_rows(space, jnp.maximum(history, 0))))
        if hasattr(self, "features"):
            tables = (self._feature_table("item_features"), self._feature_table("item_text"))
            parts.append(self.features.at_input(*(None if each is None else rows_of(each, history) for each in tables)))
        return functools.reduce(jnp.add, parts) if parts else None

    def _visible(self, history, key: jax.Array | None) -> Bool[Array, "batch history"] | None:
        """Returns which items of the histories the language model may read in training; None for all."""
        if key is None or self.config.llm.item_dropout == 0:
            return None
        return jax.random.bernoulli(key, 1 - self.config.llm.item_dropout, history.shape)

    def _last(self, folded, history) -> Float[Array, "batch 1 emb"]:
        """Returns the entry of the newest item of each history."""
        newest = jnp.maximum(history_lengths(history) - 1, 0)
        return jnp.take_along_axis(folded, newest[:, None, None], axis=1)

    def user_rows_to_tokenize(self, item_vectors, graph: jraph.GraphsTuple) -> Float[Array, "users emb"]:
        """Returns the vectors that the user tokenizer learns from: learned ones, or the fold-in of each history.

        The fold-in of all users at once is one propagation step from the items alone.
        """
        if self.config.llm.user_tokens != "folded":
            return self.tables.user_vectors[...]
        nobody = jnp.zeros((self.tables.user_vectors.shape[0], item_vectors.shape[1]))
        return propagate(nobody, item_vectors, graph)[0]


def _sum_by_lookup(
    table: Float[Array, "rows model"], index: Int[Array, "*batch book"], *, dtype: Any
) -> Float[Array, "*batch model"]:
    return functools.reduce(jnp.add, (table[index[..., book]].astype(dtype) for book in range(index.shape[-1])))


def _sum_by_product(
    table: Float[Array, "rows model"], index: Int[Array, "*batch book"], *, dtype: Any
) -> Float[Array, "*batch model"]:
    """Does the same with rows of ones and zeros: the gradient is then a product too, not a serial scatter."""
    return jnp.sum(jax.nn.one_hot(index, len(table), dtype=dtype), axis=-2) @ table.astype(dtype)
