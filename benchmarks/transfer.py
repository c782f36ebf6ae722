"""What the images of another classifier are worth to begin with.

    uv run benchmarks/transfer.py [--dataset digits --source cnn_mp --target cnn_none]

The source's cells are searched once by the shared search; then the target's, on the same backgrounds, with other seeds,
from nothing and from what was found for the source. What the source's search cost is not counted: it is there already
where somebody has searched one classifier and turns to the next.
"""

import argparse
import sys
import tempfile

import pyarrow.compute as pc
from report import write_report

from sfi_ray import Job, launch

BUDGETS = (1, 8, 40, 100, 400)


def searched(output, name, attack, **cells):
    values = {"name": name, "output": output, "attack": {"kind": "map_elites", **attack}, **cells}
    return launch(Job.model_validate(values), in_process=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="digits", help="Data set (default: %(default)s).")
    parser.add_argument("--source", default="cnn_mp", help="Network to begin with (default: %(default)s).")
    parser.add_argument("--target", default="cnn_none", help="Network to attack (default: %(default)s).")
    parser.add_argument("--k", type=int, default=5, help="Pixels that may be altered (default: %(default)s).")
    parser.add_argument("--replicates", type=int, default=3, help="Seeds (default: %(default)s).")
    parser.add_argument("--evaluations", type=int, default=2000, help="Of the source, a class (default: %(default)s).")
    arguments = parser.parse_args()
    cells = {
        "dataset": arguments.dataset,
        "backgrounds": ["black", "gray", "white"],
        "k": arguments.k,
        "replicates": arguments.replicates,
    }
    rows = []
    with tempfile.TemporaryDirectory() as output:
        source = searched(
            output, "source", {"max_evaluations": arguments.evaluations}, classifiers=arguments.source, **cells
        )
        for budget in BUDGETS:
            row = {"evaluations a class": budget}
            for title, attack in (
                ("from nothing", {}),
                (f"from {arguments.source}", {"transfer_from": source.folder.location}),
            ):
                run = searched(
                    output,
                    f"{title.replace(' ', '_')}_{budget}",
                    {"max_evaluations": budget, **attack},
                    classifiers=arguments.target,
                    seed=1,
                    **cells,
                )
                row[title] = f"{pc.mean(run.table(['confidence'])['confidence']).as_py():.3f}"
            rows.append(row)
    write_report(
        f"transfer_{arguments.dataset}",
        f"Mean confidence of {arguments.k}-SFIs over the classes of {arguments.dataset} on black, gray and white, "
        f"through {arguments.target}, {arguments.replicates} seeds, from nothing and from what was found for "
        f"{arguments.source} with {arguments.evaluations:,} evaluations a class, which are not counted.",
        rows,
        command=" ".join(["uv run benchmarks/transfer.py", *sys.argv[1:]]),
    )


if __name__ == "__main__":
    main()
