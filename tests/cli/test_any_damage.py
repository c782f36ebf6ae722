"""Whatever is changed in a run's folder, every command ends with an exit code of its own and without a trace."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.conftest import Copy
from tests.cli.hostile_runs import COMMANDS, part_of, place_of

_TEXTS = st.sampled_from(["", "x", "../x", "x" * 20_000, "\x1b[31m", "mlp", "black", "-1"]) | st.text(max_size=5)
_NUMBERS = st.sampled_from([0, -1, 1, 2, 3, 10, 2**31, 2**63 - 1, 10**15, 0.0, -0.5, 1e308, float("nan"), float("inf")])
_SCALARS = st.none() | st.booleans() | _NUMBERS | st.integers(-5, 100) | st.floats(-2, 2) | _TEXTS
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abk", max_size=3), inner, max_size=2),
    max_leaves=4,
)
_GONE = object()
_PLACES = st.lists(st.integers(0, 10**6), min_size=1, max_size=6)


def in_record(run: Path, places: list[int], value: Any) -> None:
    """Puts a value somewhere into the record, or takes something out of it."""
    content = yaml.safe_load((run / "job.yaml").read_text())
    inner: Any = content
    for at, place in enumerate(places):
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = keys[place % len(keys)]
        if at + 1 < len(places) and isinstance(inner[key], dict | list) and inner[key]:
            inner = inner[key]
        elif value is _GONE:
            del inner[key]
            break
        else:
            inner[key] = value
            break
    (run / "job.yaml").write_text(yaml.safe_dump(content))


def in_rows(run: Path, places: list[int], value: Any) -> None:
    """Puts a value into a row, as far as its column takes such values; else into the whole column, of another type."""
    part = part_of(run)
    table = pq.read_table(part)
    name = table.column_names[places[0] % table.num_columns]
    column = table[name].to_pylist()
    if value is _GONE:
        changed = table.drop_columns([name])
    else:
        at = table.column_names.index(name)
        column[places[-1] % len(column)] = value
        try:
            changed = table.set_column(at, table.field(at), pa.array(column, table.field(at).type))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            try:
                changed = table.set_column(at, name, pa.array([value] * len(column)))
            except (pa.ArrowException, TypeError, ValueError, OverflowError):
                changed = table.set_column(at, name, pa.nulls(len(column)))
    pq.write_table(changed, part)


def in_list(run: Path, places: list[int], value: Any) -> None:
    """Puts a value into a pixel or a point of a trace."""
    part = part_of(run)
    table = pq.read_table(part)
    content = table.to_pylist()
    row = content[places[0] % len(content)]
    entries = row["pixels"] if places[-1] % 2 else row["trace"]
    if entries:
        entry = entries[places[0] % len(entries)]
        name = list(entry)[places[-1] % len(entry)]
        entry[name] = None if value is _GONE else value
    with contextlib.suppress(pa.ArrowException, TypeError, ValueError, OverflowError):
        pq.write_table(pa.Table.from_pylist(content, schema=table.schema), part)


def in_files(run: Path, places: list[int], value: Any) -> None:
    """Puts something else in the place of a file of the run."""
    files = sorted(path for path in run.rglob("*") if path.is_file() and "report/" not in str(path))
    name = str(files[places[0] % len(files)].relative_to(run))
    content = bytearray((run / name).read_bytes())
    kind = ("gone", "empty", "half", "flipped", "pipe", "folder", "link", "text")[places[-1] % 8]
    place = place_of(run, name)
    if kind == "flipped" and content:
        for number in places:
            content[number % len(content)] ^= 1 << number % 8
        place.write_bytes(content)
    elif kind == "half":
        place.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        place.touch()
    elif kind == "text":
        place.write_text(str(value), errors="replace")
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "link":
        place.symlink_to(run.parent / "outside" / "index.html")


_DAMAGES = st.sampled_from([in_record, in_record, in_rows, in_rows, in_list, in_files])


def end_of(
    sound_run: tuple[Path, Path],
    cache: Path,
    damages: list[tuple[Callable[..., None], list[int], Any]],
    commands: tuple[str, ...],
) -> None:
    for command in commands:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
            patch.setenv("SFI_RAY_CACHE", str(cache))
            copy = Copy(*sound_run, Path(folder))
            for damage, places, value in damages:
                with contextlib.suppress(OSError, ValueError, pa.ArrowException, yaml.YAMLError, KeyError, TypeError):
                    damage(copy.run, places, value)  # what was damaged before may not be read any more
            done = copy.call(command)
            assert isinstance(done.exception, SystemExit | None), done.exception
            assert done.exit_code in (0, 2, 3, 4), done.output
            assert (copy.outside / "index.html").exists()
            assert {path.name for path in copy.outside.iterdir()} == {"documents", "index.html"}


_ONE = st.tuples(_DAMAGES, _PLACES, _VALUES | st.just(_GONE))
_RELAXED = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "cache"


@settings(deadline=None, max_examples=30, derandomize=True, suppress_health_check=_RELAXED)
@given(damage=_ONE, command=st.sampled_from(COMMANDS))
def test_one_damage_ends_a_command_without_a_trace(
    sound_run: tuple[Path, Path], cache: Path, damage: tuple[Callable[..., None], list[int], Any], command: str
) -> None:
    end_of(sound_run, cache, [damage], (command,))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(deadline=None, max_examples=300, suppress_health_check=_RELAXED)
@given(damages=st.lists(_ONE, min_size=1, max_size=3))
def test_any_damages_end_every_command_without_a_trace(
    sound_run: tuple[Path, Path], cache: Path, damages: list[tuple[Callable[..., None], list[int], Any]]
) -> None:
    end_of(sound_run, cache, damages, COMMANDS)
