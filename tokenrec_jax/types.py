"""The words, the dimensions and the small data classes that all layers share.

Everything here is passive: errors, enums and pytrees of arrays. Siblings such as `training` and `evaluation` never
import each other; they meet through this file. Read `HistoryBatch` first: it is what the train step eats.

Glossary (one word each, used everywhere):
  user, item      rows of the tables below; dense ids from 0, "original ids" are the strings of the data source
  interaction     one (user, item) event
  history         items of one user, oldest first
  code            index of a code vector in one codebook, 0 <= code < book_size
  codebook, book  one of the `num_books` tables of code vectors of a tokenizer
  token           id in the vocabulary of the language model; never a code
  collaborative embedding   output of the graph encoder
  query           output of the language model, projected into the item space
  stage           which loss terms are on and which parameters move

Dimension legend of the shape annotations (lower case, as in `Float[Array, "batch emb"]`):
  batch   examples            users, items   rows of the padded tables     emb     collaborative embedding size
  history padded history      position       supervised positions          book    books of a tokenizer
  code    codes of a book     length         prompt tokens                 model   hidden size of the language model
  nodes   users + items       edges          directed edges of the graph   k       recommended items
"""

import dataclasses
import enum
import signal
from typing import Any, no_type_check

import jax
from jaxtyping import Bool, Float, Int

#: Fills the unused tail of histories, seen lists and targets. Never a valid id.
PADDING = -1

#: What a slot of a prompt template holds.
SLOT_NONE, SLOT_USER, SLOT_HISTORY = 0, 1, 2


class TokenRecError(Exception):
    """A failure that a user caused and can mend; its text is one line: what, where, what is allowed."""


class DataError(TokenRecError):
    """Interaction files, item tables or ids that do not hold what they should."""


class ConfigError(TokenRecError):
    """A config value, a working directory or a command line that cannot be used."""


class StorageError(TokenRecError):
    """A file system that takes nothing more; what was written before is whole."""


class StoppedError(TokenRecError):
    """A signal ended the work in order: all that is done is saved, and the same command goes on.

    Attributes:
      number: of the signal; where it came to another process of the run, that of SIGTERM.
    """

    def __init__(self, line: str, number: int = signal.SIGTERM):
        super().__init__(line)
        self.number = number


class Stage(enum.StrEnum):
    """Part of the training recipe: a choice of loss terms and of the parameters that move."""

    COLLABORATIVE = "collaborative"
    TOKENIZER = "tokenizer"
    LLM = "llm"
    JOINT = "joint"


class Split(enum.StrEnum):
    """Which held-out interaction of a user is the target: the second last (valid) or the last (test)."""

    VALID = "valid"
    TEST = "test"


# Batches pass through tree functions that put shardings, shapes or None where the arrays were, which a run-time check
# of the constructor would refuse: hence `no_type_check`. The arrays are NumPy's on the host and JAX's on the devices:
# hence `Any`. The annotations are for the reader.
@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairBatch:
    """Interactions with one sampled negative each, for the pairwise loss of the graph encoder.

    Attributes:
      user: user of the interaction.
      positive: item of the interaction.
      negative: an item that the user has no training interaction with; the positive one for a loss without negatives.
    """

    user: Int[Any, " batch"]
    positive: Int[Any, " batch"]
    negative: Int[Any, " batch"]


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowBatch:
    """Rows of the user and the item table whose vectors the tokenizers learn to reconstruct.

    Attributes:
      user: user ids.
      item: item ids; the two are independent draws.
    """

    user: Int[Any, " batch"]
    item: Int[Any, " batch"]


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HistoryBatch:
    """Histories with a target item for each supervised position; what the language model learns from.

    Attributes:
      user: user ids.
      history: item ids, oldest first, right-padded with `PADDING`. When a history is cut its newest items stay.
      target: the next item of each position, `PADDING` where there is none. The prompt objective has one position:
        the item after the whole history. The dense objective has one after each history item.
      negative: items drawn for the pairwise loss that the user has no training interaction with.
    """

    user: Int[Any, " batch"]
    history: Int[Any, "batch history"]
    target: Int[Any, "batch position"]
    negative: Int[Any, "batch position negative"]


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainBatch:
    """What one train step reads: one part for each loss term that its stage turns on, None for the others."""

    pairs: PairBatch | None = None
    rows: RowBatch | None = None
    histories: HistoryBatch | None = None


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EvaluationBatch:
    """Users to be ranked against the whole catalogue; rows that only fill the last batch have target `PADDING`.

    Attributes:
      user: user ids; 0 in filling rows.
      history: newest items before the target, oldest first, right-padded with `PADDING`.
      seen: all items before the target, to be excluded; right-padded with `PADDING`.
      target: the held-out item, `PADDING` in filling rows.
    """

    user: Int[Any, " batch"]
    history: Int[Any, "batch history"]
    seen: Int[Any, "batch seen"]
    target: Int[Any, " batch"]


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TopK:
    """Recommended items of each query, best first.

    Attributes:
      ids: item ids, `PADDING` where fewer than k items are allowed.
      scores: their scores, -inf where `ids` is `PADDING`.
    """

    ids: Int[Any, "batch k"]
    scores: Float[Any, "batch k"]


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptTemplates:
    """Prompt templates as arrays, so that the device can assemble a prompt without a tokenizer.

    Each template is text 0, slot 0, text 1, slot 1, text 2; a slot holds the user's tokens, the history's or nothing.

    Attributes:
      text: token ids of the three texts, right-padded.
      text_length: how many of them count.
      slot: what each slot holds: `SLOT_NONE`, `SLOT_USER` or `SLOT_HISTORY`.
      answer: token ids that the decoder reads, start token first; the query is read off the last of them.
    """

    text: Int[Any, "template 3 text"]
    text_length: Int[Any, "template 3"]
    slot: Int[Any, "template 2"]
    answer: Int[Any, " answer"]


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompt:
    """Assembled encoder input.

    Attributes:
      tokens: vocabulary ids, right-padded with the pad token.
      mask: True where a token counts.
      history_index: position in the history of the item that a token belongs to, `PADDING` for other tokens.
    """

    tokens: Int[Any, "batch length"]
    mask: Bool[Any, "batch length"]
    history_index: Int[Any, "batch length"]
