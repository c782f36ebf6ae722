from pathlib import Path

import pytest
from typer.testing import CliRunner

from sfi_ray.cli.app import app
from sfi_ray.job import RoundsJob, load_any
from sfi_ray.rounds.plan import plan_trial

ROOT = Path(__file__).parents[2]


def make_job(rounds, **classifier):
    return RoundsJob.model_validate(
        {
            "name": "planned",
            "dataset": "digits",
            "classifier": {"name": "mlp", **classifier},
            "rounds": {"number": 4, "per_class": 3, "train": 20, "held_out": 10, **rounds},
            "k": 5,
            "attack": {"kind": "map_elites", "max_evaluations": 40},
        }
    )


@pytest.mark.parametrize(("earlier", "sizes"), [("keep", [100, 120, 140, 160]), ("drop", [100, 120, 120, 120])])
def test_a_plan_is_what_can_be_counted_by_hand(earlier, sizes):
    rounds = {"earlier": earlier, "final_backgrounds": ["white", "gray"]}
    made = plan_trial(make_job(rounds, training={"epochs": 3}), num_classes=10, num_natural=100)
    assert (made.num_rounds, made.num_finals, made.cells_per_attack) == (4, 2, 30)
    assert (made.num_train, made.num_held_out) == (20, 10)
    assert made.max_evaluations == (4 + 2) * 30 * 40
    assert made.epochs == (3, 3, 3, 3)
    assert made.max_trained == 3 * sum(sizes)


def test_a_model_with_weights_is_not_trained():
    job = make_job({}, weights="some.safetensors", mean=[0.3], std=[0.4], training={"epochs": 2})
    made = plan_trial(job, num_classes=10, num_natural=100)
    assert made.epochs == (0, 2, 2, 2)
    assert made.max_trained == 2 * (120 + 140 + 160)


def test_the_command_plans_rounds_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["plan", str(ROOT / "jobs/ood_digits_variants.yaml")])
    assert done.exit_code == 0, done.output
    assert [line.split()[1] for line in done.output.splitlines() if line.startswith("trial:")] == list(
        load_any(ROOT / "jobs/ood_digits_variants.yaml").trials
    )
    assert "840,000 at most" in done.output  # (5 + 2) attacks of 300 cells, 400 evaluations each
    assert "on black, gray, white" in done.output
    assert not list(tmp_path.iterdir())


def test_a_wrong_job_is_said(tmp_path):
    text = (ROOT / "jobs/ood_digits.yaml").read_text().replace("train: 250", "train: 400")
    (tmp_path / "job.yaml").write_text(text)
    done = CliRunner().invoke(app, ["plan", str(tmp_path / "job.yaml")])
    assert done.exit_code == 2
    assert "lower train or held_out, or raise per_class" in " ".join(done.output.split())
