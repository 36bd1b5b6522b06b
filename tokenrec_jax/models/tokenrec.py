"""TokenRec: graph encoder, two tokenizers, language model and query head as one module. Read `TokenRec.queries`.

What is trained when, and with which loss, is in `training/`. Top-level attributes name the parameter groups:
`collaborative`, `user_tokenizer`, `item_tokenizer`, `llm` or its adapters `lora`, `code_tokens`, `head`; `tables` holds
what was computed and is not trained.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import jraph
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from tokenrec_jax.config import Config
from tokenrec_jax.models.buffer import Buffer
from tokenrec_jax.models.lightgcn import LightGCN, propagate
from tokenrec_jax.models.llm.interface import LanguageModel
from tokenrec_jax.models.llm.lora import LowRankAdapters
from tokenrec_jax.models.projection import QueryHead, fold_in
from tokenrec_jax.models.prompting import (
    assemble_prompt,
    code_tokens,
    history_lengths,
    prompt_length,
)
from tokenrec_jax.models.tokenizer import build_tokenizer
from tokenrec_jax.numerics import round_up
from tokenrec_jax.partitioned import take_rows
from tokenrec_jax.types import PADDING, PromptTemplates

#: The table of code tokens is padded to a multiple of this many rows, so that it can be sharded.
CODE_TOKEN_MULTIPLE = 128


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
    """

    num_users: int
    num_items: int
    user_rows: int
    item_rows: int
    first_user_token: int
    first_item_token: int
    pad_token: int
    num_text_tokens: int


class Tables(nnx.Module):
    """Arrays that stages hand to later stages; one row a user or an item, padded rows at the end.

    Attributes:
      user_vectors, item_vectors: collaborative embeddings, frozen when the stage COLLABORATIVE ended.
      user_codes, item_codes: their codes.
      inverse_sqrt_degree: weight of an item in a fold-in.
      text, text_length, slot, answer: the prompt templates, see `PromptTemplates`. The last template is the unseen one.
    """

    def __init__(
        self,
        config: Config,
        *,
        shape: ModelShape,
        templates: PromptTemplates,
        inverse_sqrt_degree: Float[Any, " items"],
    ):
        """Makes empty tables around the given constants."""
        dim, books = config.lightgcn.embedding_dim, config.tokenizer.num_books
        self.user_vectors = Buffer(jnp.zeros((shape.user_rows, dim)))
        self.item_vectors = Buffer(jnp.zeros((shape.item_rows, dim)))
        self.user_codes = Buffer(jnp.zeros((shape.user_rows, books), jnp.int32))
        self.item_codes = Buffer(jnp.zeros((shape.item_rows, books), jnp.int32))
        self.inverse_sqrt_degree = Buffer(jnp.asarray(inverse_sqrt_degree))
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


class TokenRec(nnx.Module):
    """The composite model."""

    def __init__(
        self,
        config: Config,
        *,
        shape: ModelShape,
        llm: LanguageModel,
        templates: PromptTemplates,
        inverse_sqrt_degree: Float[Any, " items"],
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
        self.tables = Tables(config, shape=shape, templates=templates, inverse_sqrt_degree=inverse_sqrt_degree)

    def queries(
        self,
        *,
        user: Int[Array, " batch"],
        history: Int[Array, "batch history"],
        template: Int[Array, " template"],
        item_vectors: Float[Array, "items emb"] | None = None,
        key: jax.Array | None = None,
    ) -> Float[Array, "batch position emb"]:
        """Returns the query at every supervised position: one (objective "prompt") or one an item ("dense").

        Args:
          user: user ids; read only when user tokens are learned.
          history: item ids, oldest first, right-padded with `PADDING`.
          template: index of the prompt template of each row, or of all rows. Where `shares_instruction`, only one.
          item_vectors: collaborative embeddings of the items; None takes the frozen ones.
          key: decides dropout; None switches it off.
        """
        vectors = self.tables.item_vectors[...] if item_vectors is None else item_vectors
        folded = fold_in(history, item_vectors=vectors, inverse_sqrt_degree=self.tables.inverse_sqrt_degree[...])
        drop_key, llm_key = (None, None) if key is None else jax.random.split(key)
        with jax.named_scope("llm"):
            if self.config.llm.objective == "dense":
                hidden = self._dense_hidden(user, history, template, vectors, drop_key=drop_key, llm_key=llm_key)
            else:
                hidden = self._prompt_hidden(
                    user, history, template, vectors, folded[:, -1], drop_key=drop_key, llm_key=llm_key
                )
                folded = folded[:, -1:]
        return self.head.queries(hidden, folded)

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

    def _prompt_hidden(self, user, history, template, vectors, folded, *, drop_key, llm_key):
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
        if pooled or self.config.llm.item_vectors_at_input:
            # One row a history position, from which each token of the prompt picks that of its item.
            rows = self._pooled_items(history, vectors) if pooled else self._projected_items(history, vectors)
            rows = rows.astype(embedded.dtype)
            picked = jnp.take_along_axis(rows, jnp.maximum(prompt.history_index, 0)[..., None], axis=1)
            of_item = (prompt.history_index != PADDING)[..., None]
            embedded = jnp.where(of_item, picked if pooled else embedded + picked, embedded)
        answer = self._embed(self.tables.answer[...])
        answer = jnp.broadcast_to(answer[None], (user.shape[0], *answer.shape))
        return self.adapted_llm().hidden_states(embedded, prompt.mask, query_embeds=answer, key=llm_key)[:, -1:]

    def _dense_hidden(self, user, history, template, vectors, *, drop_key, llm_key):
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
            items = self._pooled_items(history, vectors)
        else:
            items = self._embed_codes(self._item_tokens(history))
            if self.config.llm.item_vectors_at_input:
                items = items + self._projected_items(history, vectors)[:, :, None].astype(items.dtype)
            per_item = items.shape[2]
            items = items.reshape(items.shape[0], -1, items.shape[3])
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
        return self.code_tokens[...].astype(self.llm.dtype)[tokens - self.shape.first_user_token]

    def _sum_of_codes(self, tokens: Int[Array, "batch history book"]) -> Float[Array, "batch history model"]:
        """Returns the sum of the embeddings of each item's code tokens."""
        users = self.shape.first_item_token - self.shape.first_user_token
        table = self.code_tokens[...][users:].astype(self.llm.dtype)
        codes = tokens - self.shape.first_item_token
        return jax.lax.platform_dependent(table, codes, tpu=_sum_by_product, default=_sum_by_lookup)

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

    def _pooled_items(self, history, vectors) -> Float[Array, "batch history model"]:
        """Returns one embedding an item: the sum of those of its codes and, by config, its projected vector."""
        items = self._sum_of_codes(self._item_tokens(history))
        if self.config.llm.item_vectors_at_input:
            items = items + self._projected_items(history, vectors).astype(items.dtype)
        return items

    def _projected_items(self, history, vectors) -> Float[Array, "batch history model"]:
        """Returns the item-space vectors of a history as seen at the input of the language model."""
        return self.head.input(take_rows(self.head.item_space(vectors), jnp.maximum(history, 0)))

    def user_rows_to_tokenize(self, item_vectors, graph: jraph.GraphsTuple) -> Float[Array, "users emb"]:
        """Returns the vectors that the user tokenizer learns from: learned ones, or the fold-in of each history.

        The fold-in of all users at once is one propagation step from the items alone.
        """
        if self.config.llm.user_tokens != "folded":
            return self.tables.user_vectors[...]
        nobody = jnp.zeros((self.shape.user_rows, item_vectors.shape[1]))
        return propagate(nobody, item_vectors, graph)[0]


def _sum_by_lookup(table: Float[Array, "rows model"], index: Int[Array, "*batch book"]) -> Float[Array, "*batch model"]:
    return functools.reduce(jnp.add, (table[index[..., book]] for book in range(index.shape[-1])))


def _sum_by_product(
    table: Float[Array, "rows model"], index: Int[Array, "*batch book"]
) -> Float[Array, "*batch model"]:
    """Does the same with rows of ones and zeros: the gradient is then a product too, not a serial scatter."""
    return jnp.sum(jax.nn.one_hot(index, len(table), dtype=table.dtype), axis=-2) @ table
