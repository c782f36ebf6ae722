"""The command line: what it prints and how it ends. Searches run in this process; tests/cluster has Ray."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import safetensors.torch
import torch
from typer.main import get_command
from typer.testing import CliRunner

import sfi_ray
from sfi_ray.cli import app
from sfi_ray.data import DatasetSpec, dataset_info
from sfi_ray.models import ARCHITECTURES, Classifier, build, read_card

JOB = """
name: small
dataset: digits
classifiers: [{name: mlp, training: {epochs: 1}}]
backgrounds: [black]
k: 2
attack: {kind: de, population_size: 10, generations: 3}
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write(text=JOB, name="job.yaml"):
    Path(name).write_text(text)
    return name


def test_launch_prints_the_table_and_where_everything_is():
    done = call("launch", write(), "--in-process")
    assert done.exit_code == 0, done.output
    assert "Mean confidence (%) of 2-SFIs through mlp" in done.stdout
    assert "10 cells fooled" in done.stdout
    for line in done.stdout.splitlines()[-3:]:
        assert Path(line.split(":", 1)[1].strip()).is_dir()
    assert "held-out accuracy" in done.stderr
    again = call("launch", "job.yaml", "--in-process")
    assert again.exit_code == 0
    assert "10 of 10 cells finished already" in again.stderr


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert sfi_ray.__version__ == project["version"]
    done = call("--version")
    assert (done.exit_code, done.stdout) == (0, f"sfi-ray {project['version']}\n")


def test_status_reads_the_folder():
    call("launch", write(), "--in-process")
    done = call("status", "runs/small")
    assert done.exit_code == 0
    assert "small: finished" in done.stdout
    assert "10 of 10 cells" in done.stdout
    for part in Path("runs/small/results").iterdir():
        part.unlink()
    lost = call("status", "runs/small")
    assert "0 of 10 cells" in lost.stdout
    assert "launch the job again" in lost.stdout


def test_plan_searches_and_writes_nothing():
    before = set(Path().iterdir()) | {Path(write())}
    done = call("plan", "job.yaml")
    assert done.exit_code == 0, done.output
    assert "400 at most" in done.stdout  # 10 cells, 10 candidates, 3 + 1 generations
    assert set(Path().iterdir()) == before


def test_train_stores_weights_that_a_job_can_use():
    done = call("train", "mlp", "digits", "--output", "mine", "--epochs", "2", "--seed", "3")
    assert done.exit_code == 0, done.output
    card = read_card("mine")
    assert card.settings.seed == 3
    assert card.dataset == "digits"
    normalisation = f"mean: {list(card.mean)}, std: {list(card.std)}"
    weights = f"{{name: m, architecture: mlp, weights: mine/weights.safetensors, {normalisation}}}"
    job = JOB.replace("{name: mlp, training: {epochs: 1}}", weights)
    assert call("launch", write(job), "--in-process").exit_code == 0
    assert json.loads(Path("mine/card.json").read_text())["test_accuracy"] > 0.5


def test_train_takes_its_settings_from_a_job_and_the_job_reuses_the_network():
    done = call("train", "mlp", "--job", write(), "--output", "mine")
    assert done.exit_code == 0, done.output
    assert read_card("mine").settings.epochs == 1
    again = call("train", "mlp", "--job", "job.yaml", "--output", "other", "--epochs", "2")
    assert read_card("other").settings.epochs == 2, again.output
    launched = call("launch", "job.yaml", "--in-process")
    assert "mlp: taken from the cache" in launched.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["mlp"],
        ["mlp", "digits", "--job", "job.yaml"],
        ["cnn_mp", "--job", "job.yaml"],
        ["mlp", "digits", "--epochs", "0"],
        ["mlp", "digitz"],
        ["mpl", "digits"],
        ["mlp", "--job", "none.yaml"],
    ],
)
def test_train_refuses_what_it_cannot_do(arguments):
    write()
    done = call("train", *arguments, "--output", "mine")
    assert done.exit_code == 2
    assert done.stderr
    assert not Path("mine").exists()


def test_train_expands_a_preset_and_other_options_change_it():
    options = ["--preset", "paper_cifar10", "--epochs", "1", "--momentum", "0.5", "--threads", "1"]
    done = call("train", "mlp", "digits", "--output", "mine", *options)
    assert done.exit_code == 0, done.output
    settings = read_card("mine").settings
    assert (settings.optimizer, settings.learning_rate, settings.weight_decay) == ("sgd", 0.01, 5e-4)
    assert (settings.momentum, settings.epochs, settings.threads) == (0.5, 1, 1)
    assert "preset" not in json.loads(Path("mine/card.json").read_text())["settings"]


def test_train_puts_a_preset_over_what_the_job_says():
    write(JOB.replace("{epochs: 1}", "{epochs: 2, learning_rate: 0.5, seed: 9}"))
    options = ["--preset", "paper_mnist", "--epochs", "1"]
    done = call("train", "mlp", "--job", "job.yaml", "--output", "mine", *options)
    assert done.exit_code == 0, done.output
    settings = read_card("mine").settings
    assert (settings.learning_rate, settings.epochs, settings.seed) == (1e-3, 1, 9)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--preset", "paper_mnst", "did you mean 'paper_mnist'?"),
        ("--optimizer", "adamw", "'adam' or 'sgd'"),
        ("--learning-rate", "-1", "greater than 0"),
        ("--momentum", "1", "less than 1"),
        ("--weight-decay", "-1", "greater than or equal to 0"),
        ("--schedule", "linear", "'one_cycle'"),
        ("--augmentation", "flip", "'flip_crop'"),
        ("--precision", "float16", "'bfloat16'"),
        ("--epochs", "0", "greater than or equal to 1"),
        ("--batch-size", "0", "greater than or equal to 1"),
        ("--seed", "-1", "greater than or equal to 0"),
        ("--threads", "0", "greater than or equal to 1"),
    ],
)
def test_train_names_the_option_that_is_wrong(option, value, message):
    done = call("train", "mlp", "digits", "--output", "mine", f"{option}={value}")
    assert done.exit_code == 2
    assert f"Invalid value for {option}: " in done.stderr
    assert message in done.stderr
    assert not Path("mine").exists()


def test_the_help_of_train_names_every_network():
    (parameter,) = (each for each in get_command(app).commands["train"].params if each.name == "network")
    assert [name for name in ARCHITECTURES if name not in parameter.help] == []


def test_schema_is_json():
    done = call("schema")
    assert done.exit_code == 0
    assert "attack" in json.loads(done.stdout)["properties"]


def wrong_weights(path, change):
    info = dataset_info(DatasetSpec(name="digits"))
    state = change(build("mlp", input_shape=info.shape, num_classes=info.num_classes).state_dict())
    safetensors.torch.save_file(state, path)


def without_last(state):
    del state[list(state)[-1]]
    return state


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("name: small", "nam: small"), "job.yaml:2: unknown key 'nam'; did you mean 'name'?"),
        (("k: 2", "k: 0"), "greater than or equal to 1"),
        (("k: 2", "k: 99"), "more than the 64 pixels"),
        (("dataset: digits", "dataset: digit"), "Did you mean 'digits'"),
        (("backgrounds: [black]", "backgrounds: [blac]"), "did you mean 'black'"),
        (("{name: mlp, training: {epochs: 1}}", "cnn_nome"), "cnn_none"),
        (("{name: mlp, training: {epochs: 1}}", "{name: mlp, weights: gone.safetensors}"), "gone.safetensors"),
        (("{name: mlp, training: {epochs: 1}}", "{name: mlp, weights: job.yaml}"), "job.yaml"),
        (("{name: mlp, training: {epochs: 1}}", "{name: mlp, weights: short.safetensors}"), "is missing"),
        (("dataset: digits", "dataset: {name: x, path: nowhere}"), "nowhere"),
        (("name: small", "name: small\noutput: job.yaml"), "job.yaml/small"),
    ],
)
@pytest.mark.parametrize("command", [["launch", "--in-process"], ["plan"]], ids=lambda command: command[0])
def test_bad_input_is_one_line_and_exit_code_2(changed, message, command):
    wrong_weights("short.safetensors", without_last)
    before = set(Path().iterdir())
    done = call(*command, write(JOB.replace(*changed)))
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert set(Path().iterdir()) == before | {Path("job.yaml")}


@pytest.mark.parametrize("command", [["launch", "none.yaml"], ["plan", "none.yaml"], ["status", "runs/none"]])
def test_missing_files_are_named(command):
    done = call(*command)
    assert done.exit_code == 2
    assert "none" in done.stderr


def test_actors_below_one_are_refused():
    assert call("launch", write(), "--actors", "0").exit_code == 2


def test_failed_cells_give_exit_code_3():
    assert call("launch", write(), "--in-process", "--output", "sound").exit_code == 0  # its network is trained now
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "log_probs", lambda _, images: torch.full((len(images), 10), torch.nan))
        done = call("launch", write(), "--in-process")
    assert done.exit_code == 3
    assert "10 of 10 cells failed: the classifier returned NaN" in done.stderr
    assert "--retry-failed" in done.stderr
    assert call("launch", "job.yaml", "--in-process", "--retry-failed").exit_code == 0


def test_every_help_text_is_a_sentence():
    root = get_command(app)
    for command in [root, *root.commands.values()]:
        assert command.help.strip().endswith("."), command.name
        for parameter in command.params:
            help_text = getattr(parameter, "help", None)
            if parameter.name not in ("help", "install_completion", "show_completion"):
                assert help_text, (command.name, parameter.name)
                assert help_text.endswith("."), (command.name, parameter.name, help_text)


def test_help_is_quick_to_import():
    code = (
        "import sys; from sfi_ray.cli import app; print([m for m in ('torch', 'ray', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_report_writes_a_page_and_names_what_it_leaves_out():
    call("launch", write(), "--in-process")
    assert Path("runs/small/report/index.html").is_file()
    done = call("report", "runs/small", "--output", "elsewhere")
    assert done.exit_code == 0, done.output
    assert done.stdout == "elsewhere/index.html\n"
    part = next(Path("runs/small/results").iterdir())
    part.write_bytes(part.read_bytes()[:50])
    damaged = call("report", "runs/small")
    assert damaged.exit_code == 2
    assert part.name in damaged.stderr
    assert "none of its 10 cells is finished" in damaged.stderr
    assert Path(damaged.stdout.strip()).is_file()
    missing = call("report", "runs/nowhere")
    assert missing.exit_code == 2
    assert "holds no run" in missing.stderr
