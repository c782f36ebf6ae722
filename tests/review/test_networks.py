"""A record never imports code unless the caller says so, or hands the classifier in."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sfi_ray import Run, launch
from sfi_ray.cli import app
from sfi_ray.cluster.transfer import transfer
from sfi_ray.errors import InputError
from sfi_ray.report.sheets.feature_map import feature_map
from sfi_ray.review.features import compare_features
from sfi_ray.review.layer_features import FeatureSettings
from sfi_ray.review.networks import RunClassifiers
from sfi_ray.review.verify import verify_run
from tests.review.conftest import make_job

CODE = """
from pathlib import Path
import torch

with Path("RAN").open("a") as log:
    log.write("imported ")

def build(input_shape, num_classes):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))
"""

SETTINGS = FeatureSettings(layers=("second_to_last",), num_natural=3, num_sfis=3, num_neighbours=2)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A run of a network that code in the current folder builds, and how often that code was imported since."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Path("stranger.py").write_text(CODE)
    run = launch(make_job(tmp_path, classifiers=[{"name": "own", "factory": "stranger:build"}]), in_process=True)
    forget()
    yield run
    forget()


def forget():
    sys.modules.pop("stranger", None)
    Path("RAN").unlink(missing_ok=True)


def has_run():
    return Path("RAN").exists()


def test_the_refusal_names_the_classifier_its_factory_and_the_mend(made):
    with pytest.raises(InputError) as caught:
        RunClassifiers(made)["own"]
    message = str(caught.value)
    for part in ("classifier 'own'", "factory: stranger:build", "--allow-code", "classifiers={'own': ...}"):
        assert part in message
    assert not has_run()


@pytest.mark.parametrize("command", ["verify", "transfer", "features"])
def test_a_command_calls_it_with_the_option_alone(made, command):
    options = {
        "verify": [],
        "transfer": ["-o", "out", "--in-process"],
        "features": ["-o", "out", "--natural", "3", "--sfis", "3", "--neighbours", "2"],
    }[command]
    arguments = [command, made.folder.location, "--device", "cpu", *options]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == (4 if command == "verify" else 2), refused.output
    said = " ".join((refused.stdout + refused.stderr).split())
    assert "stranger:build" in said
    assert "--allow-code" in said
    assert not has_run()
    assert not Path("out").exists()
    allowed = CliRunner().invoke(app, [*arguments, "--allow-code"])
    assert allowed.exit_code == 0, allowed.output
    assert has_run()


def test_functions_call_it_with_the_keyword_alone(made):
    assert not verify_run(made, device="cpu").holds
    with pytest.raises(InputError, match="is built by code"):
        transfer(made, [], Path("out"), in_process=True)
    with pytest.raises(InputError, match="is built by code"):
        compare_features(made, SETTINGS, Path("out"), feature_map, device="cpu")
    assert not has_run()
    assert verify_run(made, device="cpu", allow_code=True).holds
    assert has_run()


def test_a_classifier_that_is_handed_in_stands_for_the_code(made):
    own = RunClassifiers(made, allow_code=True)["own"]
    forget()
    given = {"own": own}
    assert verify_run(made, classifiers=given, device="cpu").holds
    transfer(made, ["own"], Path("transferred"), in_process=True, classifiers=given)
    compare_features(made, SETTINGS, Path("featured"), feature_map, device="cpu", classifiers=given)
    assert not has_run()


@pytest.mark.parametrize("command", ["status", "report", "export", "compare", "compact"])
def test_no_other_command_calls_it(made, command):
    options = {"export": ["-o", "out"], "compare": [made.folder.location]}.get(command, [])
    done = CliRunner().invoke(app, [command, made.folder.location, *options])
    assert done.exit_code == 0, done.output
    assert not has_run()


def test_a_launch_that_goes_on_takes_the_code_of_its_own_job_and_none_of_the_record(made, tmp_path):
    made.folder.delete("results")
    record = Path(made.folder.location, "job.yaml")
    record.write_text(record.read_text().replace("stranger:build", "other_stranger:build"))
    Path("other_stranger.py").write_text(CODE)
    job = make_job(tmp_path, classifiers=[{"name": "own", "factory": "stranger:build"}])
    with pytest.raises(InputError, match=r"factory: .*other_stranger:build.* -> .*stranger:build"):
        launch(job, in_process=True)
    assert "other_stranger" not in sys.modules
    record.write_text(record.read_text().replace("other_stranger:build", "stranger:build"))
    assert launch(job, in_process=True).status().is_complete
    assert has_run()


def test_a_copy_of_a_run_is_read_where_its_code_is_not(made, tmp_path):
    moved = Run(shutil.move(made.folder.location, tmp_path / "moved"))
    Path("stranger.py").unlink()
    assert json.loads(moved.folder.read("progress.json"))["state"] == "finished"
    found = verify_run(moved, device="cpu")
    assert [fault.place for fault in found.faults] == ["classifier 'own'"]
    assert found.num_rows == 12
