r"""Numbers in a text, as `verifier` with `method: number` reads them. Compares nothing.

    number    = [sign] [currency] ( fraction | decimal [exponent] | glyph )
    sign      = "+" | "-" | "−" (U+2212), right before it and not right after a letter, a digit or
                a closing bracket: "3-5" ends with 5, "x = -5" with -5
    currency  = one of $ € £ ¥ ₹
    decimal   = digits [ "." digits ] | "." digits; groups of three digits may be parted by one of
                , ' ’ _ or a narrow or no-break space; the decimal sign is a point
    exponent  = e or E, or "×10^" (also x, *, · or \times; ** for ^; braces and superscripts), and
                a whole number with or without a sign
    fraction  = digits "/" digits, or \frac{digits}{digits}; before it a whole number and a space,
                which \frac can do without; more slashes, as in a date, make none
    glyph     = ½ and its like, after a whole number, with or without a space, or alone

What follows is no part of it: 50% is 50, 5kg is 5, and a full stop ends a sentence.
"""

import math
import re
from collections import deque
from unicodedata import numeric

_SIGN = "[+\\-\u2212]"
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_GLYPHS = "¼½¾⅐-⅞↉"
_NUMBER = re.compile(
    rf"""
    (?:(?<![\w)\]}}%°]) (?P<sign>{_SIGN}))?
    [$€£¥₹]?
    (?:
        (?:(?P<plus>\d++)(?:[ ]|(?=\\)))? (?:
            (?<![\d/.,]) (?P<above>\d++) / (?P<below>\d++) (?![\d/]|[.,]\d)
          | \\[dt]?frac\{{(?P<over>\d++)\}}\{{(?P<under>\d++)\}}
        )
      | (?:(?P<whole>\d++)[ ]?)?(?P<glyph>[{_GLYPHS}])
      | (?P<decimal>
            (?: \d{{1,3}}(?P<mark>[,'\u2019_\u00a0\u2009\u202f])\d{{3}}(?:(?P=mark)\d{{3}})*+(?!\d)
              | \d++ ) (?:\.\d++)?
          | (?<![\d.]) \.\d++
        )
        (?:
            [eE](?P<e>{_SIGN}?\d++)(?![\d.]\d)
          | \s?(?:[×x*·]|\\times|\\cdot)\s?10(?:
                (?:\^|\*\*)\s?(?:\{{(?P<braced>{_SIGN}?\d++)\}}|(?P<power>{_SIGN}?\d++))
              | (?P<super>[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]++)
            )
        )?
    )
    """,
    re.VERBOSE,
)


def last_number(text: str) -> float | None:
    """The last number that stands in a text; None if there is none or it is not finite."""
    found = deque(_NUMBER.finditer(text), maxlen=1)
    return _value(found[0]) if found else None


def read_number(text: str) -> float | None:
    """The number that a text is, blanks around it and a percent sign aside; None if it is none."""
    found = _NUMBER.fullmatch(text.strip().removesuffix("%").strip())
    return None if found is None else _value(found)


def _value(found: re.Match[str]) -> float | None:
    size = _size(found)
    if size is None or not math.isfinite(size):
        return None
    return -size if found["sign"] in ("-", "\u2212") else size


def _size(found: re.Match[str]) -> float | None:
    if found["glyph"]:
        return float(found["whole"] or 0) + numeric(found["glyph"])
    above, below = found["above"] or found["over"], found["below"] or found["under"]
    if above:
        under = float(below)
        return float(found["plus"] or 0) + float(above) / under if under else None
    decimal = found["decimal"]
    if found["mark"]:
        decimal = decimal.replace(found["mark"], "")
    power = found["e"] or found["braced"] or found["power"] or found["super"] or "0"
    return float(f"{decimal}e{power.translate(_SUPERSCRIPTS).replace(chr(0x2212), '-')}")
