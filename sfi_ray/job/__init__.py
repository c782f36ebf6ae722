"""Jobs: what to search, how, and where."""

from sfi_ray.job.loader import load_any, load_job, parse_any, parse_job
from sfi_ray.job.rounds import ONLY_TRIAL, RoundsJob, RoundsSettings
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
    "ONLY_TRIAL",
    "ClassifierSpec",
    "ClusterSettings",
    "Compute",
    "Job",
    "KRange",
    "RoundsJob",
    "RoundsSettings",
    "Verification",
    "load_any",
    "load_job",
    "parse_any",
    "parse_job",
    "schema_json",
]
