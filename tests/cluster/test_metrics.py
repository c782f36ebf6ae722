"""What Prometheus would scrape from a real Ray while and after a run goes."""

import json
import re
import urllib.request
from pathlib import Path

import pytest

import sfi_ray.cluster
from sfi_ray import launch
from sfi_ray.cluster.ray.session import ray_session
from sfi_ray.cluster.reporter import Reporter
from tests.cluster.conftest import make_classifier, make_job, wait_for

DASHBOARD = Path(sfi_ray.cluster.__file__).parent / "grafana_dashboard.json"
METRICS = Path(sfi_ray.cluster.__file__).parent / "ray/metrics.py"
SAMPLE = re.compile(r"^(ray_sfi_\w+){(.*)} (\S+)$", flags=re.MULTILINE)


def scrape(port):
    """Sums of the samples by metric and by those labels that this project gives."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    sums = {}
    for name, labels, value in SAMPLE.findall(text):
        given = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        key = (name, *(given[label] for label in ("run", "classifier", "outcome") if label in given))
        sums[key] = sums.get(key, 0) + float(value)
    return sums


class Asking(Reporter):
    """Asks the actors what they do, as `sfi-ray status` does."""

    def __init__(self):
        self.heard = []

    def progressed(self, tally, seconds_left):
        from sfi_ray.cluster.ray.actors import what_actors_do

        self.heard += what_actors_do("test")
        assert what_actors_do("tes") == what_actors_do("another") == []


@pytest.mark.slow
@pytest.mark.ray
def test_what_is_scraped_and_asked_is_what_the_data_set_says(tmp_path):
    with ray_session(None, dashboard=False):
        import ray

        asking = Asking()
        job = make_job(tmp_path, verification={"threshold": 0.13})
        run = launch(job, classifiers={"toy": make_classifier()}, reporter=asking)
        line = r"search-test-\w+-\d: on \S+, (searches toy, [\d,]+ evaluations/s, \d+ images at once|waits)"
        assert any(re.fullmatch(line, text) for text in asking.heard), asking.heard
        rows = run.table(["fooled", "evaluations"])
        fooled = sum(rows["fooled"].to_pylist())
        assert 0 < fooled < 40
        expected = {
            ("ray_sfi_cells", "test", "fooled"): fooled,
            ("ray_sfi_cells", "test", "not_fooled"): 40 - fooled,
            ("ray_sfi_cells", "test", "failed"): 0,
            ("ray_sfi_cells_planned", "test"): 40,
            ("ray_sfi_cells_waiting", "test"): 0,
            ("ray_sfi_retries", "test"): 0,
            ("ray_sfi_evaluations_total", "test", "toy"): sum(rows["evaluations"].to_pylist()),
        }
        port = ray.nodes()[0]["MetricsExportPort"]
        seen = {}

        def has_come():
            seen.update(scrape(port))
            return expected.items() <= seen.items()

        try:
            wait_for(has_come, 45)
        except AssertionError:
            assert {key: seen.get(key) for key in expected} == expected


def test_the_dashboard_shows_what_is_exported_and_nothing_else():
    dashboard = json.loads(DASHBOARD.read_text())
    shown = set(re.findall(r"ray_(sfi_\w+)", json.dumps(dashboard)))
    kinds = dict(map(reversed, re.findall(r'(Gauge|Counter)\(\s*"(sfi_\w+)"', METRICS.read_text())))
    exported = {name + "_total" * (kind == "Counter") for name, kind in kinds.items()}
    assert shown == exported
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert all(panel["datasource"] == "${datasource}" for panel in dashboard["panels"])


def test_the_dashboard_is_of_the_form_of_rays_own(tmp_path):
    from importlib.util import find_spec

    folder = Path(next(iter(find_spec("ray").submodule_search_locations))) / "dashboard/modules/metrics/dashboards"
    theirs = json.loads((folder / "data_grafana_dashboard_base.json").read_text())
    ours = json.loads(DASHBOARD.read_text())
    assert ours["schemaVersion"] == theirs["schemaVersion"]
    assert ours["templating"]["list"][0]["name"] == theirs["templating"]["list"][0]["name"] == "datasource"
    assert ours["uid"] != theirs["uid"]
