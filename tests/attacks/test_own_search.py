"""A search of one's own: the one in the documents, from a job, over checkpoints, and what is refused."""

import re
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sfi_ray import launch
from sfi_ray.attacks import read_attack_settings
from sfi_ray.cli import app
from sfi_ray.errors import InputError
from sfi_ray.job import parse_job

PAGE = Path(__file__).parents[2] / "docs/guides/write-a-search.md"


def block(language):
    return re.search(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)[1]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the module and the job of the page."""
    (tmp_path / "my_search.py").write_text(block("python"))
    (tmp_path / "job.yaml").write_text(block("yaml"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    sys.modules.pop("my_search", None)


def job_of(**changes):
    values = parse_job(block("yaml"), "job.yaml").model_dump(mode="json")
    values["classifiers"] = [{"name": "mlp", "training": {"epochs": 2, "threads": 1}}]
    return parse_job(__import__("yaml").safe_dump(values | changes), "job.yaml")


def test_the_search_of_the_page_finds_better_images_than_the_bare_background(workplace):
    run = launch(job_of(), in_process=True)
    rows = run.table().to_pylist()
    assert run.status().is_complete
    assert run.status().failed == 0
    assert {row["attack"] for row in rows} == {"search"}
    better = [row["confidence"] > row["background_confidence"] for row in rows]
    assert sum(better) > len(better) / 2
    assert all(row["evaluations"] <= 1000 + 16 for row in rows)


def test_rows_do_not_depend_on_the_shards(workplace):
    def outcome(run):
        rows = run.table().to_pylist()
        return {row["cell_id"]: (row["confidence"], str(row["pixels"]), row["evaluations"]) for row in rows}

    whole = outcome(launch(job_of(), in_process=True))
    parted = outcome(launch(job_of(name="parted", cluster={"cells_per_shard": 3}), in_process=True))
    assert whole == parted


def test_changed_code_is_no_continuation(workplace):
    launch(job_of(), in_process=True)
    module = workplace / "my_search.py"
    module.write_text(module.read_text() + "\n# another\n")
    with pytest.raises(InputError, match=r"the code of attack\.search has changed since"):
        launch(job_of(), in_process=True)


def test_a_record_is_read_without_the_module(workplace):
    run = launch(job_of(), in_process=True)
    sys.modules.pop("my_search", None)
    (workplace / "my_search.py").unlink()
    for command in (["status"], ["report"], ["verify", "--device", "cpu"]):
        done = CliRunner().invoke(app, [command[0], run.folder.location, *command[1:]])
        assert done.exit_code == 0, (command, done.output)
    assert "my_search" not in sys.modules


BAD = {
    "no such module": ({"search": "nowhere_at_all:X"}, r"^attack\.search: .*there is no module 'nowhere_at_all'"),
    "no such class": ({"search": "my_search:Y"}, "has no 'Y'; a search is written package.module:Class"),
    "no class in it": ({"search": "my_search"}, "is not written package.module:Class"),
    "no search": ({"search": "my_search:State"}, "is no subclass of sfi_ray.search.Search"),
    "no such setting": ({"search": "my_search:HillClimb", "corners": 1}, r"attack\.corners: unknown key; did you mean"),
    "a class that lacks methods": ({"search": "bad:Abstract"}, "lacks _admit, _ask"),
    "a setting of every attack": ({"search": "bad:Clash"}, "have stop_confidence, which is a key of every attack"),
    "a bad default": (
        {"search": "bad:Default"},
        r"attack\.share: should be .* \(found 7\.5; a setting of 'bad:Default'\)",
    ),
    "a validator that raises": ({"search": "bad:Validator"}, "Settings of 'bad:Validator' failed: KeyError: 'post'"),
    "a module that exits": ({"search": "exits:X"}, "cannot be imported: SystemExit: 5"),
    "a bad value": ({"search": "my_search:HillClimb", "corner_share": 2}, r"attack\.corner_share: should be"),
}


BAD_CODE = """
from my_search import HillClimb
from pydantic import Field
from sfi_ray.search import Search, SearchSettings

class Abstract(Search):
    Settings = SearchSettings

class Clash(HillClimb):
    class Settings(SearchSettings):
        stop_confidence: float = 0.5

class Default(HillClimb):
    class Settings(SearchSettings):
        share: float = Field(7.5, le=1)

class Validator(HillClimb):
    class Settings(SearchSettings):
        def model_post_init(self, context):
            raise KeyError("post")
"""


@pytest.mark.parametrize(("values", "message"), BAD.values(), ids=BAD)
def test_what_is_no_search_is_named(workplace, values, message):
    (workplace / "bad.py").write_text(BAD_CODE)
    (workplace / "exits.py").write_text("import sys\nsys.exit(5)\n")
    with pytest.raises(InputError, match=message):
        launch(job_of(attack=values), in_process=True)
    assert not (workplace / "runs").exists()
    sys.modules.pop("bad", None)


def test_messages_name_the_job_file_and_the_line(workplace):
    text = block("yaml")
    line = 1 + text[: text.index("search:")].count("\n")
    job = workplace / "job.yaml"
    job.write_text(text.replace("my_search:HillClimb", "nowhere_at_all:X"))
    done = CliRunner().invoke(app, ["launch", "job.yaml", "--in-process"])
    assert done.exit_code == 2
    assert f"error: job.yaml:{line}: attack.search: search 'nowhere_at_all:X': there is no module" in done.stderr
    job.write_text(text.replace("corner_share:", "corner_shore:"))
    with pytest.raises(
        InputError, match=r"^job\.yaml:\d+: attack\.corner_shore: unknown key; did you mean 'corner_share'"
    ):
        launch("job.yaml", in_process=True)


def test_a_kind_and_a_search_exclude_each_other():
    text = "name: x\ndataset: digits\nclassifiers: mlp\nk: 1\nattack:\n  {kind: de, search: 'my_search:HillClimb'}"
    with pytest.raises(InputError, match=r"^job:5: attack: `kind: de` and `search` exclude each other"):
        parse_job(text)


def test_a_class_that_cannot_travel_is_named(workplace):
    module = workplace / "my_search.py"
    module.write_text(module.read_text() + "\nimport threading\nHillClimb.lock = threading.Lock()\n")
    with pytest.raises(InputError, match=r"cannot travel to another process .*--in-process"):
        read_attack_settings({"search": "my_search:HillClimb"}).pack()


def test_a_search_that_classes_share_is_refused(workplace):
    with pytest.raises(InputError, match="has shares_classes"):
        read_attack_settings({"search": "sfi_ray.search:MapElites"}).check()


def test_the_class_travels_where_its_module_is_not(workplace):
    settings = read_attack_settings({"search": "my_search:HillClimb"})
    packed = settings.pack()
    sys.modules.pop("my_search", None)
    (workplace / "my_search.py").unlink()
    with pytest.raises(InputError, match="there is no module 'my_search'"):
        settings.build()
    settings.unpack(packed)
    assert settings.build().max_evaluations == 1000
    from sfi_ray.attacks import own_search

    own_search._travelled.clear()
    assert torch.get_num_threads() >= 1


ENDLESS = """
from my_search import HillClimb
from sfi_ray.search import Query

class Endless(HillClimb):
    def _update(self, state):
        super()._update(state)
        self.is_exhausted = self.is_exhausted & False

class Silent(Endless):
    def _ask(self):
        query = super()._ask()
        self.has_asked = self.generation.min() > 0
        if not self.has_asked:
            return query
        self._candidates = self._candidates[:0]
        return Query(query.owners[:0], query.genes[:0])

    def _tell(self, answer):
        if not self.has_asked:
            super()._tell(answer)

class Raising(HillClimb):
    def _tell(self, answer):
        raise KeyError("nothing there")

class Outside(HillClimb):
    def _ask(self):
        query = super()._ask()
        return Query(query.owners, query.genes * float("nan"))

class Misshapen(HillClimb):
    def _ask(self):
        query = super()._ask()
        return Query(query.owners, query.genes[:, :, :2])
"""
ENDS = {
    "Endless": "more candidates than max_evaluations; is_exhausted has to end it",
    "Silent": "the search asked nothing in 1000 generations",
    "Raising": "search Raising: KeyError: 'nothing there'",
    "Outside": "some genes of a query are NaN or outside the bounds of the space",
    "Misshapen": "the genes of a query have shape (160, 5, 2), expected (160, 5, 3)",
}


@pytest.mark.parametrize(("name", "reason"), ENDS.items(), ids=ENDS)
def test_a_search_that_breaks_the_contract_fails_its_cells_and_ends(workplace, name, reason):
    (workplace / "endless.py").write_text(ENDLESS)
    attack = {"search": f"endless:{name}", "max_evaluations": 64, "num_candidates": 16}
    run = launch(job_of(attack=attack, backgrounds=["black"], cluster={"retries": 0}), in_process=True)
    sys.modules.pop("endless", None)
    rows = run.table().to_pylist()
    assert {row["stop_reason"] for row in rows} == {"failed"}
    assert all(reason in row["error"] for row in rows), rows[0]["error"]
