"""Jobs: what to search, how, and where."""

from sfi_ray.job.loader import load_any, load_job, parse_any, parse_job, placed
from sfi_ray.job.plain_yaml import plain_values
from sfi_ray.job.rounds import ONLY_TRIAL, RoundsJob, RoundsSettings, rounds_schema_json
from sfi_ray.job.schema import (
    ActorRange,
    ClassifierSpec,
    ClusterSettings,
    Compute,
    Job,
    KRange,
    TrackerName,
    Verification,
    schema_json,
)
from sfi_ray.job.tune import Asha, Domain, OptunaSearch, TuneSettings

__all__ = [
    "ONLY_TRIAL",
    "ActorRange",
    "Asha",
    "ClassifierSpec",
    "ClusterSettings",
    "Compute",
    "Domain",
    "Job",
    "KRange",
    "OptunaSearch",
    "RoundsJob",
    "RoundsSettings",
    "TrackerName",
    "TuneSettings",
    "Verification",
    "load_any",
    "load_job",
    "parse_any",
    "parse_job",
    "placed",
    "plain_values",
    "rounds_schema_json",
    "schema_json",
]
