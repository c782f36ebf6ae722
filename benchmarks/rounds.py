"""How much of the rounds of defence is chance: rounds on the digits from several first models.

    uv run --extra detectors benchmarks/rounds.py [--jobs ood_digits_variants,ood_digits_colours] [--seeds 3]

For each seed, `classifier.training.seed` of a job is replaced, and the job is launched in this process. Values are
means over the seeds with their standard deviation, in percent. A re-attack is the share of all cells that fool the
model; in a trial that evades a detector, the share that fools both. Where detectors score the SFIs, a second table has
the share of all cells that fool the model and pass the detector, where 95 % of the natural images pass.

Runs stay in the output folder; a second call goes on where the first was stopped.
"""

import argparse
import csv
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import yaml
from pooling import spread
from report import write_report

ROOT = Path(__file__).parents[1]
JOBS = "ood_digits_variants,ood_digits_colours,ood_digits_adaptive"


def launched(name, seed, folder):
    """Runs a job with a seed, and returns the folder of its report."""
    job = yaml.safe_load((ROOT / f"jobs/{name}.yaml").read_text())
    job["classifier"]["training"]["seed"] = seed
    folder = folder / f"{name}_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(job, sort_keys=False))
    command = [sys.executable, "-m", "sfi_ray", "launch", "job.yaml", "--in-process"]
    subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)
    return folder / "runs" / name / "report"


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def measured(report):
    """Returns two dictionaries of shares by column: of trials, and of trials and the detector that is passed."""
    shares, passing = defaultdict(dict), defaultdict(dict)
    cells = defaultdict(lambda: [0, 0])
    for row in rows_of(report / "reattack.csv"):
        counted = cells[row["trial"], row["model"], row["backgrounds"]]
        counted[0] += int(row["fooling"])
        counted[1] += int(row["searched"])
    first = {}
    for (trial, model, backgrounds), (fooling, searched) in cells.items():
        # The first attack of a trial's model is on the job's backgrounds, later ones on `final_backgrounds`.
        is_first = first.setdefault((trial, model), backgrounds) == backgrounds
        shares[trial,][model if is_first else f"{model} {backgrounds}"] = fooling / searched
    for row in rows_of(report / "rounds.csv"):
        shares[row["trial"],][f"natural {row['model']}"] = float(row["natural"])
    if (report / "detectors.csv").exists():
        for row in rows_of(report / "detectors.csv"):
            if row["outliers"] == "sfi":
                share = float(row["missed_at_5_fpr"]) * shares[row["trial"],][row["model"]]
                passing[row["trial"], row["detector"]][row["model"]] = share
    return shares, passing


def summary(seeds):
    """Returns a row for each key that any seed has, with the spread of every column over the seeds."""
    keys = list(dict.fromkeys(key for found in seeds for key in found))
    columns = list(dict.fromkeys(column for found in seeds for key in keys for column in found.get(key, {})))
    columns.sort(key=lambda column: column.startswith("natural"))
    for key in keys:
        by_column = {
            column: [found[key][column] for found in seeds if column in found.get(key, {})] for column in columns
        }
        yield dict(zip(("trial", "detector"), key, strict=False)) | {
            column: spread(values) if values else "-" for column, values in by_column.items()
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", default=JOBS, help="names of jobs of rounds in jobs/, separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/rounds"), help="a folder")
    options = parser.parse_args()
    sections = []
    for name in options.jobs.split(","):
        shares, passing = zip(
            *(measured(launched(name, seed, options.output)) for seed in range(options.seeds)), strict=True
        )
        sections.append((name, "Re-attacks, and accuracy on natural images.", list(summary(shares))))
        if any(passing):
            sections.append((f"{name}: past a detector", "", list(summary(passing))))
    command = f"uv run --extra detectors benchmarks/rounds.py --jobs {options.jobs} --seeds {options.seeds}"
    description = f"Means over {options.seeds} first models with their standard deviation, in percent."
    rows = [{"job": name, "seeds": options.seeds} for name in options.jobs.split(",")]
    write_report("rounds", description, rows, command=command, sections=sections)


if __name__ == "__main__":
    main()
