"""Training once, going on after any end, and not twice at a time."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import safetensors.torch

from sfi_ray.cluster import training_cache
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.training_cache import cache_folder, train_here, train_once
from sfi_ray.data import DatasetSpec
from sfi_ray.errors import StorageError
from sfi_ray.models import TrainingSettings, read_card

DIGITS = DatasetSpec(name="digits")


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "cache"))


class Ear(Reporter):
    """Remembers what it hears."""

    def __init__(self):
        self.said, self.epochs, self.progress = [], [], []

    def log(self, text):
        self.said.append(text)

    def training(self, classifier, progress):
        self.progress.append((classifier, progress))

    def trained(self, classifier, epoch, num_epochs, accuracy):
        self.epochs.append((epoch, num_epochs))


def go(settings, trainer=train_here, reporter=None, name="mine"):
    reporter = reporter or Ear()
    return train_once("mlp", DIGITS, settings, name=name, device="cpu", trainer=trainer, reporter=reporter)


def files():
    return sorted(path.name for path in (cache_folder() / "models").rglob("*") if path.is_file())


def test_a_finished_training_leaves_weights_and_card_and_no_checkpoint():
    ear = Ear()
    card, folder = go(TrainingSettings(epochs=2, threads=1), reporter=ear)
    assert ear.epochs == [(1, 2), (2, 2)]
    assert read_card(folder) == card
    assert files() == [".lock", "card.json", "weights.safetensors"]
    again, same = go(TrainingSettings(epochs=2, threads=1), trainer=None, reporter=ear)
    assert (again, same) == (card, folder)
    assert "mine: taken from the cache" in ear.said[-1]


def test_the_key_has_the_precision_that_auto_comes_to(monkeypatch):
    seen = []

    def trainer(architecture, dataset, settings, device, on_event, place):
        seen.append((settings.precision, place))
        raise KeyboardInterrupt

    for wanted in ("float32", "bfloat16"):
        monkeypatch.setattr(
            training_cache, "training_precision", lambda asked, _, w=wanted: w if asked == "auto" else asked
        )
        for asked in ("auto", wanted):
            with pytest.raises(KeyboardInterrupt):
                go(TrainingSettings(precision=asked), trainer=trainer)
    assert [precision for precision, _ in seen] == ["float32", "float32", "bfloat16", "bfloat16"]
    assert len({place for _, place in seen}) == 2


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_trained(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StorageError, match=r"cache.*cannot be written: .*; set SFI_RAY_CACHE"):
        go(TrainingSettings(epochs=1), trainer=None)


def test_a_second_training_of_the_same_network_waits_for_the_first():
    started, may_end = threading.Event(), threading.Event()
    settings = TrainingSettings(epochs=1, threads=1)

    def slow(*arguments):
        started.set()
        assert may_end.wait(30)
        return train_here(*arguments)

    ears, results = (Ear(), Ear()), {}
    first = threading.Thread(target=lambda: results.update(first=go(settings, slow, ears[0])))
    first.start()
    assert started.wait(30)
    second = threading.Thread(target=lambda: results.update(second=go(settings, None, ears[1])))
    second.start()
    deadline = time.monotonic() + 30
    while not ears[1].said and time.monotonic() < deadline:
        time.sleep(0.01)
    may_end.set()
    first.join()
    second.join()
    assert results["first"] == results["second"]
    assert ears[1].said[0] == "mine: waiting for another process that is training it"
    assert "taken from the cache" in ears[1].said[1]


LONG = ["--epochs", "40", "--threads", "1", "--seed", "6"]


def start_training(output):
    code = (
        "from sfi_ray.models import Checkpoint; Checkpoint.seconds_between_passes = 0\n"
        f"from sfi_ray.cli import app; app(['train', 'mlp', 'digits', '--output', {str(output)!r}, *{LONG!r}])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_checkpoint(process):
    deadline = time.monotonic() + 60
    while "checkpoint.safetensors" not in files():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("number", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGINT])
def test_a_training_that_was_ended_goes_on_to_the_same_bits(tmp_path, number, tmp_path_factory, monkeypatch):
    process = start_training(tmp_path / "out")
    wait_for_checkpoint(process)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=240)
    if number == signal.SIGINT:
        assert process.returncode == 130, err
        assert "stopping: the checkpoint is being written" in err
        assert "run the same command again to go on" in err
    assert "checkpoint.safetensors" in files()
    assert "card.json" not in files()
    ear = Ear()
    card, _ = go(TrainingSettings(epochs=40, threads=1, seed=6), reporter=ear)
    assert ear.said[0].startswith("mine: continuing after ")
    assert 0 < len(ear.epochs) < 40
    assert files() == [".lock", "card.json", "weights.safetensors"]
    assert card.fingerprint == undisturbed(tmp_path_factory, monkeypatch)


def undisturbed(tmp_path_factory, monkeypatch):
    """Trains the same network without an interruption, once for all tests."""
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path_factory.getbasetemp() / "undisturbed"))
    return go(TrainingSettings(epochs=40, threads=1, seed=6))[0].fingerprint


def test_temporary_files_of_a_killed_training_go_with_its_checkpoint():
    settings = TrainingSettings(epochs=1, threads=1)
    with pytest.raises(ZeroDivisionError):
        go(settings, trainer=lambda *_: 1 / 0)
    (folder,) = (cache_folder() / "models").iterdir()
    Path(folder / ".checkpoint.safetensors.0123.tmp").write_bytes(b"half")
    go(settings)
    assert files() == [".lock", "card.json", "weights.safetensors"]


def zeroed(content):
    return safetensors.torch.save({name: value * 0 for name, value in safetensors.torch.load(content).items()})


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("weights.safetensors", zeroed, r"card\.json was written for other weights"),
        ("weights.safetensors", lambda content: content[:-4], "not a whole file of safetensors"),
        ("weights.safetensors", None, "there is no such file of weights"),
        ("card.json", lambda content: content.replace(b'"weights_hash"', b'"fingerprints"'), "not the card"),
        ("card.json", lambda content: content[:-10], "not the card of a trained network"),
    ],
)
def test_a_network_of_the_cache_that_is_not_its_cards_is_trained_again_and_said_so(file, change, reason):
    settings = TrainingSettings(epochs=1, threads=1)
    card, folder = go(settings)
    before = (folder / file).read_bytes()
    if change is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(change(before))
    ear = Ear()
    again, _ = go(settings, reporter=ear)
    assert ear.epochs == [(1, 1)]
    assert len(ear.said) == 1
    assert re.search(
        rf"mine: training it again, since its files in the cache are broken: .*{re.escape(file)}: {reason}", ear.said[0]
    )
    assert "\n" not in ear.said[0]
    assert again.weights_hash == card.weights_hash
    assert go(settings, trainer=None)[0] == again
