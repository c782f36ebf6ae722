"""Audits in this process, of small networks with small budgets."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sfi_ray import launch
from sfi_ray.cli import app
from sfi_ray.cluster.audit import open_scorecard
from sfi_ray.data import DatasetInfo, DatasetSpec, dataset_info
from sfi_ray.errors import InputError
from sfi_ray.job import ClassifierSpec, load_job
from sfi_ray.review.audit_job import StandardGrid, audit_job, is_standard, job_yaml, sampled_classes
from sfi_ray.search.map_elites.settings import ChangeWeights, OperatorWeights
from sfi_ray.store.run import Run

DIGITS = DatasetSpec(name="digits")
MODEL = "{name: net, architecture: mlp, training: {epochs: 2}}"
SMALL = ["--data", "digits", "--budget", "16", "--classes", "3", "--seeds", "2", "--in-process"]


def audit(*arguments):
    return CliRunner().invoke(app, ["audit", *arguments])


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        # The cache of the tests below: another one may hold the same network, trained in another number of threads.
        patch.setenv("SFI_RAY_CACHE", str(tmp_path_factory.getbasetemp() / "cluster_cache"))
        output = tmp_path_factory.mktemp("audit")
        done = audit(MODEL, *SMALL, "-o", str(output))
        assert done.exit_code == 0, done.output
        return output / "net", done.stdout


@pytest.fixture
def folder(audited, tmp_path):
    return Path(shutil.copytree(audited[0], tmp_path / "net"))


def test_the_scorecard_is_what_its_rows_say(audited):
    folder, printed = audited
    run, card = Run(folder), open_scorecard(str(folder))
    rows = run.table().to_pylist()
    assert len(rows) == 3 * 3 * 2 * 3 == card.costs.cells
    assert card.grid.classes == (0, 3, 6)
    assert not card.grid.is_standard
    for share in card.shares:
        fooled = {
            (row["target_class"], row["replicate"])
            for row in rows
            if row["fooled"] and row["k"] <= share.k and share.background in ("any", row["background"])
        }
        assert (share.count, share.total) == (len(fooled), 6)
        assert f"{100 * share.share:.1f}" in printed
    assert card.share(25).count > 0
    for one in card.classes:
        ks = [row["k"] for row in rows if row["fooled"] and row["target_class"] == one.index]
        assert one.smallest_k == min(ks, default=None)
    assert [one.background for one in card.backgrounds] == ["black", "gray", "white"]
    for bare in card.backgrounds:
        row = next(r for r in rows if r["background"] == bare.background and r["target_class"] in card.grid.classes)
        assert bare.confidence >= row["background_confidence"]
    assert card.model.accuracy > 0.8
    assert card.costs.evaluations == sum(row["evaluations"] for row in rows)
    assert card.costs.backward_passes > 0
    assert {one.detector for one in card.detectors} >= {"msp", "energy", "knn", "few_colours"}
    assert all(one.total == sum(row["fooled"] for row in rows) for one in card.detectors)
    assert "data:image/png" in (folder / "scorecard.html").read_text()
    assert (folder / "scorecard.md").read_text().startswith("# Audit of net\n")


def test_the_grid_is_a_plain_job_that_gives_the_same_rows(folder, tmp_path):
    job = load_job(folder / "audit.yaml")
    assert job.identity() == Run(folder).job.identity()
    again = launch(job.model_copy(update={"output": str(tmp_path / "again")}), in_process=True)
    columns = ["cell_id", "confidence", "evaluations"]
    assert again.table(columns).equals(Run(folder).table(columns))


def test_an_audit_goes_on_and_ends_in_the_exit_code_of_its_threshold(folder):
    part = min((folder / "results").glob("*.parquet"))
    before = open_scorecard(str(folder))
    part.unlink()
    (folder / "scorecard.json").unlink()
    share = before.share(25).share
    arguments = [MODEL, *SMALL, "-o", str(folder.parent)]
    done = audit(*arguments, "--fail-above", str(share))
    assert done.exit_code == 0, done.output
    assert open_scorecard(str(folder)) == before
    over = audit(*arguments, "--fail-above", str(share - 0.01))
    assert over.exit_code == 4
    assert f"{share:.1%} of the classes are fooled with k = 25" in over.stderr
    assert audit(*arguments, "--fail-above", "0.99", "--at-k", "1").exit_code == 0


def test_junit_sarif_and_badge_agree_with_the_exit_code(folder, tmp_path):
    card = open_scorecard(str(folder))
    junit, badge = tmp_path / "ci" / "audit.xml", tmp_path / "badge.json"
    sarif = tmp_path / "audit.sarif"
    arguments = [MODEL, *SMALL, "-o", str(folder.parent), "--junit", str(junit), "--badge", str(badge)]
    arguments += ["--sarif", str(sarif)]
    for limit, code in ((1.0, 0), (card.share(5).share - 0.01, 4)):
        done = audit(*arguments, "--fail-above", str(limit), "--at-k", "5")
        assert done.exit_code == code, done.output
        suite = ElementTree.parse(junit).find("testsuite")
        failed = {case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None}
        assert ("k = 5 on any background" in failed) == (code == 4)
        assert (len(failed) > 0) == (code == 4)
        (run,) = json.loads(sarif.read_text())["runs"]
        assert ("error" in {one["level"] for one in run["results"]}) == (code == 4)
        assert json.loads(badge.read_text())["color"] == ("red" if code else "brightgreen")


def test_two_audits_are_compared(audited, folder, tmp_path):
    places = [str(audited[0]), str(folder / "scorecard.json")]
    done = audit("--compare", *places, "-o", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert "+0.0" in done.stdout
    assert (tmp_path / "out" / "comparison.csv").read_text().count("\n") == 1 + 3 * 4
    assert "| 25 | any |" in (tmp_path / "out" / "comparison.md").read_text()
    card = json.loads((folder / "scorecard.json").read_text())
    card["grid"]["attack"]["max_evaluations"] = 17
    (folder / "scorecard.json").write_text(json.dumps(card))
    other = audit("--compare", *places)
    assert other.exit_code == 2
    assert "attack max_evaluations is 16 in A and 17 in B" in other.stderr


def test_a_network_of_ones_own_needs_labels_alone(tmp_path, monkeypatch):
    (tmp_path / "audited_networks.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def make(num_classes):\n"
        "    network = nn.Sequential(nn.Flatten(), nn.Linear(108, num_classes))\n"
        "    torch.manual_seed(0); nn.init.normal_(network[1].weight)\n"
        "    return network\n"
    )
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = ["--labels", "labels.txt", "--shape", "3x6x6", "--budget", "9", "--seeds", "1", "--in-process"]
    done = audit("audited_networks:make", *options, "--no-gradients", "--name", "mine")
    assert done.exit_code == 0, done.output
    card = open_scorecard("audits/mine")
    assert card.grid.backgrounds == ("black", "gray", "white", "red", "green", "blue")
    assert card.costs.backward_passes == 0
    assert card.model.accuracy is None
    assert "data set 'labels' has no images" in card.detectors_missing
    assert load_job("audits/mine/audit.yaml").identity() == Run("audits/mine").job.identity()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a model, or two audits to --compare"),
        (["mlp"], "give --data, such as --data cifar10, or --labels and --shape"),
        (["mlp", "--data", "digits", "--labels", "x", "--shape", "1x8x8"], "--data excludes --labels and --shape"),
        (["mlp", "--labels", "x"], "--labels and --shape go together"),
        (["mlp", "--data", "no-such"], "there is no data set 'no-such'"),
        (["mlpp", "--data", "digits"], "mlpp"),
        (["net.safetensors", "--data", "digits"], "holds weights without their network"),
        (["mlp", "--data", "digits", "--classes", "11"], "'digits' has 10 classes, so 11 cannot be attacked"),
        (["mlp", "--data", "digits", "--device", "tpu"], "no such device: 'tpu'"),
        (["mlp", "--data", "digits", "--name", "a/b"], "name"),
        (["mlp", "--data", "digits", "--at-k", "2"], "is one of 1, 5, 25"),
        (["mlp", "--data", "{name: x, shape: [1, 4, 4], class_names: [a, b]}"], "an audit alters up to 25 pixels"),
        (["mlp", "--compare", "a", "b"], "takes no model"),
        (["mlp", "--data", "digits", "--badge", "badge.json"], "needs --fail-above"),
        (["mlp", "--data", "digits", "--junit", "."], "'.' is a folder; name a file"),
        (["--compare", "a", "b", "--junit", "x.xml"], "goes without --junit, --sarif and --badge"),
        (["--compare", "nowhere", "b"], "'nowhere' has no scorecard.json"),
    ],
)
def test_bad_input_ends_with_2_and_writes_nothing(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = audit(*arguments, *(["--in-process"] if "--compare" not in arguments else []))
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_the_standard_grid_is_what_it_is():
    """Scorecards compare by it: what is here is not changed without a new version."""
    info = dataset_info(DIGITS)
    job = audit_job(ClassifierSpec(name="mlp"), DIGITS, info)
    assert is_standard(job, info.num_classes, 1)
    assert (job.k, job.replicates, job.seed, job.backgrounds) == (StandardGrid.ks, 3, 0, ("black", "gray", "white"))
    assert job.k == (1, 5, 25)
    assert job.attack.identity() == {
        "kind": "map_elites",
        "stop_confidence": 0.9,
        "stall_generations": None,
        "max_evaluations": 1000,
        "num_elites": 6,
        "num_candidates": 8,
        "generation_size": 2000,
        "gradient_share": 0.5,
        "restart_after": 1000,
        "begins_with": "nothing",
        "locality": 3.0,
        "repeated_share": 0.75,
        "stride": 16,
        "corner_share": 0.8,
        "crossover_share": 0.1,
        "any_parent_share": 0.1,
        "any_mate_share": 0.5,
        "operators": OperatorWeights().model_dump(),
        "changes_together": ChangeWeights().model_dump(),
        "operator_memory": 1500,
        "operator_floor": 0.2,
    }
    many = DatasetInfo("x", 3, 32, 32, tuple(map(str, range(1000))))
    shape = DatasetSpec(name="x", shape=(3, 32, 32), class_names=many.class_names)
    large = audit_job(ClassifierSpec(name="mlp"), shape, many)
    assert large.target_classes == tuple(range(0, 1000, 10))
    assert len(large.backgrounds) == 6
    assert is_standard(large, 1000, 3)
    for changes in (
        *({"budget": 999}, {"seeds": 2}, {"num_classes": 9}, {"gradients": False}),
        *({"k": (1, 5)}, {"backgrounds": ("black",)}, {"threshold": 0.8}, {"seed": 1}),
    ):
        other = audit_job(ClassifierSpec(name="mlp"), DIGITS, info, **changes)
        assert not is_standard(other, info.num_classes, 1)


@pytest.mark.parametrize(("num_classes", "wanted"), [(10, 3), (1000, 100), (101, 100), (7, 7)])
def test_classes_are_sampled_in_equal_steps(num_classes, wanted):
    chosen = sampled_classes(num_classes, wanted)
    assert len(set(chosen)) == wanted
    assert 0 <= min(chosen) <= max(chosen) < num_classes
    assert np.ptp(np.diff(chosen)) <= 1


def test_the_job_file_gives_the_job_again(tmp_path):
    classifier = ClassifierSpec(name="a", architecture="mlp", training={"epochs": 2})
    job = audit_job(classifier, DIGITS, dataset_info(DIGITS), budget=5, output=str(tmp_path))
    (tmp_path / "audit.yaml").write_text(job_yaml(job))
    assert load_job(tmp_path / "audit.yaml") == job


def test_a_run_that_is_no_audit_is_refused(audited):
    from sfi_ray.review.audit import make_scorecard

    run = Run(audited[0])
    two = run.record.model_copy(update={"classifiers": run.record.classifiers * 2})
    run.record = two
    with pytest.raises(InputError, match="is not the run of an audit"):
        make_scorecard(run, print)
    assert torch.get_num_threads() == 1
