"""Rounds of defence and re-attack in this process: what is recorded, what is refused, and going on after any stop."""

import csv
import io
import json
import signal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from torchvision.io import encode_png
from typer.testing import CliRunner

from sfi_ray.cli import app
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.rounds.launch import checked_trials, launch_rounds
from sfi_ray.cluster.rounds.models import RoundModels
from sfi_ray.data import DatasetSpec, load_dataset, load_split
from sfi_ray.errors import InputError, ResourceError
from sfi_ray.job import RoundsJob
from sfi_ray.models.detectors import make_detectors
from sfi_ray.models.zoo import build
from sfi_ray.rounds.experiment import Experiment
from sfi_ray.rounds.record import StopRecord, write_stop
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.progress import is_stop_requested, request_stop
from sfi_ray.store.run import Run
from sfi_ray.text import escape_markdown
from tests.cluster.conftest import outcome, wait_for


def make_rounds(output, rounds=None, **changes):
    values = {
        "name": "rounds",
        "dataset": "digits",
        "classifier": {"name": "mlp", "training": {"epochs": 2, "threads": 1}},
        "rounds": {"number": 2, "per_class": 3, "train": 20, "held_out": 10, **(rounds or {})},
        "k": {"low": 1, "high": 40},
        "attack": {"kind": "map_elites", "max_evaluations": 40, "stop_confidence": 0.9},
        "verification": {"threshold": 0.6},
        "cluster": {"flush_seconds": 0, "cells_per_shard": 10},
        "output": str(output),
        **changes,
    }
    return RoundsJob.model_validate(values)


def go(job, **options):
    return launch_rounds(job, in_process=True, **options)


def results(experiment):
    """All that decides anything: the rows of every attack, and the records of every round."""
    trials = experiment.trials()
    rows = {
        (trial, folder): outcome(Run(f"{experiment.trial_location(trial)}/{folder}"))
        for trial, found in trials.items()
        for folder in [f"round_{record.round}" for record in found.rounds] + ["final_white"] * len(found.finals)
    }
    return rows, {name: (list(trial.rounds), list(trial.finals)) for name, trial in trials.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Rounds that nobody stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFI_RAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        return go(make_rounds(tmp_path_factory.mktemp("whole")))


def test_a_round_is_what_the_paper_defines(whole):
    first, second = whole.trials()["rounds"].rounds
    assert (first.model, first.trained_with, first.outliers.total, first.combined) == ("M0", {}, 0, None)
    # 30 cells a round: 20 SFIs to train with, 10 held out; every one of those M1 is tested with.
    assert (second.model, second.trained_with, second.outliers.total) == ("M1", {0: 20}, 10)
    assert second.natural.total == first.natural.total == 360
    for record in (first, second):
        run = Run(f"{whole.trial_location('rounds')}/round_{record.round}")
        fooled = run.table(["target_class", "fooled"]).to_pylist()
        by_class = [sum(row["fooled"] for row in fooled if row["target_class"] == target) for target in range(10)]
        assert [outcome.fooling for outcome in record.attack.classes] == by_class
        assert [outcome.searched for outcome in record.attack.classes] == [3] * 10
        assert record.attack.accuracy == sum(by_class) / 30
        assert run.record.classifiers[0].fingerprint == record.fingerprint
    assert [final.attack.backgrounds for final in whole.trials()["rounds"].finals] == [("white",)]


def test_the_retrained_model_has_the_outlier_class_and_the_attack_never_targets_it(whole):
    location = whole.trial_location("rounds")
    assert len(Run(f"{location}/round_0").record.class_names) == 10
    attacked = Run(f"{location}/round_1")
    assert attacked.record.class_names[10:] == ("outlier",)
    assert set(attacked.table(["target_class"])["target_class"].to_pylist()) == set(range(10))
    assert json.loads(whole.folder.read("rounds/models/M1.json"))["num_classes"] == 11
    ks = attacked.table(["k"])["k"].to_pylist()
    assert len(set(ks)) > 5
    assert min(ks) >= 1
    assert max(ks) <= 40


class Stopping(Reporter):
    """Ends the launch when a condition comes true, once."""

    def __init__(self, moment):
        self._moment = moment
        self.has_stopped = False

    def _see(self, what, value):
        if not self.has_stopped and self._moment(what, value):
            self.has_stopped = True
            raise KeyboardInterrupt

    def log(self, text):
        self._see("said", text)

    def trained(self, classifier, epoch, num_epochs, accuracy):
        self._see(f"trained {classifier}", epoch)

    def progressed(self, tally, seconds_left):
        self._see("searched", tally.finished)


class Asking(Stopping):
    """Asks through the folder instead, and goes on once the launch has heard of it."""

    def __init__(self, moment, folder):
        super().__init__(moment)
        self._folder = folder

    def _see(self, what, value):
        if not self.has_stopped and self._moment(what, value):
            self.has_stopped = True
            request_stop(self._folder)
            wait_for(lambda: not is_stop_requested(self._folder))


MOMENTS = {
    "inside the first attack": lambda what, value: what == "searched" and value == 10,
    "between two rounds": lambda what, value: what == "said" and value.startswith("M0: natural"),
    "inside a retraining": lambda what, value: (what, value) == ("trained M1", 1),
}


# One of each moment and one of each way; the others are slow.
QUICK = {"inside a retraining-Ctrl-C", "between two rounds-asked"}
STOPS = [
    pytest.param(moment, is_asked, id=case, marks=[] if case in QUICK else [pytest.mark.slow])
    for name, moment in MOMENTS.items()
    for is_asked in (False, True)
    for case in [f"{name}-{'asked' if is_asked else 'Ctrl-C'}"]
]


@pytest.mark.parametrize(("moment", "is_asked"), STOPS)
def test_rounds_that_were_stopped_go_on_to_the_same_rows(whole, tmp_path, monkeypatch, request, moment, is_asked):
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "cache"))
    if is_asked:  # as a shell starts a process in the background
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    folder = RunFolder(tmp_path / "rounds")
    reporter = Asking(moment, folder) if is_asked else Stopping(moment)
    with pytest.raises(KeyboardInterrupt):
        go(make_rounds(tmp_path), reporter=reporter)
    assert reporter.has_stopped
    assert not is_stop_requested(folder)
    experiment = go(make_rounds(tmp_path))
    assert experiment.is_complete
    assert results(experiment) == results(whole)


def test_finished_rounds_are_not_run_again_and_a_changed_job_is_refused(whole):
    output = whole.folder.location.rpartition("/")[0]
    lines = []

    class Listening(Reporter):
        def log(self, text):
            lines.append(text)

    go(make_rounds(output), reporter=Listening())
    assert lines == []
    with pytest.raises(InputError, match=r"trials\.rounds\.seed: 0 -> 1\n.*--fresh"):
        go(make_rounds(output, seed=1))


@pytest.mark.slow
def test_trials_stand_side_by_side_and_one_can_be_added(tmp_path):
    few = {"number": 1, "per_class": 1, "train": None, "held_out": None, "final_backgrounds": []}
    one = go(make_rounds(tmp_path, few, trials={"a": {}}))
    both = go(make_rounds(tmp_path, few, trials={"a": {}, "b": {"seed": 1}}))
    assert results(both)[1]["a"] == results(one)[1]["a"]
    assert both.is_complete
    first, second = (outcome(Run(f"{both.trial_location(name)}/round_0")) for name in "ab")
    assert first["seed"] != second["seed"]
    assert both.trials()["a"].rounds[0].fingerprint == both.trials()["b"].rounds[0].fingerprint


def test_a_complete_experiment_needs_no_cluster_and_one_that_grew_does(tmp_path):
    few = {"number": 1, "per_class": 1, "train": None, "held_out": None, "final_backgrounds": []}
    trials = {"a": {}}
    complete = go(make_rounds(tmp_path, few, trials=trials))
    again = launch_rounds(make_rounds(tmp_path, few, trials=trials), address="127.0.0.1:1")
    assert results(again) == results(complete)
    with pytest.raises(ResourceError, match="cannot reach the Ray cluster"):
        launch_rounds(make_rounds(tmp_path, few, trials={**trials, "b": {"seed": 1}}), address="127.0.0.1:1")


def test_exposure_adds_no_class_and_rejects_what_no_class_is_sure_of(tmp_path):
    job = make_rounds(
        tmp_path, {"loss": "outlier_exposure", "final_backgrounds": []}, backgrounds=["black", "gray", "white"]
    )
    record = go(job).trials()["rounds"].rounds[1]
    run = Run(tmp_path / "rounds/rounds/round_1")
    assert len(run.record.class_names) == 10
    assert record.attack.backgrounds == ("black", "gray", "white")
    assert [result.searched for result in record.attack.classes] == [3] * 10
    assert record.defence > 0.5


def test_when_only_what_fools_counts_a_shortage_is_said_and_recorded(tmp_path, monkeypatch):
    # A network of another test may have been trained with more threads, which changes the last bits.
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "cache"))
    lines = []

    class Listening(Reporter):
        def log(self, text):
            lines.append(text)

    # With so few pixels some classes are never fooled.
    job = make_rounds(tmp_path, {"sfis": "fooling", "final_backgrounds": []}, k={"low": 1, "high": 8})
    experiment = go(job, reporter=Listening())
    first, second = experiment.trials()["rounds"].rounds
    found = sum(result.found for result in first.attack.classes)
    assert 0 < found < 30
    assert (first.split.train + first.split.held_out, first.split.wanted_train) == (found, 20)
    assert second.trained_with == {0: first.split.train}
    assert first.attack.without_sfi
    assert first.shortage in lines
    assert first.shortage in experiment.folder.read("report/rounds.md").decode()


@pytest.mark.slow
def test_detectors_can_be_asked_for_later(whole):
    pytest.importorskip("pytorch_ood")
    output = whole.folder.location.rpartition("/")[0]
    before = results(whole)
    experiment = go(make_rounds(output, {"detectors": "all"}))
    assert results(experiment) == before
    detections = experiment.trials()["rounds"].detections
    names = {one.detector for one in detections[1]}
    assert names >= {"msp", "odin", "vim", "few_colours", "outlier_class"}
    assert "outlier_class" not in {one.detector for one in detections[0]}
    fooling = sum(result.fooling for result in experiment.trials()["rounds"].rounds[0].attack.classes)
    assert {one.num_outliers for one in detections[0] if one.kind == "sfi"} == {fooling}
    assert {one.num_outliers for one in detections[0] if one.kind == "single_colour"} == {1}
    assert "| few\\_colours |" in experiment.folder.read("report/rounds.md").decode()
    points = list(csv.DictReader(io.StringIO(experiment.folder.read("report/roc.csv").decode())))
    of_knn = [
        (float(point["false_positives"]), float(point["true_positives"]))
        for point in points
        if (point["model"], point["detector"], point["outliers"]) == ("M0", "knn", "sfi")
    ]
    assert of_knn == next(list(one.curve) for one in detections[0] if (one.detector, one.kind) == ("knn", "sfi"))
    assert experiment.folder.read("report/rounds_roc.png").startswith(b"\x89PNG")


EVADING = {
    "number": 2,
    "per_class": 2,
    "train": 10,
    "held_out": 10,
    "final_backgrounds": "white",
}
STRONG = {"k": 40, "attack": {"kind": "map_elites", "max_evaluations": 150, "stop_confidence": 0.9}}


@pytest.mark.parametrize(
    "detector", ["energy", *(pytest.param(name, marks=pytest.mark.slow) for name in ("knn", "outlier_class"))]
)
def test_an_attack_that_evades_a_detector_counts_what_fools_both(tmp_path, monkeypatch, detector):
    pytest.importorskip("pytorch_ood")
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "cache"))
    job = make_rounds(tmp_path, {**EVADING, "evade": detector}, **STRONG)
    experiment = go(job)
    trial = experiment.trials()["rounds"]
    dataset = load_dataset(DatasetSpec(name="digits"))
    kept = RoundModels(job, dataset.info, RunFolder(experiment.trial_location("rounds")), None, "cpu", Reporter())
    for record in trial.rounds:
        model = kept.first() if record.round == 0 else kept.retrained(record.round, lambda: None)
        has_class = record.round > 0
        assert record.attack.evaded == (detector if has_class or detector != "outlier_class" else None)
        run = Run(f"{experiment.trial_location('rounds')}/{record.model.replace('M', 'round_')}")
        guards = record.attack.evaded is not None
        assert len(run.record.class_names) == 10 + (has_class or guards)
        images = torch.from_numpy(run.images()).permute(0, 3, 1, 2).contiguous()
        own = model.reference_log_probs(images.float() / 255).exp()
        rows = run.table(["target_class", "fooled", "confidence", "predicted_class"]).to_pylist()
        passes = np.ones(len(rows), bool)
        if guards:
            score = make_detectors(model, dataset)[detector]
            limit = np.sort(score(dataset.test_images).double().numpy())[341]  # 342 of 360 are 95 %
            passes = score(images).double().numpy() <= limit + 1e-3 * abs(limit)
        for row, probabilities, is_passing in zip(rows, own, passes, strict=True):
            if row["fooled"]:
                assert is_passing
                assert row["confidence"] == pytest.approx(float(probabilities[row["target_class"]]), abs=1e-5)
                assert row["confidence"] >= 0.6
            elif not is_passing:
                assert row["predicted_class"] == 10
        fooled = sum(row["fooled"] for row in rows)
        assert fooled == sum(outcome.fooling for outcome in record.attack.classes)
        assert fooled > 0 or has_class
    assert trial.finals[0].attack.evaded == detector
    assert f"pass the detector {escape_markdown(detector)}, as" in experiment.folder.read("report/rounds.md").decode()
    assert f",{detector}," in experiment.folder.read("report/reattack.csv").decode()


@pytest.mark.slow
def test_an_attack_that_evades_a_detector_goes_on_to_the_same_rows_and_is_another_job(tmp_path, monkeypatch):
    pytest.importorskip("pytorch_ood")
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "cache"))
    whole = go(make_rounds(tmp_path / "whole", {**EVADING, "evade": "vim"}, **STRONG))
    job = make_rounds(tmp_path / "stopped", {**EVADING, "evade": "vim"}, **STRONG)
    reporter = Stopping(MOMENTS["inside the first attack"])
    with pytest.raises(KeyboardInterrupt):
        go(job, reporter=reporter)
    assert reporter.has_stopped
    assert results(go(job)) == results(whole)
    with pytest.raises(InputError, match=r"trials\.rounds\.rounds\.evade"):
        go(make_rounds(tmp_path / "stopped", EVADING, **STRONG))


def test_the_report_of_rounds_is_written_anew_from_their_folder(whole, tmp_path):
    done = CliRunner().invoke(app, ["report", whole.folder.location, "--output", str(tmp_path / "a")])
    assert (done.exit_code, done.stdout.strip()) == (0, str(tmp_path / "a" / "index.html"))
    assert (tmp_path / "a" / "rounds.md").read_bytes() == whole.folder.read("report/rounds.md")
    assert (tmp_path / "a" / "rounds.png").read_bytes().startswith(b"\x89PNG")
    done = CliRunner().invoke(app, ["report", whole.folder.location, whole.folder.location])
    assert (done.exit_code, "report it alone" in done.stderr) == (2, True)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_cluster_that_cannot_be_reached_leaves_the_folder_as_it_is(tmp_path, fresh):
    job = make_rounds(tmp_path)
    kept = tmp_path / "rounds" / "report" / "rounds.md"
    kept.parent.mkdir(parents=True)
    kept.write_text("of an earlier launch")
    with pytest.raises(ResourceError, match=r"cannot reach the Ray cluster at '127\.0\.0\.1:1'"):
        launch_rounds(job, address="127.0.0.1:1", fresh=fresh)
    assert [path for path in (tmp_path / "rounds").rglob("*") if path.is_file()] == [kept]


def test_rounds_that_find_nothing_say_what_to_do(tmp_path):
    job = make_rounds(
        tmp_path,
        {"sfis": "fooling"},
        attack={"kind": "map_elites", "max_evaluations": 1},
        verification={"threshold": 1.0},
    )
    with pytest.raises(
        InputError, match="M1 has no SFIs to train with: the attack found none in round 0; give the attack"
    ):
        go(job)


def weights_with(num_classes, folder):
    file = folder / "weights.safetensors"
    save_file(build("mlp", input_shape=(1, 8, 8), num_classes=num_classes).state_dict(), file)
    return {"name": "mlp", "weights": str(file), "mean": [0.3], "std": [0.4]}


def test_a_model_that_knows_outliers_already_is_refused(tmp_path):
    with pytest.raises(InputError, match="has 11 classes, one more than 'digits', probably an outlier class"):
        go(make_rounds(tmp_path, classifier=weights_with(11, tmp_path)))
    with pytest.raises(InputError, match="the weights do not fit"):
        go(make_rounds(tmp_path, classifier=weights_with(13, tmp_path)))
    assert not (tmp_path / "rounds").exists()


def test_weights_that_fit_are_the_first_model(tmp_path):
    few = {"number": 1, "per_class": 1, "train": None, "held_out": None, "final_backgrounds": []}
    experiment = go(make_rounds(tmp_path, few, classifier=weights_with(10, tmp_path)))
    assert experiment.trials()["rounds"].rounds[0].natural.share < 0.5  # nobody trained it


def write_digits(folder, splits, class_names):
    """A data set in parquet files with the first digits of each split."""
    for split in splits:
        images, labels = (tensor[:60] for tensor in load_split(DatasetSpec(name="digits"), split))
        column = [{"bytes": encode_png(image).numpy().tobytes(), "path": None} for image in images]
        table = pa.table({"image": column, "label": labels.numpy()})
        table = table.replace_schema_metadata({"class_names": json.dumps(class_names)})
        pq.write_table(table, folder / f"{split}.parquet")
    return {"name": "mine", "path": str(folder)}


@pytest.mark.parametrize(("split", "what"), [("train", "training"), ("test", "test")])
def test_a_data_set_without_one_of_the_splits_is_refused(tmp_path, split, what):
    dataset = write_digits(tmp_path, {"train", "test"} - {split}, [str(i) for i in range(10)])
    with pytest.raises(InputError, match=f"'mine' has no {what} split"):
        go(make_rounds(tmp_path, dataset=dataset))
    assert not (tmp_path / "rounds").exists()


def test_a_data_set_that_has_outliers_already_is_refused(tmp_path):
    names = [*(str(i) for i in range(9)), "outlier"]
    with pytest.raises(InputError, match="already has a class 'outlier'"):
        go(make_rounds(tmp_path, dataset=write_digits(tmp_path, ("train", "test"), names)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": {"train": 30, "held_out": 1}}, "1 held out are more than the 30 cells of a round"),
        ({"rounds": {"final_backgrounds": "whit"}}, "unknown background 'whit'; did you mean 'white'"),
        ({"k": 65}, "k = 65 is more than the 64 pixels"),
        ({"backgrounds": "red"}, "background 'red' is a colour"),
        ({"classifier": "cnn"}, "cnn"),
        ({"classifier": "nin", "rounds": {"evade": "knn"}}, "rounds.evade: knn needs a fully connected"),
        ({"trials": {"a": {}, "b": {"k": 65}}}, "k = 65"),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_trained_or_written(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        go(make_rounds(tmp_path, **changes))
    assert not (tmp_path / "rounds").exists()


def test_what_makes_a_first_model_doubtful_is_said_before_it_is_attacked(tmp_path):
    class Heard(Reporter):
        def __init__(self):
            self.lines = []

        def log(self, text):
            self.lines.append(text)

    heard = Heard()
    checked_trials(make_rounds(tmp_path, classifier=weights_with(10, tmp_path)), heard)
    warnings = [line for line in heard.lines if line.startswith("warning: mlp: ")]
    assert any("no better than guessing" in line for line in warnings), heard.lines


SPACE = {"classifier.training.learning_rate": {"loguniform": [1e-4, 1e-2]}, "rounds.per_class": {"grid": [1, 2]}}
TINY = {"number": 1, "per_class": 1, "train": None, "held_out": None, "final_backgrounds": []}


def test_trials_from_a_space_are_the_jobs_that_their_values_make(tmp_path):
    job = make_rounds(tmp_path, TINY, tune={"param_space": SPACE})
    experiment = go(job)
    assert list(experiment.trials()) == ["sample_0", "sample_1"]
    assert [trial.drawn for trial in experiment.trials().values()] == [job.drawn(name) for name in job.trial_names]
    rate, per_class = job.drawn("sample_1").values()
    training = {"epochs": 2, "threads": 1, "learning_rate": rate}
    alone = make_rounds(
        tmp_path / "alone", {**TINY, "per_class": per_class}, classifier={"name": "mlp", "training": training}
    )
    rows, records = results(go(alone))
    found_rows, found_records = results(experiment)
    assert found_records["sample_1"] == records["rounds"]
    assert found_rows["sample_1", "round_0"].equals(rows["rounds", "round_0"])
    table = list(csv.DictReader(io.StringIO(experiment.folder.read("report/trials.csv").decode())))
    assert [row["rounds.per_class"] for row in table] == ["1", "2"]
    assert [float(row["classifier.training.learning_rate"]) for row in table] == [
        pytest.approx(values["classifier.training.learning_rate"], rel=1e-5)
        for values in map(job.drawn, job.trial_names)
    ]
    assert "| sample" in experiment.folder.read("report/rounds.md").decode()


def test_trials_that_follow_from_results_are_the_same_after_an_interruption_and_more_can_be_asked_for(tmp_path):
    space = {"classifier.training.learning_rate": SPACE["classifier.training.learning_rate"]}
    tune = {"param_space": space, "num_samples": 3, "metric": "natural", "search": {"kind": "optuna", "batch_size": 2}}
    whole = go(make_rounds(tmp_path / "whole", TINY, tune=tune))
    assert list(whole.trials()) == ["sample_0", "sample_1", "sample_2"]

    class Stopping(Reporter):
        def log(self, line):
            if line.startswith("sample_1: M0"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(make_rounds(tmp_path / "stopped", TINY, tune=tune), reporter=Stopping())
    begun = Experiment(tmp_path / "stopped/rounds")
    assert [trial.is_complete for trial in begun.trials().values()] == [True, True]
    assert not begun.is_complete, "one trial is still to be drawn"
    more = go(make_rounds(tmp_path / "stopped", TINY, tune={**tune, "num_samples": 4}))
    (rows, records), (whole_rows, whole_records) = results(more), results(whole)
    assert {key: rows[key] for key in whole_rows} == whole_rows
    assert {name: records[name] for name in whole_records} == whole_records
    assert list(more.trials()) == [*whole.trials(), "sample_3"]
    go(make_rounds(tmp_path / "stopped", TINY, tune={**tune, "num_samples": 1}), fresh=True)
    assert not (tmp_path / "stopped/rounds/sample_3").exists(), "no later job takes them for its own"


def test_a_space_that_cannot_be_is_refused_before_anything_is_written(tmp_path):
    wrong = {"rounds.per_clas": {"grid": [1]}}
    with pytest.raises(InputError, match=r"tune.param_space: no key 'rounds.per_clas' .* 'rounds.per_class'"):
        go(make_rounds(tmp_path, TINY, tune={"param_space": wrong}))
    early = {"param_space": SPACE, "scheduler": {"kind": "asha"}}
    with pytest.raises(InputError, match="Ray Tune ends trials early, and --in-process"):
        go(make_rounds(tmp_path, {**TINY, "number": 3}, tune=early))
    with pytest.raises(InputError, match=r"trial sample_0: .*SFIs to train with and 1 held out are more than the 10"):
        go(make_rounds(tmp_path, {**TINY, "train": 15}, tune={"param_space": {"rounds.held_out": {"grid": [1]}}}))
    assert not (tmp_path / "rounds").exists()


def test_a_trial_that_was_ended_early_is_complete_and_goes_no_further(tmp_path):
    job = make_rounds(tmp_path, {**TINY, "number": 2}, tune={"param_space": {"rounds.per_class": {"grid": [1]}}})
    first = job.model_copy(update={"rounds": job.rounds.model_copy(update={"number": 1})})
    go(first)  # one round of two, as if the scheduler had ended it there
    (tmp_path / "rounds/rounds.yaml").unlink()
    write_stop(RunFolder(str(tmp_path / "rounds/sample_0")), StopRecord(round=0, scheduler="asha"))
    experiment = go(job)
    trial = experiment.trials()["sample_0"]
    assert trial.is_complete
    assert [record.model for record in trial.rounds] == ["M0"]
    assert not (tmp_path / "rounds/sample_0/round_1").exists()
    shown = CliRunner().invoke(app, ["status", experiment.folder.location])
    assert "sample_0: 1 of 2 rounds, 0 final attacks, ended early by asha" in shown.output
    assert "M0, ended early by asha" in experiment.folder.read("report/rounds.md").decode()
