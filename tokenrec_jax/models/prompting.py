"""Assembles prompts on the device: token ids from codes and template arrays, no string in sight.

Templates are tokenized in `data/prompts.py`. Read `assemble_prompt`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from tokenrec_jax.numerics import round_up
from tokenrec_jax.types import PADDING, SLOT_HISTORY, SLOT_USER, Prompt, PromptTemplates

#: Prompt lengths are rounded up to a multiple of this, so that buckets tile well.
LENGTH_MULTIPLE = 8


def code_tokens(codes: Int[Array, "*batch book"], *, first_token: int, book_size: int) -> Int[Array, "*batch book"]:
    """Returns the vocabulary id of each code: book k, code c is first_token + k * book_size + c."""
    books = jnp.arange(codes.shape[-1], dtype=codes.dtype)
    return codes + jnp.broadcast_to(books * book_size + first_token, codes.shape)


def prompt_length(*, num_text_tokens: int, num_user_tokens: int, num_history_tokens: int) -> int:
    """Returns the static length of prompts with at most that many tokens of each kind."""
    return round_up(num_text_tokens + num_user_tokens + num_history_tokens, multiple=LENGTH_MULTIPLE)


def assemble_prompt(
    templates: PromptTemplates,
    *,
    template: Int[Array, " batch"],
    user_tokens: Int[Array, "batch user_tokens"],
    use_user: Array,
    history_tokens: Int[Array, "batch history book"],
    history_length: Int[Array, " batch"],
    length: int,
    pad_token: int,
) -> Prompt:
    """Lays text, user tokens and history tokens one after another, each row with its own template and length.

    A prompt is five segments: text, slot, text, slot, text. Every output position finds its segment by comparing with
    the segments' ends, and its token by the offset in the segment; all shapes are static.

    Args:
      templates: tokenized templates.
      template: which template each row uses.
      user_tokens: tokens of the user.
      use_user: bool per row; False leaves the user tokens out.
      history_tokens: tokens of the history's items, oldest first, right-padded.
      history_length: how many items count in each row.
      length: static prompt length, `prompt_length` or more.
      pad_token: fills the tail.
    """
    batch, history, num_books = history_tokens.shape
    slots = templates.slot[template]
    slot_lengths = jnp.where(
        slots == SLOT_USER,
        (use_user * user_tokens.shape[1])[:, None],
        jnp.where(slots == SLOT_HISTORY, (history_length * num_books)[:, None], 0),
    )
    text_lengths = templates.text_length[template]
    lengths = jnp.stack(
        [text_lengths[:, 0], slot_lengths[:, 0], text_lengths[:, 1], slot_lengths[:, 1], text_lengths[:, 2]],
        axis=1,
    )
    ends = jnp.cumsum(lengths, axis=1)
    position = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))
    segment = jnp.sum(position[:, :, None] >= ends[:, None, :], axis=-1)
    inside = segment < 5
    segment = jnp.minimum(segment, 4)
    offset = position - jnp.take_along_axis(ends - lengths, segment, axis=1)

    flat_text = templates.text.reshape(templates.text.shape[0], -1)[template]
    text_token = _gather(flat_text, (segment // 2) * templates.text.shape[2] + offset)
    slot = jnp.take_along_axis(slots, jnp.minimum(segment // 2, 1), axis=1)
    is_slot = segment % 2 == 1
    is_user = is_slot & (slot == SLOT_USER) & inside
    is_history = is_slot & (slot == SLOT_HISTORY) & inside
    history_token = _gather(history_tokens.reshape(batch, history * num_books), offset)
    tokens = jnp.where(is_user, _gather(user_tokens, offset), jnp.where(is_history, history_token, text_token))
    return Prompt(
        tokens=jnp.where(inside, tokens, pad_token),
        mask=inside,
        history_index=jnp.where(is_history, offset // num_books, PADDING),
    )


def _gather(rows: Int[Array, "batch width"], index: Int[Array, "batch length"]) -> Int[Array, "batch length"]:
    """Returns rows[b, index[b, l]]; indices out of range, which the caller masks, take an edge element."""
    return jnp.take_along_axis(rows, jnp.clip(index, 0, rows.shape[1] - 1), axis=1)


def history_lengths(history: Int[Array, "batch history"]) -> Int[Array, " batch"]:
    """Returns the number of items in each right-padded history."""
    return jnp.sum(history != PADDING, axis=1, dtype=jnp.int32)


def choose_templates(key: jax.Array, *, batch: int, num_templates: int) -> Int[Array, " batch"]:
    """Returns uniformly drawn templates."""
    return jax.random.randint(key, (batch,), 0, num_templates, dtype=jnp.int32)
