"""Numbers as people and models write them."""

import pytest

from prefdata.stages.numbers import last_number, read_number

LAST = {
    ".5": 0.5,
    "x=.5": 0.5,
    "It is 5.": 5,
    "6.02e23": 6.02e23,
    "1e-3": 1e-3,
    "1E+3.": 1e3,
    "2e\u22122": 0.02,
    "6.02 × 10^23": 6.02e23,
    "6.02 \\times 10^{-3}": 6.02e-3,
    "5×10²³": 5e23,
    "5*10**3": 5e3,
    "\u22125": -5,
    "x = -5": -5,
    "(-5)": -5,
    "-$1,234.50": -1234.5,
    "+7": 7,
    "3-5": 5,
    "3\u22125": 5,
    "3\u20135": 5,
    "7 - 5": 5,
    "x-5": 5,
    "(2)-5": 5,
    "GPT-4": 4,
    "2024-05-01": 1,
    "1,234,567": 1234567,
    "12,34": 34,
    "1'000.5": 1000.5,
    "1\u202f000": 1000,
    "1_000_000": 1e6,
    "1/2": 0.5,
    "-1/2": -0.5,
    "1 1/2": 1.5,
    "1/2/2024": 2024,
    "\\frac{1}{2}": 0.5,
    "-\\frac{3}{4}": -0.75,
    "½": 0.5,
    "2½": 2.5,
    "2 ½": 2.5,
    "-1\\frac{1}{2}": -1.5,
    "50%": 50,
    "5kg": 5,
    "5e": 5,
    "10:30": 30,
    "v1.2.3": 3,
    "٣": 3,
    "first 1, then 2": 2,
    "3/0": None,
    "1e400": None,
    "none": None,
    "": None,
}


@pytest.mark.parametrize(("text", "number"), LAST.items())
def test_the_last_number_of_a_text(text, number):
    assert last_number(text) == (None if number is None else pytest.approx(number))


@pytest.mark.parametrize(("text", "number"), [(" 5 ", 5), ("50 %", 50), ("-1,000", -1000), ("1/2", 0.5), ("1e-07", 1e-7), ("$5", 5), ("5 apples", None), ("3-5", None), ("nan", None), ("inf", None), ("True", None)])  # fmt: skip  # noqa: E501
def test_a_reference_is_a_number_and_nothing_else(text, number):
    assert read_number(text) == number
