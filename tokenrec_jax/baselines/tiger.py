"""A TIGER-style generator: a T5 reads a history as codes and writes the codes of the next item, one after another.

It is the rival that TokenRec argues against: the same codes and the same language model, but autoregressive decoding
with a beam instead of one query and an exact search. Read `Tiger.loss` for what it learns and `Tiger.scores` for how it
recommends. The cached decoder is in `tiger_decoder.py`, the trie in `trie.py`, the codes in `semantic_ids.py`.

Source: Rajput et al., 2023, Recommender Systems with Generative Retrieval.
Differs: no token for the user; a place of the sequence has its own tokens, and probabilities are over these alone,
which is what the whole vocabulary converges to; the last level of the beam leaves out what the user has seen.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from tokenrec_jax.baselines.semantic_ids import SemanticIds
from tokenrec_jax.baselines.tiger_decoder import CachedDecoder
from tokenrec_jax.baselines.trie import Beam, TrieLevel, advance, build_trie, start
from tokenrec_jax.models.buffer import Buffer
from tokenrec_jax.models.llm.presets import preset
from tokenrec_jax.models.llm.t5 import T5
from tokenrec_jax.models.llm.t5_config import T5Config
from tokenrec_jax.retrieval.search import allowed_items
from tokenrec_jax.types import PADDING, ConfigError, EvaluationBatch, HistoryBatch

#: Vocabulary ids before the codes: padding, which also starts the decoder, and T5's end, which is never written.
_FIRST_CODE = 2


@dataclasses.dataclass
class TigerConfig:
    """Size of the model, its codes where no run gives them, and its beam."""

    # Preset of the T5 (`models/llm/presets.py`).
    size: str = "compact"
    # Dropout rate of the T5 (TIGER: 0.1).
    dropout: float = 0.1
    # Beams of the search (TIGER: 10 or more).
    beam: int = 10
    # Without the codes of a run: dimensions of the spectral vectors, books and codes in a book of residual k-means, and
    # its iterations (TIGER: 3 books of 256, by a residual autoencoder on text).
    vector_dim: int = 64
    num_books: int = 3
    book_size: int = 256
    kmeans_iterations: int = 20

    def validate(self) -> None:
        """Raises ConfigError naming the field, the value and what is allowed."""
        for name, least in (
            ("beam", 1),
            ("vector_dim", 1),
            ("num_books", 1),
            ("book_size", 2),
            ("kmeans_iterations", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"model.{name} is {getattr(self, name)}; allowed is {least} or more")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout is {self.dropout}; allowed is 0 or more and below 1")
        if not isinstance(preset(self.size, vocab_size=128), T5Config):
            raise ConfigError(f"model.size is {self.size!r}; allowed are the presets of T5, such as compact")


class Tiger(nnx.Module):
    """The T5 with the sequences of all items.

    Attributes:
      t5: its vocabulary holds the codes of each place of a sequence, and nothing else.
      sequences: vocabulary ids of each item, [items, width].
      levels: token and child tables of the trie of these.
    """

    def __init__(self, config: TigerConfig, ids: SemanticIds, *, rngs: nnx.Rngs):
        self.config = config
        self.sizes = ids.sizes
        first = _FIRST_CODE + np.concatenate([[0], np.cumsum(ids.sizes)[:-1]])
        sequences = (ids.codes + first[None, :]).astype(np.int32)
        shape = preset(config.size, vocab_size=_FIRST_CODE + sum(ids.sizes))
        self.t5 = T5(shape, rngs=rngs, dropout_rate=config.dropout)
        self.sequences = Buffer(jnp.asarray(sequences))
        self.tokens = nnx.List([Buffer(jnp.asarray(level.token)) for level in build_trie(sequences)])
        self.children = nnx.List([Buffer(jnp.asarray(level.child)) for level in build_trie(sequences)])

    @property
    def width(self) -> int:
        """Tokens of an item."""
        return len(self.sizes)

    def loss(self, batch: HistoryBatch, *, key: Key[Array, ""] | None = None) -> Float[Array, ""]:
        """Returns the mean cross-entropy of the tokens of each target, all before them given.

        Args:
          batch: of the objective "prompt": one target a history.
          key: dropout key, or None for no dropout.
        """
        target = self.sequences[...][batch.target[:, 0]]
        log_probabilities = self.log_probabilities(batch.history, target, key=key)
        return -jnp.mean(log_probabilities)

    def log_probabilities(
        self, history: Int[Array, "batch history"], target: Int[Array, "batch width"], *, key: Key[Array, ""] | None
    ) -> Float[Array, "batch width"]:
        """Returns log p(token | history, earlier tokens) of each token of a sequence.

        Args:
          history: item ids, right-padded with `PADDING`.
          target: vocabulary ids of the sequences.
          key: dropout key, or None for no dropout.
        """
        tokens, mask = self.read(history)
        before = jnp.concatenate([jnp.zeros_like(target[:, :1]), target[:, :-1]], axis=1)
        hidden = self.t5.hidden_states(self.t5.embed(tokens), mask, query_embeds=self.t5.embed(before), key=key)
        places = [self._of_place(self.t5.logits(hidden[:, place : place + 1]), place) for place in range(self.width)]
        logits = jnp.concatenate(places, axis=1)
        return -optax.softmax_cross_entropy_with_integer_labels(logits, target)

    def read(
        self, history: Int[Array, "batch history"]
    ) -> tuple[Int[Array, "batch length"], Bool[Array, "batch length"]]:
        """Returns the vocabulary ids of a history, item after item, and where they count."""
        batch, length = history.shape
        tokens = jnp.where((history != PADDING)[:, :, None], self.sequences[...][jnp.maximum(history, 0)], 0)
        tokens = tokens.reshape(batch, length * self.width)
        # An empty history is one token of padding: an encoder must attend to something.
        return tokens, (tokens != 0) | (jnp.arange(length * self.width) == 0)[None, :]

    def generate(
        self, history: Int[Array, "batch history"], *, allowed: Bool[Array, "batch items"] | None = None
    ) -> Beam:
        """Returns the items with the most probable sequences that the beam finds, with their log-probabilities.

        Args:
          history: item ids, right-padded with `PADDING`.
          allowed: False for items that may not be generated; None allows all.
        """
        tokens, mask = self.read(history)
        decoder = CachedDecoder(self.t5, self.t5.encode(self.t5.embed(tokens), mask), mask, slots=self.width)
        beam, cache = start(history.shape[0]), decoder.empty()
        for place in range(self.width):
            hidden, cache = decoder.step(self.t5.embed(beam.token), cache, parent=beam.parent, place=place)
            scores = jax.nn.log_softmax(self._of_place(self.t5.logits(hidden), place), axis=-1)
            level = TrieLevel(token=self.tokens[place][...], child=self.children[place][...])
            last = place == self.width - 1
            beam = advance(beam, level, scores, width=self.config.beam, allowed=allowed if last else None)
        return beam

    def scores(self, batch: EvaluationBatch) -> Float[Array, "batch items"]:
        """Returns the log-probability of what the beam finds among items not seen, -inf for all others."""
        num_items = self.sequences.shape[0]
        allowed = allowed_items(batch.seen, num_rows=num_items, num_items=num_items)
        beam = self.generate(batch.history, allowed=allowed)
        rows = jnp.arange(batch.history.shape[0])[:, None]
        column = jnp.where(beam.prefix == PADDING, num_items, beam.prefix)
        scores = jnp.full((batch.history.shape[0], num_items), -jnp.inf)
        return scores.at[rows, column].set(beam.score, mode="drop")

    def _of_place(
        self, logits: Float[Array, "batch position vocabulary"], place: int
    ) -> Float[Array, "batch position vocabulary"]:
        """Returns logits that leave only the tokens of one place of a sequence."""
        first = _FIRST_CODE + sum(self.sizes[:place])
        token = np.arange(_FIRST_CODE + sum(self.sizes))
        inside = (token >= first) & (token < first + self.sizes[place])
        return jnp.where(inside[None, None, :], logits, -jnp.inf)
