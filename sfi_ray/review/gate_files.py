"""The gate of a release pipeline: the limit on an audit, and the files that the pipeline reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sfi_ray.errors import InputError
from sfi_ray.job import Job
from sfi_ray.location import within
from sfi_ray.review.gate import Limit, badge_json, junit_xml
from sfi_ray.review.sarif import sarif_json, uri_of
from sfi_ray.review.scorecard import AUDIT_JOB, Scorecard
from sfi_ray.store.folder import RunFolder


@dataclass(frozen=True, slots=True)
class Gate:
    """What a release pipeline asks of an audit; None for what it does not ask.

    Attributes:
        limit: What the classifier may do at most.
        junit: File for JUnit XML.
        sarif: File for SARIF.
        badge: File for the endpoint of a badge. It needs a limit.
    """

    limit: Limit | None
    junit: Path | None
    sarif: Path | None
    badge: Path | None

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [path for path in (self.junit, self.sarif, self.badge) if path is not None]

    def check(self) -> None:
        """Checks, before hours of search, that the files can be written.

        Raises:
            InputError: One is a folder, or has no name that a file can have.
            StorageError: A folder cannot be written.
        """
        for path in self.paths:
            if path.is_dir():
                raise InputError(f"'{path}' is a folder; name a file")
            folder = RunFolder(path.parent)
            folder.path(path.name)
            folder.check_writable()

    def delete(self) -> None:
        """Deletes files of an earlier audit, which would pass for those of an interrupted one."""
        for path in self.paths:
            RunFolder(path.parent).delete(path.name)

    def excess(self, card: Scorecard) -> str | None:
        """Returns by how much a scorecard exceeds the limit; None where it does not."""
        return None if self.limit is None else self.limit.excess(card.share(self.limit.k))

    def write(self, job: Job, card: Scorecard) -> dict[str, Path]:
        """Writes the files and returns their paths by kind.

        Raises:
            StorageError: A file cannot be written.
        """
        written: dict[str, tuple[Path, bytes]] = {}
        if self.junit is not None:
            written["junit"] = self.junit, junit_xml(card, self.limit)
        if self.sarif is not None:
            uri = uri_of(job.classifiers[0], within(job.location, AUDIT_JOB))
            written["sarif"] = self.sarif, sarif_json(card, self.limit, uri).encode()
        if self.badge is not None and self.limit is not None:
            written["badge"] = self.badge, badge_json(card, self.limit).encode()
        for path, content in written.values():
            RunFolder(path.parent).write(path.name, content)
        return {kind: path for kind, (path, _) in written.items()}
