"""The page that lives: it shows what the folder holds now, and answers nobody but its own page."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from playwright.sync_api import sync_playwright

from sfi_ray.errors import InputError
from sfi_ray.report.live import LivePage, serving
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.progress import Progress, RunState, write_progress

CHROMIUM = shutil.which("chromium")
EVIL = "</script><img src=x onerror=alert(1)>"


def sign(folder: Path, **changes: Any) -> None:
    values: dict[str, Any] = {"state": RunState.RUNNING, "host": "here", "pid": 1, "started_at": 0, "num_cells": 4}
    values |= {"updated_at": time.time(), "finished": 1, "fooled": 1, "failed": 0, "evaluations": 10}
    values |= {"evaluations_per_second": 1234, "actors": 2, "seconds_left": 90}
    write_progress(RunFolder(str(folder)), Progress(**(values | changes)))


@pytest.fixture
def run(write_run: Any, make_findings: Any, tmp_path: Path) -> Path:
    table = make_findings({"confidence": 0.95, "target_name": EVIL, "num_altered": 0})
    folder: Path = write_run(tmp_path / "run", table, name=EVIL, num_cells=4)
    sign(folder)
    return folder


def add_rows(folder: Path, table: Any) -> None:
    pq.write_table(table, folder / "results" / "part-000000000001.parquet")


@contextmanager
def served(folder: Path) -> Iterator[int]:
    page = LivePage(str(folder))
    page.rest = 0.0  # type: ignore[misc]
    with serving(page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def get(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_the_page_follows_the_folder(run: Path, make_findings: Any) -> None:
    with served(run) as port:
        status, before = get(port, "/")
        assert status == 200
        assert "1 of 1 searched cells are fooled" in before
        assert EVIL not in before
        told = json.loads(get(port, "/progress")[1])
        assert told["line"] == "1 of 4 cells, 1 fooled, 1,234 evaluations/s, 2 actors, 1.5 minutes left"
        assert told["share"] == 0.25
        assert f'data-mark="{told["mark"]}"' in before
        assert get(port, "/")[1] == before
        add_rows(run, make_findings({"cell_id": "1" * 32, "cell_index": 1, "target_class": 1, "confidence": 0.5}))
        assert json.loads(get(port, "/progress")[1])["mark"] != told["mark"]
        assert "1 of 2 searched cells are fooled" in get(port, "/")[1]


@pytest.mark.parametrize(
    ("state", "age", "line"),
    [
        (RunState.FINISHED, 0, "4 of 4 cells, 1 fooled. The run is finished."),
        (RunState.RUNNING, 3600, "4 of 4 cells, 1 fooled. The run is lost."),
    ],
)
def test_a_run_that_has_ended_is_served_too(run: Path, state: RunState, age: float, line: str) -> None:
    sign(run, state=state, updated_at=time.time() - age, finished=4)
    with served(run) as port:
        assert json.loads(get(port, "/progress")[1])["line"] == line
        assert get(port, "/")[0] == 200


@pytest.mark.parametrize(
    "path", ["/job.yaml", "/../run/job.yaml", "//etc/passwd", "/results", "/progress/x", "/%2e%2e/"]
)
def test_no_other_path_is_served(run: Path, path: str) -> None:
    with served(run) as port:
        assert get(port, path) == (404, "not found\n")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:{port}.evil.example", ""]
)
def test_a_name_that_was_turned_to_this_machine_gets_nothing(run: Path, host: str) -> None:
    with served(run) as port:
        for path in ("/", "/progress"):
            assert get(port, path, Host=host.format(port=port)) == (403, "wrong host\n")
        assert get(port, "/", Host=f"localhost:{port}")[0] == 200
        assert get(port, "/", method="POST")[0] == 501


def test_a_folder_that_goes_away_is_said_and_a_folder_without_a_run_is_refused(run: Path, tmp_path: Path) -> None:
    with served(run) as port:
        get(port, "/")
        (run / "job.yaml").write_text("job: [")
        (run / "results" / "part-000000000000.parquet").unlink()
        status, text = get(port, "/")
        assert (status, text.count("\n")) == (503, 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no run"):
        LivePage(str(tmp_path / "empty"))


def test_a_page_may_wait_for_the_launch_that_makes_its_folder(
    tmp_path: Path, write_run: Any, make_findings: Any
) -> None:
    folder = tmp_path / "runs" / "later"
    with served(folder) as port:
        assert "This run does not exist yet. The page waits for its launch." in get(port, "/")[1]
        first = json.loads(get(port, "/progress")[1])
        assert (first["line"], first["share"]) == ("waiting for the launch", None)
        with RunFolder(str(folder)).lock():
            assert "The launch prepares its networks; no cell is searched yet." in get(port, "/")[1]
            second = json.loads(get(port, "/progress")[1])
            assert second["line"] == "networks are trained or measured"
        write_run(folder, make_findings({"confidence": 0.95}), num_cells=4)
        assert "1 of 1 searched cells are fooled" in get(port, "/")[1]
        assert len({first["mark"], second["mark"], json.loads(get(port, "/progress")[1])["mark"]}) == 3


def test_a_file_is_no_folder_to_wait_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="holds no run"):
        LivePage(str(tmp_path / "file"))


def test_the_command_says_that_it_waits(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sfi_ray", "watch", str(tmp_path / "later")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    port = int(process.stdout.readline().removeprefix("http://127.0.0.1:").partition("/")[0])
    assert process.stderr.readline() == f"'{tmp_path / 'later'}' does not exist yet; the page waits for its launch\n"
    assert get(port, "/")[0] == 200
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "stopped watching\n")
    assert not (tmp_path / "later").exists()


def test_a_port_that_is_taken_is_said(run: Path) -> None:
    message = "cannot listen on 127.0.0.1:.* give another --port"
    with served(run) as port, pytest.raises(InputError, match=message), serving(LivePage(str(run)), port):
        pass


def test_ctrl_c_ends_the_command_cleanly(run: Path) -> None:
    command = [sys.executable, "-m", "sfi_ray", "watch", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    port = int(line.removeprefix("http://127.0.0.1:").partition("/")[0])
    assert get(port, "/progress")[0] == 200
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "stopped watching; the run goes on\n")


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; on Debian: apt-get install chromium")
def test_images_appear_as_they_are_found_and_filters_stay(run: Path, make_findings: Any) -> None:
    pixels = [{"row": 0, "col": 3, "value": [255]}]
    found = [
        {"cell_id": f"{n:032x}", "cell_index": n, "target_class": n, "target_name": name, "confidence": confidence}
        | {"pixels": pixels, "num_altered": 1}
        for n, name, confidence in ((1, "cat", 0.99), (2, "dog", 0.1))
    ]
    complaints: list[str] = []
    with served(run) as port, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"a name was run: {dialog.message}"))
        page.goto(f"http://127.0.0.1:{port}/")
        page.get_by_text("1 of 4 cells, 1 fooled, 1,234 evaluations/s, 2 actors, 1.5 minutes left").wait_for()
        assert page.locator("#found .tile").count() == 1
        add_rows(run, make_findings(*found))
        sign(run, finished=3, fooled=2)
        page.locator("#found .tile .name", has_text="cat").wait_for()
        page.get_by_text("3 of 4 cells, 2 fooled").wait_for()
        page.locator("#filters").get_by_role("combobox", name="Outcome").select_option("fooled")
        page.locator("#filters").get_by_role("combobox", name="Outcome").blur()
        assert page.locator("#filters .count").inner_text() == "2 of 3 cells"
        more = {**found[1], "cell_id": "3" * 32, "cell_index": 3, "target_class": 3, "confidence": 0.97}
        pq.write_table(make_findings(more), run / "results" / "part-000000000002.parquet")
        page.locator("#filters .count", has_text="3 of 4 cells").wait_for()
        assert page.url.endswith("?outcome=fooled")
        browser.close()
    assert complaints == []
