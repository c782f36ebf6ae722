"""Tables and pictures of a run. Reads data sets, never classifiers."""

from sfi_ray.report.inversions import pairs_sheet, positions_sheet
from sfi_ray.report.matrices import ConfidenceMatrix, confidence_matrices
from sfi_ray.report.sheets.sheet import contact_sheet
from sfi_ray.report.tables import matrix_table, matrix_to_csv
from sfi_ray.report.write import WrittenReport, write_report, write_reports
from sfi_ray.tables import as_percent

__all__ = [
    "ConfidenceMatrix",
    "WrittenReport",
    "as_percent",
    "confidence_matrices",
    "contact_sheet",
    "matrix_table",
    "matrix_to_csv",
    "pairs_sheet",
    "positions_sheet",
    "write_report",
    "write_reports",
]
