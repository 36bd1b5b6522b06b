"""A trained run as a folder that `transformers` loads: language model, code tokens and tokenizer. Read `export`."""

import copy
import csv
import pathlib
from collections.abc import Iterable

import jax
import numpy as np
from flax import nnx

from tokenrec_jax.array_files import save_arrays
from tokenrec_jax.data.files import empty_target, new_folder
from tokenrec_jax.data.vocabulary import Vocabulary
from tokenrec_jax.models import llm
from tokenrec_jax.models.tokenrec import TokenRec
from tokenrec_jax.recommender import Recommender
from tokenrec_jax.retrieval.index import ItemIndex
from tokenrec_jax.types import ConfigError

#: Beside the language model: projection head and item vectors, by name.
ARRAYS = "tokenrec.safetensors"


def export(recommender: Recommender, folder: str) -> None:
    """Writes a folder in Hugging Face's layout; it appears whole or not at all.

    `config.json`, `model.safetensors` and the tokenizer's files are the language model with adapters merged into its
    weights and a token for each code behind its own vocabulary. `users.tsv` and `items.tsv` say which tokens stand for
    whom. `tokenrec.safetensors` has the arrays of the projection head, `item_vectors` [items, emb], unit length, in the
    order of `items.tsv`, and, once items were added, `item_weights`, which their scores are multiplied by. What makes
    queries, prompts and fold-in among it, is not there: `export_portable` keeps all of it.

    Args:
      recommender: of a finished run.
      folder: to make; must not exist, or be empty.

    Raises:
      ConfigError: the folder holds something, or cannot be written.
    """
    # As it stands now, whatever is added meanwhile.
    path, recommender = empty_target(folder), copy.copy(recommender)
    built, model, data = recommender.built, recommender.model, recommender.interactions
    names = built.vocabulary.code_token_names()
    tables = jax.device_get({side: getattr(model.tables, f"{side}_codes")[...] for side in ("user", "item")})
    titles = data.item_titles or [""] * data.num_items
    try:
        with new_folder(path, replace=True) as draft:
            # Added to a copy that is read from disk: the run's own tokenizer stays as it is.
            built.tokenizer.save_pretrained(draft)
            tokenizer = type(built.tokenizer).from_pretrained(draft)
            tokenizer.add_tokens(names)
            llm.save_hf(language_model(model, built.vocabulary), draft, tokenizer)
            save_arrays(draft / ARRAYS, _arrays(model, recommender.index, data.num_items))
            users = _token_strings(tables["user"], names, first=0, book_size=built.vocabulary.book_size)
            _write_table(draft / "users.tsv", ("user", "tokens"), zip(data.user_ids, users, strict=False))
            first = built.vocabulary.first_item_token - built.vocabulary.first_user_token
            items = _token_strings(tables["item"], names, first=first, book_size=built.vocabulary.book_size)
            rows = zip(data.item_ids, titles, items, strict=False)
            _write_table(draft / "items.tsv", ("item", "title", "tokens"), rows)
    except OSError as error:
        raise ConfigError(f"--output={folder}: {error.strerror}; give a folder that can be written") from None


def language_model(model: TokenRec, vocabulary: Vocabulary) -> llm.LanguageModel:
    """Returns a copy of the trained language model that stands alone: adapters merged, code tokens in its vocabulary.

    A head that is not tied to the embedding gets random rows for the code tokens, which are never generated.
    """
    alone = model.merged_llm()
    alone.extend_vocabulary(vocabulary.size, key=jax.random.key(0))
    first = vocabulary.first_user_token
    table = alone.token_embedding[...]
    alone.token_embedding = nnx.Param(
        table.at[first : vocabulary.size].set(model.code_tokens[...][: vocabulary.size - first])
    )
    return alone


def _arrays(model: TokenRec, index: ItemIndex, num_items: int) -> dict[str, np.ndarray]:
    head = {
        # Tables of items are padded.
        "head." + ".".join(map(str, path)): np.asarray(leaf[:num_items] if path[0] == "sent_residual" else leaf[...])
        for path, leaf in nnx.to_flat_state(nnx.state(model.head, nnx.Param))
        if path[0] != "item_residual"
    }
    arrays = head | {"item_vectors": np.asarray(index.vectors[:num_items])}
    return arrays if index.scale is None else arrays | {"item_weights": np.asarray(index.scale[:num_items])}


def _token_strings(codes: np.ndarray, names: list[str], *, first: int, book_size: int) -> list[str]:
    """Returns the tokens of each row of codes, joined without spaces, as the tokenizer splits them."""
    at = first + np.arange(codes.shape[1]) * book_size + codes
    return ["".join(names[index] for index in row) for row in at.tolist()]


def _write_table(path: pathlib.Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, dialect="excel-tab", lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
