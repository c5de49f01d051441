"""The report in headless Chromium, as a reader uses it."""

import shutil

import pytest
from reported import HOSTILE, SCRIPT, line, make_hostile_run, make_plain_run, make_scored_run

from prefdata.report import make_report

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is missing; scripts/test_browser.sh installs it"
)
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is missing; scripts/test_browser.sh"),
]
PHONE = {"width": 375, "height": 812}
DESKTOP = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


class Reader:
    """One reader with one page open."""

    def __init__(self, context, file):
        self.complaints, self.requests = [], []
        self.page = context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-ready=yes]")

    def count(self):
        return self.page.locator("#count").inner_text()

    def wait_for_count(self, text):
        playwright.expect(self.page.locator("#count")).to_have_text(text)

    def wait_for_first(self, text):
        playwright.expect(self.page.locator("#list [role=option]").first).to_contain_text(text)

    def search(self, text):
        self.page.get_by_role("searchbox", name="Search", exact=True).fill(text)

    def bound(self, name, value):
        self.page.get_by_role("spinbutton", name=name, exact=True).fill(value)

    def choose(self, name, option):
        self.page.get_by_role("combobox", name=name, exact=True).select_option(option)

    def show_rejects(self):
        self.page.get_by_role("radio", name="rejects", exact=True).check()

    def listed(self):
        return self.page.locator("#list [role=option]").all_inner_texts()

    def open_text(self):
        return self.page.locator("#detail").inner_text()

    def background(self):
        return self.page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.fixture
def read(chromium):
    contexts = []

    def read(file, **options):
        contexts.append(chromium.new_context(**{"viewport": DESKTOP, **options}))
        return Reader(contexts[-1], file)

    yield read
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return make_report(make_plain_run(tmp_path_factory.mktemp("plain"))).file


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return make_report(make_hostile_run(tmp_path_factory.mktemp("hostile"))).file


def test_it_opens_without_a_complaint_and_asks_for_nothing(read, plain):
    reader = read(plain)
    assert reader.complaints == []
    assert reader.requests == [plain.as_uri()]
    assert reader.count() == "40 of 40 pairs"


def test_every_chart_is_drawn_and_has_a_name(read, plain):
    charts = read(plain).page.locator("canvas")
    assert charts.count() >= 5
    for canvas in charts.all():
        painted = canvas.evaluate(
            "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v)"
        )
        assert painted
        assert len(canvas.get_attribute("aria-label")) > 20


@pytest.mark.parametrize("bypass", [False, True], ids=["with the policy", "escaping alone"])
def test_texts_of_a_run_do_not_run(read, hostile, bypass):
    reader = read(hostile, bypass_csp=bypass)
    page = reader.page
    for number in range(len(HOSTILE)):
        page.locator("#list [role=option]").nth(number).click()
        assert f"chosen {number} " in reader.open_text()
    assert SCRIPT in page.locator("#list").inner_text()
    reader.show_rejects()
    reader.wait_for_count("1 of 1 rejects")
    shown = reader.open_text()
    assert SCRIPT in shown
    assert "<img src=x onerror=hacked=1>.jsonl" in shown
    assert SCRIPT in page.locator("select[name=reason]").inner_text()
    for summary in page.locator("summary").all():
        summary.click()
    assert SCRIPT in page.locator("#funnel").inner_text()
    assert page.evaluate("[window.hacked, document.querySelectorAll('img, svg').length]") == [
        None,
        0,
    ]
    assert reader.complaints == []


def test_a_script_that_gets_into_the_page_is_refused(read, plain):
    reader = read(plain)
    reader.page.evaluate(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 1';"
        "document.body.append(s)"
    )
    assert reader.page.evaluate("window.hacked") is None
    assert "Content Security Policy" in reader.complaints[0]


def test_search_finds_words_in_any_text_and_any_case(read, plain):
    reader = read(plain)
    reader.search("QUESTION 17")
    reader.wait_for_count("1 of 40 pairs")
    [row] = reader.listed()
    assert "question 17" in row
    assert "good answer 17" in reader.open_text()
    reader.search("nowhere")
    reader.wait_for_count("0 of 40 pairs")
    assert "No pairs here" in reader.page.locator("#list").inner_text()
    assert reader.open_text() == ""
    reader.page.get_by_role("button", name="Clear").click()
    reader.wait_for_count("40 of 40 pairs")


def test_margins_are_bounded_on_both_sides_inclusively(read, plain):
    reader = read(plain)
    reader.bound("Margin from", "10")
    reader.wait_for_count("31 of 40 pairs")
    reader.bound("to", "12")
    reader.wait_for_count("3 of 40 pairs")
    assert sorted(row.split("\n")[1].split(" ")[1] for row in reader.listed()) == ["10", "11", "12"]


def test_a_model_is_found_on_either_side_or_on_one(read, plain):
    reader = read(plain)
    reader.choose("Model", "cool, 0.3")
    reader.wait_for_count("40 of 40 pairs")
    reader.choose("as", "chosen")
    reader.wait_for_count("32 of 40 pairs")
    reader.choose("as", "rejected")
    reader.wait_for_count("8 of 40 pairs")
    reader.choose("Split", "test")
    assert "of 40 pairs" in reader.count()


def test_rejects_are_shown_with_their_reasons_and_filtered_by_them(read, plain):
    reader = read(plain)
    reader.show_rejects()
    reader.wait_for_count("3 of 3 rejects")
    assert reader.page.get_by_role("spinbutton", name="Margin from").count() == 0
    reader.choose("Reason", "pairs: tie")
    reader.wait_for_count("3 of 3 rejects")
    assert "hopeless" in reader.open_text()
    assert "pairs: tie" in reader.open_text()


def test_pairs_are_ordered_by_margin(read, plain):
    reader = read(plain)
    reader.choose("Order", "-margin")
    reader.wait_for_first("margin 40 ")
    reader.choose("Order", "margin")
    reader.wait_for_first("margin 1 ")


def test_the_list_goes_by_keys_and_tells_which_row_is_open(read, plain):
    reader = read(plain)
    page = reader.page
    page.locator("#list").focus()
    for keys, place in [("ArrowDown", 2), ("End", 40), ("ArrowDown", 40), ("PageUp", None), ("Home", 1)]:  # fmt: skip  # noqa: E501
        page.keyboard.press(keys)
        active = page.locator("#" + page.locator("#list").get_attribute("aria-activedescendant"))
        assert active.get_attribute("aria-selected") == "true"
        assert active.is_visible()
        at = int(active.get_attribute("aria-posinset"))
        assert place is None or at == place
        assert f"Pair {at} of 40" in reader.open_text()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "open-title"
    page.get_by_role("button", name="Next").press("Enter")
    assert "Pair 2 of 40" in reader.open_text()
    assert page.evaluate("document.activeElement.id") == "next"


def test_only_the_rows_in_sight_are_elements(read, tmp_path):
    reader = read(make_report(make_plain_run(tmp_path, turns=400)).file)
    assert reader.count() == "400 of 400 pairs"
    assert reader.page.locator("#list [role=option]").count() < 40


def test_differences_are_marked_and_the_marks_go(read, plain):
    reader = read(plain)
    reader.search("question 17")
    reader.wait_for_count("1 of 40 pairs")
    assert reader.page.locator("#detail ins").all_inner_texts() == ["good", "answer "]
    assert reader.page.locator("#detail del").all_inner_texts() == ["bad"]
    toggle = reader.page.get_by_role("button", name="Mark differences")
    assert toggle.get_attribute("aria-pressed") == "true"
    toggle.click()
    assert reader.page.locator("#detail ins, #detail del").count() == 0
    assert "good answer 17" in reader.open_text()


def test_a_row_of_a_table_opens_in_the_browser(read, plain):
    reader = read(plain)
    reader.page.get_by_text("Largest rows", exact=True).click()
    button = reader.page.locator("button.id").first
    row = button.inner_text()
    button.click()
    reader.wait_for_count("1 of 40 pairs")
    assert row in reader.open_text()


def test_the_theme_follows_the_system_until_it_is_chosen(read, plain):
    dark, light = read(plain, color_scheme="dark"), read(plain, color_scheme="light")
    night, day = dark.background(), light.background()
    assert night != day
    toggle = light.page.get_by_role("button", name="Theme")
    toggle.click()
    assert light.background() == day
    toggle.click()
    assert toggle.inner_text() == "Theme: dark"
    assert light.background() == night
    light.page.reload()
    light.page.wait_for_selector("html[data-ready=yes]")
    assert light.background() == night
    assert light.complaints == []


@pytest.mark.parametrize("page", ["plain", "hostile"])
def test_a_phone_scrolls_down_only(read, page, request):
    reader = read(request.getfixturevalue(page), viewport=PHONE, has_touch=True)
    for summary in reader.page.locator("summary").all():
        summary.click()
    widths = reader.page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert widths == [375, 375]
    reader.page.locator("#list [role=option]").nth(1).tap()
    assert reader.page.evaluate("document.activeElement.id") == "open-title"
    assert reader.page.get_by_role("button", name="Back to the list").is_visible()


def test_without_scripts_the_figures_are_there(chromium, plain):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(plain.as_uri())
    assert "40 of 43 rows" in page.locator("#funnel").inner_text()
    assert page.locator("noscript").inner_text()
    context.close()


def test_two_runs_are_shown_side_by_side_and_row_by_row(read, tmp_path):
    runs = [make_plain_run(tmp_path / name, turns=turns) for name, turns in (("a", 40), ("b", 50))]
    reader = read(make_report(runs[0], tmp_path / "both.html", compare=runs[1]).file)
    page = reader.page
    assert reader.complaints == []
    left, right = page.locator("#margins .cell").all()
    assert left.bounding_box()["y"] == right.bounding_box()["y"]
    assert left.bounding_box()["x"] < right.bounding_box()["x"]
    assert reader.count() == "40 of 40 pairs"
    assert "The same row in b/run" in reader.open_text()
    reader.choose("Run", "b/run")
    reader.wait_for_count("50 of 50 pairs")
    assert "The same row in a/run" in reader.open_text()


def test_all_candidates_of_a_prompt_are_shown_with_their_scores(read, tmp_path):
    lines = [line(n, f"question {n}", f"text {n} {m}", float(m), "ab"[m % 2]) for n in range(3) for m in range(5)]  # fmt: skip  # noqa: E501
    reader = read(make_report(make_scored_run(tmp_path, lines)).file)
    reader.page.get_by_text("All 5 candidates of this prompt").click()
    told = reader.page.locator(".candidate").all_inner_texts()
    assert [one.split("\n")[0] for one in told] == [
        "a, 0.9 · score 4 · chosen", "b, 0.9 · score 3", "a, 0.9 · score 2", "b, 0.9 · score 1",
        "a, 0.9 · score 0 · rejected",
    ]  # fmt: skip
    assert reader.complaints == []


@pytest.mark.parametrize(("width", "is_beside"), [(1280, True), (1680, True), (900, False)])
def test_wide_screens_have_two_charts_a_row(read, plain, width, is_beside):
    page = read(plain, viewport={"width": width, "height": 900}).page
    left, right = (page.locator(f"#{name}").bounding_box() for name in ("margins", "wins"))
    assert (left["y"] == right["y"]) is is_beside
    assert (left["x"] < right["x"]) is is_beside


def test_a_phone_cuts_no_text_off(read, tmp_path):
    texts = [(f"{side} " + "word " * 3000 + "a" * 500, score) for side, score in (("good", 2.0), ("bad", 1.0))]  # fmt: skip  # noqa: E501
    run = make_scored_run(tmp_path, [line(1, "question", *one) for one in texts])
    page = read(make_report(run).file, viewport=PHONE, has_touch=True, is_mobile=True).page
    for side in ("chosen", "rejected"):
        whole, seen = page.locator(f".{side} .body").evaluate("e => [[e.scrollWidth, e.scrollHeight], [e.clientWidth, e.clientHeight]]")  # fmt: skip  # noqa: E501
        assert whole == seen
    assert page.evaluate("document.documentElement.scrollWidth") == 375
