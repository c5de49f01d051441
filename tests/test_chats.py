import pytest

from prefdata.errors import RowError
from prefdata.recipe.chats import (
    Roles,
    fit_roles,
    is_chat,
    read_chat,
    shared,
    transcript,
    until_answer,
    with_system,
)

SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "2+2?"}
REPLY = {"role": "assistant", "content": "4"}
AGAIN = {"role": "user", "content": "and 3+3?"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([ASK], True),
        ([SYSTEM, ASK, REPLY], True),
        ([{"from": "human", "value": "2+2?"}], True),
        ([{"role": "assistant", "tool_calls": []}], True),
        ([], False),
        ("2+2?", False),
        ([{"role": "engineer", "name": "Ada"}], False),
        ([{"text": "a candidate", "alias": "hot"}], False),
        ({"role": "user", "content": "2+2?"}, False),
    ],
    ids=["one turn", "turns", "ShareGPT", "calls", "empty", "text", "people", "candidates", "dict"],
)
def test_a_chat_is_a_list_of_turns_and_nothing_else_is(value, expected):
    assert is_chat(value) is expected


def test_a_model_is_sent_what_the_protocol_has_a_place_for_and_nothing_else():
    seed = {"role": "user", "content": "hi", "country": "FI", "hashed_ip": "ab", "name": None}
    assert read_chat([seed]) == ({"role": "user", "content": "hi"},)


def test_of_parts_of_content_the_texts_count_one_a_line():
    parts = [{"type": "text", "text": "Look:"}, {"type": "text", "text": "here"}]
    assert read_chat([{"role": "user", "content": parts}])[0]["content"] == "Look:\nhere"


def test_sharegpt_turns_are_read_under_the_names_that_templates_know():
    chat = read_chat([{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}])
    assert chat == (ASK, REPLY)


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "'image_url'"),
        ({"role": "user", "content": None}, "no text"),
        ({"role": "critic", "content": "no"}, "'critic'"),
        ({"role": "user", "content": 4}, "not a text"),
    ],
    ids=["image", "null", "role", "number"],
)
def test_what_cannot_be_sent_is_refused_in_a_sentence_that_names_the_turn(turn, words):
    with pytest.raises(RowError, match=r"message 1\b") as err:
        read_chat([ASK, turn])
    assert err.value.reason == "chat"
    assert words in err.value.detail


def test_a_turn_of_calls_alone_has_no_text_and_is_kept():
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    [turn] = read_chat([{"role": "assistant", "content": None, "tool_calls": calls}])
    assert turn == {"role": "assistant", "content": "", "tool_calls": calls}


def test_the_answer_that_data_ends_with_is_left_out():
    assert until_answer((ASK, REPLY, AGAIN, REPLY)) == (ASK, REPLY, AGAIN)


def test_a_transcript_has_one_line_a_turn():
    said = "System: Be brief.\nUser: 2+2?\nAssistant: 4\nUser: and 3+3?"
    assert transcript([SYSTEM, ASK, REPLY, AGAIN]) == said
    assert transcript("2+2?") == "User: 2+2?"


def test_the_system_message_of_the_chat_stays_unless_the_model_says_prepend():
    developer = {"role": "developer", "content": "Be brief."}
    assert with_system((SYSTEM, ASK), "Rhyme.", "fill") == (SYSTEM, ASK)
    assert with_system((developer, ASK), "Rhyme.", "fill") == (developer, ASK)
    both = {"role": "system", "content": "Rhyme.\n\nBe brief."}
    assert with_system((SYSTEM, ASK), "Rhyme.", "prepend") == (both, ASK)
    assert with_system((ASK,), "Rhyme.", "fill")[0] == {"role": "system", "content": "Rhyme."}
    assert with_system((ASK,), " ", "fill") == (ASK,)


def test_a_template_without_a_system_role_gets_the_text_at_the_head_of_the_users_turn():
    none = Roles(system=False, developer=False)
    merged = {"role": "user", "content": "Be brief.\n\n2+2?"}
    assert fit_roles((SYSTEM, ASK, REPLY, AGAIN), none) == (merged, REPLY, AGAIN)
    assert fit_roles((ASK, REPLY, SYSTEM, AGAIN), none)[2]["content"] == "Be brief.\n\nand 3+3?"
    assert fit_roles((SYSTEM,), none) == ({"role": "user", "content": "Be brief."},)


def test_a_developers_message_is_the_systems_where_the_template_knows_only_that():
    developer = {"role": "developer", "content": "Rhyme."}
    only_system = Roles(system=True, developer=False)
    assert fit_roles((developer, ASK), only_system)[0]["role"] == "system"
    both = {"role": "system", "content": "Be brief.\n\nRhyme."}
    assert fit_roles((SYSTEM, developer, ASK), only_system) == (both, ASK)


def test_two_chats_share_the_system_message_they_both_have_and_their_common_end():
    other = {"role": "system", "content": "Rhyme."}
    assert shared([(SYSTEM, ASK), (SYSTEM, ASK)]) == (SYSTEM, ASK)
    assert shared([(SYSTEM, ASK), (other, ASK)]) == (ASK,)
    assert shared([(SYSTEM, ASK, REPLY, AGAIN), (SYSTEM, AGAIN)]) == (SYSTEM, AGAIN)
    assert shared([(SYSTEM, ASK, REPLY, AGAIN), (other, AGAIN, REPLY, AGAIN)]) == (AGAIN,)
    assert shared([(ASK,), (AGAIN,)]) == ()
