"""Pages from templates: whatever a value holds, it is read as text, and nothing in it turns the text around it."""

from __future__ import annotations

from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from sfi_ray.text import MOST_RESULT, printable


def page_template(name: str) -> jinja2.Template:
    """Returns a template of ``site/`` that escapes every value, makes it `printable`, and knows all that it names.

    Args:
        name: The file.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, finalize=_printable)
    return environment.from_string((resources.files("sfi_ray.report") / "site" / name).read_text("utf-8"))


def _printable(value: Any) -> Any:
    is_markup = isinstance(value, Markup)  # what the templates call safe, or what was put together of escaped parts
    return printable(value, MOST_RESULT) if isinstance(value, str) and not is_markup else value
