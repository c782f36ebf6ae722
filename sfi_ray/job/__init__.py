"""Jobs: what to search, how, and where."""

from sfi_ray.job.loader import load_job, parse_job, plain_values
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
    "plain_values",
    "schema_json",
]
