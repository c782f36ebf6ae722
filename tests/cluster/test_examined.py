"""What is seen of a network before it is attacked is kept, shown, and compared when a run is resumed or checked."""

import sys
import textwrap

import pytest
from typer.testing import CliRunner

import sfi_ray
from sfi_ray.cli import app
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.errors import InputError
from sfi_ray.report import write_report
from sfi_ray.review.verify import verify_run

NETWORKS = """
import torch
from torch import nn

class Cooled(nn.Module):
    def __init__(self, temperature):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.temperature = temperature  # in no state dict and not printed

    def forward(self, images):
        return self.layers(images) * self.temperature

def sharp():
    return Cooled(20.0)

def flat():
    return Cooled(1.0)

def changing():
    return Cooled(TEMPERATURE)

def probabilities():
    return nn.Sequential(sharp(), nn.Softmax(1))

class Single(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = sharp()

    def forward(self, images):
        assert len(images) == 1
        return self.network(images)

def single():
    return Single()

TEMPERATURE = 20.0
"""


class Heard(Reporter):
    def __init__(self):
        self.lines = []

    def log(self, text):
        self.lines.append(text)


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "brought.py").write_text(textwrap.dedent(NETWORKS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("brought", None)


def job(*classifiers, name="examined", **changes):
    return sfi_ray.Job(
        name=name,
        dataset="digits",
        classifiers=[{"name": each, "factory": f"brought:{each}"} for each in classifiers if isinstance(each, str)]
        or list(classifiers),
        target_classes=[0, 1],
        k=2,
        attack={"kind": "de", "population_size": 8, "generations": 2},
        **changes,
    )


def launch(made, **options):
    return sfi_ray.launch(made, in_process=True, **options)


def test_networks_that_differ_in_forward_alone_have_cells_of_their_own(place):
    run = launch(job("sharp", "flat"))
    sharp, flat = run.record.classifiers
    assert sharp.fingerprint != flat.fingerprint
    assert len(set(run.table(["cell_id"])["cell_id"].to_pylist())) == run.record.num_cells == 4


def test_a_run_of_one_network_is_not_resumed_or_verified_with_another(place):
    run = launch(job("changing"))
    import brought

    brought.TEMPERATURE = 1.0
    with pytest.raises(InputError, match="has changed since 'runs/examined' was first launched"):
        launch(job("changing"), retry_failed=True)
    brought.TEMPERATURE = 20.0
    assert launch(job("changing"), retry_failed=True).status().is_complete
    assert run.record.classifiers[0].answers


def test_a_network_given_in_code_is_verified_by_what_it_answers(place):
    import brought

    sharp, flat = (
        sfi_ray.Classifier(build(), name="given", input_shape=(1, 8, 8), num_classes=10)
        for build in (brought.sharp, brought.flat)
    )
    run = launch(job({"name": "given"}), classifiers={"given": sharp})
    assert verify_run(run, classifiers={"given": sharp}).holds
    found = verify_run(run, classifiers={"given": flat})
    assert not found.holds
    assert "is not the one" in found.faults[0].text


def test_accuracy_and_warnings_are_said_kept_and_shown(place):
    heard = Heard()
    run = launch(job("sharp"), reporter=heard)
    (record,) = run.record.classifiers
    assert 64 <= record.num_natural <= 360
    assert 0 <= record.test_accuracy < 0.3
    assert any("no better than guessing" in remark for remark in record.remarks)
    assert any(line.startswith("warning: sharp: only ") for line in heard.lines)
    assert any("natural images right" in line for line in heard.lines)
    write_report([run.folder.location])
    page = (place / "runs/examined/report/index.html").read_text()
    assert "no better than guessing" in page


def test_outputs_of_a_job_are_what_is_searched(place):
    spec = {"name": "p", "factory": "brought:probabilities"}
    with pytest.raises(InputError, match="set outputs to probabilities"):
        launch(job(spec))
    assert not (place / "runs").exists(), "nothing was written"
    run = launch(job({**spec, "outputs": "probabilities"}))
    assert run.record.classifiers[0].outputs == "probabilities"
    assert verify_run(run, allow_code=True).holds
    assert launch(job({**spec, "outputs": "probabilities"}), retry_failed=True).status().is_complete


def test_a_network_of_single_images_is_searched_one_by_one(place):
    run = launch(job("single"))
    assert run.record.classifiers[0].runtime.micro_batch == 1
    assert run.status().failed == 0
    with pytest.raises(InputError, match=r"takes batches of 1 image only.*leave compute.micro_batch out"):
        launch(job("single", name="other", compute={"micro_batch": 8}))


@pytest.mark.parametrize("command", [["launch", "--in-process"], ["plan"]])
def test_launch_and_plan_refuse_alike_and_write_nothing(place, command):
    (place / "job.yaml").write_text(
        "name: refused\ndataset: digits\nclassifiers: [{name: p, factory: 'brought:probabilities'}]\nk: 1\n"
    )
    result = CliRunner().invoke(app, [command[0], "job.yaml", *command[1:]])
    assert result.exit_code == 2
    assert "set outputs to probabilities" in result.output
    assert not (place / "runs").exists()


def test_an_audit_refuses_a_network_that_guesses(place):
    few = ["--data", "digits", "--in-process", "--budget", "10", "--seeds", "1", "--classes", "2"]
    refused = CliRunner().invoke(app, ["audit", "brought:sharp", *few])
    assert refused.exit_code == 2
    assert "no better than guessing" in refused.output
    assert not (place / "audits").exists()
    allowed = CliRunner().invoke(app, ["audit", "brought:sharp", "--allow-chance", *few])
    assert allowed.exit_code == 0, allowed.output
    text = (place / "audits/brought-sharp/scorecard.md").read_text()
    assert "no better than guessing" in text
