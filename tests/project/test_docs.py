"""What the documents show works: their code runs, their jobs load, their links lead somewhere."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from sfi_ray import launch
from sfi_ray.attacks import DIFFERENTIAL_EVOLUTION_PRESETS
from sfi_ray.cli import app
from sfi_ray.cli.exits import EXIT_CODES, ExitCode, codes_of
from sfi_ray.job import (
    Asha,
    ClassifierSpec,
    Domain,
    Job,
    OptunaSearch,
    RoundsJob,
    RoundsSettings,
    TuneSettings,
    load_any,
    load_job,
    parse_any,
    parse_job,
)
from sfi_ray.models import ARCHITECTURES, TRAINING_PRESETS, TrainingSettings
from sfi_ray.store.schema import FINDINGS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with the run that the documents speak of, in small."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFI_RAY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        values = load_job(ROOT / "jobs/digits_5sfi.yaml").model_dump(mode="json")
        values["classifiers"] = [{"name": "mlp", "training": {"epochs": 1}}]
        values["attack"] = {"kind": "de", "population_size": 10, "generations": 2}
        values["output"] = str(folder / "runs")
        launch(Job.model_validate(values), in_process=True)
    (folder / "networks.py").write_text(blocks(ROOT / "docs/guides/audit.md", "python")[0])
    return folder


@pytest.mark.parametrize(
    ("document", "number"),
    [(path, i) for path in DOCUMENTS for i in range(len(blocks(path, "python")))],
    ids=lambda value: value.name if isinstance(value, Path) else str(value),
)
def test_python_in_documents_runs(document, number, workplace, monkeypatch):
    import sfi_ray

    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(workplace)
    monkeypatch.delitem(sys.modules, "networks", raising=False)
    monkeypatch.setattr(
        sfi_ray, "launch", lambda job, **options: launch(job, **{**options, "in_process": True}), raising=False
    )
    names = {}
    exec(compile(blocks(document, "python")[number], f"{document.name}[{number}]", "exec"), names)
    for name in names:
        if name.startswith("test_"):
            names[name]()


def test_the_audits_in_the_documents_end_as_they_say(tmp_path, monkeypatch):
    document = ROOT / "docs/guides/audit.md"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "networks.py").write_text(blocks(document, "python")[0])
    rows = re.findall(r"^\| `(\w+)` \| (\d) \| (.*) \|$", document.read_text(), flags=re.MULTILINE)
    assert [name for name, _, _ in rows] == ["sound", "softmax", "badly_normalised", "random"]
    few = ["--data", "digits", "--in-process", "--budget", "10", "--seeds", "1"]
    for name, code, says in rows:
        result = CliRunner().invoke(app, ["audit", f"networks:{name}", *few])
        assert result.exit_code == int(code), name
        for part in says.split("; ")[: 1 if code == "2" else 0]:
            assert part.replace("`", "") in result.output.replace("\n", " "), name
    sys.modules.pop("networks", None)
    mended = '{name: softmax, factory: "networks:softmax", outputs: probabilities}'
    assert CliRunner().invoke(app, ["audit", mended, *few]).exit_code == 0
    assert CliRunner().invoke(app, ["audit", "networks:badly_normalised", "--allow-chance", *few]).exit_code == 0
    sys.modules.pop("networks", None)


def test_the_audit_in_the_workflow_runs_and_its_files_are_uploaded(tmp_path, monkeypatch):
    document = ROOT / "docs/guides/audit.md"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "networks.py").write_text(blocks(document, "python")[0])
    (job,) = yaml.safe_load(blocks(document, "yaml")[0])["jobs"].values()
    (line,) = [step["run"] for step in job["steps"] if step.get("run", "").startswith("sfi-ray ")]
    uploads = [step["with"] for step in job["steps"] if "upload" in step.get("uses", "")]
    (uploaded,) = (upload["path"] for upload in uploads if "path" in upload)
    (sarif,) = (upload["sarif_file"] for upload in uploads if "sarif_file" in upload)
    result = CliRunner().invoke(app, [*shlex.split(line)[1:], "--budget", "10", "--seeds", "1"])
    sys.modules.pop("networks", None)
    suite = ElementTree.parse(tmp_path / uploaded).find("testsuite")
    (run,) = json.loads((tmp_path / sarif).read_text())["runs"]
    places = [one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in run["results"]]
    assert places == ["networks.py"] * len(places)
    assert places
    assert result.exit_code == (ExitCode.DOES_NOT_HOLD if int(suite.get("failures")) else ExitCode.DONE), result.output


def test_the_commands_that_list_and_stop_do_what_the_guide_shows(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    document = ROOT / "docs/guides/monitoring.md"
    lines = [line for block in blocks(document, "bash") for line in re.findall(r"sfi-ray (?:list|stop)[^\n#]*", block)]
    assert {line.split()[1] for line in lines} == {"list", "stop"}
    for line in lines:
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, (line, result.output)
        assert "digits_5sfi" in result.output
        assert "finished" in result.output


def codes_in(document, command=None):
    """The exit codes that a document says a command has; those of any command where none is named."""
    column = f"`{command}` \\| " if command else ""
    rows = re.findall(rf"^\| {column}(\d+) \| (.*) \|$", document.read_text(), flags=re.MULTILINE)
    return {int(code): meaning for code, meaning in rows}


def test_the_exit_codes_in_documents_and_helps_are_those_of_the_code():
    document = ROOT / "docs/reference/exit-codes.md"
    assert codes_in(document) == {code: code.meaning for code in ExitCode}
    commands = get_command(app).commands
    assert set(EXIT_CODES) == set(commands)
    assert set(re.findall(r"^\| `(\w+)` \|", document.read_text(), flags=re.MULTILINE)) == set(commands)
    for name in commands:
        assert codes_in(document, name) == codes_of(name), name
        shown = CliRunner().invoke(app, [name, "--help"], terminal_width=200).output.partition("Exit codes:\n")[2]
        assert [tuple(line.split(maxsplit=1)) for line in shown.splitlines() if line] == [
            (str(code.value), meaning.replace("`", "")) for code, meaning in codes_of(name).items()
        ]
    assert codes_in(ROOT / "docs/guides/audit.md") == codes_of("audit")
    assert codes_in(ROOT / "docs/guides/using-results.md") == codes_of("verify")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document):
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_exist(document):
    commands = get_command(app).commands
    for block in blocks(document, "bash"):
        for line in re.findall(r"sfi-ray [^\n#']+", block):
            name, *rest = shlex.split(line)[1:]
            assert name in commands, line
            known = {
                option for parameter in commands[name].params for option in parameter.opts + parameter.secondary_opts
            }
            assert {word for word in rest if word.startswith("--")} <= known, line
            for word in rest:
                if word.startswith("jobs/"):
                    assert (ROOT / word).exists(), line


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_job_files_load_and_say_what_they_are_for(path):
    job = load_any(path)
    assert job.name == path.stem
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("document", ["docs/reference/jobs.md", "docs/tutorial.md"])
def test_the_jobs_in_the_documents_load(document):
    for block in blocks(ROOT / document, "yaml"):
        parse_job(block)


def test_the_tutorial_shows_the_job_that_it_launches():
    shown = parse_job(blocks(ROOT / "docs/tutorial.md", "yaml")[0])
    assert shown == load_job(ROOT / "jobs/digits_5sfi.yaml")


def test_every_key_of_a_job_is_documented():
    text = (ROOT / "docs/reference/jobs.md").read_text()
    for model in (
        Job,
        ClassifierSpec,
        *get_args(Job.model_fields["attack"].annotation),
        *(Job.model_fields[name].annotation for name in ("verification", "compute", "cluster")),
    ):
        for key in model.model_fields:
            assert re.search(rf"`{key}`|^\s*{key}:|^## {key}$", text, flags=re.MULTILINE), key
    for architecture in ARCHITECTURES:
        assert f"`{architecture}`" in text, architecture
    for preset in DIFFERENTIAL_EVOLUTION_PRESETS:
        assert f"`{preset}`" in text


def test_the_rounds_in_the_documents_load_and_every_key_of_theirs_is_documented():
    document = ROOT / "docs/guides/rounds.md"
    for block in blocks(document, "yaml"):
        assert isinstance(parse_any(block), RoundsJob)
    for model in (RoundsJob, RoundsSettings, TuneSettings, Asha, OptunaSearch, Domain):
        for name in model.model_fields:
            assert re.search(rf"`(rounds\.|tune\.)?{name}[`:]|{{{name}:", document.read_text()), name


def test_the_drawn_trials_of_the_guide_run(tmp_path, monkeypatch):
    from sfi_ray import launch_rounds

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "cache"))
    tuned = (job for job in map(parse_any, blocks(ROOT / "docs/guides/rounds.md", "yaml")) if job.tune)
    job, searched = tuned
    assert len(job.trial_names) == 4
    fewer = job.tune.model_copy(update={"num_samples": 1})
    experiment = launch_rounds(job.model_copy(update={"tune": fewer}), in_process=True)
    assert len(experiment.trials()) == 2
    assert experiment.is_complete
    table = experiment.folder.read("report/trials.csv").decode().splitlines()
    assert table[0].startswith("trial,classifier.training.learning_rate,rounds.loss,model")
    assert len(table) == 3
    fewer = searched.tune.model_copy(update={"num_samples": 2})
    assert len(launch_rounds(searched.model_copy(update={"tune": fewer}), in_process=True).trials()) == 2


def test_the_classifiers_in_the_documents_are_those_of_a_job():
    for block in blocks(ROOT / "docs/guides/training.md", "yaml"):
        parse_job(f"name: x\ndataset: digits\nk: 1\n{block}")


def test_every_setting_of_a_training_is_documented():
    text = (ROOT / "docs/guides/training.md").read_text()
    for name in (*TrainingSettings.model_fields, *TRAINING_PRESETS):
        assert re.search(rf"^\| `{name}` \|", text, flags=re.MULTILINE), name


def test_every_column_is_documented():
    text = (ROOT / "docs/reference/results.md").read_text()
    for name in FINDINGS.names:
        assert re.search(rf"^\| ([a-z_]+, )*{name}[ ,]", text, flags=re.MULTILINE), name


MOST_WORDS = 35


def sentences(text):
    """The sentences of a Markdown text, without its code; a cell of a table is at least one."""
    text = re.sub(r"^ *```.*?^ *```$", "\n\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "Code", text)
    blocks = []
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.lstrip().startswith("|"):
            blocks += re.split(r"[|\n]", paragraph)
        else:
            blocks += re.split(r"\n(?=\s*(?:[-*#]|\d+\.) )", paragraph)
    for block in blocks:
        yield from re.split(r"(?<=[.!?])[)\"*]*\s+(?=[^a-z])", " ".join(block.split()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_sentence_has_too_many_words(document):
    if document.parent.name == "benchmarks" and document.name != "README.md":
        pytest.skip("a report that a script has made")
    long = [sentence for sentence in sentences(document.read_text()) if len(sentence.split()) > MOST_WORDS]
    assert long == []


def test_sentences_are_told_apart():
    text = "One two. Three `a.b c`!\n\n| four | five. Six |\n\n- seven\n- eight\n\n```\nnine. Ten\n```\n"
    found = [sentence.strip() for sentence in sentences(text) if sentence.strip()]
    assert found == ["One two.", "Three Code!", "four", "five.", "Six", "- seven", "- eight"]
