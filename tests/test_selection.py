import random
from collections import Counter, defaultdict
from itertools import combinations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from prefdata.errors import PrefdataError
from prefdata.pairs.selection import VERDICTS, PairFacts, select
from prefdata.recipe.projection import DpoPreference, PreferencePairs
from prefdata.stages.near import NEAR_DUPLICATE_JACCARD, shingles

STORY = "Write a short story about an old lighthouse keeper who finds a message in a bottle"


def run(facts, seed=0, **fields):
    return select(iter(facts), DpoPreference(type="dpo_preference", **fields), seed=seed)


def verdicts(facts, seed=0, **fields):
    return list(run(facts, seed, **fields))


def one_pair_each(count):
    return [PairFacts(f"prompt {at}", "good", "bad") for at in range(count)]


def prompts_of(facts, found, *wanted):
    return {fact.prompt for fact, verdict in zip(facts, found, strict=True) if verdict in wanted}


# Contradictions


def test_two_rows_that_prefer_opposite_texts_are_both_dropped():
    facts = [PairFacts("p", "a", "b"), PairFacts("p", "c", "b"), PairFacts("p", "b", "a")]
    assert verdicts(facts) == ["contradiction", "train", "contradiction"]


def test_every_copy_of_a_contradiction_is_dropped_even_without_dedupe():
    facts = [PairFacts("p", "a", "b"), PairFacts("p", "a", "b"), PairFacts("p", "b ", "\na")]
    for dedupe in ("none", "exact", "minhash"):
        assert verdicts(facts, dedupe=dedupe) == ["contradiction"] * 3


def test_opposite_preferences_for_different_prompts_are_fine():
    facts = [PairFacts("p", "a", "b"), PairFacts("p ", "b", "a")]
    assert verdicts(facts) == ["train", "train"]


def test_texts_that_join_to_the_same_string_are_not_confused():
    facts = [PairFacts("p", "ab", "c"), PairFacts("p", "a", "bc"), PairFacts("pa", "b", "c")]
    assert verdicts(facts) == ["train"] * 3


# Duplicates


def test_the_first_of_equal_pairs_stays():
    facts = [PairFacts("p", "a", "b"), PairFacts("p", "a", "b "), PairFacts("p", "a", "c")]
    assert verdicts(facts) == ["train", "duplicate", "train"]
    assert verdicts(facts, dedupe="none") == ["train"] * 3


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        pytest.param(f"{STORY}.", "near_duplicate", id="a full stop more"),
        pytest.param(STORY.upper(), "near_duplicate", id="capitals"),
        pytest.param(f"  {STORY}\n", "near_duplicate", id="whitespace"),
        pytest.param(STORY.replace("lighthouse keeper", "cook"), "train", id="another story"),
        pytest.param("Explain how tides depend on the moon", "train", id="something else"),
    ],
)
def test_of_near_duplicate_prompts_one_stays(other, expected):
    facts = [PairFacts(STORY, "a", "b"), PairFacts(other, "c", "d")]
    found = verdicts(facts, dedupe="minhash")
    assert sorted(found) == sorted(["train", expected])
    assert verdicts(facts, dedupe="exact") == ["train", "train"]


def test_a_near_duplicate_goes_with_all_its_pairs_and_the_other_keeps_all():
    facts = [
        PairFacts(prompt, f"{prompt} {at}", "bad")
        for at in range(3)
        for prompt in (STORY, STORY + ".")
    ]
    found = verdicts(facts, dedupe="minhash")
    assert len(prompts_of(facts, found, "train")) == 1
    assert found.count("train") == found.count("near_duplicate") == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("What is 3 + 4?", "What is 3 - 4?", id="another sign"),
        pytest.param("What is 12 plus 7?", "What is 12 plus 8?", id="another number"),
        pytest.param("", "?", id="hardly any text"),
        pytest.param("猫が好きな理由を教えて", "犬が嫌いな人の話をして", id="no spaces"),
    ],
)
def test_short_prompts_with_different_answers_are_not_near_duplicates(one, other):
    facts = [PairFacts(one, "a", "b"), PairFacts(other, "c", "d")]
    assert verdicts(facts, dedupe="minhash") == ["train", "train"]


def test_prompts_without_spaces_can_be_near_duplicates():
    text = "海辺の古い灯台を守る老人が瓶の中の手紙を見つける短い物語を書いてください"
    facts = [PairFacts(text, "a", "b"), PairFacts(text + "。", "c", "d")]
    assert sorted(verdicts(facts, dedupe="minhash")) == ["near_duplicate", "train"]


def test_a_chain_of_small_edits_does_not_swallow_its_far_end():
    words = [f"word{at}" for at in range(120)]
    facts = [PairFacts(" ".join(words[at : at + 40]), "a", "b") for at in range(0, 80, 2)]
    kept = prompts_of(facts, verdicts(facts, dedupe="minhash"), "train")
    assert 5 < len(kept) < 40


# Sample and split


def test_two_draws_of_one_tie_are_no_contradiction():
    one, other = PairFacts("q", "a", "b", is_tie=True), PairFacts("q", "b", "a", is_tie=True)
    assert verdicts([one, other]) == ["train", "duplicate"]
    decided = [PairFacts("q", "a", "b"), PairFacts("q", "b", "a")]
    assert verdicts([one, *decided]) == ["contradiction"] * 3


def test_max_pairs_takes_whole_prompts_but_for_the_last():
    facts = [PairFacts(f"p{at // 4}", f"good {at}", "bad", margin=at % 4) for at in range(40)]
    found = verdicts(facts, max_pairs=10)
    by_prompt = defaultdict(list)
    for fact, verdict in zip(facts, found, strict=True):
        if verdict == "train":
            by_prompt[fact.prompt].append(fact.margin)
    assert sorted(map(len, by_prompt.values())) == [2, 4, 4]
    assert [2, 3] in [sorted(margins) for margins in by_prompt.values()]


# Shares and quotas


def margined(count, groups="a"):
    draw = random.Random(0)
    margins = [draw.choice([None, draw.random()]) for _ in range(count)]
    return [
        PairFacts(f"p{n // 3}", f"c{n}", f"r{n}", margin, group=draw.choice(groups))
        for n, margin in enumerate(margins)
    ]


def by_margin(facts, seed=0, **fields):
    rule = PreferencePairs(
        type="preference_pairs", candidates="c", score="s", strategy="exhaustive", **fields
    )
    return list(select(iter(facts), rule, seed=seed))


@pytest.mark.parametrize("count", [1, 9, 30, 200])
@pytest.mark.parametrize("groups", ["a", "abc"])
def test_a_share_of_the_pairs_is_a_sort_by_margin(count, groups):
    facts = margined(count, groups)
    found = by_margin(facts, keep_fraction=0.1, select_group="topic")
    table = pd.DataFrame({"margin": [f.margin for f in facts], "group": [f.group for f in facts]})
    wanted = table.groupby("group")["margin"].apply(
        lambda one: one.sort_values(ascending=False).head(-(-len(one) // 10))
    )
    kept = table[[one == "train" for one in found]]["margin"]
    assert sorted(kept.fillna(-1)) == sorted(wanted.fillna(-1))
    assert found.count("over_keep_fraction") == count - len(wanted)


def test_quotas_are_of_the_values_that_have_one():
    facts = [PairFacts(f"p{n}", "c", "r", n, group="abc"[n % 3]) for n in range(30)]
    found = by_margin(facts, max_pairs={"a": 2, "b": 100}, select_group="topic", select_by="margin")
    kept = Counter(f.group for f, v in zip(facts, found, strict=True) if v == "train")
    assert kept == {"a": 2, "b": 10, "c": 10}
    assert [n for n in range(0, 30, 3) if found[n] == "train"] == [24, 27]


def test_a_share_may_be_a_sample_of_whole_prompts():
    facts = [PairFacts(f"p{n // 3}", f"c{n}", "r", n) for n in range(60)]
    samples = {
        frozenset(
            prompts_of(
                facts, by_margin(facts, seed, keep_fraction=0.1, select_by="random"), "train"
            )
        )  # noqa: E501
        for seed in range(20)
    }
    assert all(len(one) == 2 for one in samples)
    assert len(samples) > 10


def test_a_number_by_margin_is_taken_of_what_the_share_leaves():
    facts = [PairFacts(f"p{n}", "c", "r", n) for n in range(100)]
    found = by_margin(facts, keep_fraction=0.2, max_pairs=7)
    assert [n for n, one in enumerate(found) if one == "train"] == [*range(93, 100)]
    assert Counter(found) == {"train": 7, "over_keep_fraction": 80, "over_max_pairs": 13}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep_fraction": 0.1}, "these pairs have no margin"),
        ({"max_pairs": 3, "select_by": "margin"}, "these pairs have no margin"),
        ({"select_group": "topic"}, "nothing is left out"),
        ({"max_pairs": {"a": 1}}, "no column has the values"),
        ({"keep_fraction": 1.0}, "less than 1"),
    ],
)
def test_a_selection_that_cannot_be_made_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        run([], **fields)
    run([], keep_fraction=0.5, select_by="random")


def test_max_pairs_above_the_number_of_pairs_drops_nothing():
    assert run(one_pair_each(5), max_pairs=6).counts["over_max_pairs"] == 0


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        pytest.param(0, 0, id="none"),
        pytest.param(3, 3, id="a count"),
        pytest.param(0.07, 7, id="a fraction without rounding error"),
        pytest.param(0.071, 8, id="a fraction rounds up"),
        pytest.param(0.999, 99, id="one prompt is left for training"),
    ],
)
def test_test_size_counts_prompts(size, expected):
    facts = one_pair_each(100) + [PairFacts("prompt 1", "good", f"bad {at}") for at in range(9)]
    found = verdicts(facts, test_size=size)
    assert len(prompts_of(facts, found, "test")) == expected


def test_a_count_that_leaves_no_training_prompt_is_an_error():
    with pytest.raises(PrefdataError, match="test_size is 3 prompts, but only 3 have pairs"):
        run(one_pair_each(3), test_size=3)


def test_a_single_prompt_stays_in_train():
    assert verdicts(one_pair_each(1), test_size=0.5) == ["train"]


def test_raising_max_pairs_keeps_the_test_prompts():
    facts = one_pair_each(50)
    small = prompts_of(facts, verdicts(facts, max_pairs=20, test_size=5), "test")
    assert small == prompts_of(facts, verdicts(facts, max_pairs=40, test_size=5), "test")


def test_another_seed_gives_another_sample():
    facts = one_pair_each(50)
    samples = {
        frozenset(prompts_of(facts, verdicts(facts, seed, max_pairs=10), "train"))
        for seed in (0, 1, -1, 10**90)
    }
    assert len(samples) == 4


def test_dropped_prompts_do_not_count_for_the_split():
    facts = [*one_pair_each(10), PairFacts("prompt 0", "bad", "good")]
    assert len(prompts_of(facts, verdicts(facts, test_size=8), "test")) == 8


# Near duplicates, exactly


def jaccard(one, other):
    return len(one & other) / len(one | other)


def with_preamble(count, seed=0):
    """Prompts that share 100 words and have 18 of their own."""
    draw = random.Random(seed)
    preamble = " ".join(f"shared{n}" for n in range(100))
    vocabulary = [f"w{n}" for n in range(50_000)]
    return [f"{preamble} {' '.join(draw.choices(vocabulary, k=18))}" for _ in range(count)]


def test_prompts_that_share_a_long_preamble_are_no_near_duplicates():
    prompts = with_preamble(1000)
    sets = [shingles(prompt) for prompt in prompts[:200]]
    assert max(jaccard(a, b) for a, b in combinations(sets, 2)) < NEAR_DUPLICATE_JACCARD
    found = verdicts([PairFacts(p, "a", "b") for p in prompts], dedupe="minhash")
    assert found == ["train"] * 1000


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=14), max_size=12), st.integers(0, 9))  # fmt: skip  # noqa: E501
def test_what_stays_is_not_near_and_what_goes_is_near_something_that_stays(texts, seed):
    prompts = list(dict.fromkeys(" ".join(words) for words in texts))
    facts = [PairFacts(prompt, "a", "b") for prompt in prompts]
    found = verdicts(facts, seed=seed, dedupe="minhash")
    stay = [shingles(p) for p, verdict in zip(prompts, found, strict=True) if verdict == "train"]
    gone = [shingles(p) for p, verdict in zip(prompts, found, strict=True) if verdict != "train"]
    assert all(jaccard(a, b) < NEAR_DUPLICATE_JACCARD for a, b in combinations(stay, 2))
    assert all(any(jaccard(a, b) >= NEAR_DUPLICATE_JACCARD for b in stay) for a in gone)


def test_near_duplicates_are_not_on_both_sides_of_the_split():
    draw = random.Random(1)
    base = [[f"w{draw.randrange(9000)}" for _ in range(40)] for _ in range(60)]
    edited = [words[:n] + ["new"] + words[n:] for words in base for n in (0, 20, 39)]
    prompts = [" ".join(words) for words in (*base, *edited)]
    facts = [PairFacts(prompt, "a", "b") for prompt in prompts]
    found = verdicts(facts, dedupe="minhash", test_size=0.3)
    train = [shingles(p) for p in prompts_of(facts, found, "train")]
    test = [shingles(p) for p in prompts_of(facts, found, "test")]
    assert len(train) + len(test) == 60
    assert all(jaccard(a, b) < NEAR_DUPLICATE_JACCARD for a in train for b in test)


# The whole


@pytest.mark.parametrize("dedupe", ["none", "exact", "minhash"])
def test_no_pairs_give_no_verdicts(dedupe):
    found = run([], dedupe=dedupe, max_pairs=3, test_size=2)
    assert list(found) == [] and set(found.counts.values()) == {0}


def test_a_selection_reads_by_position_and_counts_every_verdict():
    facts = [PairFacts("p", "a", "b"), PairFacts("p", "a", "b")]
    found = run(facts)
    assert (len(found), found[0], found[1]) == (2, "train", "duplicate")
    assert found.counts == dict.fromkeys(VERDICTS, 0) | {"train": 1, "duplicate": 1}


def test_more_pairs_than_one_chunk_are_one_set():
    facts = [PairFacts(f"p{at % 3000}", "a", "b") for at in range(6000)]
    for dedupe in ("exact", "minhash"):
        assert verdicts(facts, dedupe=dedupe) == ["train"] * 3000 + ["duplicate"] * 3000


PROMPTS = st.sampled_from(["p", "q", "p ", "r", "日本", "\ud800", STORY, STORY + "!", STORY + " ?"])
FACTS = st.lists(
    st.builds(
        PairFacts,
        prompt=PROMPTS,
        chosen=st.sampled_from(["a", "b", "a "]),
        rejected=st.sampled_from(["c", "d", "b\n"]),
        margin=st.one_of(st.none(), st.floats(0, 5)),
    ).filter(lambda fact: fact.chosen.strip() != fact.rejected.strip())
    | st.builds(PairFacts, prompt=PROMPTS, chosen=st.just("c"), rejected=st.just("a")),
    max_size=25,
)
FIELDS = st.fixed_dictionaries(
    {
        "dedupe": st.sampled_from(["none", "exact", "minhash"]),
        "max_pairs": st.sampled_from([None, 1, 4, 10]),
        "test_size": st.sampled_from([0, 0.1, 0.5, 0.9]),
    }
)


def kept_content(facts, found):
    return sorted(
        (fact.prompt, fact.chosen.strip(), fact.rejected.strip(), verdict)
        for fact, verdict in zip(facts, found, strict=True)
        if verdict in ("train", "test")
    )


@settings(max_examples=400)
@given(FACTS, FIELDS, st.integers())
def test_what_stays_is_sound(facts, fields, seed):
    found = run(facts, seed, **fields)
    assert len(found) == len(facts) == sum(found.counts.values())
    assert list(found) == verdicts(facts, seed, **fields)
    kept = kept_content(facts, found)
    assert not prompts_of(facts, found, "train") & prompts_of(facts, found, "test")
    assert len(kept) <= (fields["max_pairs"] or 99)
    claims = {(prompt, chosen, rejected) for prompt, chosen, rejected, _ in kept}
    assert not any((prompt, rejected, chosen) in claims for prompt, chosen, rejected in claims)
    assert fields["dedupe"] == "none" or len(claims) == len(kept)


@settings(max_examples=200)
@given(FACTS)
def test_the_first_of_every_duplicate_is_the_one_kept(facts):
    seen = set()
    for fact, verdict in zip(facts, run(facts), strict=True):
        key = (fact.prompt, fact.chosen.strip(), fact.rejected.strip())
        assert verdict == "contradiction" or (verdict == "duplicate") == (key in seen)
        seen.add(key)


@settings(max_examples=200)
@given(FACTS, FIELDS, st.integers(), st.randoms())
def test_the_order_of_the_rows_does_not_change_what_stays(facts, fields, seed, shuffle):
    unique = list({(f.prompt, f.chosen.strip(), f.rejected.strip()): f for f in facts}.values())
    shuffled = random.Random(shuffle.random()).sample(unique, len(unique))
    expected = kept_content(unique, run(unique, seed, **fields))
    assert kept_content(shuffled, run(shuffled, seed, **fields)) == expected
