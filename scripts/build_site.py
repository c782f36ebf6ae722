"""Builds the documentation site, and fails on everything that Sphinx warns of, and on links that lead nowhere.

    uv run --group docs python scripts/build_site.py

The pages are the Markdown files and the notebooks of the repository. They are copied to `build/site/source`, and their
links to one another follow. Sphinx runs the notebooks. The pages that the code itself can write join them: the
commands, the keys of a job, the columns of the results and the Python interface. The site is in `build/site/html`.

A link to a file that is no page, such as a source file or a job, leads to the repository where its address is known:
from `project.urls.Repository` in `pyproject.toml`, or from GitHub's variables in a workflow. Otherwise the site shows
the link's text alone. `OWNER/sfi_ray`, which stands for the repository in addresses, is replaced in the same way.
"""

import functools
import html.parser
import importlib
import inspect
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "site"
# Pages at the top of the repository, and where they lie in the site.
TOP_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
# The sections of the site: title, introduction, and the pages that come first; the others follow by name.
SECTIONS = {
    "guides": (
        "Guides",
        "Each guide shows how to do one task.",
        ["notebooks", "training", "using-results", "report", "audit", "clusters", "monitoring"],
    ),
    "examples": (
        "Examples",
        "Notebooks, with the outputs of this version.",
        ["attack_your_network", "defend_in_rounds", "imagenet_network"],
    ),
    "reference": (
        "Reference",
        "What a job file, a command, a row and the Python interface can hold. "
        "The code writes some of these pages itself: commands, job keys, columns and the Python interface.",
        ["commands", "exit-codes", "json", "jobs", "job-keys", "results", "columns", "python"],
    ),
    "explanation": (
        "Explanation",
        "How `sfi_ray` works, and why.",
        ["architecture"],
    ),
}
PROJECT_PAGES = ["research-log", "changelog", "contributing", "security"]
PUBLIC_MODULES = {
    "sfi_ray": "Launching jobs and reading runs",
    "sfi_ray.search": "Searches",
    "sfi_ray.errors": "Errors",
}
CODE = re.compile(r"(^ *(`{3,}|~{3,}).*?^ *\2`*$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(
    r"(?P<code>(?<!`)(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`))"
    r"|(?P<image>!?)\[(?P<text>(?:`[^`]*`|!\[[^\]]*\]\([^)]*\)|\\.|[^\[\]`\\])*)\]\((?P<target>[^)\s]+)\)",
    re.DOTALL,
)


def page_paths() -> dict[Path, str]:
    """Maps every file of the repository that becomes part of the site to its place there."""
    found = {ROOT / name: place for name, place in TOP_PAGES.items() if (ROOT / name).exists()}
    docs = ROOT / "docs"
    found |= {path: path.relative_to(docs).as_posix() for path in sorted(docs.rglob("*.md"))}
    found |= {path: path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "examples").glob("*.ipynb"))}
    return found | {path: path.relative_to(docs).as_posix() for path in sorted((docs / "images").iterdir())}


def repository() -> str | None:
    """Returns the address of the repository, if it is known."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"].get("urls", {})
    if "Repository" in urls:
        return str(urls["Repository"]).rstrip("/")
    if "GITHUB_REPOSITORY" in os.environ:
        return f"{os.environ['GITHUB_SERVER_URL']}/{os.environ['GITHUB_REPOSITORY']}"
    return None


def with_owner(text: str, address: str | None) -> str:
    """Names the repository where a text has `OWNER/sfi_ray` in its place.

    Args:
        text: Markdown, or a notebook.
        address: Address of the repository, if it is known.
    """
    return text if address is None else text.replace("OWNER/sfi_ray", urlsplit(address).path.strip("/"))


def with_links_of_the_site(text: str, document: Path, pages: dict[Path, str], address: str | None) -> str:
    """Rewrites the links of a page from files of the repository to pages of the site.

    Args:
        text: Markdown.
        document: The file that it comes from.
        pages: The pages of the site, as `page_paths` maps them.
        address: Address of the repository, if it is known.

    Raises:
        ValueError: A link leads to no file.
    """
    here = Path(pages[document]).parent

    def follow(match: re.Match[str]) -> str:
        if match["code"] is not None:
            return match[0]
        # An image may stand in the text of a link.
        shown = LINK.sub(follow, match["text"])
        target, _, anchor = match["target"].partition("#")
        if not target or urlsplit(target).scheme:
            return f"{match['image']}[{shown}]({match['target']})"
        path = (document.parent / target).resolve()
        if not path.exists() or not path.is_relative_to(ROOT):
            raise ValueError(f"{document.relative_to(ROOT)}: the link to '{match['target']}' leads to no file")
        hash_ = f"#{anchor}" if anchor else ""
        if path in pages:
            return f"{match['image']}[{shown}]({os.path.relpath(pages[path], here)}{hash_})"
        if address is None:
            return shown
        kind = "tree" if path.is_dir() else "blob"
        return f"{match['image']}[{shown}]({address}/{kind}/main/{path.relative_to(ROOT).as_posix()}{hash_})"

    # Every third part is a code block, and the one after it its fence.
    parts = CODE.split(text)
    return "".join(
        LINK.sub(follow, part) if number % 3 == 0 else part if number % 3 == 1 else ""
        for number, part in enumerate(parts)
    )


def cell(text: object) -> str:
    """Returns a text as the cell of a Markdown table."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|").strip()


def table(head: tuple[str, ...], rows: Iterator[tuple[object, ...]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell(text) for text in line) + " |\n" for line in lines)


def commands_page() -> str:
    """Describes every command of `sfi-ray`, as its `--help` does."""
    from typer.main import get_command

    from sfi_ray.cli import app

    group: Any = get_command(app)
    parts = [
        "# Commands\n",
        "`sfi-ray COMMAND --help` shows the same text. [Exit codes](exit-codes.md) has those of all commands.\n",
        described(group, "sfi-ray [OPTIONS] COMMAND [ARGS]..."),
    ]
    for name, command in sorted(group.commands.items()):
        parts += [f"## `{name}`\n", described(command, None, group)]
    return "\n".join(parts)


def described(command: Any, usage: str | None, group: Any = None) -> str:
    """Describes one command: its usage, its help, and a table of its parameters."""
    from typer._click import Context

    parent = Context(group, info_name="sfi-ray") if group else None
    context = Context(command, info_name=command.name if group else "sfi-ray", parent=parent)
    if usage is None:
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    rows = [record for record in (parameter.get_help_record(context) for parameter in command.params) if record]
    text = escaped(inspect.cleandoc(command.help or ""))
    shown = table(("argument or option", "meaning"), ((f"`{name}`", escaped(meaning)) for name, meaning in rows))
    codes = ""
    if group:
        from sfi_ray.cli.exits import codes_of

        meanings = codes_of(command.name).items()
        codes = "\n" + table(("exit code", "meaning"), ((code.value, escaped(text)) for code, text in meanings))
    return f"```text\n{usage}\n```\n\n{text}\n\n{shown if rows else ''}{codes}"


def escaped(text: str) -> str:
    """Returns a help text with the signs that Markdown would read as its own made plain."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<>\[\]$~])", r"\\\1", part) for part in parts)


@functools.cache
def schemas() -> tuple[Any, Any]:
    """Returns the JSON schemas of a grid and of rounds."""
    from sfi_ray.job import rounds_schema_json, schema_json

    return json.loads(schema_json()), json.loads(rounds_schema_json())


def definitions() -> dict[str, Any]:
    """Returns the models that the values of a job's keys are read into."""
    grid, rounds = schemas()
    return {**rounds["$defs"], **grid["$defs"]}


def job_keys_page() -> str:
    """Lists every key of a job with its type, its default and its meaning, from the JSON schemas of both kinds."""
    grid, rounds = schemas()
    parts = [
        "# Job keys\n",
        "The keys that a job file can hold. [Job files](jobs.md) explains them, with examples.\n",
        "## A grid\n",
        properties(grid),
        "## Rounds of defence and re-attack\n",
        "A job with the key `rounds` describes rounds. [Its guide](../guides/rounds.md) explains them.\n",
        properties(rounds),
    ]
    for name, model in sorted(definitions().items(), key=lambda item: title_of(item[0], item[1])):
        mapping = mapping_of(model)
        if mapping:
            parts += [
                f"## {title_of(name, model)}\n",
                escaped(mapping.get("description", "")) + "\n",
                properties(mapping),
            ]
    return "\n".join(parts)


def mapping_of(model: Any) -> Any:
    """Returns the form of a model that has keys: some can be written as a name too."""
    return next((form for form in [model, *model.get("anyOf", [])] if "properties" in form), None)


def title_of(name: str, model: Any) -> str:
    """Returns the heading of a model: the kind of an attack, or the model's name in words."""
    kind = (mapping_of(model) or {}).get("properties", {}).get("kind", {}).get("const")
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Settings").removesuffix("Spec"))
    return f"Attack `{kind}`" if kind else words.capitalize() if words != "KRange" else "Range of k"


def properties(model: Any) -> str:
    """Returns the table of a model's keys."""
    required = model.get("required", [])
    return table(
        ("key", "type", "default", "meaning"),
        (
            (
                f"`{key}`",
                type_text(value),
                "required" if key in required else default_text(value),
                escaped(value.get("description", "")),
            )
            for key, value in model["properties"].items()
        ),
    )


def default_text(value: Any) -> str:
    """Returns the default of a key; that of a section is the defaults of its keys."""
    default = value.get("default")
    if isinstance(default, dict):
        return f"`{{kind: {default['kind']}}}`" if "kind" in default else ""
    return f"`{json.dumps(default)}`" if "default" in value else ""


def type_text(value: Any) -> str:
    """Says in words what a key takes."""
    forms = value.get("anyOf") or value.get("oneOf")
    if forms:
        return " or ".join(dict.fromkeys(type_text(form) for form in forms))
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[1]
        title = title_of(name, definitions()[name])
        return f"[{title}](#{slug(title)})"
    if "const" in value or "enum" in value:
        return ", ".join(f"`{json.dumps(choice)}`" for choice in value.get("enum", [value.get("const")])).replace(
            '"', ""
        )
    match value.get("type"):
        case "array":
            items = value.get("items") or {"anyOf": value.get("prefixItems", [{}])}
            inner = type_text(items)
            return f"list of ({inner})" if " or " in inner else f"list of {inner}"
        case "integer" | "number" as kind:
            return "whole number" * (kind == "integer") + "number" * (kind == "number") + bounds_text(value)
        case "string":
            return "text"
        case "null":
            return "`null`"
        case "object":
            return "mapping"
    return "any"


def bounds_text(value: Any) -> str:
    """Says between what numbers lie."""
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    # The limits of number formats say nothing to a reader.
    bounds = [
        f"{sign}\N{NO-BREAK SPACE}{value[key]:,}"
        for key, sign in signs.items()
        if abs(value.get(key, math.inf)) < 2**31
    ]
    return f" ({', '.join(bounds)})" if bounds else ""


def slug(title: str) -> str:
    """Returns the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def columns_page() -> str:
    """Lists the columns of a run's data set with their types."""
    from sfi_ray.store.schema import CIRCUMSTANCES, FINDINGS

    rows = (
        (f"`{field.name}`", f"`{field.type}`", "may differ" if field.name in CIRCUMSTANCES else "the same")
        for field in FINDINGS
    )
    return (
        "# Columns\n\n"
        "The Arrow schema of `results/`, one row a cell. [Results](results.md) says what each column means. "
        "The last column here says whether a second launch of the same job writes the same value.\n\n"
        + table(("column", "type", "on a second launch"), rows)
    )


def python_page() -> str:
    """Documents what the public modules export, from their docstrings."""
    parts = [
        "# Python interface\n",
        "`Job`, `RoundsJob` and the settings of a search take the keys that [Job keys](job-keys.md) lists.\n",
    ]
    for name, title in PUBLIC_MODULES.items():
        module = importlib.import_module(name)
        public = getattr(module, "__all__", None) or [
            key for key, value in vars(module).items() if inspect.isclass(value) and value.__module__ == name
        ]
        parts += [f"## {title}\n", f"```{{eval-rst}}\n.. currentmodule:: {name}\n\n"]
        parts += [directive(getattr(module, key), key) for key in public]
        parts.append("```\n")
    return "\n".join(parts)


def directive(value: Any, name: str) -> str:
    """Returns the directive that documents one object."""
    from pydantic import BaseModel

    if not inspect.isclass(value):
        return f".. {'autofunction' if inspect.isroutine(value) else 'autodata'}:: {name}\n"
    if issubclass(value, BaseModel):  # its keys are those of a job
        return f".. autoclass:: {name}()\n"
    return f".. autoclass:: {name}\n   :members:\n"


GENERATED: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands_page,
    "reference/job-keys.md": job_keys_page,
    "reference/columns.md": columns_page,
    "reference/python.md": python_page,
}


def contents(pages: list[str], *, hidden: bool = False) -> str:
    """Returns a table of contents."""
    option = ":hidden:" if hidden else ":maxdepth: 1"
    return "\n".join(["```{toctree}", option, "", *pages, "```", ""])


def stage(source: Path) -> None:
    """Writes the source of the site.

    Raises:
        ValueError: A page links to a file that does not exist.
    """
    pages, address = page_paths(), repository()
    for path, place in pages.items():
        target = source / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            text = with_links_of_the_site(path.read_text("utf-8"), path, pages, address)
            target.write_text(with_owner(text, address), "utf-8")
        elif path.suffix == ".ipynb":
            target.write_text(with_owner(path.read_text("utf-8"), address), "utf-8")
        else:
            shutil.copyfile(path, target)
    for place, write in GENERATED.items():
        (source / place).write_text(write(), "utf-8")
    for section, (title, introduction, first) in SECTIONS.items():
        names = sorted(path.stem for path in (source / section).iterdir())
        names.sort(key=lambda name, first=first: first.index(name) if name in first else len(first))
        (source / section / "index.md").write_text(f"# {title}\n\n{introduction}\n\n{contents(names)}", "utf-8")
    project = [name for name in PROJECT_PAGES if (source / f"{name}.md").exists()]
    tops = ["Tutorial <tutorial>"] if (source / "tutorial.md").exists() else []
    (source / "project.md").write_text(
        f"# Project\n\nHow `sfi_ray` is made, and how it changes.\n\n{contents(project)}", "utf-8"
    )
    with (source / "index.md").open("a", encoding="utf-8") as home:
        home.write("\n" + contents([*tops, *(f"{name}/index" for name in SECTIONS), "project"], hidden=True))


class _Page(html.parser.HTMLParser):
    """Collects where a page of the site leads, and what can be led to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key == "id" and value:
                self.anchors.add(value)
            elif key in ("href", "src") and value:
                self.links.append(value)


def broken_links(folder: Path) -> list[str]:
    """Returns the links of a built site that lead to no file or to no anchor in it."""
    pages = {
        path.resolve(): _Page(path.read_text("utf-8")) for path in folder.rglob("*.html") if "_static" not in path.parts
    }
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{path.relative_to(folder.resolve())}: '{link}' leads nowhere")
    return broken


def main() -> None:
    """Builds the site."""
    shutil.rmtree(BUILD, ignore_errors=True)
    try:
        stage(BUILD / "source")
    except ValueError as error:
        raise SystemExit(str(error)) from error
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--doctree-dir", BUILD / "doctrees"]
    command = [sys.executable, "-m", "sphinx", *options, "--conf-dir", ROOT / "docs", BUILD / "source", BUILD / "html"]
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(1)
    broken = broken_links(BUILD / "html")
    if broken:
        raise SystemExit("\n".join(broken))
    print(f"{len(list((BUILD / 'html').rglob('*.html')))} pages: {BUILD / 'html' / 'index.html'}")


if __name__ == "__main__":
    main()
