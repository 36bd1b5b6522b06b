import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenrec_jax.models.prompting import assemble_prompt, code_tokens, history_lengths, prompt_length
from tokenrec_jax.types import PADDING, SLOT_HISTORY, SLOT_NONE, SLOT_USER, PromptTemplates

PAD = 0
TEMPLATES = PromptTemplates(
    text=np.array([[[11, 12, PAD], [13, PAD, PAD], [14, 1, PAD]], [[PAD] * 3, [21, 22, 23], [1, PAD, PAD]],
                   [[31, PAD, PAD], [32, PAD, PAD], [1, PAD, PAD]]], np.int32),
    text_length=np.array([[2, 1, 2], [0, 3, 1], [1, 1, 1]], np.int32),
    slot=np.array(
        [[SLOT_USER, SLOT_HISTORY], [SLOT_HISTORY, SLOT_USER], [SLOT_NONE, SLOT_HISTORY]], np.int32
    ),
    answer=np.array([PAD], np.int32),
)  # fmt: skip
USER = np.array([[101, 102], [103, 104], [105, 106], [107, 108]], np.int32)
HISTORY = np.array(
    [[[51, 52], [53, 54], [0, 0]], [[55, 56], [57, 58], [59, 60]],
     [[61, 62], [0, 0], [0, 0]], [[63, 64], [65, 66], [0, 0]]],
    np.int32,
)  # fmt: skip
LENGTHS = np.array([2, 3, 1, 2], np.int32)


@pytest.fixture(scope="module")
def prompt():
    length = prompt_length(num_text_tokens=5, num_user_tokens=2, num_history_tokens=6)
    assembled = jax.jit(assemble_prompt, static_argnames=("length", "pad_token"))(
        TEMPLATES,
        template=np.array([0, 1, 2, 0], np.int32),
        user_tokens=USER,
        use_user=np.array([True, True, True, False]),
        history_tokens=HISTORY,
        history_length=LENGTHS,
        length=length,
        pad_token=PAD,
    )
    return jax.tree.map(np.asarray, assembled)


EXPECTED = [
    [11, 12, 101, 102, 13, 51, 52, 53, 54, 14, 1],
    [55, 56, 57, 58, 59, 60, 21, 22, 23, 103, 104, 1],
    [31, 32, 61, 62, 1],
    [11, 12, 13, 63, 64, 65, 66, 14, 1],
]


def test_rows_are_what_a_string_would_have_become(prompt):
    for row, mask, expected in zip(prompt.tokens, prompt.mask, EXPECTED, strict=True):
        assert row[: len(expected)].tolist() == expected
        assert (row[len(expected) :] == PAD).all()
        assert mask.tolist() == [True] * len(expected) + [False] * (len(row) - len(expected))


def test_history_tokens_know_their_item(prompt):
    assert prompt.history_index[0, :11].tolist() == [PADDING] * 5 + [0, 0, 1, 1, PADDING, PADDING]
    assert prompt.history_index[1, :7].tolist() == [0, 0, 1, 1, 2, 2, PADDING]
    assert (prompt.history_index[0, 11:] == PADDING).all()


def test_code_tokens_are_offset_by_book():
    codes = jnp.array([[[3, 0, 2]]], jnp.int32)
    assert np.asarray(code_tokens(codes, first_token=100, book_size=8)).tolist() == [[[103, 108, 118]]]


def test_history_lengths_count_items_not_padding():
    history = jnp.array([[4, 0, PADDING], [PADDING] * 3, [0, 0, 0]])
    assert np.asarray(history_lengths(history)).tolist() == [2, 0, 3]


def test_lengths_are_rounded_up_to_eight():
    assert prompt_length(num_text_tokens=10, num_user_tokens=3, num_history_tokens=60) == 80
