"""Two launches on one small cluster, each a driver of its own: one gives way to the other, and gets the room back."""

import subprocess
import sys
from pathlib import Path

import pytest

from sfi_ray import launch
from sfi_ray.cluster.ray.session import _ALWAYS, _PRIVATE, _own_token
from tests.cluster.conftest import make_classifier, make_job, make_module, pids_of, slow, two_nodes, wait_for
from tests.cluster.test_faults import Harming, assert_undisturbed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc"),
]


@pytest.fixture(scope="module")
def nodes():
    """A cluster of a head without CPUs and two nodes with one each, which this process is connected to."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**_ALWAYS, **_PRIVATE, "RAY_AUTH_TOKEN": _own_token()}.items():
            patch.setenv(name, value)
        with two_nodes() as cluster:
            yield cluster


SMALL = """
import sys
from pathlib import Path
from sfi_ray import launch
from sfi_ray.cluster.reporter import Reporter
from tests.cluster.conftest import assert_complete, make_classifier, make_job, make_module, slow

address, folder, replicates = sys.argv[1:]

class Telling(Reporter):
    def progressed(self, tally, seconds_left):
        sign = Path(folder, "up" if tally.workers else "waits")
        if not sign.exists():
            sign.touch()

job = make_job(folder, name="small", k=1, backgrounds="black", replicates=int(replicates), cluster={"actors": 1})
classifier = make_classifier(module=slow(make_module(), 0.05))
run = launch(job, classifiers={"toy": classifier}, address=address, reporter=Telling())
assert_complete(run)
"""


class Huge(Harming):
    """Starts a small launch once both nodes are taken, and is slow until the room has come back after its end."""

    def __init__(self, cluster, folder, *, is_killed):
        super().__init__(self._start, after=2, workers=2)
        self._command = [sys.executable, "-c", SMALL, cluster.address, str(folder), "1000" if is_killed else "1"]
        self._up = folder / "up"
        self._is_killed = is_killed
        self.waiting = folder / "waiting"
        self.waiting.touch()
        self.small = None
        self.least = 2

    def _start(self):
        self.small = subprocess.Popen(self._command, cwd=Path(__file__).parents[2])

    def progressed(self, tally, seconds_left):
        super().progressed(tally, seconds_left)
        if self.small is None:
            return
        self.least = min(self.least, tally.workers)
        if self._is_killed and self._up.exists():
            self.small.kill()
        if self.small.poll() is not None and tally.workers == 2:
            self.waiting.unlink(missing_ok=True)


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_huge_launch_gives_way_to_a_small_one_and_gets_the_room_back(nodes, tmp_path, is_killed):
    huge = Huge(nodes, tmp_path, is_killed=is_killed)
    classifier = make_classifier(module=slow(make_module(), 0.01, while_there=huge.waiting))
    job = make_job(tmp_path / "a", replicates=8, cluster={"cells_per_shard": 4, "retries": 0})
    run = launch(job, classifiers={"toy": classifier}, reporter=huge)
    assert huge.small.wait() == (-9 if is_killed else 0)
    waits, up = ((tmp_path / sign).stat().st_mtime for sign in ("waits", "up"))
    assert up - waits < 90
    assert huge.least == 1, "a launch that has an actor keeps one"
    assert "other launches wait for room: this one goes on with 1 actor, its fair share" in huge.heard
    assert sum("it gave way to another launch" in text for text in huge.heard) == 1
    assert run.status().failed == 0
    assert_undisturbed(run, classifier, tmp_path / "b")
    wait_for(lambda: not pids_of("ray::ShareActor"))
