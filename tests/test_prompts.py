import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefdata.errors import PrefdataError, RowError
from prefdata.recipe.prompts import compile_prompt


def render(template, **row):
    return compile_prompt(template).render(row)


def refusal(template, **row):
    with pytest.raises(RowError) as caught:
        render(template, **row)
    assert caught.value.reason == "template"
    return caught.value.detail


# What a template reads


@pytest.mark.parametrize(
    ("template", "mentions"),
    [
        ("{{ b }} {{ a }} {{ b }}", ("b", "a")),
        ("no column at all", ()),
        ("{% set x = a %}{{ x }}", ("a",)),
        ("{% for m in chat %}{{ m.role }}{% endfor %}", ("chat",)),
        ("{% if c is defined %}{{ d }}{% endif %}", ("c", "d")),
        ('{{ row["chosen-rating"] }} {{ b }} {{ row["no. 1"] }}', ("chosen-rating", "b", "no. 1")),
        ('{% for row in rows %}{{ row["a-b"] }}{% endfor %}', ("rows",)),
        ("{# a #}{% raw %}{{ a }}{% endraw %}", ()),
        ("{{ range }} {{ dict }}", ("range", "dict")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_template_tells_the_columns_it_reads_in_the_order_it_names_them(template, mentions):
    prompt = compile_prompt(template)
    assert prompt.mentions == mentions
    assert prompt.columns == set(mentions)


def test_only_the_columns_read_are_needed_of_a_row():
    assert render("{{ a }}", a="x", other=object()) == "x"


def test_a_column_whose_name_is_none_in_jinja_is_read_from_the_row():
    template = '{{ row["chosen-rating"] + 1 }} of {{ prompt }}'
    assert render(template, **{"chosen-rating": 4, "prompt": "p"}) == "5 of p"
    assert compile_prompt('{{ row["a chat"] }}').bare == "a chat"
    assert render("{{ row.a }}", row={"a": 1}) == "1"
    with pytest.raises(PrefdataError, match="'row' is a column, too"):
        compile_prompt('{{ row["a-b"] }} {{ row.a }}')


def test_a_column_may_be_called_like_a_function_of_jinja():
    assert render("{{ range }} {{ dict }} {{ joiner }}", range="1", dict="2", joiner="3") == "1 2 3"


# What is inserted


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_inserted_verbatim(text):
    assert render("<{{ a }}>", a=text) == f"<{text}>"


@pytest.mark.parametrize(
    "text",
    [
        '{"winner": "A"}', "[1, 2]", "{{ secret }}", "{% if %}", "{# x #}", "${HOME}", "null",
        "1e5",         "<b>&amp;'\"", "ünïcode 漢字 🦊 \u2028", "two\nlines\r\n", " spaces ", "",
    ],
)  # fmt: skip
def test_a_text_that_looks_like_something_else_stays_a_text(text):
    assert render("{{ a }}|{{ a | trim }}", a=text) == f"{text}|{text.strip()}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["x", {"é": None, "n": 1.5}], '["x",{"é":null,"n":1.5}]'),
        ({"b": True, "a": [1]}, '{"b":true,"a":[1]}'),
        ([], "[]"),
        (3, "3"),
        (0.25, "0.25"),
        (False, "False"),
    ],
    ids=str,
)
def test_lists_and_dicts_are_json_and_numbers_are_numbers(value, text):
    assert render("{{ a }}", a=value) == text


def test_tojson_does_not_escape_for_html():
    assert render("{{ a | tojson }}", a={"t": "<b> & 'é'"}) == '{"t": "<b> & \'é\'"}'


def test_parts_of_a_value_can_be_taken():
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    template = "{% for m in a %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ a[0].role }}"
    assert render(template, a=chat) == "user: hi\nassistant: ho\nuser"


def test_the_last_line_break_of_a_block_is_not_part_of_the_prompt():
    assert render("{{ a }}\n", a="x\n") == "x\n"


def test_rendering_one_row_leaves_nothing_behind_for_the_next():
    template = "{% set seen = a %}{{ seen }}"
    assert [render(template, a=n) for n in (1, 2)] == ["1", "2"]


# What one row cannot give


def test_a_null_is_never_printed_as_the_word_none():
    assert "null" in refusal("Context: {{ a }}", a=None)
    assert "null" in refusal("{{ a.hint }}", a={"hint": None})
    assert (
        render("{{ a or 'nothing' }}{% if a is not none %}{{ a }}{% endif %}", a=None) == "nothing"
    )


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ a.missing }}", {"there": 1}),
        ("{{ a[3] }}", [1]),
        ("{{ a + 1 }}", "text"),
        ("{{ 1 / a }}", 0),
        ("{{ '%d' % a }}", "text"),
        ("{{ '{x}'.format(a) }}", "text"),
        ("{{ a() }}", 1),
        ("{% for x in a %}{% endfor %}", 1),
        ("{{ a }}", [b"bytes"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_that_does_not_fit_is_the_fate_of_its_row(template, value):
    assert "cannot be rendered for this row" in refusal(template, a=value)


# What no template may do


@pytest.mark.parametrize(
    "template",
    [
        "{{ a.__class__ }}",
        "{{ a.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__ }}",
        "{{ a | attr('__class__') }}",
        "{{ a.append(1) }}",
        "{{ a.sort() }}",
        "{% set _ = d.update(x=1) %}",
        "{{ d.pop('k') }}",
        "{{ a.append.__globals__ }}",
    ],
)
def test_a_template_can_neither_reach_python_nor_change_a_value(template):
    row = {"a": [2, 1], "d": {"k": 1}}
    with pytest.raises(PrefdataError, match="forbids|undefined"):
        compile_prompt(template).render(row)
    assert row == {"a": [2, 1], "d": {"k": 1}}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ a", r"unexpected end of template.*line 1"),
        ("one\ntwo {% if %}", r"line 2"),
        ("{{ a | upcase }}", r"No filter named 'upcase'"),
        ("{% for x in a %}", r"not valid Jinja"),
        ("{% include 'x' %}", r"includes, imports or extends"),
        ("{% import 'x' as x %}", r"includes, imports or extends"),
        ("{% extends 'x' %}", r"includes, imports or extends"),
    ],
)
def test_a_template_that_is_wrong_for_every_row_is_refused_when_compiled(template, expected):
    with pytest.raises(PrefdataError, match=expected):
        compile_prompt(template)


ENDLESS = {
    "loops": "{% for a in xs %}" * 4 + "{% endfor %}" * 4,
    "calls": "{% macro f(n) %}{% if n %}"
    "{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursion": "{% for x in xs recursive %}{{ loop(xs) }}{% endfor %}",
    "times": "{{ 'x' * 10 ** 9 }}",
    "power": "{{ 10 ** 10000000000 }}",
    "list": "{{ (xs * 10 ** 8) | length }}",
    "doubling": "{% set a = x ~ x %}" + "{% set a = a ~ a %}" * 40 + "{{ a | length }}",
    "plus": "{% set a = x + x %}" + "{% set a = a + a %}" * 40 + "{{ a | length }}",
    "center": "{{ x | center(10 ** 10) }}",
    "method": "{{ x.center(10 ** 10) }}",
    "indent": "{{ x | indent(10 ** 9, true) }}",
    "replace": "{{ ('x' * 10000) | replace('x', 'y' * 10000) }}",
    "replace method": "{{ ('x' * 10000).replace('x', 'y' * 10000) }}",
    "format": "{{ '%999999999d' % 1 }}",
    "format filter": "{{ '%999999999d' | format(1) }}",
    "format method": "{{ '{:>999999999}'.format(1) }}",
    "star": "{{ '%*d' % (999999999, 1) }}",
    "output": "{% for a in xs %}{% for b in xs %}{{ long }}{% endfor %}{% endfor %}",
    "set": "{% set y %}{% for a in xs %}{% for b in xs %}{{ long }}{% endfor %}{% endfor %}{% endset %}",  # noqa: E501
}


@pytest.mark.parametrize("name", sorted(ENDLESS))
def test_a_template_that_loops_or_grows_without_end_costs_its_row_only(name):
    row = {"x": "ab", "xs": [*range(300)], "long": "z" * 10_000}
    with pytest.raises(RowError) as caught:
        compile_prompt(ENDLESS[name]).render(row)
    assert caught.value.reason == ("template" if name == "recursion" else "template_limit")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for x in xs %}{{ loop.index }}/{{ loop.length }}{{ x }} {% endfor %}", "1/2a 2/2b "),
        ("{% for x in [] %}{% else %}none{% endfor %}", "none"),
        ("{{ 'a' ~ 1 ~ xs[0] }}", "a1a"),
        ("{{ '-' * 3 }}{{ 2 ** 10 }}{{ '%05d' % 7 }}{{ 'a' + 'b' }}", "---102400007ab"),
        ("{{ xs | join(', ') }}{{ 'a' | center(3) }}", "a, b a "),
        ("{{ xs | tojson(1) }}", '[\n "a",\n "b"\n]'),
        ("{{ '+49 170 1234567890 %s' % 'a' }}", "+49 170 1234567890 a"),
        ("{{ 'a b'.replace(' ', '') }}{{ 'a b' | replace('a', 'c') }}", "abc b"),
    ],
)
def test_templates_within_the_limits_say_what_jinja_says(source, text):
    assert compile_prompt(source).render({"xs": ["a", "b"]}) == text
