"""Runtime configurations that are measured once, kept, and taken over by every resume."""

import logging

import pytest
import torch

from sfi_ray.cluster import tuning_cache
from sfi_ray.cluster.backend import InProcessBackend
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.tuning_cache import tune_here, tuning_key
from sfi_ray.errors import InputError
from sfi_ray.models import Choice, RuntimeConfig, TuningRequest
from tests.cluster.conftest import assert_complete, make_classifier, make_job, outcome
from tests.cluster.test_launch import go

OPEN = TuningRequest(precision="measured", micro_batch=None, threads=1)


class Counting:
    """Chooses what it is told to, and counts how often it was asked."""

    def __init__(self, *runtimes):
        self.runtimes = list(runtimes)
        self.requests = []

    def __call__(self, _classifier, request):
        self.requests.append(request)
        runtime = self.runtimes[(len(self.requests) - 1) % len(self.runtimes)]
        return Choice(runtime=runtime, rate=300, rate_by_rule=100, seconds=1)


@pytest.fixture
def tuner(monkeypatch, tmp_path):
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "cache"))
    counting = Counting(RuntimeConfig(micro_batch=8), RuntimeConfig(micro_batch=16))
    monkeypatch.setattr(tuning_cache, "tune", counting)
    return counting


def ask(seed=0, **changes):
    return tune_here(make_classifier(seed).to_payload(), OPEN.model_copy(update=changes), "cpu")


def test_what_was_measured_is_not_measured_again(tuner):
    assert ask() == ask()
    assert tuner.requests == [OPEN]


def test_other_weights_requests_devices_and_versions_are_measured(tuner, monkeypatch):
    ask()
    ask(seed=1)
    ask(precision="float32")
    ask(threads=2)
    ask(micro_batch=8)
    ask(needs_gradients=True)
    monkeypatch.setattr(tuning_cache, "describe_device", lambda _device: "another")
    ask()
    monkeypatch.setattr(torch, "__version__", "0.0")
    ask()
    assert len(tuner.requests) == 8
    ask()
    assert len(tuner.requests) == 8


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"runtime": {"micro_batch": 0}}', b"\xff\x00", None])
def test_a_broken_file_is_measured_anew_and_mended(tuner, tmp_path, content):
    first = ask()
    (file,) = (tmp_path / "cache/tuning").iterdir()
    if content is None:
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(content)
    assert ask() != first
    assert len(tuner.requests) == 2
    if content is not None:
        assert Choice.model_validate_json(file.read_text()) == ask()
        assert len(tuner.requests) == 2
    assert [path.name for path in file.parent.iterdir()] == [file.name], "nothing temporary is left"


def test_a_cache_that_cannot_be_written_is_done_without(tuner, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    with caplog.at_level(logging.DEBUG):
        ask()
        ask()
    assert len(tuner.requests) == 2
    assert "cannot be written" in caplog.text


def test_the_key_is_short_and_stable():
    key = tuning_key("f", OPEN, torch.device("cpu"))
    assert key == tuning_key("f", OPEN.model_copy(), torch.device("cpu"))
    assert len(key) == 16


def test_a_real_measurement_is_kept(tmp_path):
    payload = make_classifier(7).to_payload()
    choice = tune_here(payload, OPEN, "cpu", tmp_path)
    assert choice.rate >= choice.rate_by_rule > 0
    assert tune_here(payload, OPEN, "cpu", tmp_path) == choice


class Listener(Reporter):
    def __init__(self):
        self.said = []

    def log(self, text):
        self.said.append(text)


AUTO = {"compute": {"precision": "measured"}}


def test_the_choice_is_said_in_one_line_and_part_of_the_run(tuner, tmp_path):
    listener = Listener()
    run = go(make_job(tmp_path, **AUTO), reporter=listener)
    assert_complete(run)
    assert run.record.classifiers[0].runtime == RuntimeConfig(micro_batch=8)
    (line,) = (text for text in listener.said if "images/s" in text)
    assert line == (
        "toy: computes in float32, channels-last, 8 images at once: 300 images/s an actor, 3.0 times what float32, "
        "channels-last, 128 images at once would give"
    )


def test_a_resume_takes_the_run_s_choice_whatever_would_be_chosen_now(tuner, tmp_path):
    tuner.runtimes = [RuntimeConfig(precision="bfloat16", micro_batch=8), RuntimeConfig(micro_batch=16)]
    run = go(make_job(tmp_path, **AUTO))
    expected = outcome(run)
    parts = sorted((tmp_path / "test/results").iterdir())
    for part in parts[::2]:
        part.unlink()
    for file in (tmp_path / "cache/tuning").iterdir():
        file.unlink()
    again = go(make_job(tmp_path, **AUTO))
    assert len(tuner.requests) == 1
    assert again.record.classifiers[0].runtime == RuntimeConfig(precision="bfloat16", micro_batch=8)
    assert outcome(again).equals(expected)


def test_a_fresh_run_is_measured(tuner, tmp_path):
    go(make_job(tmp_path, **AUTO))
    (file,) = (tmp_path / "cache/tuning").iterdir()
    file.unlink()
    run = go(make_job(tmp_path, **AUTO), fresh=True)
    assert run.record.classifiers[0].runtime == RuntimeConfig(micro_batch=16)


def test_another_precision_is_another_job(tuner, tmp_path):
    go(make_job(tmp_path, **AUTO))
    with pytest.raises(InputError, match=r'compute\.precision: "measured" -> "auto"'):
        go(make_job(tmp_path))


def test_what_a_job_says_is_taken_to_the_letter_and_short_searches_are_not_measured(tuner, tmp_path):
    compute = {"precision": "bfloat16", "micro_batch": 4}
    fixed = go(make_job(tmp_path / "a", compute=compute, attack={"kind": "de", "population_size": 4, "generations": 1}))
    assert fixed.record.classifiers[0].runtime == RuntimeConfig(precision="bfloat16", micro_batch=4)
    short = go(make_job(tmp_path / "b"))
    assert short.record.classifiers[0].runtime == RuntimeConfig(micro_batch=128)
    assert tuner.requests == []


@pytest.mark.parametrize("cells_per_shard", [pytest.param(1, marks=pytest.mark.slow), 100])
def test_rows_in_less_precision_do_not_depend_on_the_shards(tuner, tmp_path, cells_per_shard):
    tuner.runtimes = [RuntimeConfig(precision="bfloat16", memory_layout="contiguous", micro_batch=16)]
    expected = outcome(go(make_job(tmp_path / "a", **AUTO)))
    run = go(make_job(tmp_path / "b", **AUTO, cluster={"cells_per_shard": cells_per_shard}))
    assert outcome(run).equals(expected)


def test_this_process_measures_for_itself():
    assert InProcessBackend().tuner is tune_here
