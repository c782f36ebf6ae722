"""What a release pipeline reads from a scorecard: whether it keeps a limit, as JUnit XML and as a badge."""

from __future__ import annotations

import json
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from sfi_ray.review.scorecard import ANY, FooledShare, Scorecard
from sfi_ray.review.scorecard_tables import interval
from sfi_ray.tables import percent_in_text
from sfi_ray.text import MOST_LINE, counted, printable


@dataclass(frozen=True, slots=True)
class Limit:
    """What a classifier may do at most.

    Attributes:
        share: Share of classes that may be fooled, in [0, 1].
        k: Number of altered pixels that it holds for, and for fewer.
    """

    share: float
    k: int

    def excess(self, found: FooledShare) -> str | None:
        """Returns what is wrong with a share of fooled classes; None where the limit holds or is for fewer pixels."""
        if found.k > self.k or (found.share or 0.0) <= self.share:
            return None
        where = "" if found.background == ANY else f" on {found.background}"
        share = f"{found.share or 0.0:.1%} of the classes are fooled with k = {found.k}{where}"
        return f"{share}; the limit is {self.share:.1%}"


def failed_cells(card: Scorecard) -> str | None:
    """Returns how many cells failed; None where none did. A scorecard with failed cells passes no gate."""
    costs = card.costs
    return f"{costs.failed:,} of {counted(costs.cells, 'cell')} failed" if costs.failed else None


def junit_xml(card: Scorecard, limit: Limit | None) -> bytes:
    """Writes a scorecard as JUnit XML: a test case for each k and background, and one for failed cells.

    A test case fails where the limit does not hold. Those of a larger k than the limit's are skipped. Without a limit,
    all pass and say only what was found.
    """
    name = printable(card.model.name, MOST_LINE)
    cases = [_cells_case(card), *(_share_case(card, share, limit) for share in card.shares)]
    count = {kind: sum(case.find(kind) is not None for case in cases) for kind in ("failure", "error", "skipped")}
    totals = {"tests": len(cases), "failures": count["failure"], "errors": count["error"]}
    attributes = {key: str(number) for key, number in (totals | {"skipped": count["skipped"]}).items()}
    suites = ET.Element("testsuites", name="sfi-ray audit")
    suite = ET.SubElement(suites, "testsuite", {"name": f"sfi-ray audit {name}", **attributes})
    properties = ET.SubElement(suite, "properties")
    for key, value in (
        ("fingerprint", card.model.fingerprint),
        ("dataset", card.model.dataset),
        ("threshold", card.grid.threshold),
        ("seeds", card.grid.seeds),
        ("evaluations", card.costs.evaluations),
    ):
        ET.SubElement(properties, "property", name=key, value=printable(value, MOST_LINE))
    for case in cases:
        case.set("classname", f"sfi-ray audit {name}")
    suite.extend(cases)
    ET.indent(suites)
    text: str = ET.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'.encode()


def badge_json(card: Scorecard, limit: Limit) -> str:
    """Writes the share of classes that a limit is about as the endpoint of a badge of shields.io."""
    share = card.share(limit.k)
    found = failed_cells(card) or f"{percent_in_text(share.share or 0.0)} of classes fooled, k = {limit.k}"
    is_kept = not card.costs.failed and limit.excess(share) is None
    badge = {"schemaVersion": 1, "label": "sparse fooling images", "message": found}
    return json.dumps(badge | {"color": "brightgreen" if is_kept else "red"}, indent=2) + "\n"


def _cells_case(card: Scorecard) -> ET.Element:
    case = ET.Element("testcase", name="every cell has a result")
    if failed := failed_cells(card):
        ET.SubElement(case, "error", message=f"{failed}; try them again with --retry-failed")
    return case


def _share_case(card: Scorecard, share: FooledShare, limit: Limit | None) -> ET.Element:
    background = printable(share.background)
    where = "any background" if share.background == ANY else background
    case = ET.Element("testcase", name=f"k = {share.k} on {where}")
    if limit is not None and share.k > limit.k:
        ET.SubElement(case, "skipped", message=f"the limit is for k up to {limit.k}")
    elif limit is not None and (excess := limit.excess(share)):
        ET.SubElement(case, "failure", message=printable(excess)).text = _fooled_classes(card, share)
    ET.SubElement(case, "system-out").text = f"classes fooled at {card.grid.threshold:.0%} (%): {interval(share)}"
    return case


def _fooled_classes(card: Scorecard, share: FooledShare) -> str:
    """Lists the classes that are fooled, a line each."""
    smallest = [
        (one, one.smallest_k if share.background == ANY else one.by_background[share.background])
        for one in card.classes
    ]
    return "\n".join(
        f"class {one.index} ({printable(one.name, MOST_LINE)}): k = {k}"
        for one, k in smallest
        if k is not None and k <= share.k
    )
