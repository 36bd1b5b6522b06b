"""What the rest of the package may ask of a language model, whatever its family.

Prompts arrive as embeddings, not as token ids, because the caller may add vectors to some of them; what comes
back is hidden states, not text. Token ids, templates and codes are the business of `data/prompts.py` and
`models/tokenrec.py`.
"""

from typing import Any, Protocol, runtime_checkable

from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key


@runtime_checkable
class LanguageModelConfig(Protocol):
    """Shape of a model: a frozen data class with a Hugging Face form."""

    @classmethod
    def from_hf(cls, values: dict[str, Any]) -> "LanguageModelConfig":
        """Reads the dict of a config.json; raises `ConfigError` on what the family does not know."""
        ...

    def to_hf(self) -> dict[str, Any]:
        """Returns a dict from which transformers builds the same model."""
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """A model as seen by the rest of the package, whatever its family: `T5`, `Llama`, `GPT2`.

    In a decoder-only family `hidden_states` appends the query embeddings to the prompt and returns the states
    there; in T5 they are what the decoder reads.

    Attributes:
      config: shape of the model; follows `extend_vocabulary`.
      dtype: type of activations.
      token_embedding: [vocabulary, model].
    """

    config: Any
    dtype: Any
    token_embedding: nnx.Param

    @property
    def hidden_size(self) -> int:
        """Size of embeddings and hidden states."""
        ...

    @property
    def vocab_size(self) -> int:
        """Rows of the token embedding."""
        ...

    def embed(self, tokens: Int[Array, "*shape"]) -> Float[Array, "*shape model"]:
        """Returns the input embedding of each token."""
        ...

    def hidden_states(
        self,
        inputs_embeds: Float[Array, "prompt length model"],
        mask: Bool[Array, "prompt length"],
        *,
        query_embeds: Float[Array, "batch position model"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch position model"]:
        """Reads prompts (True in `mask`: counts) and returns one hidden state for each query embedding.

        There is one prompt a row of the batch, or one for all rows, which is read only once. Position p sees its whole
        prompt and the queries 0 .. p, never a later query. No dropout if `key` is None.
        """
        ...

    def logits(self, hidden: Float[Array, "batch position model"]) -> Float[Array, "batch position vocabulary"]:
        """Returns the score of each token after each position, float32."""
        ...

    def extend_vocabulary(
        self,
        num_rows: int,
        *,
        key: Key[Array, ""],
        vectors: Float[Array, "rows model"] | None = None,
    ) -> None:
        """Grows the token embedding, in place, to at least `num_rows` rows; the old rows stay."""
        ...
