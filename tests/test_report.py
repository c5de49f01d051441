import hashlib
import re
import shutil
from base64 import b64encode
from collections import Counter
from html.parser import HTMLParser

import orjson
import pytest
from conftest import ROOT
from reported import HOSTILE, line, make_hostile_run, make_plain_run, make_scored_run
from runs import TOOL

from prefdata.errors import PrefdataError
from prefdata.pipeline import build
from prefdata.recipe.loader import load_recipe
from prefdata.report import make_report
from prefdata.report.compare import delta, recipe_differences
from prefdata.report.excerpt import LONGEST, embed, take_excerpt
from prefdata.storage.folders import read_rows

VENDOR = ROOT / "prefdata" / "report" / "templates" / "vendor"


class Page(HTMLParser):
    """The elements of a page as a browser finds them, scripts and data apart."""

    def __init__(self, file):
        super().__init__()
        self.scripts, self.data, self.tags, self.attributes, self.text = [], [], [], [], ""
        self._inside = None
        self.feed(file.read_text())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self._inside = None
        if tag == "script":
            self._inside = self.data if ("type", "application/json") in attributes else self.scripts
            self._inside.append("")

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside is None:
            self.text += data
        else:
            self._inside[-1] += data

    def rows(self, at=1):
        return orjson.loads(self.data[at])


def test_a_run_has_its_report_in_its_folder(tmp_path):
    run = make_plain_run(tmp_path)
    assert make_report(run).file == run / "report.html"
    page = Page(run / "report.html")
    assert "40 of 43 rows" in page.text
    assert "seeds" in page.text
    assert len(page.rows()) == 40


def test_the_report_of_a_run_is_the_same_each_time(tmp_path):
    run = make_plain_run(tmp_path)
    first = make_report(run).file.read_bytes()
    assert make_report(run).file.read_bytes() == first


def test_no_text_of_a_run_becomes_an_element(tmp_path):
    clean, attacked = make_plain_run(tmp_path / "a"), make_hostile_run(tmp_path / "b")
    before, after = Page(make_report(clean).file), Page(make_report(attacked).file)
    assert after.scripts == before.scripts
    assert "img" not in after.tags
    assert "svg" not in after.tags
    assert not [name for name, _ in after.attributes if name.startswith("on")]
    held = str(after.rows(1))
    assert all(f"chosen {n} " in held for n in range(len(HOSTILE)))
    assert HOSTILE[0] in after.text  # a reason in a table, as text


@pytest.mark.parametrize("text", HOSTILE)
def test_embedded_json_holds_the_text_and_cannot_end_its_element(text):
    told = str(embed({"text": text}))
    assert not set("<>&\u2028\u2029") & set(told)
    assert orjson.loads(told)["text"] == text


def test_the_policy_allows_the_pages_own_scripts_and_nothing_else(tmp_path):
    page = Page(make_report(make_plain_run(tmp_path)).file)
    policy = next(v for n, v in page.attributes if n == "content" and "default-src" in v)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for script in page.scripts:
        told = b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{told}'" in policy
    links = [v for n, v in page.attributes if n in ("src", "href") and not v.startswith(("#", "data:"))]  # fmt: skip  # noqa: E501
    assert links == []


def test_vendored_scripts_are_the_published_ones():
    told = dict(
        re.findall(r"\| `([\w.]+)` \|.*`([0-9a-f]{64})`", (VENDOR / "README.md").read_text())
    )
    scripts = {file.name for file in VENDOR.glob("*.js")}
    assert told.keys() == scripts
    for name, expected in told.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == expected


def test_figures_are_of_all_pairs_where_the_page_shows_a_sample(tmp_path):
    run = make_plain_run(tmp_path, turns=60)
    excerpt = take_excerpt(run / "pairs", most_rows=10)
    assert (excerpt.rows, excerpt.shown, excerpt.is_whole) == (60, 10, False)
    shown = [row for part in excerpt.parts() for row in orjson.loads(str(part))]
    assert len(shown) == 10
    again = take_excerpt(run / "pairs", most_rows=10)
    assert [str(part) for part in again.parts()] == [str(part) for part in excerpt.parts()]


def test_a_sample_keeps_to_its_bytes(tmp_path):
    run = make_plain_run(tmp_path, turns=60)
    excerpt = take_excerpt(run / "pairs", most_bytes=3000)
    assert 0 < excerpt.shown < 60


def test_samples_of_two_runs_are_of_the_same_rows(tmp_path):
    runs = [make_plain_run(tmp_path / name, turns=60) for name in "ab"]
    ids = []
    for run in runs:
        excerpt = take_excerpt(run / "pairs", most_rows=10)
        at = excerpt.fields.index("row_id")
        ids.append([row[at] for part in excerpt.parts() for row in orjson.loads(str(part))])
    assert ids[0] == ids[1]


def test_pairs_of_one_row_are_shown_together_or_not_at_all(tmp_path):
    lines = [line(n, f"question {n}", f"answer {k}", float(k)) for n in range(30) for k in range(4)]
    run = make_scored_run(tmp_path, lines, "strategy=exhaustive")
    excerpt = take_excerpt(run / "pairs", most_rows=50)
    at = excerpt.fields.index("row_id")
    ids = [row[at] for part in excerpt.parts() for row in orjson.loads(str(part))]
    assert len(ids) == excerpt.shown == 48
    assert all(ids.count(name) == 6 for name in ids)


def test_what_a_browser_cannot_hold_is_a_text_or_is_cut(tmp_path):
    lines = [
        line(1, "q", "x" * (LONGEST + 7), 2.0, seed=2**62),
        line(1, "q", "y", 1.0),
        line(2, "r", "same", 1.0, seed=2**62),
    ]
    run = make_scored_run(tmp_path, lines)
    page = Page(make_report(run).file)
    [pair] = page.rows(1)
    assert any(str(value).endswith("[…and 7 more characters]") for value in pair)
    [reject] = page.rows(2)
    assert reject[-1]["candidates"][0]["seed"] == str(2**62)


def test_prompts_that_are_chats_stay_chats(tmp_path):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    page = Page(make_report(make_scored_run(tmp_path, [line(1, chat, "4", 2.0), line(1, chat, "5", 1.0)])).file)  # fmt: skip  # noqa: E501
    assert chat in page.rows(1)[0]


def test_a_run_without_a_pair_has_a_report(tmp_path):
    lines = [line(n, f"question {n}", "same", 1.0) for n in range(3)]
    page = Page(make_report(make_scored_run(tmp_path, lines)).file)
    assert "0 of 3 rows" in page.text
    assert "Margins" not in page.text


def test_panels_that_have_nothing_to_show_are_away(tmp_path):
    page = Page(make_report(make_plain_run(tmp_path)).file)
    for title in ("Throughput", "Judges", "By seed column"):
        assert title not in page.text
    for title in ("Scores", "Margins", "Who wins", "Length", "Slowest and largest rows"):
        assert title in page.text
    assert "This run has not recorded how long its rows took." in page.text


def test_the_verdict_and_its_warnings_stand_first_and_the_pairs_second(tmp_path):
    text = Page(make_report(make_plain_run(tmp_path)).file).text
    wanted = (
        "40 pairs, from 93.0% of 43 rows; at the median chosen scores 20.5 more. 2 things to",
        "Length bias", "Key figures", "Show", "What each step leaves of the rows.",
    )  # fmt: skip
    places = [text.index(one, text.index("Theme: auto")) for one in wanted]
    assert places == sorted(places)
    few = Page(make_report(make_plain_run(tmp_path / "few", turns=20)).file)
    assert "Nothing odd was found." in few.text


def test_pairs_are_broken_down_by_the_seed_columns_that_they_keep(project):
    seeds = [
        {"prompt": f"question {n}", "answer": n, "language": "de" if n % 4 else "en", "hard": n < 9}
        for n in range(20)
    ]
    project.write_seeds(seeds)
    project.recipe["seed_dataset"]["fields"] += ["language", "hard"]
    project.recipe["output_projection"]["keep"] = ["language", "hard", "answer"]
    build(project.load(), project.folder / "run", rehearse=True)
    page = Page(make_report(project.folder / "run").file)
    assert "language has 2 values. hard has 2 values." in page.text  # answer is another each time
    charts = [one for cells in orjson.loads(page.data[0])["charts"] for one in cells[0]]
    [chart] = [one for one in charts if one["title"] == "Pairs by language"]
    counts = Counter(row["language"] for row in read_rows(project.folder / "run" / "pairs"))
    assert dict(zip(chart["labels"], chart["series"][0][1], strict=True)) == dict(counts)
    assert "wins most" in page.text


def test_the_loading_of_models_is_shown_in_the_throughput(project, quickstart_models):
    for at, name in enumerate(("lm", "rm")):
        project.recipe["models"][at]["model"] = str(quickstart_models / name)
    project.recipe["seed_dataset"]["limit"] = 2
    build(project.load(), project.folder / "run", say=lambda text: None)
    data = orjson.loads(Page(make_report(project.folder / "run").file).data[0])
    bands = [chart["bands"] for cells in data["charts"] for chart in cells[0] if chart["bands"]]
    assert [name for _, _, name in bands[0]] == [
        "loading hot on the CPU",
        "loading grader on the CPU",
    ]
    assert all(0 <= begun <= ended for begun, ended, _ in bands[0])


def test_every_candidate_of_a_shown_pair_is_in_the_page(project):
    run = project.folder / "run"
    build(project.load(), run, rehearse=True)
    page = Page(make_report(run).file)
    data = orjson.loads(page.data[0])["runs"][0]
    assert data["scores"] == ["reward"]
    found = dict(orjson.loads(page.data[-1]))
    for row in read_rows(run / "candidates"):
        told = found[row["id"]]
        assert [one[3] for one in told] == [one["text"] for one in row["candidates"]]
        assert [one[4] for one in told] == [[score] for score in row["reward"]]
        assert told[0][:2] == ["hot", 0.9]


def test_a_build_notes_its_throughput_and_its_slowest_rows(project):
    record = build(project.load(), project.folder / "run", rehearse=True)
    assert record["throughput"]["samples"][-1][1] == 80
    assert {name for _, name in record["throughput"]["passes"]} >= {"seeds", "candidates", "pairs"}
    assert len(record["slowest"]["candidates"]) == 20
    page = Page(make_report(project.folder / "run").file)
    assert "is a rehearsal" in page.text
    assert "Slowest rows" in page.text


@pytest.mark.parametrize("samples", [None, 2, 9], ids=["in shards", "over soon", "in one piece"])
def test_the_figures_of_replicas_are_a_table_of_what_is_known(project, samples):
    run = project.folder / "run"
    record = build(project.load(), run, rehearse=True)
    assert "longest queue" not in Page(make_report(run).file).text
    known = {"gpus": ["0", "1"], "answered": 80, "tokens": 20_000, "queue_peak": 12}
    record["replicas"] = {"lm-0": known | {"power_watts": 512.5}, "lm-1": known}
    noted = record.pop("throughput")
    if samples is not None:
        first, *_, last = noted["samples"]
        made = [[first[0] + n, *last[1:]] for n in range(samples)]
        record["throughput"] = noted | {"samples": [first, *made[1:]]}
    (run / "run.json").write_bytes(orjson.dumps(record))
    page = Page(make_report(run).file).text
    for told in ("0, 1", "20,000", "512.5", "longest queue", "mean power, W"):
        assert told in page
    assert "utilisation" not in page


def test_pairs_chosen_again_keep_the_throughput_of_the_build(project):
    from prefdata.pairs.repick import pairs_of_run

    run = project.folder / "run"
    before = build(project.load(), run, rehearse=True)
    after = pairs_of_run(run, ["min_margin=0.01"], run)
    assert after["throughput"] == before["throughput"]
    assert after["seconds"]["total"] == before["seconds"]["total"]


def test_judged_runs_tell_agreement_and_position_bias(project):
    project.recipe["columns"] = [
        {"name": name, "type": "llm_text", "model_alias": "hot", "prompt": "{{ prompt }}"}
        for name in ("response_a", "response_b")
    ] + [
        {
            "name": "judge",
            "type": "llm_judge",
            "model_alias": "hot",
            "prompt": "{{ response_a }} {{ response_b }}",
            "output_format": {"type": "object", "properties": {"winner": {"enum": ["A", "B"]}}},
        }
    ]
    project.recipe["output_projection"] = {"type": "dpo_preference"}
    record = build(project.load(), project.folder / "run", rehearse=True)
    counts = record["judges"]["judge"]
    page = Page(make_report(project.folder / "run").file)
    assert f"both orders agree in {counts['agreed'] / 20:.1%}" in page.text
    assert "How the scores of each writer's texts are spread." not in page.text
    charts = orjson.loads(page.data[0])["charts"]
    assert any(chart["title"] == "What single verdicts name" for cells in charts for cell in cells for chart in cell)  # fmt: skip  # noqa: E501


def test_a_length_bias_is_told(tmp_path):
    run = make_plain_run(tmp_path)
    warning, split = make_report(run).warnings
    assert "Small test split" in split
    assert "the longer text is chosen in 100.0%" in warning
    assert warning in Page(run / "report.html").text


def test_no_bias_is_told_of_few_pairs(tmp_path):
    assert make_report(make_plain_run(tmp_path, turns=20)).warnings == []


def test_two_runs_stand_side_by_side_with_one_scale(tmp_path):
    runs = [make_plain_run(tmp_path / name, turns=turns) for name, turns in (("a", 40), ("b", 50))]
    page = Page(make_report(runs[0], tmp_path / "both.html", compare=runs[1]).file)
    assert not (runs[0] / "report.html").exists()
    assert "a/run" in page.text
    assert "b/run" in page.text
    charts = orjson.loads(page.data[0])["charts"]
    [one], [other] = next(
        cells for cells in charts if cells[0] and cells[0][0]["title"] == "Pairs by margin"
    )
    assert one["labels"] == other["labels"]
    assert sum(one["series"][0][1]) == 40
    assert sum(other["series"][0][1]) == 50
    assert "difference" in page.text
    assert re.search(r"Candidates\s*86\s*106\s*\+20", page.text)


def test_two_recipes_are_told_by_what_differs():
    one = "seed: 0\noutput_dir: a\nmodels: [{alias: x, model: m, t: 1}, {alias: y, model: n}]"
    other = (
        "seed: 0\noutput_dir: b\nmodels: [{alias: y, model: n}, {alias: x, model: m, t: 2}]\nk: [1]"
    )
    assert recipe_differences(one, other) == [("models.x.t", "1", "2"), ("k", "–", "[1]")]
    assert recipe_differences("", "seed: 1") == [("seed", "–", "1")]


def test_a_difference_has_its_sign():
    assert [delta(*two) for two in ((1, 3), (3.5, 1), (2, 2), (None, 1), (0, 12345))] == [
        "+2", "−2.5", "–", "", "+12,345",
    ]  # fmt: skip


def test_a_run_is_not_compared_with_itself(tmp_path):
    run = make_plain_run(tmp_path)
    with pytest.raises(PrefdataError, match="another one only"):
        make_report(run, compare=run)


@pytest.mark.parametrize("out", ["", "run"], ids=["no run", "a folder as the file"])
def test_what_the_user_can_mend_is_said(tmp_path, out):
    run = make_plain_run(tmp_path)
    if not out:
        shutil.rmtree(run)
    with pytest.raises(PrefdataError):
        make_report(run, tmp_path / out if out else None)


def test_the_page_shows_every_pair_and_every_reject(tmp_path):
    run = make_plain_run(tmp_path)
    page = Page(make_report(run).file)
    data = orjson.loads(page.data[0])["runs"][0]
    ids = [row[data["pairs"]["fields"].index("id")] for row in page.rows(1)]
    assert ids == [row["id"] for split in ("train", "test") for row in read_rows(run / "pairs", stem=split)]  # fmt: skip  # noqa: E501
    assert len(page.rows(2)) == 3


@pytest.mark.parametrize("recipe", ["topics", "topics_one_call", "agent_turns"])
def test_every_kind_of_run_has_a_report(tmp_path, recipe):
    loaded = load_recipe(ROOT / "recipes" / f"{recipe}.yaml", [f"output_dir={tmp_path}/run"])
    record = build(loaded, tmp_path / "run", rehearse=True, say=lambda line: None)
    page = Page(make_report(tmp_path / "run").file)
    assert f"{record['prompts']:,} of {record['rows']:,} rows" in page.text


def test_texts_without_a_writer_win_nothing_and_a_build_without_models_has_no_throughput(tmp_path):
    loaded = load_recipe(ROOT / "recipes" / "agent_turns.yaml", [f"output_dir={tmp_path}/run"])
    build(loaded, tmp_path / "run", say=lambda line: None)
    page = Page(make_report(tmp_path / "run").file)
    assert "Who wins" not in page.text
    assert "Throughput" not in page.text


def test_prompts_with_tool_calls_are_messages_in_the_page(tmp_path):
    chat = [{"role": "user", "content": "2+?"}, TOOL, {"role": "tool", "content": "4"}]
    lines = [line(1, chat, "four", 2.0), line(1, chat, "five", 1.0)]
    page = Page(make_report(make_scored_run(tmp_path, lines)).file)
    assert chat in page.rows(1)[0]
