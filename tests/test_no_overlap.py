"""No prompt is in train and in test, in whatever form it comes and whatever an export writes."""

import unicodedata

import pytest
from runs import make_run, read_lines

from prefdata.export import ExportOptions, export_run
from prefdata.seeds.identity import prompt_identity
from prefdata.storage.folders import read_rows

PROMPTS = 110


def text(number):
    return f"Qu'était-ce donc, café {number} ?"


FORMS = {
    "NFC": text,
    "NFD": lambda n: unicodedata.normalize("NFD", text(n)),
    "blanks": lambda n: f"\n{text(n)}  \u200b",
    "chat": lambda n: [{"role": "user", "content": text(n)}],
    "chat in NFD with blanks": lambda n: [
        {"role": "user", "content": unicodedata.normalize("NFD", text(n)) + " "}
    ],
}


def contexts(number):
    """The same last turn after another conversation."""
    return [
        [
            {"role": "user", "content": f"Hello {n}"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": text(number) + " " * n},
        ]
        for n in range(3)
    ]


def of(prompts):
    """A pair of texts for each prompt."""
    return [(prompt, f"good {n}", f"bad {n}") for n, prompt in enumerate(prompts)]


def identities(rows):
    return {prompt_identity(row["prompt"]) for row in rows}


def check_export(run, name, **options):
    done = export_run(run, name, ExportOptions(**options), say=lambda line: None)
    train, test = read_lines(done.train), read_lines(done.test)
    assert train and test
    assert not identities(train) & identities(test)
    return train, test


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    prompts = [form(n) for n in range(PROMPTS) for form in FORMS.values()]
    return make_run(tmp_path_factory.mktemp("mixed"), of(prompts), "test_size=0.5")


def test_all_forms_of_a_prompt_are_on_one_side(mixed):
    train = list(read_rows(mixed / "pairs", stem="train"))
    test = list(read_rows(mixed / "pairs", stem="test"))
    assert len(train) + len(test) == PROMPTS * len(FORMS)
    assert len(identities(test)) == PROMPTS / 2
    assert not identities(train) & identities(test)


def test_texts_among_chats_become_turns_and_stay_as_they_came(mixed):
    stored = [row["prompt"] for row in read_rows(mixed / "pairs")]
    came = [form(0) for form in FORMS.values()]
    assert all(
        (one if isinstance(one, list) else [{"role": "user", "content": one}]) in stored
        for one in came
    )


@pytest.mark.parametrize("options", [{}, {"test_size": 0.3}], ids=["own", "new"])
@pytest.mark.parametrize("name", ["trl", "nemo_customizer"])
def test_an_export_keeps_all_forms_of_a_prompt_on_one_side(mixed, name, options):
    check_export(mixed, name, **options)


@pytest.mark.parametrize("options", [{}, {"test_size": 0.3}], ids=["own", "new"])
def test_an_export_that_cuts_prompts_splits_by_what_it_writes(tmp_path, options):
    run = make_run(tmp_path, of(chat for n in range(PROMPTS) for chat in contexts(n)), "test_size=0.4")  # fmt: skip  # noqa: E501
    train, test = check_export(run, "nemo_customizer", last_message_only=True, **options)
    assert len(train) + len(test) == 3 * PROMPTS


def test_pairs_that_an_export_makes_contradict_each_other_stay_behind(tmp_path):
    one, other, third = contexts(0)
    pairs = [(one, "a", "b"), (other, "b", "a"), *of(chat for n in range(1, 9) for chat in contexts(n)[:1])]  # noqa: E501  # fmt: skip
    run = make_run(tmp_path, [*pairs, (contexts(1)[1], "good 0", "bad 0")])
    options = ExportOptions(last_message_only=True)
    done = export_run(run, "nemo_customizer", options, say=lambda line: None)
    assert done.left_out == {"contradiction": 2, "duplicate": 1}
    assert sum(done.lines.values()) == 8


def test_two_forms_of_a_prompt_that_prefer_opposite_texts_contradict_each_other(tmp_path):
    run = make_run(tmp_path, [("café", "a", "b"), ("cafe\u0301 ", "b", "a"), ("q", "a", "b")])
    assert [row["prompt"] for row in read_rows(run / "pairs")] == ["q"]


def test_two_forms_of_a_pair_are_one(tmp_path):
    chat = [{"role": "user", "content": "q"}]
    run = make_run(tmp_path, [("q", "é", "b"), (chat, "e\u0301", "b ")])
    assert [row["prompt"] for row in read_rows(run / "pairs")] == [chat]
