import datasets
import forks
import orjson
import pyarrow.parquet as pq
import pytest

from prefdata.errors import PrefdataError
from prefdata.pipeline import build
from prefdata.storage.folders import read_rows


def run(project, *overrides, out=None, say=lambda line: None):
    return build(project.load(*overrides), out or project.folder / "run", rehearse=True, say=say)


def rows(out, folder):
    return list(read_rows(out / folder))


def judged(project):
    """Turn the project into a hot and a cool answer with a judge."""
    project.recipe["models"].append(
        {
            "alias": "cool",
            "model": "scripted",
            "inference_parameters": {"temperature": 0.3, "max_tokens": 32},
        }
    )
    schema = {
        "type": "object",
        "properties": {"winner": {"type": "string", "enum": ["A", "B"]}},
        "required": ["winner"],
    }
    project.recipe["columns"] = [
        {"name": "response_a", "type": "llm_text", "model_alias": "hot", "prompt": "{{ prompt }}"},
        {"name": "response_b", "type": "llm_text", "model_alias": "cool", "prompt": "{{ prompt }}"},
        {
            "name": "judge",
            "type": "llm_judge",
            "model_alias": "hot",
            "prompt": "{{ prompt }} A: {{ response_a }} B: {{ response_b }}",
            "output_format": schema,
        },
    ]
    project.recipe["output_projection"] = {"type": "dpo_preference"}
    return project


def test_every_seed_ends_in_a_pair_or_in_a_reject(project):
    project.write_seeds([{"prompt": f"question {n}", "answer": n} for n in range(9)] + [b"{broken"])
    record = run(project)
    assert record["seeds"] == 10
    assert record["prompts"] + sum(record["rejects"].values()) == 10
    assert record["rejects"] == {"seeds: bad_line": 1}
    [bad] = rows(project.folder / "run", "rejects")
    assert (bad["source"], bad["stage"]) == ("seeds.jsonl:10", "seeds")


def test_the_folders_load_with_load_dataset(project, tmp_path):
    run(project, "output_projection.test_size=0.2")
    load = lambda name: datasets.load_dataset(  # noqa: E731
        "parquet", data_dir=str(project.folder / "run" / name), cache_dir=str(tmp_path / "cache")
    )
    pairs = load("pairs")
    assert {split: len(data) for split, data in pairs.items()} == {"train": 16, "test": 4}
    assert len(load("candidates")["train"]) == 20
    assert pairs["train"][0]["chosen"] != pairs["train"][0]["rejected"]


def test_the_same_command_again_does_nothing(project):
    said = []
    first = run(project)
    assert run(project, say=said.append) == first
    assert said == ["nothing to do: this run is finished"]


def test_raising_samples_from_4_to_8_generates_four(project):
    assert run(project)["requests"]["generated"] == 80
    more = run(project, "columns.0.samples=8")
    assert more["requests"] == {"generated": 80, "scored": 80, "replayed": 160}


def test_editing_one_prompt_regenerates_one_row(project):
    run(project)
    seeds = [{"prompt": f"question {n}", "answer": n} for n in range(20)]
    seeds[7]["prompt"] = "another question"
    project.write_seeds(seeds)
    assert run(project)["requests"] == {"generated": 4, "scored": 4, "replayed": 152}


@pytest.mark.parametrize(
    "override",
    ["output_projection.strategy=exhaustive", "output_projection.min_margin=1.5", "min_yield=0.1"],
)
def test_what_changes_no_text_generates_nothing(project, override):
    first, said = run(project), []
    again = run(project, override, say=said.append)
    if said != ["nothing to do: this run is finished"]:
        assert again["requests"] == {"generated": 0, "scored": 0, "replayed": 0}
        assert again["fingerprint"] != first["fingerprint"]


@pytest.mark.parametrize(
    "override",
    [
        "models.0.inference_parameters.temperature=0.8",
        "models.0.inference_parameters.top_p=0.9",
        "models.0.inference_parameters.max_tokens=31",
        "models.0.inference_parameters.seed=5",
        "models.0.system_prompt=Be brief.",
        "models.0.chat_template_kwargs={enable_thinking: false}",
        "models.0.engine={dtype: bfloat16}",
        "columns.0.prompt='Reply: {{ prompt }}'",
        "seed=1",
    ],
)
def test_what_can_change_a_text_generates_it_anew(project, override):
    run(project)
    assert run(project, override)["requests"]["generated"] == 80


def test_going_back_to_an_earlier_recipe_finds_its_rows(project):
    first = run(project)
    run(project, "seed=1")
    back = run(project)
    assert back["requests"]["generated"] == 0
    assert back["pairs"] == first["pairs"]


def test_rows_do_not_depend_on_the_rest_of_the_run(project, tmp_path):
    run(project)
    whole = {row["id"]: row for row in rows(project.folder / "run", "candidates")}
    run(project, "num_records=5", out=tmp_path / "part")
    for row in rows(tmp_path / "part", "candidates"):
        assert row == whole[row["id"]]


def test_cycled_seeds_get_ids_and_samples_of_their_own(project):
    said = []
    record = run(project, "num_records=50", say=said.append)
    made = rows(project.folder / "run", "candidates")
    assert len({row["id"] for row in made}) == 50
    seeds = {candidate["seed"] for row in made for candidate in row["candidates"]}
    assert len(seeds) == 200
    assert sum("num_records: 50 rows from 20 seeds" in line for line in said) == 1
    assert record["seeds"] == 50


def test_the_jsonl_holds_three_strings_a_line_and_nothing_else(project):
    judged(project)
    place = project.folder / "out" / "pairs.jsonl"
    record = run(project, f"output_path={place}")
    lines = [orjson.loads(line) for line in place.read_bytes().splitlines()]
    assert len(lines) == record["pairs"]["train"] > 0
    assert all(list(line) == ["prompt", "chosen", "rejected"] for line in lines)
    assert all(isinstance(text, str) for line in lines for text in line.values())


def test_a_test_split_gets_a_jsonl_of_its_own(project):
    place = project.folder / "pairs.jsonl"
    run(project, f"output_path={place}", "output_projection.test_size=5")
    prompts = lambda file: {orjson.loads(line)["prompt"] for line in file.read_bytes().splitlines()}  # noqa: E731
    train, test = prompts(place), prompts(project.folder / "pairs.test.jsonl")
    assert (len(train), len(test)) == (15, 5)
    assert not train & test


def test_judge_and_answers_of_one_checkpoint_load_it_once(project):
    record = run(judged(project))
    assert record["loads"] == ["scripted"]
    assert record["requests"]["generated"] == 20 * 4


def test_verdicts_that_disagree_are_ties_and_rejects(project):
    record = run(judged(project))
    out = project.folder / "run"
    made = rows(out, "candidates")
    disagree = [row for row in made if not row["judge__meta"]["agreed"]]
    assert 0 < len(disagree) < 20
    assert all(row["judge"]["winner"] == "tie" for row in disagree)
    assert record["rejects"] == {"pairs: tie": len(disagree)}
    winners = {row["id"]: row for row in made}
    for pair in rows(out, "pairs"):
        row = winners[pair["row_id"]]
        chosen = row["response_a"] if row["judge"]["winner"] == "A" else row["response_b"]
        assert pair["chosen"] == chosen


def test_min_yield_does_not_enter_the_rows(project):
    assert run(project)["fingerprint"] == run(project, "min_yield=0.5")["fingerprint"]


def test_a_lost_jsonl_is_written_again(project):
    place = project.folder / "pairs.jsonl"
    run(project, f"output_path={place}")
    before = place.read_bytes()
    place.unlink()
    run(project, f"output_path={place}")
    assert place.read_bytes() == before


def test_candidates_are_the_last_stage_without_a_second_copy(project):
    run(project)
    out = project.folder / "run"
    [published] = (out / "candidates").glob("*.parquet")
    stages = {file.stat().st_ino for file in (out / "stages").rglob("*.parquet")}
    assert published.stat().st_ino in stages


def test_nothing_unfinished_stays_behind(project):
    run(project, "output_projection.test_size=3")
    left = {file.name for file in project.folder.rglob(".*") if file.name.startswith(".")}
    assert left == {".prefdata.json"}


def test_a_missing_checkpoint_stops_the_run_before_any_work(project, quickstart_models):
    project.recipe["models"][0]["model"] = str(quickstart_models / "lm")
    project.recipe["models"][1]["model"] = "./no/such/model"
    with pytest.raises(PrefdataError, match="model 'grader': there is no folder"):
        build(project.load(), project.folder / "run", say=lambda line: None)
    assert not (project.folder / "run" / "stages").exists()


def test_a_text_model_cannot_be_a_reward_model(project, quickstart_models):
    project.recipe["models"][0]["model"] = str(quickstart_models / "lm")
    project.recipe["models"][1]["model"] = str(quickstart_models / "lm")
    with pytest.raises(PrefdataError, match="is LlamaForCausalLM .* cannot score texts"):
        build(project.load(), project.folder / "run", say=lambda line: None)


def test_pooled_rows_are_accounted_for(project):
    project.write_seeds([{"prompt": f"question {n % 5}", "answer": n} for n in range(20)])
    record = run(project, "output_projection.group_by=prompt")
    assert record["prompts"] == 5
    assert record["rejects"] == {"pairs: pooled": 15}


def test_rows_of_a_group_must_share_their_prompt(project):
    project.write_seeds([{"prompt": f"question {n}", "answer": n % 2} for n in range(4)])
    record = run(project, "output_projection.group_by=answer")
    assert record["rejects"] == {"pairs: prompt_differs": 2}
    assert record["prompts"] == 2
    told = {row["detail"] for row in read_rows(project.folder / "run" / "rejects")}
    assert all("name the prompt's column in group_by, too" in detail for detail in told)
    both = run(project, "output_projection.group_by=[answer, prompt]")
    assert (both["prompts"], both["rejects"]) == (4, {})


def test_provenance_of_both_sides_is_in_the_pairs(project):
    run(project)
    names = pq.read_schema(next((project.folder / "run" / "pairs").glob("*.parquet"))).names
    for name in ("alias", "model", "temperature", "sample", "finish_reason", "score", "scores"):
        assert {f"chosen_{name}", f"rejected_{name}"} <= set(names)


def with_function(project, body):
    (project.folder / "grading.py").write_text(f"def grade(text, row):\n    return {body}\n")
    project.recipe["columns"].append(
        {
            "name": "grade",
            "type": "verifier",
            "method": "function",
            "function": "grading:grade",
            "candidates": "candidates",
        }
    )


def test_a_function_sees_every_column_of_its_row(project):
    with_function(project, "len(text) + row['answer'] + row['reward'][0]")
    record = run(project)
    assert record["rejects"] == {}
    assert record["means"].keys() == {"reward", "grade"}


def test_editing_a_function_grades_anew(project):
    with_function(project, "len(text) % 2")
    words = ["build", project.write(), "--rehearse"]

    def grades():
        done = forks.run(*words)
        assert done.returncode == 0, done.stderr
        return [row["grade"] for row in rows(project.folder / "run-rehearsal", "candidates")]

    first = grades()
    (project.folder / "grading.py").write_text("def grade(text, row):\n    return 7\n")
    assert first != grades() == [[7.0] * 4] * 20


def test_a_seed_column_called_as_a_recipe_column_is_refused(project):
    project.recipe["seed_dataset"].pop("fields")
    project.write_seeds([{"prompt": "p", "answer": 1, "reward": 2}])
    with pytest.raises(PrefdataError, match="reward"):
        run(project)


def test_run_json_names_stages_versions_and_checkpoints(project):
    record = run(project)
    assert [name.split("-")[1] for name in record["stages"]] == ["seeds", "candidates", "reward"]
    assert record["versions"].keys() >= {"datasets", "pyarrow", "torch", "transformers"}
    assert record["checkpoints"] == {"hot": "scripted", "grader": "scripted"}


@pytest.mark.parametrize("prompt", ["", "  ", "\u200b", "\ufeff\u3000\n"], ids=repr)
def test_a_blank_prompt_is_a_reject_before_anything_is_asked(project, prompt):
    project.write_seeds([{"prompt": "question", "answer": 1}, {"prompt": prompt, "answer": 1}])
    record = run(project)
    assert (record["prompts"], record["rejects"]) == (1, {"seeds: empty_prompt": 1})
    assert record["candidates"] == record["requests"]["generated"]


@pytest.mark.parametrize("pairs_prompt", ["prompt", "question"])
def test_a_template_that_makes_a_blank_prompt_asks_nothing(project, pairs_prompt):
    seeds = [{"prompt": "question", "answer": n, "more": m} for n, m in enumerate("a ")]
    project.write_seeds(seeds)
    project.recipe["seed_dataset"]["fields"].append("more")
    project.recipe["columns"][0]["prompt"] = "{{ question if question else prompt }}"
    made = {"name": "question", "type": "expression", "expression": "{{ more | trim }}"}
    project.recipe["columns"].insert(0, made)
    if pairs_prompt == "prompt":
        project.recipe["columns"][1]["prompt"] = "{{ question }}"
    record = run(project, f"output_projection.prompt_field={pairs_prompt}")
    assert record["prompts"] == 1
    column = "question" if pairs_prompt == "question" else project.recipe["columns"][1]["name"]
    assert record["rejects"] == {f"{column}: empty_prompt": 1}
