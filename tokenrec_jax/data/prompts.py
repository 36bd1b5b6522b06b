"""Prompt templates and their tokenized form. Read `TRAINING_TEMPLATES` and `tokenize_templates`.

The device assembles prompts from these arrays: `models/prompting.py`.
"""

import re
from typing import Any

import numpy as np
import transformers

from tokenrec_jax.data.vocabulary import Vocabulary
from tokenrec_jax.types import SLOT_HISTORY, SLOT_NONE, SLOT_USER, ConfigError, PromptTemplates

#: What chat templates that take the day are told.
_DAY = "01 Jan 2026"

#: `{user}` becomes the tokens of the user, `{history}` those of the items. Source: TokenRec §IV-C has the idea of
#: several templates; the words are ours. The first one is the "seen" template of the evaluation.
TRAINING_TEMPLATES = (
    "user {user} has interacted with items {history} . which item is next ?",
    "items {history} were chosen by user {user} . predict the next item .",
    "given the history {history} of user {user} , recommend one item .",
    "user {user} likes {history} . what will this user like next ?",
    "what is the next item for user {user} after {history} ?",
    "the history of user {user} is {history} . find an item that fits .",
    "after items {history} , which item should user {user} see ?",
    "recommend an item to user {user} who has seen {history} .",
    "predict what user {user} will choose after the items {history} .",
    "with {history} in the history , find the next item for user {user} .",
    "this user {user} has chosen {history} . recommend what is next .",
)

#: Never trained on; measures how far a model depends on the wording.
UNSEEN_TEMPLATE = "find what user {user} will see next , given that this user likes the items {history} ."

#: What the model reads after the prompt, an encoder-decoder model in its decoder; its last token gives the query.
ANSWER = "the next item is"

_SLOTS = {"{user}": SLOT_USER, "{history}": SLOT_HISTORY}


def tokenize_templates(
    templates: tuple[str, ...],
    *,
    tokenizer: transformers.PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    encoder_decoder: bool = True,
    with_user: bool = True,
    with_history: bool = True,
) -> PromptTemplates:
    """Returns the templates as numpy int32 arrays.

    For an encoder-decoder model the end token closes a prompt and the pad token starts the answer, as T5 was trained.
    For a causal one the answer follows at once; a tokenizer with a chat template wraps the prompt in it, and one that
    starts texts with a token of its own starts prompts with it.

    Args:
      templates: texts with `{user}` and `{history}`, once each, in any order.
      tokenizer: splits the texts.
      vocabulary: its pad token fills, its end token closes.
      encoder_decoder: which kind of model reads the prompts.
      with_user: False leaves the user slot empty.
      with_history: False leaves the history slot empty (the dense objective puts the history elsewhere).

    Raises:
      ConfigError: a template has not exactly one `{user}` and one `{history}`.
    """
    kept = {SLOT_USER: with_user, SLOT_HISTORY: with_history}
    texts: list[list[list[int]]] = []
    slots: list[list[int]] = []
    for template in templates:
        wrapped = template if encoder_decoder else _in_chat(template, tokenizer)
        parts = re.split(r" ?(\{user\}|\{history\}) ?", wrapped)
        if sorted(parts[1::2]) != ["{history}", "{user}"]:
            raise ConfigError(f"prompt template {template!r}: needs {{user}} and {{history}}, once each")
        pieces = [_tokenize(part, tokenizer) for part in parts[0::2]]
        if encoder_decoder:
            pieces[-1].append(vocabulary.end_token)
        elif wrapped == template:
            pieces[0][:0] = _first_tokens(tokenizer)
        texts.append(pieces)
        slots.append([_SLOTS[part] if kept[_SLOTS[part]] else SLOT_NONE for part in parts[1::2]])
    lengths = np.array([[len(piece) for piece in pieces] for pieces in texts], np.int32)
    padded = np.full((len(templates), 3, max(int(lengths.max()), 1)), vocabulary.pad_token, np.int32)
    for row, pieces in zip(padded, texts, strict=True):
        for target, piece in zip(row, pieces, strict=True):
            target[: len(piece)] = piece
    answer = [vocabulary.pad_token] * encoder_decoder + _tokenize(ANSWER, tokenizer)
    return PromptTemplates(
        text=padded, text_length=lengths, slot=np.array(slots, np.int32), answer=np.array(answer, np.int32)
    )


def _in_chat(template: str, tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    """Returns the template as the message of a user whom the assistant is about to answer, if the model knows chats."""
    if not getattr(tokenizer, "chat_template", None):
        return template
    messages = [{"role": "user", "content": template}]
    # Llama 3's would name the day: the same run on another day has the same prompts.
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, date_string=_DAY))


def _first_tokens(tokenizer: transformers.PreTrainedTokenizerBase) -> list[int]:
    """Returns the token that the tokenizer starts every text with, if there is one."""
    first: Any = tokenizer.bos_token_id
    return [first] if first is not None and list(tokenizer("a")["input_ids"])[:1] == [first] else []


def _tokenize(text: str, tokenizer: transformers.PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
