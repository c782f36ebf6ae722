"""Named ways to damage a finished run, as a stranger might: what its record, rows, files and links can be made to say.

Each takes the folder of a copy and a folder that lies outside it, of which nothing may be read, written or deleted.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from sfi_ray.store.schema import FINDINGS

Damage = Callable[[Path, Path], None]

SECRET = "the secret of another folder"


def make_outside(folder: Path) -> Path:
    """Makes what lies outside the run."""
    (folder / "documents").mkdir(parents=True)
    (folder / "documents" / "letter.txt").write_text(SECRET)
    (folder / "index.html").write_text(SECRET)
    return folder


def record(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Changes the values of the record."""

    def damage(run: Path, outside: Path) -> None:
        del outside
        content = yaml.safe_load((run / "job.yaml").read_text())
        change(content)
        (run / "job.yaml").write_text(yaml.safe_dump(content))

    return damage


def rows(change: Callable[[list[dict[str, Any]]], object]) -> Damage:
    """Changes the rows of the only part file."""

    def damage(run: Path, outside: Path) -> None:
        del outside
        table = pq.read_table(part_of(run))
        content = table.to_pylist()
        change(content)
        pq.write_table(pa.Table.from_pylist(content, schema=table.schema), part_of(run))

    return damage


def every_row(**values: Any) -> Damage:
    return rows(lambda content: [row.update(values) for row in content])


def first_pixel(**values: Any) -> Damage:
    return rows(lambda content: content[0]["pixels"][0].update(values))


def file(name: str, content: bytes) -> Damage:
    """Puts other bytes in the place of a file."""

    def damage(run: Path, outside: Path) -> None:
        del outside
        place_of(run, name).write_bytes(content)

    return damage


def fifo(name: str) -> Damage:
    """Puts a pipe that nobody writes to in the place of a file."""

    def damage(run: Path, outside: Path) -> None:
        del outside
        os.mkfifo(place_of(run, name))

    return damage


def folder(name: str) -> Damage:
    """Puts a folder in the place of a file."""

    def damage(run: Path, outside: Path) -> None:
        del outside
        place_of(run, name).mkdir()

    return damage


def link(name: str, target: str = "") -> Damage:
    """Puts a link that leads out in the place of a file or folder; what was there lies at its end."""

    def damage(run: Path, outside: Path) -> None:
        place = part_of(run) if name == "part" else run / name
        end = outside / (target or place.name)
        if place.exists() and not end.exists():
            place.rename(end)
        place_of(run, str(place.relative_to(run))).symlink_to(end)

    return damage


def circle(name: str) -> Damage:
    """Puts a link to itself in the place of a file."""

    def damage(run: Path, outside: Path) -> None:
        del outside
        place = place_of(run, name)
        place.symlink_to(place)

    return damage


def sparse(name: str, size: int) -> Damage:
    """Puts a file of holes in the place of a file."""

    def damage(run: Path, outside: Path) -> None:
        del outside
        with place_of(run, name).open("wb") as stream:
            stream.truncate(size)

    return damage


def journal(merged: str, *replaced: str) -> Damage:
    """Leaves the journal of a compaction; ``part`` stands for the name of the part file."""

    def damage(run: Path, outside: Path) -> None:
        (run / "results" / "link").symlink_to(outside)
        names = [part_of(run).name if name == "part" else name for name in (merged, *replaced)]
        said = {"merged": names[0], "replaced": names[1:]}
        (run / "results" / ".compaction.json").write_text(json.dumps(said))

    return damage


def table(change: Callable[[pa.Table], pa.Table], **options: Any) -> Damage:
    """Writes the part file anew from another table."""

    def damage(run: Path, outside: Path) -> None:
        del outside
        changed = change(pq.read_table(part_of(run)))
        pq.write_table(changed, part_of(run), compression="zstd", **options)

    return damage


def part_of(run: Path) -> Path:
    """Returns the only part file, before anything was done to it."""
    (part,) = (run / "results").glob("part-*.parquet")
    return part


def place_of(run: Path, name: str) -> Path:
    """Returns where a file of this name lies, after it was removed; ``part`` is the part file."""
    place = part_of(run) if name == "part" else run / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    return place


def factory(run: Path, outside: Path) -> None:
    """Names code inside the run as what builds its classifier; the tests' current folder is the one above."""
    (run / "evil.py").write_text(f"open({str(outside / 'RAN')!r}, 'w').close()\n")

    def change(content: dict[str, Any]) -> None:
        for spec in content["job"]["classifiers"]:
            spec.pop("training", None)
            spec["factory"] = f"{run.name}.evil:build"

    record(change)(run, outside)


def longer_record(run: Path, outside: Path) -> None:
    del outside
    place = run / "job.yaml"
    place.write_text(place.read_text() + "".join(f"k{number}: {number}\n" for number in range(20_000)))


def many_rows(number: int) -> Damage:
    """Repeats the first row, which compresses to nothing."""
    return table(lambda rows: pa.concat_tables([rows.slice(0, 1)]).take(pa.array([0] * number)))


def column(name: str, value: Any) -> Damage:
    """Gives a column another type."""
    at = FINDINGS.get_field_index(name)
    return table(lambda rows: rows.set_column(at, name, pa.array([value] * rows.num_rows)))


def laughs(run: Path, outside: Path) -> None:
    """A YAML whose aliases stand for a billion values."""
    del outside
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    (run / "job.yaml").write_text("\n".join(lines))


def lying_weights(run: Path, outside: Path) -> None:
    """Weights whose header claims to be as long as a number can be."""
    del outside
    place = run / "models" / "mlp.safetensors"
    place.write_bytes(struct.pack("<Q", 2**63) + place.read_bytes()[8:])


def twice(run: Path, outside: Path) -> None:
    del outside
    part = part_of(run)
    shutil.copy(part, part.with_name(part.name.replace("-000000.parquet", "-000001.parquet")))


def set_in(*path: str | int, value: Any) -> Damage:
    """Sets a value deep in the record."""

    def change(content: Any) -> None:
        for part in path[:-1]:
            content = content[part]
        content[path[-1]] = value

    return record(change)


def renamed(name: str) -> Damage:
    """Calls the classifier otherwise, in the record and in its job."""

    def change(content: dict[str, Any]) -> None:
        content["classifiers"][0]["name"] = content["job"]["classifiers"][0]["name"] = name

    return record(change)


def progress(**values: Any) -> Damage:
    def damage(run: Path, outside: Path) -> None:
        del outside
        known = json.loads((run / "progress.json").read_text())
        (run / "progress.json").write_text(json.dumps(known | values))

    return damage


COMMANDS = ("status", "report", "verify", "export", "compare", "transfer", "features", "compact", "launch")

REFUSED = dict.fromkeys(COMMANDS, 2)
"""No command goes on."""
FINE = dict.fromkeys(COMMANDS, 0)
"""Every command goes on, as with a sound run."""
NO_ROWS = dict.fromkeys(("status", "report", "compact", "launch"), 0) | dict.fromkeys(
    ("verify", "export", "compare", "transfer", "features"), 2
)
"""The run is there and has no rows."""
ROWS_REFUSED = REFUSED | {"verify": 4}
"""The only part file cannot be a run's; `verify` says so, and what else holds."""
VALUE_REFUSED = {"verify": 4, "export": 2}
"""As before, asked of the commands that differ; the value itself is named by tests of the store."""
UNVERIFIED = VALUE_REFUSED | {"verify": 0}
"""As before, of a column that can only be believed."""
NO_NETWORK = {"status": 0, "verify": 4, "transfer": 2, "features": 2}
"""There are rows, and no network that they could be held against."""
NO_PROGRESS = {"status": 0, "verify": 0, "compact": 0}

CASES: dict[str, tuple[Damage, dict[str, int]]] = {
    # Code in the folder.
    "code in the folder": (factory, FINE | {"verify": 4, "transfer": 2, "features": 2, "launch": 2}),
    # Ways out of the folder.
    "a journal that names links": (journal("part", "link/documents", "link/index.html"), REFUSED),
    "a journal that names the folder": (journal("part", ""), REFUSED),
    "a journal that names what is merged": (journal("part", "part"), REFUSED),
    "a journal that names the record": (journal("part", "../job.yaml"), REFUSED),
    "a journal that merges into a path": (journal("/etc/passwd"), REFUSED),
    "a journal that is a pipe": (fifo("results/.compaction.json"), REFUSED),
    "a journal that is nested": (file("results/.compaction.json", b"[" * 100_000), REFUSED),
    "a linked report": (link("report"), FINE | {"report": 2, "launch": 2}),
    "a linked folder of tables": (link("report/tables"), {"report": 2, "launch": 2}),
    "a linked page": (link("report/index.html"), {"report": 0, "launch": 0}),
    "linked results": (link("results"), REFUSED),
    "a linked part file": (link("part"), ROWS_REFUSED),
    "linked models": (link("models"), NO_NETWORK),
    "linked weights": (link("models/mlp.safetensors"), NO_NETWORK),
    "a linked record": (link("job.yaml"), REFUSED),
    "a linked sign of life": (link("progress.json"), NO_PROGRESS),
    "a linked lock": (link(".lock", "new lock"), {"compact": 2}),
    "a link in a circle for the record": (circle("job.yaml"), REFUSED),
    "a link in a circle for a part file": (circle("part"), NO_ROWS),
    "a link in a circle for the results": (circle("results"), REFUSED),
    # What is no file.
    "a record that is a pipe": (fifo("job.yaml"), REFUSED),
    "a record that is a folder": (folder("job.yaml"), REFUSED),
    "a record of ten gigabytes": (sparse("job.yaml", 10 << 30), REFUSED),
    "a part file that is a pipe": (fifo("part"), ROWS_REFUSED),
    "a part file that is a folder": (folder("part"), ROWS_REFUSED),
    "results that are a file": (file("results", b""), REFUSED),
    "weights that are a pipe": (fifo("models/mlp.safetensors"), NO_NETWORK),
    "weights that are a folder": (folder("models/mlp.safetensors"), NO_NETWORK),
    "weights of a terabyte": (sparse("models/mlp.safetensors", 1 << 40), NO_NETWORK),
    "weights whose header lies": (lying_weights, NO_NETWORK),
    "a card that is none": (file("models/mlp.json", b"{"), {"verify": 0}),
    "a report that is a file": (file("report", b""), {"report": 2}),
    "a sign of life that is a pipe": (fifo("progress.json"), NO_PROGRESS),
    # Records.
    "a record of many lines": (longer_record, REFUSED | {"report": 0}),
    "a record that is a list": (file("job.yaml", b"- a\n- b\n"), REFUSED),
    "a record that is binary": (file("job.yaml", bytes(range(256)) * 100), REFUSED),
    "a record that makes objects": (file("job.yaml", b"a: !!python/object/apply:os.system [id]\n"), REFUSED),
    "a record that multiplies": (laughs, REFUSED),
    "a record that is nested": (file("job.yaml", b"[" * 100_000), REFUSED),
    "a record of one huge number": (file("job.yaml", b"a: " + b"9" * 1_000_000), REFUSED),
    "a number of many parts": (file("job.yaml", b"a: 1" + b":1" * 500_000), REFUSED),
    "nothing in the record": (file("job.yaml", b""), REFUSED),
    "more cells than there can be": (set_in("num_cells", value=10**15), REFUSED),
    "fewer cells than none": (set_in("num_cells", value=-5), REFUSED),
    "other cells than the grid's": (set_in("num_cells", value=4), REFUSED | {"report": 0}),
    "cells that are not a number": (set_in("num_cells", value=float("nan")), REFUSED),
    "images of no pixels": (set_in("input_shape", value=[1, 0, 8]), REFUSED),
    "images of very many pixels": (set_in("input_shape", value=[1, 60_000, 60_000]), REFUSED),
    "images of another size": (
        set_in("input_shape", value=[1, 4096, 4096]),
        ROWS_REFUSED | {"status": 0, "compare": 2},
    ),
    "other classifiers than the job's": (set_in("classifiers", 0, "name", value="other"), REFUSED),
    "a classifier called like a path": (renamed("../../outside/x"), REFUSED),
    "a micro-batch of billions": (set_in("classifiers", 0, "runtime", "micro_batch", value=2**40), {"verify": 2}),
    "a deviation of zero": (set_in("classifiers", 0, "std", value=[0.0]), {"verify": 2}),
    "seven means": (set_in("classifiers", 0, "mean", value=[0.1] * 7), {"verify": 2}),
    "a class outside": (set_in("job", "target_classes", value=[0, 99]), {"verify": 2}),
    "a text of a megabyte for a class": (set_in("job", "target_classes", value=["x" * 1_000_000]), {"verify": 2}),
    "more pixels than an image has": (set_in("job", "k", value=[2**31 - 1]), {"verify": 2}),
    "a threshold that is not a number": (
        set_in("job", "verification", "threshold", value=float("nan")),
        {"verify": 2, "report": 2},
    ),
    "images that are not imitated": (
        set_in("images", value=[{"target_class": 0, "digest": "0", "source": "x"}]),
        {"verify": 2, "report": 2},
    ),
    # Part files.
    "a part file of four bytes": (file("part", b"PAR1"), ROWS_REFUSED),
    "a part file of garbage": (file("part", b"garbage" * 1000), ROWS_REFUSED),
    "a part file without columns": (table(lambda rows: rows.select(["cell_index"])), ROWS_REFUSED),
    "a column of another type": (column("stop_reason", 3), ROWS_REFUSED),
    "a hundred thousand rows": (many_rows(100_000), ROWS_REFUSED),
    "a text that is stored once and meant often": (every_row(error="x" * 5_000_000), VALUE_REFUSED),
    "a hundred thousand pixels": (
        rows(lambda content: content[0].update(pixels=content[0]["pixels"][:1] * 100_000)),
        VALUE_REFUSED,
    ),
    "a trace of a hundred thousand points": (
        rows(lambda content: content[0].update(trace=[{"evaluations": 1, "confidence": 0.5}] * 100_000)),
        UNVERIFIED,
    ),
    # Rows.
    "a pixel outside": (first_pixel(row=10_000), ROWS_REFUSED | {"status": 0, "compare": 0}),
    "a pixel before the first": (first_pixel(col=-1), VALUE_REFUSED),
    "a pixel without a place": (first_pixel(row=None), VALUE_REFUSED),
    "a pixel of two channels": (first_pixel(value=[1, 2]), VALUE_REFUSED),
    "a pixel without a value": (first_pixel(value=None), VALUE_REFUSED),
    "no pixels": (every_row(pixels=None), VALUE_REFUSED),
    "no background": (every_row(background_value=None), VALUE_REFUSED),
    "seconds that are not a number": (
        every_row(seconds=float("nan")),
        ROWS_REFUSED | {"status": 0, "compare": 0, "verify": 0},
    ),
    "endless seconds": (every_row(seconds=float("inf")), UNVERIFIED),
    "images of 60,000 pixels": (
        every_row(height=60_000, width=60_000),
        ROWS_REFUSED | {"status": 0, "compare": 0},
    ),
    "images without height": (every_row(height=0), ROWS_REFUSED | {"status": 0, "compare": 0}),
    "images of no known height": (every_row(height=None), VALUE_REFUSED),
    "escapes in a name": (every_row(target_name="\x1b]0;title\a=HYPERLINK(1)"), FINE | {"verify": 4}),
    "an error of 100 KB": (every_row(error="x" * 100_000), ROWS_REFUSED | {"status": 0, "compare": 0}),
    "a negative k": (every_row(k=-1), VALUE_REFUSED),
    "a huge k": (every_row(k=2**31 - 1), VALUE_REFUSED),
    "no k": (every_row(k=None), VALUE_REFUSED),
    "a class outside the classes": (every_row(target_class=99), VALUE_REFUSED),
    "a predicted class outside": (every_row(predicted_class=-1), VALUE_REFUSED),
    "a confidence that is not a number": (every_row(confidence=float("nan")), VALUE_REFUSED),
    "a confidence of 7": (every_row(confidence=7.0), VALUE_REFUSED),
    "a trace that is not a number": (
        every_row(trace=[{"evaluations": 1, "confidence": float("nan")}]),
        {"verify": 0, "report": 0},
    ),
    "a trace beyond all counts": (every_row(trace=[{"evaluations": 2**62, "confidence": 0.5}]), UNVERIFIED),
    "a trace without numbers": (every_row(trace=[{"evaluations": None, "confidence": None}]), UNVERIFIED),
    "a trace that goes backwards": (
        every_row(trace=[{"evaluations": number, "confidence": 0.5} for number in (9, 3, 7)]),
        {"verify": 0, "report": 0},
    ),
    "fewer evaluations than none": (every_row(evaluations=-1), UNVERIFIED | {"status": 2}),
    "evaluations beyond all counts": (every_row(evaluations=2**63 - 1), UNVERIFIED | {"status": 2}),
    "no evaluations": (every_row(evaluations=None), UNVERIFIED | {"status": 2, "compare": 2}),
    "no cell": (every_row(cell_index=None), VALUE_REFUSED | {"status": 2, "compact": 2, "launch": 2}),
    "a cell before the first": (every_row(cell_index=-1), VALUE_REFUSED | {"status": 2, "launch": 2}),
    "a cell behind the last": (every_row(cell_index=2**62), VALUE_REFUSED | {"status": 2, "launch": 2}),
    "a cell called like nothing": (every_row(cell_id="zzz"), VALUE_REFUSED),
    "another cell": (every_row(cell_id="0" * 32), {"verify": 4, "export": 0, "launch": 2}),
    "fooled or not": (every_row(fooled=None), VALUE_REFUSED | {"launch": 2}),
    "another network": (every_row(classifier="other"), VALUE_REFUSED),
    "no network": (every_row(classifier=None), VALUE_REFUSED),
    "an end that there is not": (every_row(stop_reason="tired"), {"export": 2}),
    "no end": (every_row(stop_reason=None), {"export": 2, "launch": 2}),
    "a natural image where none is imitated": (every_row(image_index=3), VALUE_REFUSED),
    "every row twice": (twice, FINE),
    "more pixels than are listed": (every_row(num_altered=60), VALUE_REFUSED | {"report": 2}),
    # The sign of life.
    "counts of another kind": (progress(num_cells="many", finished=None), NO_PROGRESS),
    "counts beyond all counts": (progress(evaluations=10**400, seconds_left=1e308), NO_PROGRESS),
    "counts that are not a number": (
        file("progress.json", b'{"pid": NaN, "seconds_left": Infinity}'),
        NO_PROGRESS,
    ),
    "a sign of life that is nested": (file("progress.json", b"[" * 100_000), NO_PROGRESS),
    "a driver of the far future": (progress(state="running", updated_at=1e17), NO_PROGRESS),
}
"""What is done to a run, and the exit code of the commands that are asked."""
