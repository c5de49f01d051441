"""The sampler draws from the distribution it is asked for and knows when rounding decides."""

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from prefdata.engines.transformers.sampling import Knobs, draw, draw_uniforms, filter_scores
from prefdata.inference import Sampling

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
CHI_SQUARE_19 = 43.8  # exceeded once in a thousand with 19 degrees of freedom


@pytest.fixture(scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stack(rows, **sampling):
    return Knobs.stack([Sampling(**{"temperature": 1.0, "max_tokens": 9, **sampling})] * rows, CPU)


def some_logits(rows, vocabulary, seed=0):
    return 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def chi_square(tokens, probabilities):
    expected = len(tokens) * probabilities
    observed = torch.bincount(tokens, minlength=len(probabilities))
    return float(((observed - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_first_tokens_of_many_seeds_follow_the_softmax(temperature):
    logits = some_logits(1, 20) / 2
    uniforms = torch.tensor([draw_uniforms(seed, 1)[0] for seed in range(20_000)])
    tokens = draw(logits.expand(20_000, -1), stack(20_000, temperature=temperature), uniforms)
    assert chi_square(tokens.tokens, (logits[0] / temperature).softmax(-1)) < CHI_SQUARE_19


def test_the_steps_of_one_seed_follow_the_softmax():
    logits = some_logits(1, 20) / 2
    uniforms = torch.tensor(draw_uniforms(7, 20_000), dtype=torch.float64)
    tokens = draw(logits.expand(20_000, -1), stack(20_000), uniforms)
    assert chi_square(tokens.tokens, logits[0].softmax(-1)) < CHI_SQUARE_19


def test_uniforms_start_the_same_however_many_are_drawn():
    assert draw_uniforms(2**63 + 5, 3) == draw_uniforms(2**63 + 5, 50)[:3]
    assert draw_uniforms(1, 1) != draw_uniforms(2, 1)


def test_uniforms_are_pinned_for_recorded_runs():
    assert draw_uniforms(0, 2) == [0.011546754286331562, 0.24154919656271812]


@pytest.mark.parametrize(
    ("sampling", "warper"),
    [
        ({"top_k": 5}, TopKLogitsWarper(5)),
        ({"top_k": 5000}, TopKLogitsWarper(5000)),
        ({"top_p": 0.9}, TopPLogitsWarper(0.9)),
        ({"top_p": 0.1}, TopPLogitsWarper(0.1)),
        ({"top_p": 0.99}, TopPLogitsWarper(0.99)),
        ({"min_p": 0.05}, MinPLogitsWarper(0.05)),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_filters_keep_what_transformers_keeps(sampling, warper):
    scores = some_logits(200, 1000)
    ours = filter_scores(scores, stack(200, **sampling))
    assert torch.equal(ours, warper(None, scores))


def test_filters_together_keep_what_transformers_keeps_in_turn():
    scores = some_logits(200, 1000)
    ours = filter_scores(scores, stack(200, top_k=40, top_p=0.8, min_p=0.02))
    in_turn = TopPLogitsWarper(0.8)(
        None, TopKLogitsWarper(40)(None, MinPLogitsWarper(0.02)(None, scores))
    )
    assert torch.equal(ours, in_turn)


def test_every_row_has_its_own_filters():
    scores = some_logits(4, 50)
    rows = [
        Sampling(1.0, 9),
        Sampling(1.0, 9, top_k=3),
        Sampling(1.0, 9, top_p=0.5),
        Sampling(1.0, 9, min_p=0.3),
    ]
    together = filter_scores(scores, Knobs.stack(rows, CPU))
    for i, row in enumerate(rows):
        assert torch.equal(
            together[i : i + 1], filter_scores(scores[i : i + 1], Knobs.stack([row], CPU))
        )
    assert torch.equal(together[0], scores[0])


def test_a_nucleus_wider_than_the_sorted_head_is_found():
    flat = some_logits(3, 5000) / 100
    assert torch.equal(filter_scores(flat, stack(3, top_p=0.9)), TopPLogitsWarper(0.9)(None, flat))


def test_repetition_penalty_is_that_of_transformers():
    logits, ids = (
        some_logits(8, 50),
        torch.randint(50, (8, 6), generator=torch.Generator().manual_seed(1)),
    )
    penalised = RepetitionPenaltyLogitsProcessor(1.7)(ids, logits)
    seen = torch.zeros(8, 50, dtype=torch.bool).scatter_(1, ids, True)
    uniforms = torch.linspace(0.01, 0.99, 8, dtype=torch.float64)
    ours = draw(logits, stack(8, repetition_penalty=1.7), uniforms, seen=seen)
    assert torch.equal(ours.tokens, draw(penalised, stack(8), uniforms).tokens)


def test_temperature_zero_takes_the_best_whatever_the_filters_and_neighbours():
    logits = some_logits(3, 50)
    rows = [Sampling(0.0, 9), Sampling(1.0, 9, top_k=1), Sampling(0.0, 9, top_p=0.1)]
    tokens = draw(
        logits, Knobs.stack(rows, CPU), torch.full((3,), 0.999, dtype=torch.float64)
    ).tokens
    assert torch.equal(tokens, logits.argmax(-1))


def test_a_forbidden_token_is_never_drawn():
    logits = torch.full((3, 10), -torch.inf)
    logits[:, 4] = -1e4
    for u in (0.0, 0.5, 1 - 2**-53):
        uniforms = torch.full((3,), u, dtype=torch.float64)
        assert draw(logits, stack(3), uniforms).tokens.tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 0.3},
        {"temperature": 0.0},
        {"top_k": 50},
        {"top_p": 0.9},
        {"min_p": 0.01},
        {"top_k": 100, "top_p": 0.95, "min_p": 0.001, "repetition_penalty": 1.3},
    ],
    ids=str,
)
def test_a_draw_that_is_not_close_survives_any_rounding(sampling):
    rows, rounding = 2000, 1e-3
    generator = torch.Generator().manual_seed(3)
    logits = some_logits(rows, 400)
    seen = torch.rand(rows, 400, generator=generator) < 0.1
    uniforms = torch.rand(rows, dtype=torch.float64, generator=generator)
    knobs = stack(rows, **sampling)
    draws = draw(logits, knobs, uniforms, seen=seen, rounding=torch.full((rows, 1), rounding))
    flipped = torch.zeros(rows, dtype=torch.bool)
    for _ in range(5):
        noise = rounding * (2 * torch.rand(rows, 400, generator=generator) - 1)
        flipped |= draw(logits + noise, knobs, uniforms, seen=seen).tokens != draws.tokens
    assert not (flipped & ~draws.is_close).any()
    assert flipped.any() and draws.is_close.float().mean() < 0.3
