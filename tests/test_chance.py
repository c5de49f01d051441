import pytest

from prefdata.cli.summary import print_plan
from prefdata.pipeline import build
from prefdata.recipe.loader import load_recipe

SAMPLING = {"temperature": 0.7, "max_tokens": 9}


def recipe(weak=(), rule=(), columns=None):
    model = {"model": "org/m", "inference_parameters": SAMPLING}
    pair = {"type": "preference_pairs", "strategy": "delta", "strong": "s", "weak": "w"}
    drafts = {"name": "drafts", "type": "candidates", "prompt": "{{ prompt }}", "samples": 1}
    return {
        "output_dir": "run",
        "seed_dataset": {"rows": [{"prompt": "q"}], "fields": ["prompt"]},
        "models": [{"alias": "s", **model}, {"alias": "w", **model, **dict(weak)}],
        "columns": columns or [drafts | {"model_alias": ["s", "w"]}],
        "output_projection": pair | ({} if columns else {"candidates": "drafts"}) | dict(rule),
    }


def said(first, second, writers=("s", "w")):
    """Two text columns with these prompts."""
    return [
        {"name": name, "type": "llm_text", "model_alias": alias, "prompt": prompt}
        for name, alias, prompt in zip("xy", writers, (first, second), strict=True)
    ]


TEXTS = {"responses": ["x", "y"]}
GIVEN = {**TEXTS, "strategy": "given", "strong": None, "weak": None}
ALIKE = {
    "two aliases": recipe(),
    "of another seed": recipe({"inference_parameters": SAMPLING | {"seed": 7}}),
    "two columns": recipe(rule=TEXTS, columns=said("{{ prompt }}", "{{ prompt }}")),
    "given": recipe(rule=GIVEN, columns=said("{{ prompt }}", "{{ prompt }}", "ss")),
}
APART = {
    "another model": recipe({"model": "org/n"}),
    "another system prompt": recipe({"system_prompt": "Be careless."}),
    "hotter": recipe({"inference_parameters": SAMPLING | {"temperature": 1.0}}),
    "two prompts": recipe(rule=TEXTS, columns=said("{{ prompt }}", "Badly: {{ prompt }}")),
    "given": recipe(rule=GIVEN, columns=said("{{ prompt }}", "Better than {{ x }}?")),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_sides_that_are_asked_alike_are_told(kind):
    [note] = load_recipe(ALIKE[kind]).notes
    assert note.startswith("output_projection: strategy ")
    assert "chance says which text is chosen" in note


@pytest.mark.parametrize("kind", APART)
def test_sides_that_differ_are_not(kind):
    assert load_recipe(APART[kind]).notes == ()


def test_a_score_compares_them():
    scored = recipe(rule={"score": "right"})
    rule = {"name": "right", "type": "verifier", "method": "regex", "pattern": "q"}
    scored["columns"].append(rule | {"candidates": "drafts"})
    assert load_recipe(scored).notes == ()


def test_a_run_tells_it_at_its_start_and_goes_on(tmp_path):
    told = []
    build(load_recipe(recipe()), tmp_path / "run", rehearse=True, say=told.append)
    assert sum("chance says" in line for line in told) == 1


def test_plan_tells_it(capsys):
    print_plan(load_recipe(recipe()))
    assert capsys.readouterr().out.count("chance says") == 1
