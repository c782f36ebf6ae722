"""The command `sfi-ray compact`."""

from __future__ import annotations

from sfi_ray.cli.arguments import RunLocation
from sfi_ray.cli.exits import explaining
from sfi_ray.cli.printing import echo
from sfi_ray.text import counted


def compact(run: RunLocation) -> None:
    """Merge the many part files of a run into few, faster ones.

    The rows stay the same. An interrupted compaction loses nothing; the next one, or the next launch, finishes it. The
    command refuses a run to which a launch is writing.
    """
    from sfi_ray.store.compaction import compact as compact_parts
    from sfi_ray.store.run import open_run

    with explaining():
        opened = open_run(run)
        done = compact_parts(opened.folder, bounds=opened.bounds)
    echo(
        f"{counted(done.files_before, 'part file')} of {done.bytes_before / 2**20:,.1f} MiB became "
        f"{done.files_after:,} of {done.bytes_after / 2**20:,.1f} MiB"
    )
