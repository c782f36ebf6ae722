"""Texts that others wrote, made fit to be shown: job files, data sets, run folders and networks bring them.

Only `printable` does this. Whatever prints, or lays out tables and pages, calls it on everything it shows, so that no
caller has to think of it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

MOST_LINE = 600
"""Characters of a line that says what went wrong or what goes on, at most."""

MOST_REASON = 200
"""Characters of why something cannot be read, which is a part of such a line, at most."""

MOST_RESULT = 5000
"""Characters of a line that says where something is, at most: longer than any path."""

MOST_NAME = 120
"""Characters of a name or another entry of a table for people, at most."""

NOTHING = "-"
"""Stands in tables for people where there is no value."""

_BLANKS = re.compile(r"[^\S ]\s*")  # line breaks, tabs, and blanks other than the space, with what blanks follow


def printable(text: object, most: int | None = None) -> str:
    r"""Returns a text on one line in which every character can be seen.

    Letters, digits, signs and pictures of any script stay as they are. Line breaks and other blanks become spaces. A
    character without a shape of its own is escaped as Python does it, such as ``\x1b``: control characters, marks that
    turn the direction of writing, zero-width and other format characters, lone surrogates. What is printable already
    and short enough is returned unchanged.

    Args:
        text: Anything; `str` of it is taken.
        most: Characters of the result at most, above 20; of a longer text the middle is left out, since its end often
            says how to mend it. None leaves the length as it is.
    """
    shown = _shortened(str(text), most)
    if not shown.isprintable():
        shown = _BLANKS.sub(" ", shown)
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return _shortened(shown, most)


def printable_lines(text: str) -> str:
    """Returns a text in which each line is `printable` and nothing is left out."""
    return "\n".join(map(printable, text.split("\n")))


def escape_markdown(text: object) -> str:
    """Returns a name or a sentence, `printable` and short, in which no character has a meaning in Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&$])", r"\\\1", printable(text, MOST_LINE))


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Returns a number of things, such as ``1 cell`` or ``1,200 cells``; another plural is given."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def did_you_mean(name: str, known: Sequence[str], cutoff: float = 0.6) -> str:
    """Returns the end of a message about an unknown name, such as ``; did you mean 'vgg16'?``; empty without a match.

    A name must be as similar as `cutoff`, in [0, 1].
    """
    near = difflib.get_close_matches(name[:MOST_NAME], known[:10_000], n=1, cutoff=cutoff)
    return f"; did you mean '{near[0]}'?" if near else ""


def markdown_line(cells: Iterable[str]) -> str:
    """Returns one row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def safe_name(name: str, most: int = 120) -> str:
    """Returns a name as one part of a path that any file system takes and that leads nowhere else.

    Keeps letters, digits and ``._-``, no two dots in a row and none at its ends. What Windows keeps for devices, such
    as ``con``, gets an underscore. A name that loses all its characters becomes ``unnamed``.

    Args:
        name: The name.
        most: Characters at its end that are kept, at most.
    """
    kept = re.sub(r"(?:[^A-Za-z0-9._-]|\.\.+)+", "_", name)[-most:].strip("._-")
    return re.sub(r"^(con|prn|aux|nul|com[0-9]|lpt[0-9])(?=\.|$)", r"\1_", kept, flags=re.IGNORECASE) or "unnamed"


def _shortened(text: str, most: int | None) -> str:
    if most is None or len(text) <= most:
        return text
    cut = " ... "
    end = (most - len(cut)) // 2
    return text[: most - len(cut) - end] + cut + text[len(text) - end :]


def spell(seconds: float) -> str:
    """Writes a time in its largest unit."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.0f} seconds"
