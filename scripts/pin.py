"""Pins every package that the project can install, or checks the pins.

`uv.lock` carries download addresses, so it stays out of the repository. The versions it chose are kept in
`pyproject.toml` instead: `tool.uv.constraint-dependencies` for the project and its groups,
`build-system.requires` and `tool.uv.build-constraint-dependencies` for the build backend. A resolution under
them has no choice left.

    python scripts/pin.py            renews the pins from a fresh resolution
    python scripts/pin.py --check    fails unless the pins give exactly themselves
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import tempfile
import tomllib
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
CONSTRAINTS = "constraint-dependencies"
BUILD_CONSTRAINTS = "build-constraint-dependencies"
# Named by no file: hatchling's build hook asks for it when the project is installed editable.
HOOK_REQUIREMENTS = ["editables"]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def requirement_name(requirement: str) -> str:
    """Returns the normalised package name that a requirement begins with."""
    match = NAME.match(requirement)
    if match is None:
        raise ValueError(f"not a requirement: {requirement!r}")
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def lock(pyproject: str) -> list[dict[str, Any]]:
    """Resolves a project, given as the text of its pyproject.toml, to the packages of its uv.lock."""
    with tempfile.TemporaryDirectory(prefix="pins-") as folder:
        Path(folder, "pyproject.toml").write_text(pyproject, encoding="utf-8")
        environment = {key: value for key, value in os.environ.items() if key not in ("UV_FROZEN", "UV_LOCKED")}
        command = [os.environ.get("UV", "uv"), "lock", "--upgrade", "--project", folder]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{done.stderr}\nNo resolution. `python scripts/pin.py` renews the pins.")
        packages: list[dict[str, Any]] = tomllib.loads(Path(folder, "uv.lock").read_text("utf-8"))["package"]
        return packages


def shortest_markers(forks: list[list[str]]) -> list[str]:
    """Turns the resolution markers of each version into one marker, as short as still tells them apart.

    uv writes a fork as a conjunction, "python_full_version < '3.12' and sys_platform == 'linux'"; where the
    versions differ by Python alone, the platform can go.
    """
    if not any("(" in marker or " or " in marker for fork in forks for marker in fork):
        clauses = [[marker.split(" and ") for marker in fork] for fork in forks]
        variables = sorted({clause.split()[0] for fork in clauses for marker in fork for clause in marker})
        for size in range(1, len(variables)):
            for kept in itertools.combinations(variables, size):
                short = [
                    {" and ".join(clause for clause in marker if clause.split()[0] in kept) for marker in fork}
                    for fork in clauses
                ]
                if "" not in set.union(*short) and sum(map(len, short)) == len(set.union(*short)):
                    return [" or ".join(sorted(fork)) for fork in short]
    return [" or ".join(f"({marker})" for marker in fork) for fork in forks]


def pins_of(packages: list[dict[str, Any]]) -> list[str]:
    """Writes locked packages as exact requirements, with a marker where forks chose different versions."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for package in packages:
        if "registry" in package["source"]:  # leaves the project itself out
            by_name.setdefault(package["name"], []).append(package)
    pins = []
    for name, versions in sorted(by_name.items()):
        if len(versions) == 1:
            pins.append(f"{name}=={versions[0]['version']}")
            continue
        markers = shortest_markers([package["resolution-markers"] for package in versions])
        pairs = zip(versions, markers, strict=True)
        pins += sorted(f"{name}=={package['version']} ; {marker}" for package, marker in pairs)
    return pins


def build_project(project: dict[str, Any], constraints: list[str]) -> str:
    """Returns a pyproject.toml that depends on what building this project needs."""
    names = [requirement_name(requirement) for requirement in project["build-system"]["requires"]]
    # JSON strings and arrays of them are TOML too.
    return (
        f'[project]\nname = "build-requirements"\nversion = "0"\n'
        f"requires-python = {json.dumps(project['project']['requires-python'])}\n"
        f"dependencies = {json.dumps(names + HOOK_REQUIREMENTS)}\n"
        f"[tool.uv]\nenvironments = {json.dumps(project['tool']['uv'].get('environments', []))}\n"
        f"{CONSTRAINTS} = {json.dumps(constraints)}\n"
    )


def with_array(text: str, key: str, values: list[str]) -> str:
    """Sets an array of `[tool.uv]`, one value a line, and leaves every other line as it is."""
    array = f"{key} = [\n" + "".join(f'    "{value}",\n' for value in values) + "]\n"
    table = re.search(r"^\[tool\.uv\]\n((?:(?!\[).*\n)*)", text, re.MULTILINE)  # up to the next header
    if table is None:
        raise SystemExit("pyproject.toml has no [tool.uv].")
    old = re.search(rf"^{key} = \[\n(?:.*\n)*?\]\n", table[1], re.MULTILINE)
    start = table.start(1) + (old.start() if old else len(table[1].rstrip("\n")) + 1)
    return text[:start] + array + text[start + (len(old[0]) if old else 0) :]


def with_pins(text: str, constraints: list[str], build_constraints: list[str], requires: list[str]) -> str:
    """Returns the text of pyproject.toml with other pins, everything else unchanged."""
    before = tomllib.loads(text)
    text = with_array(text, CONSTRAINTS, constraints)
    text = with_array(text, BUILD_CONSTRAINTS, build_constraints)
    text = re.sub(r"^requires = \[.*\]$", f"requires = {json.dumps(requires)}", text, count=1, flags=re.MULTILINE)
    # The editing above is by line: hold it to the meaning.
    before["tool"]["uv"] |= {CONSTRAINTS: constraints, BUILD_CONSTRAINTS: build_constraints}
    before["build-system"]["requires"] = requires
    if tomllib.loads(text) != before:
        raise SystemExit("pyproject.toml is laid out in a way that this script cannot edit.")
    return text


def renew() -> None:
    """Resolves afresh and writes the new pins."""
    text = PYPROJECT.read_text(encoding="utf-8")
    project = tomllib.loads(text)
    names = [requirement_name(requirement) for requirement in project["build-system"]["requires"]]
    constraints = pins_of(lock(with_pins(text, [], [], names)))
    build_constraints = pins_of(lock(build_project(project, [])))
    requires = [pin for pin in build_constraints if requirement_name(pin) in names]
    PYPROJECT.write_text(with_pins(text, constraints, build_constraints, requires), encoding="utf-8")
    print(f"Pinned {len(constraints)} packages, and {len(build_constraints)} of the build backend.")


def differences(pinned: list[str], resolved: list[str], what: str) -> list[str]:
    """Says how a list of pins differs from what a resolution under them gives."""
    lines = []
    for name in sorted({requirement_name(pin) for pin in pinned + resolved}):
        old = sorted({pin for pin in pinned if requirement_name(pin) == name})
        new = sorted({pin for pin in resolved if requirement_name(pin) == name})
        if not old:
            lines.append(f"{what}: {name} is not pinned: {', '.join(new)}")
        elif not new:
            lines.append(f"{what}: {name} is pinned but no longer occurs: {', '.join(old)}")
        elif old != new:
            lines.append(f"{what}: {name} is pinned to {', '.join(old)} but resolves to {', '.join(new)}")
    return lines


def check() -> None:
    """Resolves under the pins and exits with 1 unless they come out again."""
    text = PYPROJECT.read_text(encoding="utf-8")
    project = tomllib.loads(text)
    constraints = project["tool"]["uv"].get(CONSTRAINTS, [])
    build_constraints = project["tool"]["uv"].get(BUILD_CONSTRAINTS, [])
    build_packages = pins_of(lock(build_project(project, build_constraints)))
    requires = {requirement_name(requirement) for requirement in project["build-system"]["requires"]}
    found = differences(constraints, pins_of(lock(text)), CONSTRAINTS)
    found += differences(build_constraints, build_packages, BUILD_CONSTRAINTS)
    found += differences(
        project["build-system"]["requires"],
        [pin for pin in build_packages if requirement_name(pin) in requires],
        "build-system.requires",
    )
    if found:
        raise SystemExit("\n".join([*found, "`python scripts/pin.py` renews the pins."]))
    print(f"{len(constraints)} packages are pinned, and {len(build_constraints)} of the build backend.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail unless the pins give exactly themselves")
    if parser.parse_args().check:
        check()
    else:
        renew()
