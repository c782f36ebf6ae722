"""Pages from templates, in which every value is text: it cannot add markup or reverse the text around it."""

from __future__ import annotations

from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from sfi_ray.store.png import data_uri
from sfi_ray.text import MOST_RESULT, printable


def page_template(name: str) -> jinja2.Template:
    """Returns a template of ``site/`` that escapes every value, makes it `printable`, and refuses undefined names."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, finalize=_printable)
    return environment.from_string(site_file(name))


def site_file(name: str) -> str:
    """Returns the text of a file of ``site/``."""
    return (resources.files("sfi_ray.report") / "site" / name).read_text("utf-8")


def png_source(content: bytes) -> Markup:
    """Returns a PNG file as the source of an image in a page. Of any length, it is markup that cannot be cut short."""
    return Markup(data_uri(content))  # noqa: S704 - base64 has no markup


def _printable(value: Any) -> Any:
    is_markup = isinstance(value, Markup)  # marked safe in a template, or joined from escaped parts
    return printable(value, MOST_RESULT) if isinstance(value, str) and not is_markup else value
