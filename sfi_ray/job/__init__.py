"""Jobs: what to search, how, and where."""

from sfi_ray.job.loader import load_job, parse_job
from sfi_ray.job.schema import (
    ClassifierSpec,
    ClusterSettings,
    Compute,
    Job,
    KRange,
    Verification,
    schema_json,
)

__all__ = [
    "ClassifierSpec",
    "ClusterSettings",
    "Compute",
    "Job",
    "KRange",
    "Verification",
    "load_job",
    "parse_job",
    "schema_json",
]
