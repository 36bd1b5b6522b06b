"""The vocabulary of the language model: the words of a Hugging Face tokenizer, then one token a (side, book, code).

Strings are tokenized once, at start-up; the ids of code tokens are computed, never looked up. Read `Vocabulary`.
"""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from tokenrec_jax.types import ConfigError


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Where text and codes lie in the vocabulary.

    Attributes:
      num_text_tokens: size of the tokenizer; the code tokens follow: all of the users' books, then the items'.
      num_books: books of a side.
      book_size: codes of a book.
      pad_token: fills prompts, and starts the decoder of a T5.
      end_token: closes a prompt.
    """

    num_text_tokens: int
    num_books: int
    book_size: int
    pad_token: int
    end_token: int

    @property
    def first_user_token(self) -> int:
        """Token of user book 0, code 0; book k, code c is `k * book_size + c` further."""
        return self.num_text_tokens

    @property
    def first_item_token(self) -> int:
        """Token of item book 0, code 0."""
        return self.num_text_tokens + self.num_books * self.book_size

    @property
    def size(self) -> int:
        """Number of tokens, text and codes."""
        return self.num_text_tokens + 2 * self.num_books * self.book_size

    def code_token_names(self) -> list[str]:
        """Returns the strings of all code tokens in the order of their ids, to be added to the tokenizer."""
        return [
            f"<{side}_{book}_{code}>"
            for side in ("user", "item")
            for book in range(self.num_books)
            for code in range(self.book_size)
        ]


def load_tokenizer(name: str) -> transformers.PreTrainedTokenizerBase:
    """Returns a Hugging Face tokenizer from a folder, the local cache or the hub.

    Raises:
      ConfigError: it is in none of them, or it has no end token.
    """
    try:
        folder = pathlib.Path(name).expanduser()
        path = str(folder) if folder.is_dir() else name
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # Those of several libraries, for files of any kind.
        reason = " ".join([f"{type(error).__name__}:", *str(error).split()])[:200]
        raise ConfigError(
            f"llm.tokenizer: no tokenizer {name!r} ({reason}); give a folder with tokenizer.json, a hub id while "
            "the hub is reachable, or, for random weights, llm.name=scratch:PRESET"
        ) from None
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"llm.tokenizer: {name!r} has no end-of-sequence token; choose one that has")
    return tokenizer


def word_tokenizer(texts: Iterable[str]) -> transformers.PreTrainedTokenizerBase:
    """Returns a word-level tokenizer of exactly the words in `texts`, for models from random weights.

    It needs no files and keeps prompts short. Ids: 0 pad, 1 end, 2 unknown, then the words in sorted order.
    """
    splitter = pre_tokenizers.Whitespace()
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    ids = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.pre_tokenizer = splitter
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def make_vocabulary(tokenizer: transformers.PreTrainedTokenizerBase, *, num_books: int, book_size: int) -> Vocabulary:
    """Returns the vocabulary of a tokenizer extended by the code tokens of users and items."""
    end: Any = tokenizer.eos_token_id
    pad: Any = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return Vocabulary(
        num_text_tokens=len(tokenizer), num_books=num_books, book_size=book_size, pad_token=pad, end_token=end
    )
