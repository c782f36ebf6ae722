"""Injects real faults into small runs, under a seed, and checks what is left of each run.

    uv run benchmarks/chaos.py [--seed N] [--only NAME ...]

Every scenario launches a job over Ray, harms it from outside, launches it again where the harm ended it, and then
checks: a row for every cell and none twice, every row equal to that of an undisturbed run in one process, no temporary
file, no process left, and a message that says what happened. The seed decides when harm is done and to whom. Needs
Linux, and root for the file systems that fill up or close.
"""

import argparse
import contextlib
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

# Ray reads these when it is imported; the last one marks every process that is started here.
MARK = "SFI_RAY_CHAOS"
os.environ.update(
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN=secrets.token_hex(32),
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    RAY_USAGE_STATS_ENABLED="0",
    **{MARK: secrets.token_hex(8)},
)

import numpy as np  # noqa: E402
import ray  # noqa: E402
import torch  # noqa: E402
from ray._raylet import GcsClient  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from ray.core.generated import autoscaler_pb2  # noqa: E402
from report import write_report  # noqa: E402
from torch import nn  # noqa: E402

from sfi_ray import Classifier, Job, launch, open_run  # noqa: E402
from sfi_ray.cluster.reporter import Reporter  # noqa: E402
from sfi_ray.errors import StorageError  # noqa: E402
from sfi_ray.store.schema import CIRCUMSTANCES  # noqa: E402

# A node is taken for lost after a second and a half instead of half a minute.
IMPATIENT = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
# Two agents of a raylet that was killed follow it within two minutes.
LONGEST_FAREWELL = 150.0
OBJECT_STORE = 100 << 20
# How Ray titles an actor during a search.
SEARCHING = "ray::SearchActor.search"


class Listener(Reporter):
    """Remembers what was said, and lets a scenario look at every round of the driver."""

    def __init__(self):
        self.heard = []
        self.on_round = lambda tally: None
        self.evaluations = 0

    def log(self, text):
        self.heard.append(text)

    def progressed(self, tally, seconds_left):
        self.evaluations = max(self.evaluations, tally.evaluations)
        self.on_round(tally)


class Stage:
    """What a scenario plays on: a folder, chance, and a classifier that can be harmed until it is calmed."""

    def __init__(self, folder, seed):
        self.folder = Path(folder)
        self.chance = random.Random(seed)
        self.listener = Listener()
        self.calm = self.folder / "calm"
        self.generations = 200

    def classifier(self, strike, width=32):
        calm, root = self.calm, str(self.folder)

        class Harmed(nn.Module):
            def __init__(self):
                super().__init__()
                with torch.random.fork_rng():
                    torch.manual_seed(0)
                    layers = nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)
                self.inner = nn.Sequential(*layers)

            def forward(self, images):
                # The driver examines the network too, which must not use up a harm that is done once.
                if len(images) > 1 and not calm.exists() and is_searching():
                    strike(images, root)
                return self.inner(images)

        return Classifier(Harmed(), name="toy", input_shape=(1, 8, 8), num_classes=10, mean=[0.3], std=[0.4])

    def job(self, output, replicates=1, **cluster):
        return Job.model_validate(
            {
                "name": "chaos",
                "dataset": "digits",
                "classifiers": ["toy"],
                "backgrounds": ["black", "gray"],
                "k": [1, 3],
                "replicates": replicates,
                "attack": {"kind": "de", "population_size": 10, "generations": 8},
                "cluster": {
                    "flush_seconds": 0,
                    "cells_per_shard": 4,
                    "retries": 100,
                    "startup_seconds": 120,
                    **cluster,
                },
                "output": str(output),
            }
        )

    def go(self, job, classifier):
        return launch(job, classifiers={"toy": classifier}, reporter=self.listener)

    def compare(self, run, classifier):
        """Holds a run against one that nothing disturbed."""
        self.calm.touch()
        job = run.job.model_copy(update={"output": str(self.folder / "undisturbed")})
        given = {"toy": classifier} if classifier else {}
        compare(run, launch(job, classifiers=given, in_process=True))


def compare(run, expected):
    indices = run.dataset.to_table(columns=["cell_index"])["cell_index"].to_pylist()
    assert sorted(indices) == list(range(run.record.num_cells)), "rows are lost, or there twice"
    one, other = (r.table().drop_columns([*CIRCUMSTANCES, "run"]) for r in (run, expected))
    assert one.equals(other), "rows differ from those of the undisturbed run"


def once(root, name):
    """Whether this is the first call with this name, in any process."""
    try:
        os.close(os.open(f"{root}/{name}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def is_searching():
    """Whether this process is an actor that searches, by the title that `searching` looks for."""
    return Path("/proc/self/cmdline").read_bytes().startswith(SEARCHING.encode())


def slowly(seconds):
    def strike(images, root):
        time.sleep(seconds)

    return strike


def marked(prefix="", containing=""):
    """Processes that were started here, by the beginning of their title and a part of it."""
    found = []
    wanted = f"{MARK}={os.environ[MARK]}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            except OSError:
                continue
            if command.startswith(prefix.encode()) and containing.encode() in command and wanted in environment:
                found.append(int(entry.name))
    return found


def searching():
    return marked(SEARCHING)


def wait_for(condition, seconds=240.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


@contextlib.contextmanager
def cluster(*nodes, connect=True, head=None, **system):
    """Runs a head without CPUs, and nodes; each is a mapping of what `Cluster.add_node` takes."""
    common = {"object_store_memory": OBJECT_STORE}
    config = {"num_cpus": 0, "include_dashboard": False, "_system_config": {**IMPATIENT, **system}}
    made = Cluster(initialize_head=True, head_node_args={**common, **config, **(head or {})})
    try:
        for node in nodes:
            made.add_node(**{**common, "num_cpus": 1, **node})
        if connect:
            ray.init(address=made.address, log_to_driver=False, logging_level="CRITICAL")
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@contextlib.contextmanager
def beside(function):
    """Runs a function in a thread during a block, and raises what it raises."""
    failures = []

    def run():
        try:
            function()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    if failures:
        raise failures[0]


def kill_at_random(stage, times, done):
    killed = 0
    while killed < times:
        assert not done.wait(stage.chance.uniform(0.1, 0.8)), f"the run ended after {killed} of {times}"
        victims = searching()
        if victims:
            os.kill(stage.chance.choice(victims), signal.SIGKILL)
            killed += 1


def actors_killed(stage):
    """twenty SIGKILLs of actors at random moments"""
    classifier, done = stage.classifier(slowly(0.15)), threading.Event()
    with cluster({}, {}), beside(lambda: kill_at_random(stage, 20, done)):
        try:
            run = stage.go(stage.job(stage.folder, replicates=4), classifier)
        finally:
            done.set()
    stage.compare(run, classifier)
    return "its process crashed or was killed"


def raylet_killed(stage):
    """SIGKILL of the raylet of one of two nodes"""
    classifier = stage.classifier(slowly(0.05))
    with cluster({}, {}) as made:
        victim = stage.chance.choice(list(made.worker_nodes))

        def harm(tally):
            if tally.finished > 4 and once(stage.folder, "killed"):
                os.kill(raylet_of(victim), signal.SIGKILL)

        stage.listener.on_round = harm
        run = stage.go(stage.job(stage.folder), classifier)
    stage.compare(run, classifier)
    return "its node was lost"


def node_joins(stage):
    """no node can search until one joins after five seconds; another joins during the search"""
    classifier = stage.classifier(slowly(0.05))
    with cluster() as made:
        began, most = time.monotonic(), []

        def harm(tally):
            most.append(tally.workers)
            due = (time.monotonic() - began > 5, tally.finished > 8)
            for number, is_due in enumerate(due):
                if is_due and once(stage.folder, f"joined-{number}"):
                    made.add_node(num_cpus=1, object_store_memory=OBJECT_STORE)

        stage.listener.on_round = harm
        run = stage.go(stage.job(stage.folder, replicates=3, actors=2), classifier)
        assert max(most) == 2, "the late node was not used"
    stage.compare(run, classifier)
    return ""


def node_leaves(stage):
    """SIGTERM to a raylet, as when a node is taken out"""
    classifier = stage.classifier(slowly(0.05))
    with cluster({}, {}) as made:
        victim = stage.chance.choice(list(made.worker_nodes))

        def harm(tally):
            if tally.finished > 4 and once(stage.folder, "left"):
                made.remove_node(victim, allow_graceful=True)

        stage.listener.on_round = harm
        run = stage.go(stage.job(stage.folder), classifier)
    stage.compare(run, classifier)
    return "its node was lost"


def node_drains(stage):
    """a node drains, as after a notice of a spot node, and goes after a grace of ten seconds"""
    classifier = stage.classifier(slowly(0.05))
    with cluster({}, {}) as made:
        victim, told = stage.chance.choice(list(made.worker_nodes)), []

        def harm(tally):
            if tally.finished > 4 and tally.workers == 2 and once(stage.folder, "drained"):
                told.append(time.monotonic())
                head = GcsClient(address=made.address)
                reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
                head.drain_node(victim.node_id, reason, "a notice", int(time.time() * 1000) + 10_000)
            if told and time.monotonic() - told[0] > 10 and once(stage.folder, "gone"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(raylet_of(victim), signal.SIGKILL)

        stage.listener.on_round = harm
        run = stage.go(stage.job(stage.folder, replicates=4, retries=0), classifier)
        assert told, "the run ended before the notice"
        assert not any("was lost" in text for text in stage.listener.heard), "actors did not leave in time"
    stage.compare(run, classifier)
    return "its node is about to go"


def pod_ends(stage):
    """SIGTERM to `ray start --block`, as Kubernetes ends a pod of KubeRay"""
    classifier = stage.classifier(slowly(0.05))
    command = [Path(sys.executable).with_name("ray"), "start", "--block", "--num-cpus", "1"]
    with cluster({}) as made:
        command += ["--address", made.address, "--object-store-memory", str(OBJECT_STORE)]
        pod = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: ray.cluster_resources().get("CPU", 0) == 2 or pod.poll() is not None)

            def harm(tally):
                if tally.finished > 4 and tally.workers == 2 and once(stage.folder, "told"):
                    pod.terminate()

            stage.listener.on_round = harm
            run = stage.go(stage.job(stage.folder, replicates=4, retries=0), classifier)
            pod.wait(60)
        finally:
            pod.kill()
            pod.wait()
        assert not any("was lost" in text for text in stage.listener.heard), "actors did not leave in time"
    stage.compare(run, classifier)
    return "its node is about to go"


def node_is_slow(stage):
    """one of two nodes is thirty times slower"""

    def strike(images, root):
        time.sleep(0.6 if os.environ.get("SFI_RAY_SLOW") else 0.02)

    classifier = stage.classifier(strike)
    with cluster({}, {"env_vars": {"SFI_RAY_SLOW": "1"}}):
        run = stage.go(stage.job(stage.folder, replicates=2), classifier)
    stage.compare(run, classifier)
    return ""


def spot_node(stage):
    """SIGTERM to an actor, and SIGKILL after a grace of five seconds, as spot instances are ended"""
    classifier = stage.classifier(slowly(0.05))
    with cluster({}, {}):
        victims = []

        def harm(tally):
            if tally.finished > 4 and once(stage.folder, "told"):
                victims.append((stage.chance.choice(searching()), time.monotonic()))
                os.kill(victims[0][0], signal.SIGTERM)
            if victims and time.monotonic() - victims[0][1] > 5:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victims[0][0], signal.SIGKILL)

        stage.listener.on_round = harm
        run = stage.go(stage.job(stage.folder, replicates=2), classifier)
    stage.compare(run, classifier)
    return "it was asked to end"


def forward_hangs(stage):
    """a forward pass that never returns; bound: cluster.hang_seconds, here 5"""

    def strike(images, root):
        if once(root, "hung"):
            threading.Event().wait()

    classifier = stage.classifier(strike)
    with cluster({}, {}):
        run = stage.go(stage.job(stage.folder, hang_seconds=5), classifier)
    stage.compare(run, classifier)
    return "said nothing for 5 s"


def host_memory(stage):
    """an actor takes host memory without end; Ray's monitor watches the node"""
    known = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(known[key].split()[0]) / 2**20 for key in ("MemTotal", "MemAvailable"))

    def strike(images, root):
        if once(root, "greedy"):
            held = []
            while len(held) < 64 * 6:
                held.append(np.ones(2**24, dtype=np.uint8))
                time.sleep(0.02)

    classifier = stage.classifier(strike)
    threshold = (total - free + 4) / total
    with cluster({}, {}, memory_usage_threshold=threshold, memory_monitor_refresh_ms=200):
        run = stage.go(stage.job(stage.folder), classifier)
    stage.compare(run, classifier)
    return "ran out of memory"


def device_memory(stage):
    """a device whose memory holds 32 images (simulated: the forward pass raises torch's error)"""

    def strike(images, root):
        if len(images) > 32:
            raise torch.OutOfMemoryError("out of memory")

    classifier = stage.classifier(strike)
    with cluster({}, {}):
        run = stage.go(stage.job(stage.folder), classifier)
    stage.compare(run, classifier)
    return "out of memory on"


def disk_full(stage):
    """the disk of the run fills up; space is made and the job launched again"""
    disk, classifier = stage.folder / "disk", stage.classifier(slowly(0.02))
    with mounted(disk, "256k"), cluster({}, {}):
        with expecting(StorageError, "free some space"):
            stage.go(stage.job(disk, replicates=8), classifier)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        run = stage.go(stage.job(disk, replicates=8), classifier)
        stage.compare(run, classifier)
        assert_no_temporary_files(disk)
    return "cells finished already"


def read_only(stage):
    """a read-only file system where the rows go, during the search"""
    classifier = stage.classifier(slowly(0.05))
    results = stage.folder / "chaos/results"
    with cluster({}, {}):

        def harm(tally):
            if tally.finished > 4 and once(stage.folder, "closed"):
                subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", results], check=True)

        stage.listener.on_round = harm
        try:
            with expecting(StorageError, "choose another folder"):
                stage.go(stage.job(stage.folder), classifier)
        finally:
            subprocess.run(["umount", "--lazy", results], check=True)
        run = stage.go(stage.job(stage.folder), classifier)
    stage.compare(run, classifier)
    return "cells finished already"


def object_store(stage):
    """weights of 100 MiB and an object store of 80"""
    classifier = stage.classifier(slowly(0.0), width=350_000)
    small = {"object_store_memory": 80 << 20}
    with cluster(small, small, head=small):
        run = stage.go(stage.job(stage.folder), classifier)
    stage.compare(run, classifier)
    return ""


def driver_killed(stage):
    """SIGKILL of the driver, whose private Ray dies with it"""
    driver = start(stage)
    wait_for(lambda: num_parts(stage) >= 3)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    wait_for(lambda: not marked(), LONGEST_FAREWELL)
    return finish(stage)


def driver_told(stage):
    """SIGTERM to the driver, as a scheduler ends a job"""
    driver = start(stage)
    wait_for(lambda: num_parts(stage) >= 3)
    told = time.monotonic()
    driver.terminate()
    said = driver.communicate(timeout=60)[1]
    assert time.monotonic() - told < 30, "it took longer than the grace that schedulers give"
    assert driver.returncode == 130, said
    assert "go on with" in said, said
    return finish(stage)


def head_killed(stage):
    """SIGKILL of all processes of the cluster's head, which holds no results"""
    # Actors search on without a head, and must not be through before the driver misses it, after half a minute.
    stage.generations = 500
    with cluster({}, {}, connect=False) as made:
        driver = start(stage, "--address", made.address)
        wait_for(lambda: num_parts(stage) >= 3)
        for processes in made.head_node.all_processes.values():
            for info in processes:
                info.process.kill()
        said = driver.communicate(timeout=120)[1]
        assert driver.returncode == 2, said
        assert "has not answered" in said, said
        stage.listener.heard.append(said.splitlines()[-1])
    with cluster({}, {}, connect=False) as made:
        finish(stage, "--address", made.address)
    return "has not answered"


SCENARIOS = (
    actors_killed,
    raylet_killed,
    node_joins,
    node_leaves,
    node_drains,
    pod_ends,
    node_is_slow,
    spot_node,
    forward_hangs,
    host_memory,
    device_memory,
    disk_full,
    read_only,
    object_store,
    driver_killed,
    driver_told,
    head_killed,
)


def raylet_of(node):
    return node.all_processes["raylet"][0].process.pid


@contextlib.contextmanager
def expecting(kind, text):
    caught = None
    try:
        yield
    except kind as error:
        caught = str(error)
    assert caught is not None, f"no {kind.__name__} came"
    assert text in caught, caught


@contextlib.contextmanager
def mounted(place, size):
    """A small file system in memory; needs root."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def assert_no_temporary_files(folder):
    left = [path for path in folder.rglob("*") if path.name.endswith(".tmp")]
    assert not left, f"temporary files are left: {left}"


def job_file(stage):
    path = stage.folder / "job.yaml"
    path.write_text(
        f"""
name: chaos
dataset: digits
classifiers: [{{name: mlp, training: {{epochs: 1}}}}]
backgrounds: [black, gray]
k: [1, 3]
replicates: 6
attack: {{kind: de, population_size: 10, generations: {stage.generations}}}
cluster: {{flush_seconds: 0, cells_per_shard: 5}}
output: {stage.folder}
"""
    )
    return path


def start(stage, *options):
    """Launches a job in a process of its own."""
    command = [sys.executable, "-m", "sfi_ray", "launch", str(job_file(stage)), "--no-dashboard", *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )  # fmt: skip


def finish(stage, *options):
    """Launches the job of `start` again, to its end."""
    driver = start(stage, *options)
    said = driver.communicate(timeout=400)[1]
    assert driver.returncode == 0, said
    assert "cells finished already" in said, said
    stage.listener.heard += [line for line in said.splitlines() if "finished already" in line]
    stage.compare(open_run(stage.folder / "chaos"), None)
    return "finished already"


def num_parts(stage):
    return len(list((stage.folder / "chaos/results").glob("*.parquet")))


def play(scenario, seed):
    """Plays a scenario and returns its row of the table."""
    with tempfile.TemporaryDirectory(prefix="sfi-chaos-") as folder:
        os.environ["SFI_RAY_CACHE"] = f"{folder}/cache"
        stage, began = Stage(folder, seed), time.monotonic()
        expected = scenario(stage)
        seconds = time.monotonic() - began
        assert_no_temporary_files(stage.folder)
        messages = [text for text in stage.listener.heard if expected and expected in text]
        assert messages or not expected, f"nobody said '{expected}': {stage.listener.heard}"
        wait_for(lambda: not marked(), LONGEST_FAREWELL)
    return {
        "fault": scenario.__doc__.strip(),
        "message": re.sub(r"[\d.]+:\d+", "HOST:PORT", messages[0]).replace("|", " ") if messages else "none needed",
        "times said": len(messages),
        "seconds": round(seconds),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=[scenario.__name__ for scenario in SCENARIOS])
    options = parser.parse_args()
    rows, failures = [], []
    for scenario in SCENARIOS:
        if options.only and scenario.__name__ not in options.only:
            continue
        try:
            rows.append(play(scenario, options.seed))
            print(scenario.__name__, rows[-1], flush=True)
        except Exception as error:
            failures.append(scenario.__name__)
            print(scenario.__name__, "FAILED:", type(error).__name__, error, flush=True)
    if failures:
        sys.exit(f"not survived: {', '.join(failures)}")
    if not options.only:
        write_report("chaos", __doc__, rows, command=f"uv run benchmarks/chaos.py --seed {options.seed}")


if __name__ == "__main__":
    main()
