"""How often a model is right on held-out prompts, by the recipe's own verifiers."""

import asyncio
from collections.abc import Iterator, Sequence
from math import fsum
from pathlib import Path
from typing import Any

import orjson

from prefdata.engines import open_engine
from prefdata.engines.protocols import TextEngine
from prefdata.errors import PrefdataError, RowError, Say
from prefdata.export import Export
from prefdata.inference import Message
from prefdata.pairs.prompts import PairPrompts
from prefdata.recipe.contract import Scored
from prefdata.recipe.mix import first_projection
from prefdata.recipe.schema import Model, Recipe, SeedDataset
from prefdata.rows import ID, Row, rows_of
from prefdata.run.finished import FinishedRun
from prefdata.seeds.seeds import load_seeds
from prefdata.stages import Tools, make_stage
from prefdata.stages.asking import Asker, answers
from prefdata.storage.folders import read_rows
from prefdata.storage.record import roles_of_record
from prefdata.train.trl_settings import Evaluation

ANSWERS = "candidates"
AT_A_TIME = 128
"""Prompts whose answers are under way."""


def verifiers_of(recipe: Recipe) -> list[Scored]:
    """The rules that can judge any answer: scores that ask no model."""
    scored = (column for column in recipe.columns if isinstance(column, Scored))
    return [column for column in scored if not column.aliases]


def held_out_rows(run: FinishedRun, data: Export, settings: Evaluation, *, say: Say) -> list[Row]:
    """Prompts to evaluate on, none of which is trained on.

    `run`: the run; its test prompts are taken where the settings name no file. `data`: what is
    trained on, in the format `trl`. `say`: is called with how many are left out.

    Raises:
        PrefdataError: the file cannot serve, or no prompt is left.
    """
    recipe = _recipe(run)
    prompts = _prompts(run)
    trained = {_key(line["prompt"]) for line in _lines(data.train)}
    rows = rows_of_file(recipe, settings.path) if settings.path else _test_rows(run, data)
    kept = [row for row in rows if _key(prompts.of_row(row)) not in trained]
    where = settings.path or "the run's test set"
    if len(kept) < len(rows):
        say(f"{where}: {len(rows) - len(kept):,} of {len(rows):,} prompts are trained on, and are left out")  # fmt: skip  # noqa: E501
    if not kept:
        raise PrefdataError(
            f"{where}: none of the {len(rows)} prompts can be used for evaluation, because all "
            "of them are trained on; give other prompts with evaluation.path=FILE"
        )
    return kept[: settings.limit]


def evaluate(
    run: FinishedRun, model: Model, rows: Sequence[Row], settings: Evaluation, *, seed: int
) -> dict[str, Any]:
    """Answer every prompt `samples` times and judge.

    `rows`: from `held_out_rows`.

    Returns:
        prompts, samples, temperature, tokens, under `scores` each verifier's mean, and under
        `without_score` how many answers it could not judge, which the mean leaves out.

    Raises:
        PrefdataError: the model does not load, or a prompt does not fit.
    """
    engine = open_engine("text", model, model.model, "transformers")
    try:
        return asyncio.run(_evaluate(run, model, engine, rows, settings.samples, seed))
    finally:
        engine.close()


async def _evaluate(
    run: FinishedRun, model: Model, engine: TextEngine, rows: Sequence[Row], samples: int, seed: int
) -> dict[str, Any]:
    recipe = _recipe(run)
    tools = Tools(
        seed,
        {model.alias: model},
        {model.alias: engine},
        {},
        run.loaded.folder if run.loaded else run.folder,
    )
    prompts = _prompts(run)
    asker = Asker(tools, model.alias, "evaluation")
    rules = [
        rule.model_copy(update={"candidates": ANSWERS, "responses": None})
        for rule in verifiers_of(recipe)
    ]
    stages = {rule.name: make_stage(rule, tools) for rule in rules}
    gate = asyncio.Semaphore(AT_A_TIME)
    found: dict[str, list[float | None]] = {name: [] for name in stages}

    async def judge(row: Row) -> int:
        prompt = prompts.of_row(row)
        try:
            async with gate:
                chat = _messages(prompt)
                requests = [asker.request(row[ID], chat, n) for n in range(samples)]
                completions = await answers(engine, requests)
            answered = row | {ANSWERS: [{"text": one.text} for one in completions]}
            for name, stage in stages.items():
                found[name] += (await stage(answered))[name]
        except RowError as err:
            raise PrefdataError(
                f"the evaluation prompt {prompt!r} cannot be judged: {err}; leave it out with "
                "evaluation.path=FILE"
            ) from err
        return sum(one.completion_tokens for one in completions)

    tokens = await asyncio.gather(*map(judge, rows))
    scores = {name: [s for s in every if s is not None] for name, every in found.items()}
    if empty := [name for name, values in scores.items() if not values]:
        raise PrefdataError(
            f"the verifier {empty[0]!r} gave no score to any of the answers; fix it, or remove it "
            "from the recipe"
        )
    return {
        "prompts": len(rows),
        "samples": samples,
        "temperature": model.inference_parameters.temperature,
        "tokens": sum(tokens),
        "scores": {name: fsum(values) / len(values) for name, values in scores.items()},
        "without_score": {name: len(found[name]) - len(scores[name]) for name in scores},
    }


def rows_of_file(recipe: Recipe, path: str) -> list[Row]:
    """The prompts of a file, with what the recipe's verifiers read.

    Raises:
        PrefdataError: the file is not there, or a line cannot serve.
    """
    prompts = PairPrompts(first_projection(recipe.output_projection), recipe)
    needed = dict.fromkeys(prompts.reads, "output_projection.prompt_field")
    for rule in verifiers_of(recipe):
        made = {ANSWERS, rule.candidates, *(rule.responses or ())}
        needed |= dict.fromkeys(rule.reads - made, rule.name)
    config = SeedDataset(path=(path,))
    at = "evaluation.{}".format
    seeds = load_seeds(config, [path], needed=needed, num_records=None, seed=0, at=at)
    if seeds.rejects:
        first = seeds.rejects[0]
        raise PrefdataError(
            f"{first['source']}: {first['reason']}: {first['detail']}; an evaluation needs every "
            "line, so fix it"
        )
    return rows_of(seeds.table)


def _test_rows(run: FinishedRun, data: Export) -> list[Row]:
    wanted = {line["id"].rpartition("-")[0] for line in _lines(data.test)} if data.test else set()
    return [row for row in read_rows(run.folder / "candidates") if row[ID] in wanted]


def _lines(file: Path) -> Iterator[Row]:
    with file.open("rb") as lines:
        yield from map(orjson.loads, lines)


def _messages(prompt: Any) -> tuple[Message, ...]:
    return ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)


def _key(prompt: Any) -> bytes:
    return orjson.dumps(_messages(prompt), option=orjson.OPT_SORT_KEYS)


def _prompts(run: FinishedRun) -> PairPrompts:
    recipe = _recipe(run)
    return PairPrompts(
        first_projection(recipe.output_projection), recipe, roles_of_record(run.record)
    )


def _recipe(run: FinishedRun) -> Recipe:
    if run.recipe is None:
        raise AssertionError("train asks for an evaluation only where there is a recipe")
    return run.recipe
