"""Tables of one scorecard, or of two side by side."""

from __future__ import annotations

from collections.abc import Sequence

from scipy import stats

from sfi_ray.errors import InputError
from sfi_ray.review.scorecard import ANY, FALSE_ALARMS, Scorecard, Share
from sfi_ray.tables import Column, ResultTable, p_value, percent, percent_difference, percent_in_text
from sfi_ray.text import NOTHING, counted, escape_markdown


def interval(share: Share) -> str:
    """Shows a share in percent with its interval, such as ``12.5 (4.3-31.0)``."""
    if share.share is None or share.low is None or share.high is None:
        return NOTHING
    return f"{percent(share.share)} ({percent(share.low)}-{percent(share.high)})"


def headline(card: Scorecard) -> str:
    """Returns the outcome for the largest k on any background in one sentence."""
    share = card.share(max(card.grid.ks))
    if share.share is None:
        return "No class has a result: cells of all classes failed."
    seeds = [percent_in_text(one) for one in share.by_seed if one is not None]
    spread = f"; by seed {', '.join(seeds)}" if len(seeds) > 1 else ""
    return (
        f"{percent_in_text(share.share)} of the attacked classes are fooled at {percent_in_text(card.grid.threshold)} "
        f"by at most {counted(share.k, 'altered pixel')} on a single colour (95% interval "
        f"{percent_in_text(share.low or 0)} to {percent_in_text(share.high or 0)}{spread})."
    )


def shares_table(card: Scorecard) -> ResultTable:
    """Returns the shares of fooled classes: a row for each background, a column for each k."""
    names = (*card.grid.backgrounds, ANY)
    columns = [Column("background", "background", is_text=True)]
    columns += [Column(f"k{k}", f"k = {k}", interval) for k in card.grid.ks]
    rows = [(name, *(card.share(k, name) for k in card.grid.ks)) for name in names]
    classes = counted(len(card.grid.classes), "class", "classes")
    notes = [
        f"Share of {classes} and {counted(card.grid.seeds, 'seed')} that at most k pixels fool. In parentheses: "
        f"Wilson's 95% interval, which assumes independent cases. {ANY}: on any background."
    ]
    return ResultTable(f"Classes fooled at {card.grid.threshold:.0%} (%)", columns, rows, notes)


def smallest_k_table(card: Scorecard) -> ResultTable:
    """Returns the smallest k that fools each class: on any background, by seed, and on each background."""
    columns = [Column("class", "class", is_text=True), Column("smallest_k", ANY)]
    columns += [Column(f"seed_{seed}", f"seed {seed}") for seed in range(card.grid.seeds)]
    columns += [Column(name, name) for name in card.grid.backgrounds]
    rows = [
        (one.name, one.smallest_k, *one.by_seed, *(one.by_background[name] for name in card.grid.backgrounds))
        for one in card.classes
    ]
    notes = [
        f"k is one of {', '.join(map(str, card.grid.ks))}; {NOTHING} where none fooled. {ANY}: on any background with "
        "any seed. A seed: on any background. A background: with any seed."
    ]
    return ResultTable("Smallest k that fools each class", columns, rows, notes)


def backgrounds_table(card: Scorecard) -> ResultTable:
    """Returns the classifier's answers to the bare backgrounds."""
    columns = [
        Column("background", "background", is_text=True),
        Column("predicted", "predicted", is_text=True),
        Column("confidence", "confidence %", percent),
    ]
    rows = [(one.background, one.predicted_name, one.confidence) for one in card.backgrounds]
    return ResultTable("The bare backgrounds", columns, rows)


def detectors_table(card: Scorecard) -> ResultTable:
    """Returns the share of fooling images that each detector catches."""
    columns = [
        Column("detector", "detector", is_text=True),
        Column("caught", "caught %", interval),
        Column("auroc", "AUROC %", percent),
        Column("backgrounds", "bare backgrounds caught", lambda caught: f"{caught} of {len(card.backgrounds)}"),
    ]
    rows = [(one.detector, one, one.auroc, one.backgrounds_caught) for one in card.detectors]
    if card.detectors_missing:
        notes = [f"None: {card.detectors_missing}."]
    else:
        notes = [
            f"Share of {card.detectors[0].total if card.detectors else 0} fooling images that each detector catches at "
            f"a false alarm for {FALSE_ALARMS:.0%} of {card.model.num_natural} natural images."
        ]
    return ResultTable("Detectors", columns, rows, notes)


def facts(card: Scorecard) -> list[tuple[str, str]]:
    """Lists facts about the audit by name and value."""
    channels, height, width = card.model.input_shape
    grid, model = card.grid, card.model
    settings = ", ".join(
        f"{name} {value}" for name, value in grid.attack.items() if name != "kind" and value is not None
    )
    kind = (
        "standard"
        if grid.is_standard
        else "not standard: its k, backgrounds, budget, classes, seeds, threshold or attack differ"
    )
    natural = (
        f"{model.accuracy:.1%} of {model.num_natural:,} natural images right" if model.accuracy is not None else ""
    )
    failed = f", {card.costs.failed:,} failed" if card.costs.failed else ""
    lines = [
        ("classifier", f"{model.name}, {model.source or 'given in code'}, fingerprint {model.fingerprint}"),
        ("data set", f"{model.dataset}, {model.num_classes:,} classes, {height} x {width} x {channels}"),
        ("accuracy", natural or "unknown: there are no natural images"),
        *(("warning", remark) for remark in model.remarks),
        ("grid", f"version {grid.standard}, {kind}"),
        ("classes attacked", f"{len(grid.classes):,} of {model.num_classes:,}"),
        ("k", ", ".join(map(str, grid.ks))),
        ("seeds", str(grid.seeds)),
        ("attack", f"{grid.attack.get('kind', '')}: {settings}"),
        (
            "cost",
            f"{counted(card.costs.cells, 'cell')}{failed}, {counted(card.costs.evaluations, 'image')} classified, "
            f"{card.costs.backward_passes:,} differentiated, {card.costs.verifications:,} verified",
        ),
    ]
    return [(name, text) for name, text in lines if text]


def scorecard_markdown(card: Scorecard) -> str:
    """Writes a scorecard as GitHub-flavoured Markdown."""
    parts = [f"# Audit of {escape_markdown(card.model.name)}\n", headline(card) + "\n"]
    parts.append("".join(f"- {name}: {escape_markdown(text)}\n" for name, text in facts(card)))
    tables = (shares_table(card), backgrounds_table(card), smallest_k_table(card), detectors_table(card))
    parts += [table.to_markdown() for table in tables]
    return "\n".join(parts)


def compare_scorecards(first: Scorecard, second: Scorecard, names: tuple[str, str]) -> ResultTable:
    """Returns the shares of two audits, A and B, side by side.

    Raises:
        InputError: Their grids or attacks differ; the message names the difference.
    """
    differ = _differences(first, second)
    if differ:
        raise InputError(
            f"'{names[0]}' and '{names[1]}' cannot be compared: {'; '.join(differ)}; audit both with the same options"
        )
    columns = [
        Column("k", "k"),
        Column("background", "background", is_text=True),
        Column("share_a", "A %", interval),
        Column("share_b", "B %", interval),
        Column("difference", "A-B %", percent_difference),
        Column("p", "p", p_value),
    ]
    rows: list[Sequence[object]] = []
    for one in first.shares:
        other = second.share(one.k, one.background)
        difference = None if one.share is None or other.share is None else one.share - other.share
        table = [[one.count, one.total - one.count], [other.count, other.total - other.count]]
        p = None if difference is None else float(stats.fisher_exact(table).pvalue)
        rows.append((one.k, one.background, one, other, difference, p))
    notes = ["p: two-sided p-value of Fisher's exact test of the counts, for each row by itself."]
    if [one.name for one in first.classes] != [one.name for one in second.classes]:
        notes.append(
            f"The audits differ in their classes: A has {len(first.classes)} of {first.model.dataset}, B has "
            f"{len(second.classes)} of {second.model.dataset}."
        )
    title = f"Classes fooled at {first.grid.threshold:.0%}: A = {names[0]}, B = {names[1]}"
    return ResultTable(title, columns, rows, notes)


def comparison_csv(compared: ResultTable) -> str:
    """Writes a comparison with every digit, and with the counts and the interval of each share."""
    parts = ("share", "low", "high", "count", "total")
    heading = ["k", "background", *(f"{part}_{side}" for side in "ab" for part in parts), "difference", "p"]
    rows = [
        (k, background, *(getattr(share, part) for share in (one, other) for part in parts), difference, p)
        for k, background, one, other, difference, p in compared.rows
    ]
    return ResultTable("", [Column(name, name) for name in heading], rows).to_csv()


def _differences(first: Scorecard, second: Scorecard) -> list[str]:
    """Returns the differences of two audits that make a comparison meaningless."""
    labels = {
        "standard": "version of the grid",
        "backgrounds": "backgrounds",
        "ks": "k",
        "seeds": "seeds",
        "threshold": "threshold",
        "attack": "attack",
    }
    found = []
    for key, label in labels.items():
        one, other = getattr(first.grid, key), getattr(second.grid, key)
        if one == other:
            continue
        if key == "attack":
            found += [
                f"attack {name} is {one.get(name)} in A and {other.get(name)} in B"
                for name in dict.fromkeys([*one, *other])
                if one.get(name) != other.get(name)
            ]
        else:
            found.append(f"{label}: {_listed(one)} in A and {_listed(other)} in B")
    return found


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
