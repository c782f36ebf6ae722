"""Job files that come with the package: complete jobs, and commented ones to begin with."""

from __future__ import annotations

import difflib
from pathlib import Path

from sfi_ray.errors import InputError, StorageError

_PACKAGE = Path(__file__).parent


def bundled_jobs() -> dict[str, Path]:
    """Returns the complete jobs by name: those in the package, or those beside it in a checkout."""
    folders = (_PACKAGE / "jobs", _PACKAGE.parent / "jobs")
    folder = next((one for one in folders if one.is_dir()), folders[0])
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def job_file(given: str | Path) -> Path:
    """Returns the file that an argument means: a file of that name, otherwise the bundled job of that name.

    Raises:
        InputError: There is neither, and the argument is a bare name.
    """
    path = Path(given)
    if path.exists() or path.name != str(given) or path.suffix:
        return path  # reading it says what is wrong with it
    jobs = bundled_jobs()
    if path.name in jobs:
        return jobs[path.name]
    near = difflib.get_close_matches(path.name, jobs, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"bundled are {', '.join(jobs)}"
    raise InputError(f"no file '{path}' is here, and no bundled job has this name; {hint}")


def templates() -> dict[str, list[Path]]:
    """Returns the files of each commented job by its name: the job itself, and the code that it names."""
    found = sorted((_PACKAGE / "job" / "templates").glob("*.yaml"))
    return {path.stem: [path, *path.parent.glob(f"{path.stem}.py")] for path in found}


def write_template(name: str, folder: Path) -> list[Path]:
    """Writes a commented job and the code that it names into a folder; returns the files, the job first.

    Raises:
        InputError: There is no such job, or a file of that name exists; then nothing is written.
        StorageError: The folder cannot be written.
    """
    known = templates()
    if name not in known:
        raise InputError(f"no commented job is called '{name}'; choose one of {', '.join(known)}")
    targets = [folder / path.name for path in known[name]]
    for target in targets:
        if target.exists() or target.is_symlink():
            raise InputError(f"'{target}' exists, and no file is overwritten; move it, or name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, target in zip(known[name], targets, strict=True):
            with target.open("x", encoding="utf-8") as file:
                file.write(path.read_text("utf-8"))
    except OSError as error:
        raise StorageError(f"cannot write into '{folder}': {error.strerror or error}") from error
    return targets
