import numpy as np
import pytest

from tokenrec_jax.data import prompts
from tokenrec_jax.data.vocabulary import load_tokenizer, make_vocabulary, word_tokenizer
from tokenrec_jax.types import SLOT_HISTORY, SLOT_NONE, SLOT_USER, ConfigError


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer((*prompts.TRAINING_TEMPLATES, prompts.ANSWER))


def test_there_are_ten_templates_and_an_unseen_one():
    assert len(set(prompts.TRAINING_TEMPLATES)) >= 10
    assert prompts.UNSEEN_TEMPLATE not in prompts.TRAINING_TEMPLATES


def test_the_unseen_template_has_no_unseen_words(tokenizer):
    tokens = tokenizer(prompts.UNSEEN_TEMPLATE.format(user="user", history="items"))["input_ids"]
    assert tokenizer.unk_token_id not in tokens


def test_code_tokens_follow_the_text(tokenizer):
    vocabulary = make_vocabulary(tokenizer, num_books=3, book_size=4)
    assert vocabulary.first_user_token == len(tokenizer)
    assert vocabulary.first_item_token == len(tokenizer) + 12
    assert vocabulary.size == len(tokenizer) + 24
    names = vocabulary.code_token_names()
    assert names[4 + 1] == "<user_1_1>" and names[12 + 8 + 3] == "<item_2_3>"
    tokenizer_with_codes = word_tokenizer((*prompts.TRAINING_TEMPLATES, prompts.ANSWER))
    tokenizer_with_codes.add_tokens(names)
    assert tokenizer_with_codes.convert_tokens_to_ids("<item_2_3>") == vocabulary.first_item_token + 2 * 4 + 3


def test_templates_become_texts_and_slots(tokenizer):
    vocabulary = make_vocabulary(tokenizer, num_books=3, book_size=4)
    made = prompts.tokenize_templates(
        ("items {history} were chosen by user {user} .", "user {user} likes {history}"),
        tokenizer=tokenizer,
        vocabulary=vocabulary,
    )
    assert made.slot.tolist() == [[SLOT_HISTORY, SLOT_USER], [SLOT_USER, SLOT_HISTORY]]
    assert made.text_length.tolist() == [[1, 4, 2], [1, 1, 1]]
    assert tokenizer.decode(made.text[0, 1, :4]) == "were chosen by user"
    assert made.text[0, 2, 1] == vocabulary.end_token == made.text[1, 2, 0]
    assert made.answer[0] == vocabulary.pad_token


def test_prompts_of_causal_models_are_not_closed(tokenizer):
    vocabulary = make_vocabulary(tokenizer, num_books=3, book_size=4)
    made = prompts.tokenize_templates(
        ("user {user} likes {history}",), tokenizer=tokenizer, vocabulary=vocabulary, encoder_decoder=False
    )
    assert vocabulary.end_token not in made.text[made.text != vocabulary.pad_token]
    assert tokenizer.decode(made.answer) == prompts.ANSWER


def test_chat_models_get_their_own_wrapping():
    tokenizer = word_tokenizer((*prompts.TRAINING_TEMPLATES, prompts.ANSWER, "ask answer"))
    tokenizer.chat_template = "ask {{ messages[0]['content'] }} answer"
    vocabulary = make_vocabulary(tokenizer, num_books=3, book_size=4)
    made = prompts.tokenize_templates(
        ("user {user} likes {history}",), tokenizer=tokenizer, vocabulary=vocabulary, encoder_decoder=False
    )
    texts = [tokenizer.decode(row[:length]) for row, length in zip(made.text[0], made.text_length[0], strict=True)]
    assert texts == ["ask user", "likes", "answer"]


def test_slots_can_be_left_out(tokenizer):
    vocabulary = make_vocabulary(tokenizer, num_books=3, book_size=4)
    made = prompts.tokenize_templates(
        ("user {user} likes {history}",), tokenizer=tokenizer, vocabulary=vocabulary, with_user=False
    )
    assert made.slot.tolist() == [[SLOT_NONE, SLOT_HISTORY]]


def test_a_template_needs_both_slots(tokenizer):
    vocabulary = make_vocabulary(tokenizer, num_books=3, book_size=4)
    with pytest.raises(ConfigError, match="once each"):
        prompts.tokenize_templates(("only {user}",), tokenizer=tokenizer, vocabulary=vocabulary)


def test_real_t5_tokenizer(shared_data):
    tokenizer = load_tokenizer(str(shared_data / "t5_tokenizer"))
    vocabulary = make_vocabulary(tokenizer, num_books=3, book_size=256)
    assert vocabulary.first_user_token == 32_100
    assert (vocabulary.pad_token, vocabulary.end_token) == (0, 1)
    made = prompts.tokenize_templates(prompts.TRAINING_TEMPLATES, tokenizer=tokenizer, vocabulary=vocabulary)
    assert made.text.dtype == np.int32
    assert tokenizer.decode(made.text[2, 0, : made.text_length[2, 0]]) == "given the history"


def test_a_missing_tokenizer_is_one_line(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_tokenizer(str(tmp_path / "nothing"))
    assert "\n" not in str(caught.value) and "llm.tokenizer" in str(caught.value)


def test_prompts_do_not_depend_on_the_day():
    tokenizer = word_tokenizer([*prompts.TRAINING_TEMPLATES, "user bot 01 Jan 2026"])
    tokenizer.chat_template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "{{ date_string }} user {{ messages[0].content }} bot "
    )
    vocabulary = make_vocabulary(tokenizer, num_books=1, book_size=2)
    made = prompts.tokenize_templates(
        prompts.TRAINING_TEMPLATES[:1], tokenizer=tokenizer, vocabulary=vocabulary, encoder_decoder=False
    )
    day = tokenizer("01 Jan 2026 user", add_special_tokens=False)["input_ids"]
    assert made.text[0, 0, : len(day)].tolist() == day
