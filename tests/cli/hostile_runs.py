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
        place = run / (f"results/{part_of(run).name}" if name == "part" else name)
        end = outside / (target or place.name)
        if place.exists() and not end.exists():
            place.rename(end)
        place_of(run, name).symlink_to(end)

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
    (part,) = sorted((run / "results").glob("part-*.parquet"))
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
    place.write_text(place.read_text() + "".join(f"k{number}: {number}\n" for number in range(120_000)))


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

ALL_REFUSE = dict.fromkeys(COMMANDS, 2)
"""What the record says cannot be: no command goes on."""
ROWS_REFUSED = ALL_REFUSE | {"verify": 4}
"""The only part file cannot be a run's; only `verify` says what else holds."""
NOTHING = dict.fromkeys(COMMANDS, 0)
"""Nothing that any command looks at."""
NEEDS_CODE = NOTHING | {"verify": 4, "transfer": 2, "features": 2, "launch": 2}
NO_WEIGHTS = NOTHING | {"verify": 4, "transfer": 2, "features": 2}
UNSEEN_BY_VALUE = NOTHING | {"verify": 4}
"""What a run might say, but not this one."""

CASES: dict[str, tuple[Damage, dict[str, int]]] = {
    # Code in the folder.
    "code in the folder": (factory, NEEDS_CODE),
    # Ways out of the folder.
    "a journal that names links": (journal("part", "link/documents", "link/index.html"), ALL_REFUSE),
    "a journal that names the folder": (journal("part", ""), ALL_REFUSE),
    "a journal that names what is merged": (journal("part", "part"), ALL_REFUSE),
    "a journal that names the record": (journal("part", "../job.yaml"), ALL_REFUSE),
    "a journal that merges into a path": (journal("/etc/passwd"), ALL_REFUSE),
    "a journal that is a pipe": (fifo("results/.compaction.json"), ALL_REFUSE),
    "a journal that is nested": (file("results/.compaction.json", b"[" * 100_000), ALL_REFUSE),
    "a linked report": (link("report"), NOTHING | {"report": 2, "launch": 2}),
    "a linked folder of tables": (link("report/tables"), NOTHING | {"report": 2, "launch": 2}),
    "a linked page": (link("report/index.html"), NOTHING),
    "linked results": (link("results"), ALL_REFUSE),
    "a linked part file": (link("part"), ROWS_REFUSED),
    "linked models": (link("models"), NO_WEIGHTS),
    "linked weights": (link("models/mlp.safetensors"), NO_WEIGHTS),
    "a linked record": (link("job.yaml"), ALL_REFUSE),
    "a linked sign of life": (link("progress.json"), NOTHING),
    "a linked lock": (link(".lock", "new lock"), NOTHING | {"compact": 2}),
    "a link in a circle for the record": (circle("job.yaml"), ALL_REFUSE),
    "a link in a circle for a part file": (circle("part"), ROWS_REFUSED),
    "a link in a circle for the results": (circle("results"), ALL_REFUSE),
    # What is no file.
    "a record that is a pipe": (fifo("job.yaml"), ALL_REFUSE),
    "a record that is a folder": (folder("job.yaml"), ALL_REFUSE),
    "a record of ten gigabytes": (sparse("job.yaml", 10 << 30), ALL_REFUSE),
    "a part file that is a pipe": (fifo("part"), ROWS_REFUSED),
    "a part file that is a folder": (folder("part"), ROWS_REFUSED),
    "results that are a file": (file("results", b""), ALL_REFUSE),
    "weights that are a pipe": (fifo("models/mlp.safetensors"), NO_WEIGHTS),
    "weights that are a folder": (folder("models/mlp.safetensors"), NO_WEIGHTS),
    "weights of a terabyte": (sparse("models/mlp.safetensors", 1 << 40), NO_WEIGHTS),
    "weights whose header lies": (lying_weights, NO_WEIGHTS),
    "a card that is none": (file("models/mlp.json", b"{"), NOTHING),
    "a report that is a file": (file("report", b""), NOTHING | {"report": 2, "launch": 2}),
    "a sign of life that is a pipe": (fifo("progress.json"), NOTHING),
    # Records.
    "a record of many lines": (longer_record, ALL_REFUSE | {"report": 0}),
    "a record that is a list": (file("job.yaml", b"- a\n- b\n"), ALL_REFUSE),
    "a record that is binary": (file("job.yaml", bytes(range(256)) * 100), ALL_REFUSE),
    "a record that makes objects": (file("job.yaml", b"a: !!python/object/apply:os.system [id]\n"), ALL_REFUSE),
    "a record that multiplies": (laughs, ALL_REFUSE),
    "a record that is nested": (file("job.yaml", b"[" * 100_000), ALL_REFUSE),
    "a record of one huge number": (file("job.yaml", b"a: " + b"9" * 1_000_000), ALL_REFUSE),
    "a number of many parts": (file("job.yaml", b"a: 1" + b":1" * 500_000), ALL_REFUSE),
    "nothing in the record": (file("job.yaml", b""), ALL_REFUSE),
    "more cells than there can be": (set_in("num_cells", value=10**15), ALL_REFUSE),
    "fewer cells than none": (set_in("num_cells", value=-5), ALL_REFUSE),
    "other cells than the grid's": (set_in("num_cells", value=4), ALL_REFUSE | {"report": 0}),
    "cells that are not a number": (set_in("num_cells", value=float("nan")), ALL_REFUSE),
    "images of no pixels": (set_in("input_shape", value=[1, 0, 8]), ALL_REFUSE),
    "images of very many pixels": (set_in("input_shape", value=[1, 60_000, 60_000]), ALL_REFUSE),
    "images of other sizes": (set_in("input_shape", value=[1, 4096, 4096]), ROWS_REFUSED),
    "other classifiers than the job's": (set_in("classifiers", 0, "name", value="other"), ALL_REFUSE),
    "a classifier called like a path": (renamed("../../outside/x"), ALL_REFUSE),
    "a micro-batch of billions": (set_in("classifiers", 0, "execution", "micro_batch", value=2**40), ALL_REFUSE),
    "a deviation of zero": (set_in("classifiers", 0, "std", value=[0.0]), ALL_REFUSE | {"report": 0}),
    "seven means": (set_in("classifiers", 0, "mean", value=[0.1] * 7), ALL_REFUSE | {"report": 0}),
    "a class outside": (set_in("job", "target_classes", value=[0, 99]), ALL_REFUSE | {"report": 0}),
    "a text of a megabyte for a class": (
        set_in("job", "target_classes", value=["x" * 1_000_000]),
        ALL_REFUSE | {"report": 0},
    ),
    "more pixels than an image has": (set_in("job", "k", value=[2**31 - 1]), ALL_REFUSE),
    "a threshold that is not a number": (set_in("job", "verification", "threshold", value=float("nan")), ALL_REFUSE),
    "images that are not imitated": (
        set_in("images", value=[{"target_class": 0, "digest": "0", "source": "x"}]),
        ALL_REFUSE | {"report": 2},
    ),
    # Part files.
    "a part file of four bytes": (file("part", b"PAR1"), ROWS_REFUSED),
    "a part file of garbage": (file("part", b"garbage" * 1000), ROWS_REFUSED),
    "a part file without columns": (table(lambda rows: rows.select(["cell_index"])), ROWS_REFUSED),
    "a column of another type": (column("confidence", "high"), ROWS_REFUSED),
    "ten million rows": (many_rows(10_000_000), ROWS_REFUSED),
    "a text that is stored once and meant often": (every_row(error="x" * 5_000_000), ROWS_REFUSED),
    "ten million pixels": (
        rows(lambda content: content[0].update(pixels=content[0]["pixels"][:1] * 3_000_000)),
        ROWS_REFUSED,
    ),
    "a trace of a million points": (
        rows(lambda content: content[0].update(trace=[{"evaluations": 1, "confidence": 0.5}] * 1_000_000)),
        ROWS_REFUSED,
    ),
    # Rows.
    "a pixel outside": (first_pixel(row=10_000), ROWS_REFUSED),
    "a pixel before the first": (first_pixel(col=-1), ROWS_REFUSED),
    "a pixel without a place": (first_pixel(row=None), ROWS_REFUSED),
    "a pixel of two channels": (first_pixel(value=[1, 2]), ROWS_REFUSED),
    "a pixel without a value": (first_pixel(value=None), ROWS_REFUSED),
    "no pixels": (every_row(pixels=None), ROWS_REFUSED),
    "no background": (every_row(background_value=None), ROWS_REFUSED),
    "seconds that are not a number": (every_row(seconds=float("nan")), ROWS_REFUSED | {"verify": 0}),
    "endless seconds": (every_row(seconds=float("inf")), ROWS_REFUSED | {"verify": 0}),
    "images of 60,000 pixels": (every_row(height=60_000, width=60_000), ROWS_REFUSED),
    "images without height": (every_row(height=0), ROWS_REFUSED),
    "images of no known height": (every_row(height=None), ROWS_REFUSED),
    "escapes in a name": (every_row(target_name="\x1b]0;title\a=HYPERLINK(1)"), UNSEEN_BY_VALUE),
    "an error of 100 KB": (every_row(error="x" * 100_000), ROWS_REFUSED),
    "a negative k": (every_row(k=-1), ROWS_REFUSED),
    "a huge k": (every_row(k=2**31 - 1), ROWS_REFUSED),
    "no k": (every_row(k=None), ROWS_REFUSED),
    "a class outside the classes": (every_row(target_class=99), ROWS_REFUSED),
    "a predicted class outside": (every_row(predicted_class=-1), ROWS_REFUSED),
    "a confidence that is not a number": (every_row(confidence=float("nan")), ROWS_REFUSED),
    "a confidence of 7": (every_row(confidence=7.0), ROWS_REFUSED),
    "a trace that is not a number": (
        every_row(trace=[{"evaluations": 1, "confidence": float("nan")}]),
        NOTHING,
    ),
    "a trace beyond all counts": (
        every_row(trace=[{"evaluations": 2**62, "confidence": 0.5}]),
        ROWS_REFUSED | {"verify": 0},
    ),
    "a trace without numbers": (
        every_row(trace=[{"evaluations": None, "confidence": None}]),
        ROWS_REFUSED | {"verify": 0},
    ),
    "a trace that goes backwards": (
        every_row(trace=[{"evaluations": n, "confidence": 0.5} for n in (9, 3, 7)]),
        NOTHING,
    ),
    "fewer evaluations than none": (every_row(evaluations=-1), ROWS_REFUSED | {"verify": 0}),
    "evaluations beyond all counts": (every_row(evaluations=2**63 - 1), ROWS_REFUSED | {"verify": 0}),
    "no evaluations": (every_row(evaluations=None), ROWS_REFUSED | {"verify": 0}),
    "no cell": (every_row(cell_index=None), ROWS_REFUSED),
    "a cell before the first": (every_row(cell_index=-1), ROWS_REFUSED),
    "a cell behind the last": (every_row(cell_index=2**62), ROWS_REFUSED),
    "a cell called like nothing": (every_row(cell_id="zzz"), ROWS_REFUSED),
    "another cell": (every_row(cell_id="0" * 32), UNSEEN_BY_VALUE | {"launch": 2}),
    "fooled or not": (every_row(fooled=None), ROWS_REFUSED),
    "another network": (every_row(classifier="other"), ROWS_REFUSED),
    "no network": (every_row(classifier=None), ROWS_REFUSED),
    "an end that there is not": (every_row(stop_reason="tired"), ROWS_REFUSED),
    "no end": (every_row(stop_reason=None), ROWS_REFUSED),
    "a natural image where none is imitated": (every_row(image_index=3), ROWS_REFUSED),
    "every row twice": (twice, NOTHING),
    "more pixels than are listed": (every_row(num_altered=60), ROWS_REFUSED),
    # The sign of life.
    "counts of another kind": (progress(num_cells="many", finished=None), NOTHING),
    "counts beyond all counts": (progress(evaluations=10**400, seconds_left=1e308), NOTHING),
    "counts that are not a number": (file("progress.json", b'{"pid": NaN, "seconds_left": Infinity}'), NOTHING),
    "a sign of life that is nested": (file("progress.json", b"[" * 100_000), NOTHING),
    "a driver of the far future": (progress(state="running", updated_at=1e17), NOTHING),
}
"""What is done to a run, and the exit code of each command."""
