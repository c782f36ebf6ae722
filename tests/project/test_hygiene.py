import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 450
MAX_FUNCTION_LINES = 60  # without the docstring
# Written so that they do not match themselves.
FORBIDDEN = {
    "a machine's path": re.compile(r"(?<![\w.~$}])/(?:root|work|home/(?!sfi\b)\w+|Users/\w+)(?![\w-])"),
    "a package registry's address": re.compile(r"https?://[^\" ]+/(simple|packages)/"),
}


@pytest.fixture(scope="module")
def texts():
    """Text of every file that git tracks or would."""
    try:
        top = subprocess.run(["git", "rev-parse", "--show-toplevel"], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if top.returncode != 0 or Path(top.stdout.strip()).resolve() != ROOT.resolve():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = {}
    for name in filter(None, listed.stdout.split("\0")):
        try:
            found[name] = (ROOT / name).read_text("utf-8")
        except (
            UnicodeDecodeError,
            FileNotFoundError,
            IsADirectoryError,
        ):  # not text, or deleted, or a submodule
            continue
    return found


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names_where_it_was_written(texts, what):
    hits = [
        f"{name}:{number}: {line.strip()[:160]}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if FORBIDDEN[what].search(line)
    ]
    assert not hits, f"These lines name {what}:\n" + "\n".join(hits)


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a machine's path", "see /" + "root/.cache"),
        ("a machine's path", "cd '/" + "home/alice/sfi'"),
        ("a machine's path", "/" + "work"),
        ("a package registry's address", "index = https://" + "example.org/pypi/simple/torch"),
    ],
)
def test_the_patterns_find_what_they_forbid(what, line):
    assert FORBIDDEN[what].search(line)


@pytest.mark.parametrize("line", ["HOME=/home/sfi", "~/sfi_ray/jobs", "train/work", "https://a.org/work/x", "/rooted"])
def test_the_patterns_let_other_text_pass(line):
    assert not any(pattern.search(line) for pattern in FORBIDDEN.values())


def test_modules_are_short():
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in (ROOT / "sfi_ray").rglob("*.py")}
    assert lines, "no modules found"
    long = {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > MAX_LINES}
    assert not long, f"Over {MAX_LINES} lines; one idea a module: {long}"


def function_lines(source):
    """The lines of each function of a module, without its docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= node.body[0].end_lineno - node.body[0].lineno + 1
            yield node.name, lines


def test_functions_are_short():
    functions = [
        (lines, name, str(path.relative_to(ROOT)))
        for path in (ROOT / "sfi_ray").rglob("*.py")
        for name, lines in function_lines(path.read_text("utf-8"))
    ]
    assert functions, "no functions found"
    long = [place for place in functions if place[0] > MAX_FUNCTION_LINES]
    assert not long, f"Over {MAX_FUNCTION_LINES} lines without the docstring: {long}"


def test_the_length_of_a_function_leaves_its_docstring_out():
    documented = 'class A:\n    def f(self):\n        """One.\n\n        Two.\n        """\n        return 1\n'
    source = documented + "\n\nasync def g(): ..."
    assert list(function_lines(source)) == [("g", 1), ("f", 2)]


def test_the_readme_says_something():
    assert (ROOT / "README.md").read_text("utf-8").strip()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no executable bit")
def test_ci_run_is_executable():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize(
    ("package", "files"),
    [
        ("uv", [".ci/run", "Dockerfile", "cluster.yaml"]),
        ("ruff", ["pyproject.toml", ".pre-commit-config.yaml"]),
    ],
)
def test_a_tool_has_one_version_everywhere(package, files):
    pin = re.compile(rf"(?<![\w-]){package}==([\w.]+)")
    versions = {name: set(pin.findall((ROOT / name).read_text("utf-8"))) for name in files}
    assert all(versions.values()), f"{package} is not pinned in all of these: {versions}"
    assert len(set.union(*versions.values())) == 1, f"{package} differs: {versions}"
