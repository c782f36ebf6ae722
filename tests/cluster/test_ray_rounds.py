"""Rounds over a real Ray Tune on this machine, with trials killed for real."""

import os
import signal
import sys
import threading
import time

import pytest

from sfi_ray.cluster.ray.session import ray_session
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.rounds.launch import launch_rounds
from sfi_ray.errors import InputError, ResourceError
from sfi_ray.rounds.experiment import Experiment
from tests.cluster.conftest import pids_of
from tests.cluster.test_rounds import make_rounds, results
from tests.cluster.test_tracking import shown

pytestmark = [pytest.mark.ray, pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc")]


@pytest.fixture(scope="module", autouse=True)
def ray():
    """A private Ray of this module; a launch in this process finds it."""
    with ray_session(None, dashboard=False):
        import ray

        yield ray


class Listening(Reporter):
    def __init__(self):
        self.lines = []

    def log(self, text):
        self.lines.append(text)


def test_trials_over_tune_give_the_rows_of_this_process_and_tune_can_read_them(tmp_path, monkeypatch):
    from ray import tune

    monkeypatch.chdir(tmp_path)  # as in the job files, the folder is named from here; Tune runs trials elsewhere
    few = {"number": 1, "per_class": 1, "train": None, "held_out": None, "final_backgrounds": [], "evade": "energy"}
    changes = {
        "attack": {"kind": "map_elites", "max_evaluations": 20},
        "track": "tensorboard",
        "tune": {"param_space": {"rounds.per_class": {"grid": [1]}}},
    }
    jobs = [make_rounds(place, few, **changes) for place in "ab"]
    reporter = Listening()
    experiment = launch_rounds(jobs[1], reporter=reporter)
    assert results(experiment) == results(launch_rounds(jobs[0], in_process=True))
    assert experiment.trials()["sample_0"].rounds[0].attack.evaded == "energy"
    assert any(line.startswith("M0: natural") for line in reporter.lines), reporter.lines
    folder = tmp_path / "b/rounds/tune"
    assert list((folder / "sample_0").glob("events.out.tfevents.*")), "TensorBoard"
    for name, trial in experiment.trials().items():
        scalars, texts, _ = shown(tmp_path / "b/rounds" / name / "tensorboard")
        assert [step for step, _ in scalars["reattack"]] == [0]
        assert scalars["reattack"][0][1] == pytest.approx(trial.rounds[0].attack.accuracy)
        assert texts["state"] == "finished"

    def lead(config): ...

    found = tune.Tuner.restore(str(folder), trainable=lead).get_results()
    configs = sorted((result.config for result in found), key=lambda config: config["trial"])
    assert configs == [{"trial": name, **jobs[1].drawn(name)} for name in jobs[1].trial_names]
    accuracies = {result.config["trial"]: result.metrics["reattack"] for result in found}
    assert accuracies == {name: trial.rounds[0].attack.accuracy for name, trial in experiment.trials().items()}


def test_a_trial_reserves_its_leader_and_room_for_a_training_or_an_actor(tmp_path):
    from sfi_ray.cluster.ray.actor_options import actor_options
    from sfi_ray.cluster.rounds.on_ray import bundles

    cluster = {
        "actors": 2,
        "cpus_per_actor": 0.5,
        "gpus_per_actor": 0.25,
        "memory_per_actor": 1000,
        "resources": {"fast": 1},
        "accelerator_type": "A100",
    }
    trial = make_rounds(tmp_path, cluster=cluster, compute={"device": "auto"})
    rest = {"memory": 1000, "fast": 1, "accelerator_type:A100": 0.001}
    assert bundles(actor_options(trial, "cuda", 0, 2), "cuda") == [{}, {"CPU": 1, "GPU": 1, **rest}]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trials_over_tune_give_the_rows_of_this_process(tmp_path):
    """One of them finds something to mend, which does not end the other."""
    changes = {"trials": {"a": {}, "b": {"rounds": {"sfis": "fooling"}, "verification": {"threshold": 1.0}}}}
    expected = launch_rounds(make_rounds(tmp_path / "here", trials={"a": {}}), in_process=True)
    reporter = Listening()
    with pytest.raises(InputError, match="trial b: M1 has no SFIs to train with"):
        launch_rounds(make_rounds(tmp_path / "ray", **changes), reporter=reporter)
    experiment = Experiment(tmp_path / "ray/rounds")
    assert experiment.trials()["a"].is_complete
    assert not experiment.trials()["b"].is_complete
    rows, records = results(experiment)
    expected_rows, expected_records = results(expected)
    assert records["a"] == expected_records["a"]
    assert {key: table for key, table in rows.items() if key[0] == "a"} == expected_rows
    assert any(line.startswith("a: M1: natural") for line in reporter.lines)
    assert list((tmp_path / "ray/rounds/tune/a").glob("events.out.tfevents.*")), "TensorBoard"
    assert not pids_of("ray::SearchActor")


def test_resources_that_cannot_be_had_are_named_in_bounded_time(tmp_path):
    cluster = {"actors": 2, "cpus_per_actor": 1000, "startup_seconds": 2}
    started = time.monotonic()
    with pytest.raises(
        ResourceError, match=r"a trial reserves 1000 CPU, 0 GPU for its trainings and its first actor, and the cluster"
    ):
        launch_rounds(make_rounds(tmp_path, cluster=cluster))
    assert time.monotonic() - started < 60


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_trial_that_is_killed_between_and_inside_rounds_goes_on_to_the_same_rows(tmp_path):
    attack = {"kind": "map_elites", "max_evaluations": 150}
    rounds = {"number": 3, "final_backgrounds": []}
    jobs = [make_rounds(tmp_path / place, rounds, attack=attack) for place in ("here", "ray")]
    expected = launch_rounds(jobs[0], in_process=True)
    folder = tmp_path / "ray/rounds/rounds"
    moments = [
        lambda: any((folder / "round_0/results").glob("part-*.parquet")),  # inside a round
        lambda: (folder / "round_0/round.json").exists(),  # between two
        lambda: any((folder / "round_2/results").glob("part-*.parquet")),
    ]
    killed = []

    def kill():
        for moment in moments:
            while not moment():
                time.sleep(0.005)
            before = pids_of("ray::", "ImplicitFunc")
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            killed.append(len(before))
            # Whoever is started in its place is another one.
            while set(before) & set(pids_of("ray::", "ImplicitFunc")):
                time.sleep(0.05)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    experiment = launch_rounds(jobs[1])
    killer.join(timeout=1)
    assert killed == [1, 1, 1]
    assert results(experiment) == results(expected)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_driver_that_is_killed_goes_on_to_the_same_rows(tmp_path):
    import subprocess

    attack = {"kind": "map_elites", "max_evaluations": 150}
    rounds = {"number": 3, "final_backgrounds": []}
    jobs = [make_rounds(tmp_path / place, rounds, attack=attack) for place in ("here", "ray")]
    expected = launch_rounds(jobs[0], in_process=True)
    file = tmp_path / "job.json"
    file.write_text(jobs[1].model_dump_json())  # JSON is YAML
    command = [sys.executable, "-m", "sfi_ray", "launch", str(file)]
    folder = tmp_path / "ray/rounds/rounds"
    for moment in ("round_0/results", "round_1/results"):
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while not any((folder / moment).glob("part-*.parquet")):
            assert driver.poll() is None, driver.stderr.read().decode()
            time.sleep(0.01)
        driver.kill()
        driver.communicate()
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert results(Experiment(tmp_path / "ray/rounds")) == results(expected)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_asha_ends_the_worse_trial_and_a_killed_driver_goes_on_to_the_same_trials(tmp_path, ray):
    """One trial at a time, since each reserves all CPUs; the second one learns nothing."""
    import subprocess

    space = {
        "classifier.training.learning_rate": {"grid": [1e-3, 1e-9]},
        "attack.max_evaluations": {"randint": [100, 150]},
    }
    scheduler = {"kind": "asha", "reduction_factor": 2}
    changes = {
        "rounds": {"number": 3, "final_backgrounds": []},
        "attack": {"kind": "map_elites", "max_evaluations": 150},
        "cluster": {"actors": 2, "cpus_per_actor": ray.cluster_resources()["CPU"], "flush_seconds": 0},
    }
    here = make_rounds(tmp_path / "here", **changes, tune={"param_space": space})
    expected_rows, expected = results(launch_rounds(here, in_process=True))
    job = make_rounds(
        tmp_path / "ray", **changes, tune={"param_space": space, "metric": "natural", "scheduler": scheduler}
    )
    file = tmp_path / "job.json"
    file.write_text(job.model_dump_json())  # JSON is YAML
    command = [sys.executable, "-m", "sfi_ray", "launch", str(file)]
    folder = tmp_path / "ray/rounds"
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not any((folder / "sample_1/round_0/results").glob("part-*.parquet")):
        assert driver.poll() is None, driver.stderr.read().decode()
        time.sleep(0.01)
    driver.kill()
    driver.communicate()
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("sample_0/*/round.json")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(finished) == 3
    experiment = Experiment(folder)
    good, bad = experiment.trials().values()
    assert good.stop is None
    assert (len(bad.rounds), bad.stop.round, bad.stop.scheduler) == (2, 1, "asha")
    assert [trial.drawn for trial in (good, bad)] == [job.drawn(name) for name in job.trial_names]
    rows, records = results(experiment)
    assert records["sample_0"] == expected["sample_0"]
    assert records["sample_1"][0] == expected["sample_1"][0][:2]
    assert rows == {key: expected_rows[key] for key in rows}
    again = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert again.returncode == 0, again.stderr
    assert not (folder / "sample_1/round_2").exists()
    assert len(list((folder / "tune").glob("sample_*/result.json"))) == 2, "what Tune reports is of all trials"
