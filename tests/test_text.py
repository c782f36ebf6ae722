"""What others wrote, made printable: nothing moves a cursor, turns a line round, or fills a screen."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sfi_ray.text import MOST_NAME, escape_markdown, printable, printable_lines, safe_name

PLAIN = [
    "tench, Tinca tinca",
    "double  spaces   stay",
    "50% of $x_1 & {a} #1 ~^\\| <b>",
    "[red]markup is only text[/]",
    "Ärger, naïve, Żółć, Ελληνικά, Кошка, عربي, עברית, हिन्दी, ไทย",
    "猫と犬、고양이",
    "e\N{COMBINING ACUTE ACCENT} and \N{LATIN SMALL LETTER E WITH ACUTE}",
    "\N{CAT FACE}\N{DOG FACE} \N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16} 1 ± 2 → ∞",
]

# What each is shown as.
HOSTILE = {
    "\x1b[31mred": "\\x1b[31mred",
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",  # names the window
    "\x1b]8;;https://example.org\x1b\\link": "\\x1b]8;;https://example.org\\x1b\\link",
    "\x9b2J": "\\x9b2J",  # C1: begins a sequence by itself
    "\x00\x08\x7f": "\\x00\\x08\\x7f",
    "safe\rerror": "safe error",
    "one\ntwo\r\n  three": "one two three",
    "tab\tstop\x0bfeed\x0c\x85end": "tab stop feed end",
    "line\N{LINE SEPARATOR}paragraph\N{PARAGRAPH SEPARATOR}": "line paragraph ",
    "no\N{NO-BREAK SPACE}break\N{IDEOGRAPHIC SPACE}wide": "no break wide",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe\N{POP DIRECTIONAL FORMATTING}": "\\u202egpj.exe\\u202c",
    "\N{LEFT-TO-RIGHT ISOLATE}a\N{POP DIRECTIONAL ISOLATE}": "\\u2066a\\u2069",
    "\N{ARABIC LETTER MARK}\N{RIGHT-TO-LEFT MARK}": "\\u061c\\u200f",
    "ca\N{ZERO WIDTH SPACE}t\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NO-BREAK SPACE}": "ca\\u200bt\\u200d\\ufeff",
    "soft\N{SOFT HYPHEN}hyphen\N{WORD JOINER}": "soft\\xadhyphen\\u2060",
    "\N{TAG LATIN SMALL LETTER A}": "\\U000e0061",
    "\N{INTERLINEAR ANNOTATION ANCHOR}": "\\ufff9",
    "\ue000private": "\\ue000private",
    "half \ud800 of a pair": "half \\ud800 of a pair",
}


@pytest.mark.parametrize("text", PLAIN)
def test_what_can_be_read_stays_as_it_is(text):
    assert printable(text) == text
    assert printable_lines(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_what_has_no_shape_is_escaped(text):
    assert printable(text) == HOSTILE[text]


ANY = st.text(st.characters(exclude_categories=()), max_size=300)  # surrogates, too
LIMITS = st.none() | st.integers(21, 200)


@given(ANY, LIMITS)
@example("\x1b" * 100, 50)
@example("\n" * 100, 50)
def test_the_result_is_printable_short_and_final(text, most):
    shown = printable(text, most)
    assert shown.isprintable()
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert most is None or len(shown) <= most
    assert printable(shown, most) == shown
    shown.encode()


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S"]), max_size=100))
def test_letters_digits_and_signs_of_any_script_stay(text):
    assert printable(text) == text


@given(ANY)
def test_lines_stay_lines(text):
    assert printable_lines(text).split("\n") == [printable(line) for line in text.split("\n")]


def test_of_a_long_text_beginning_and_end_are_kept():
    shown = printable("begin " + "x" * 100_000 + "; give it another name", MOST_NAME)
    assert len(shown) == MOST_NAME
    assert shown.startswith("begin x")
    assert shown.endswith("x; give it another name")
    assert " ... " in shown


def test_anything_that_has_a_text_is_taken():
    assert printable(ValueError("\x1b")) == "\\x1b"
    assert printable(3) == "3"


@given(ANY)
def test_markdown_is_printable_and_escaped(text):
    escaped = escape_markdown(text)
    assert escaped.isprintable()
    bare = escaped.replace("\\\\", "")
    for character in "`*_{}[]<>|#~&$":
        assert bare.count(character) == bare.count("\\" + character)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../etc/passwd", "etc_passwd"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("猫", "unnamed"),
        ("a/b\\c:d\x00e", "a_b_c_d_e"),
        (".hidden", "hidden"),
        ("a..b", "a_b"),
        ("con", "con_"),
        ("NUL.txt", "NUL_.txt"),
        ("com1", "com1_"),
        ("console", "console"),
        ("vgg16_k5", "vgg16_k5"),
        ("x" * 1000, "x" * 120),
    ],
)
def test_a_file_name_is_one_part_of_a_path(name, expected):
    assert safe_name(name) == expected


@given(ANY)
def test_a_file_name_leads_nowhere_else(name):
    safe = safe_name(name)
    assert 0 < len(safe) <= 121
    assert safe.isascii()
    assert not set(safe) & set('/\\:*?"<>| \n\0')
    assert ".." not in safe
    assert safe[0] not in ".-"
