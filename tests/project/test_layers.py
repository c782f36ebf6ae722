"""Imports point downward only, and the search can be read and run without Ray."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "sfi_ray"

# From the top. A unit, module or package, imports its own line and those below it.
LAYERS = [
    {"__init__", "__main__"},  # the package itself: entry points
    {"cli", "testing"},
    {"cluster"},
    {"report"},
    {"review"},
    {"job", "plan", "store", "rounds", "comparison", "listing"},
    {"attacks"},
    {"search"},
    {"models"},
    {"data"},
    {
        "images",
        "bundled",
        "types",
        "theory",
        "errors",
        "grid",
        "presets",
        "text",
        "csv_text",
        "tables",
        "user_code",
        "location",
        "hub",
    },
]
# Units that lie below and are still none of its business.
NEVER = {"report": {"models", "attacks", "search"}, "search": {"models", "data"}}
# Names of the package itself that any unit may import.
PLAIN_NAMES = {"__version__"}
RAY = "cluster"  # the one unit that imports ray

# Rooms, and what of the folder around it each may import.
ROOMS = {
    "models/files": set(),
    "models/runners": set(),
    "models/black_boxes": {"runners"},
    "models/zoo": {"source"},
    "models/sources": {"black_boxes", "classifier", "files", "source", "weights", "zoo"},
    "models/training": {"card", "classifier", "runners", "training_settings", "weights", "zoo"},
    "models/tuning": {"classifier", "payload", "runners"},
    "search/gradient": {"base", "state", "philox"},
    "search/map_elites": {"base", "gradient", "state", "philox"},
    "search/nevergrad": {"base"},
    "search/inversion": {"base", "philox", "state"},
    "store/locks": {"s3"},
    "store/notebook": {"png"},
    "cluster/ray": {
        "driver",
        "executor",
        "reporter",
        "scoring",
        "signals",
        "training_cache",
        "tuning_cache",
        "worker",
    },
    "cluster/rounds": {"backend", "console", "launch", "ray", "reporter", "signals", "tracking", "training_cache"},
    "cluster/tracking": {"driver"},
    "report/sheets": {"trajectory", "matrices"},
    "report/rounds": {"scan", "sheets", "site"},
    "report/site": {
        "accounts",
        "best",
        "cells",
        "trajectory",
        "matrices",
        "paper",
        "positions",
        "runs",
        "scan",
        "summaries",
        "tables",
    },
}
MOST_FILES = 22  # in one folder, side by side

RANK = {unit: len(LAYERS) - number for number, units in enumerate(LAYERS) for unit in units}


def unit_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path, source):
    """Dotted names of all modules that a source file imports, wherever in the file."""
    parts = ("sfi_ray", *path.relative_to(PACKAGE).with_suffix("").parts)
    package = parts[:-1]  # of `__init__` too: its last part is the file's
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "sfi_ray":
                yield from ((node.lineno, f"sfi_ray.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def faults(path, source):
    """Lines of a source file that break the direction."""
    unit = unit_of(path)
    if unit not in RANK:
        return [f"{unit}: has no layer; give it one in LAYERS"]
    found = []
    for line, module in imported_modules(path, source):
        top, _, rest = module.partition(".")
        if top == "ray" and unit != RAY:
            found.append(f"{unit}:{line}: only {RAY} imports ray")
        if top != "sfi_ray":
            continue
        target = rest.partition(".")[0] or "__init__"
        if target in PLAIN_NAMES or target == unit:
            continue
        if target not in RANK:
            target = "__init__"  # a name that the package itself exports
        if RANK[target] > RANK[unit] or target in NEVER.get(unit, ()):
            found.append(f"{unit}:{line}: must not import {target}")
    return found


def test_imports_point_downward():
    paths = sorted(PACKAGE.rglob("*.py"))
    assert paths, "no modules found"
    found = {str(path.relative_to(PACKAGE)): faults(path, path.read_text("utf-8")) for path in paths}
    assert {name: lines for name, lines in found.items() if lines} == {}


def arrows_within(folder):
    """For each file or room of a folder, what beside it it imports."""
    place = ".".join(folder.relative_to(PACKAGE.parent).parts)
    found = {}
    for path in folder.rglob("*.py"):
        unit = path.relative_to(folder).parts[0].removesuffix(".py")
        if unit == "__init__":
            continue
        beside = found.setdefault(unit, set())
        for _, module in imported_modules(path, path.read_text("utf-8")):
            if module.startswith(f"{place}."):
                beside.add(module.removeprefix(f"{place}.").partition(".")[0])
        beside.discard(unit)
    return found


FOLDERS = sorted({path.parent for path in PACKAGE.rglob("*.py")})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_no_folder_has_a_circle_of_imports_or_too_many_files(folder):
    assert len(list(folder.glob("*.py"))) <= MOST_FILES
    if folder != PACKAGE:
        list(TopologicalSorter(arrows_within(folder)).static_order())


def test_rooms_import_only_what_they_say():
    rooms = {path.parent for path in PACKAGE.glob("*/*/__init__.py")}
    assert {str(room.relative_to(PACKAGE)) for room in rooms} == set(ROOMS)
    found = {}
    for room in rooms:
        beside = arrows_within(room.parent)[room.name]
        found[str(room.relative_to(PACKAGE))] = beside - ROOMS[str(room.relative_to(PACKAGE))]
    assert {room: names for room, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("file", "source", "is_fault"),
    [
        ("store/writer.py", "from sfi_ray.types import Finding", False),
        ("types.py", "from sfi_ray.job import Job", True),
        ("models/zoo.py", "from ..job.schema import Job", True),
        ("models/zoo.py", "from .classifier import Classifier", False),
        ("models/__init__.py", "from .classifier import Classifier", False),
        ("models/__init__.py", "from .. import cluster", True),
        ("search/de.py", "from sfi_ray import models", True),
        ("search/de.py", "from sfi_ray import launch", True),
        ("search/de.py", "from sfi_ray import __version__", False),
        ("search/de.py", "import sfi_ray.data.digits", True),
        ("report/html.py", "def f():\n    from sfi_ray.attacks import verify", True),
        ("report/html.py", "from sfi_ray.store import scan", False),
        ("job.py", "from sfi_ray.attacks import Settings", False),
        ("job/schema.py", "from sfi_ray.plan import Plan", False),
        ("plan.py", "import ray.util.queue", True),
        ("cli/launch.py", "import ray", True),
        ("cluster/driver.py", "import ray", False),
        ("cluster/driver.py", "import rayleigh", False),
        ("novelty.py", "", True),
    ],
)
def test_a_wrong_import_is_found(file, source, is_fault):
    assert bool(faults(PACKAGE / file, source)) is is_fault


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("sfi_ray", "ray"),
        ("sfi_ray.search", "ray"),
        ("sfi_ray.attacks", "ray"),
        ("sfi_ray.cli", "ray"),
        ("sfi_ray.report", "torch"),
        ("sfi_ray.report", "ray"),
    ],
)
def test_importing_a_layer_loads_nothing_above_it(module, unwanted):
    folder = PACKAGE.parent.joinpath(*module.split("."))
    if not (folder.is_dir() or folder.with_suffix(".py").exists()):
        pytest.skip(f"{module} does not exist yet")
    loaded = f"[name for name in sys.modules if name.partition('.')[0] == '{unwanted}']"
    program = f"import sys, {module}; print({loaded})"
    done = subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", f"importing {module} loads {unwanted}"
