"""Writes all tables and figures of a run."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sfi_ray.report.inversions import pairs_sheet, positions_sheet
from sfi_ray.report.matrices import ConfidenceMatrix, confidence_matrices
from sfi_ray.report.scan import Source, fetch_images
from sfi_ray.report.sheets.sheet import MAX_COLUMNS, contact_sheet, sheet_cell_ids
from sfi_ray.report.tables import matrix_to_csv, matrix_to_latex, matrix_to_markdown
from sfi_ray.text import safe_name


def write_reports(
    source: Source, *, write: Callable[[str, bytes], None], natural: NDArray[np.uint8] | None = None
) -> list[str]:
    """Writes the tables of every matrix and a contact sheet of each that has a finished cell.

    Pixels are read only of the cells that a sheet shows; all are where natural images were imitated, to show those
    beside the SFIs and where these are altered.

    Args:
        source: Findings.
        write: Stores bytes under a relative name, ``tables/<classifier>_k<k>.csv`` and the like. A name never
            leads out of its folder; where two would be the same, data set and attack are put in.
        natural: The natural images that the findings imitate, ``(N, height, width, channels)``; None for none.

    Returns:
        The names that were written.
    """
    matrices = confidence_matrices(source)
    wanted = [cell_id for matrix in matrices for cell_id in sheet_cell_ids(matrix)]
    images = fetch_images(source, wanted) if wanted else None
    names = []
    for matrix, stem in zip(matrices, matrix_stems(matrices), strict=True):
        files = {
            f"tables/{stem}.csv": matrix_to_csv(matrix).encode(),
            f"tables/{stem}.md": matrix_to_markdown(matrix).encode(),
            f"tables/{stem}.tex": matrix_to_latex(matrix).encode(),
        }
        if images is not None and matrix.num_finished.any():
            sheets = {"": contact_sheet(images, matrix)}
            if natural is not None:
                sheets["_pairs"] = pairs_sheet(source, matrix, natural)
                if len(matrix.target_classes) <= MAX_COLUMNS:
                    sheets["_positions"] = positions_sheet(source, matrix)
            for what, sheet in sheets.items():
                files |= {f"figures/{stem}{what}{suffix}": content for suffix, content in sheet.items()}
        for name, content in files.items():
            write(name, content)
            names.append(name)
    return names


def matrix_stems(matrices: Sequence[ConfidenceMatrix]) -> list[str]:
    """Names each matrix as briefly as tells it apart, also where file names ignore case."""
    stems = [safe_name(f"{matrix.classifier}_k{matrix.k_label}") for matrix in matrices]
    fuller = [
        safe_name(f"{matrix.dataset}_{matrix.classifier}_{matrix.attack}_k{matrix.k_label}") for matrix in matrices
    ]
    stems = _where_shared(stems, fuller)
    return _where_shared(stems, [f"{stem}-{_digest(matrix)}" for stem, matrix in zip(fuller, matrices, strict=True)])


def _where_shared(stems: list[str], instead: list[str]) -> list[str]:
    """Replaces the stems that several share."""
    counts = Counter(stem.casefold() for stem in stems)
    return [other if counts[stem.casefold()] > 1 else stem for stem, other in zip(stems, instead, strict=True)]


def _digest(matrix: ConfidenceMatrix) -> str:
    key = repr((matrix.dataset, matrix.classifier, matrix.attack, matrix.k_label))
    return hashlib.sha256(key.encode()).hexdigest()[:8]
