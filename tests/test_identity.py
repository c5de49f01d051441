"""One identity for all forms of a prompt."""

import unicodedata

import pytest

from prefdata.rows import UNSEEN, is_blank
from prefdata.seeds.identity import prompt_identity, says_nothing, words_of


def user(content, **more):
    return [{"role": "user", "content": content, **more}]


@pytest.mark.parametrize(
    "other",
    [
        "café",
        "cafe\u0301",
        "  café\n",
        "café\u200b",
        "\ufeffcafé",
        user("café"),
        user(" cafe\u0301 "),
        user("café", name=None, tool_calls=[], tool_call_id=None),
        user([{"type": "text", "text": "café"}]),
        [{"from": "human", "value": "café"}],
        [{"from": "human", "value": "café", "role": None, "content": None}],
        [{"role": "system", "content": " "}, *user("café")],
    ],
)
def test_all_forms_of_a_prompt_are_one(other):
    assert prompt_identity(other) == prompt_identity("café") == "café"


@pytest.mark.parametrize(
    "other",
    [
        "Café",
        "cafe",
        "ca fé",
        [{"role": "system", "content": "café"}],
        [{"role": "assistant", "content": "café"}],
        [{"role": "system", "content": "Be brief."}, *user("café")],
        user("café", name="anna"),
        user([{"type": "text", "text": "café"}, {"type": "image_url", "image_url": {"url": "x"}}]),
        '[{"content": "caf\\u00e9", "role": "user"}]',
    ],
)
def test_what_a_model_would_be_asked_differently_is_another_prompt(other):
    assert prompt_identity(other) != prompt_identity("café")


def test_turns_of_a_chat_are_compared_bare_too():
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, *user("é")]
    same = [
        {"role": "user", "content": "a ", "name": None},
        {"content": "b\n", "role": "assistant", "name": None},
        *user("e\u0301"),
    ]
    assert prompt_identity(said) == prompt_identity(same)
    assert prompt_identity(said[:1]) != prompt_identity(said)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ([{"from": "human", "value": "one"}], False),
        ([{"from": "human", "value": "one", "role": None, "content": None}], False),
        ([{"from": "human", "value": " "}], True),
        ([{"role": "system", "content": " "}], True),
        ([*user("one"), {"role": "system", "content": " "}], False),
    ],
)
def test_a_prompt_says_nothing_in_either_layout_where_its_last_turn_is_blank(prompt, expected):
    assert says_nothing(prompt) is expected


def test_a_text_that_looks_like_a_chat_is_a_text():
    chat = [{"role": "system", "content": "a"}, *user("b")]
    assert prompt_identity(prompt_identity(chat)) != prompt_identity(chat)


def test_half_a_surrogate_pair_has_an_identity():
    assert prompt_identity(user("\ud800", name="n")) != prompt_identity("\ud800")


def test_the_words_of_a_chat_are_what_its_turns_say():
    chat = [{"role": "system", "content": "Be brief."}, *user(" Why? ")]
    assert words_of(chat) == "Be brief.\nWhy?"
    assert words_of(user("q")) == words_of("q ") == "q"


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u200b", "\u3000\ufeff", "\u2800", "\u00ad"])
def test_what_shows_nothing_is_blank(text):
    assert is_blank(text)


@pytest.mark.parametrize("text", ["0", ".", "\u0301", "नि", "👩\u200d👩"])
def test_what_shows_something_is_not_blank(text):
    assert not is_blank(text)


def test_every_white_space_and_every_format_character_without_a_glyph_is_unseen():
    every = map(chr, range(0x110000))
    spaces = {char for char in every if char.isspace()}
    assert spaces <= set(UNSEEN)
    shown = {"Lu", "Ll", "Lt", "Nd", "Po", "Sm", "Sc", "Ps", "Pe"}
    assert not {char for char in UNSEEN if unicodedata.category(char) in shown}


def test_a_turn_of_calls_is_the_same_with_and_without_an_empty_text():
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    turns = [
        {"role": "assistant", "tool_calls": [call]} | more
        for more in ({}, {"content": None}, {"content": ""})
    ]
    said = [{"role": "user", "content": "2+2?"}]
    assert (
        len({prompt_identity([*said, turn, {"role": "tool", "content": "4"}]) for turn in turns})
        == 1
    )
