"""The documentation site: its links follow, and the pages that the code writes miss nothing. Sphinx is not needed."""

import importlib.util
from pathlib import Path

import pytest
from typer.main import get_command

import sfi_ray
from sfi_ray.cli import app
from sfi_ray.cli.exits import ExitCode, codes_of
from sfi_ray.job import Job, RoundsJob
from sfi_ray.store.schema import FINDINGS

ROOT = Path(__file__).parents[2]
ADDRESS = "https://example.org/us/sfi_ray"


@pytest.fixture(scope="module")
def build_site():
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "scripts/build_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("document", "text", "with_address", "without"),
    [
        ("README.md", "[a](docs/reference/jobs.md#attack)", "[a](reference/jobs.md#attack)", None),
        ("docs/guides/training.md", "[a](../../README.md)", "[a](../index.md)", None),
        ("docs/guides/training.md", "[a\nb](../../CHANGELOG.md)", "[a\nb](../changelog.md)", None),
        ("docs/guides/training.md", "![a](../images/theory_growth.png)", "![a](../images/theory_growth.png)", None),
        ("README.md", "[`a`](sfi_ray/images.py)", f"[`a`]({ADDRESS}/blob/main/sfi_ray/images.py)", "`a`"),
        ("README.md", "see [jobs](jobs), too", f"see [jobs]({ADDRESS}/tree/main/jobs), too", "see jobs, too"),
        ("README.md", "[a](https://ray.io) [b](#here)", "[a](https://ray.io) [b](#here)", None),
        ("README.md", "`[a](b.md)`", "`[a](b.md)`", None),
        ("README.md", "```text\n[a](b.md)\n```\n[a](LICENSE)", None, "```text\n[a](b.md)\n```\na"),
    ],
)
def test_links_follow_into_the_site(build_site, document, text, with_address, without):
    pages = build_site.page_paths()
    for address, wanted in ((ADDRESS, with_address), (None, without or with_address)):
        if wanted is not None:
            assert build_site.with_links_of_the_site(text, ROOT / document, pages, address) == wanted


def test_a_link_to_no_file_is_refused_with_its_page(build_site):
    with pytest.raises(ValueError, match=r"README.md: the link to 'docs/jobs.md#k' leads to no file"):
        build_site.with_links_of_the_site("[a](docs/jobs.md#k)", ROOT / "README.md", build_site.page_paths(), None)


def test_every_page_is_in_a_table_of_contents(build_site, tmp_path):
    build_site.stage(tmp_path)
    home = tmp_path / "index.md"
    for path in tmp_path.rglob("*.md"):
        indices = {home, path.parent / "index.md", tmp_path / "project.md"}
        name = f"{path.parent.name}/index" if path.name == "index.md" else path.stem
        lines = "\n".join(index.read_text() for index in indices).splitlines()
        assert path == home or {name, f"{name.title()} <{name}>"} & set(lines), path


def test_the_written_pages_name_everything(build_site):
    commands = build_site.commands_page()
    for name, command in get_command(app).commands.items():
        assert f"\n## `{name}`\n" in commands
        assert f"\n| 0 | {build_site.escaped(codes_of(name)[ExitCode.DONE])} |\n" in commands
        for parameter in command.params:
            assert parameter.hidden or max(parameter.opts, key=len) in commands or parameter.metavar in commands
    keys = build_site.job_keys_page()
    for key in (*Job.model_fields, *RoundsJob.model_fields, "population_size", "restart_after", "learning_rate"):
        assert f"\n| `{key}` | " in keys, key
    for name in FINDINGS.names:
        assert f"\n| `{name}` | " in build_site.columns_page(), name
    for name in sfi_ray.__all__:
        assert f":: {name}" in build_site.python_page(), name


def test_broken_links_of_a_built_site_are_found(build_site, tmp_path):
    (tmp_path / "a.html").write_text('<p id="here"><a href="b.html#there"></a><a href="https://ray.io/x"></a></p>')
    (tmp_path / "b.html").write_text('<p id="there"><a href="a.html#here"></a><a href="#there"></a></p>')
    assert build_site.broken_links(tmp_path) == []
    (tmp_path / "b.html").write_text('<p id="then"><img src="none.png"><a href="#there"></a></p>')
    assert sorted(build_site.broken_links(tmp_path)) == [
        "a.html: 'b.html#there' leads nowhere",
        "b.html: '#there' leads nowhere",
        "b.html: 'none.png' leads nowhere",
    ]
