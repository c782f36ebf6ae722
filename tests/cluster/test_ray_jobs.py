"""Following a job over a connection that breaks. The server is a stand-in; test_submission.py asks Ray's."""

from types import SimpleNamespace

import aiohttp
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from sfi_ray.cluster.ray import jobs as ray_jobs
from sfi_ray.cluster.ray.jobs import ConnectionLostError, JobServer
from sfi_ray.errors import InputError, ResourceError

FAULTS = [
    requests.ConnectionError("refused"),
    requests.Timeout("slow"),
    aiohttp.ClientError("broken"),
    RuntimeError("Request failed with status code 500: no agent."),
]


class Ending:
    """What a server says of a job."""

    def __init__(self, status, exit_code=None, message=None, run="runs/a", start_time=0):
        self.status = self
        self.value = status
        self.driver_exit_code = exit_code
        self.message = message
        self.submission_id = f"job-{start_time}"
        self.start_time = start_time
        self.metadata = {"sfi_ray_run": run}

    def is_terminal(self):
        return self.value in ("SUCCEEDED", "FAILED", "STOPPED")

    def __eq__(self, other):
        return self.value == other

    __hash__ = None


class Server:
    """Tells `text` in chunks; before its job has ended it breaks off after each number of chunks in `breaks`."""

    def __init__(self, text="", chunk=1, breaks=(), ending=None):
        self.chunks = [text[i : i + chunk] for i in range(0, len(text), chunk)]
        self.breaks = list(breaks)
        self.ending = ending or Ending("SUCCEEDED")
        self.jobs = []
        self.submitted = []

    def get_job_info(self, name):
        return Ending("RUNNING") if self.breaks else self.ending

    async def tail_job_logs(self, name):
        count, fault = self.breaks.pop(0)
        for chunk in self.chunks[:count]:
            yield chunk
        if fault is not None:
            raise fault

    def get_job_logs(self, name):
        return "".join(self.chunks)

    def list_jobs(self):
        return self.jobs

    def submit_job(self, **job):
        self.submitted.append(job)


@pytest.fixture
def server(monkeypatch):
    def put(fake):
        monkeypatch.setattr(ray_jobs, "_client", lambda url: fake)
        monkeypatch.setattr(JobServer, "seconds_between_tries", 0.0)
        return JobServer("http://nowhere")

    return put


def follow(jobs, said=None):
    heard = []
    code = jobs.follow("job", heard.append, (said if said is not None else []).append)
    return code, "".join(heard)


@settings(deadline=None)  # the first example imports Ray
@given(
    text=st.text(max_size=30),
    chunk=st.integers(1, 7),
    breaks=st.lists(st.tuples(st.integers(0, 30), st.sampled_from([None, *FAULTS])), max_size=5),
)
def test_wherever_the_connection_breaks_all_is_passed_on_once(text, chunk, breaks):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_jobs, "_client", lambda url: Server(text, chunk, breaks))
        patch.setattr(JobServer, "seconds_between_tries", 0.0)
        assert follow(JobServer("http://nowhere")) == (0, text)


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (Ending("SUCCEEDED", 0), 0),
        (Ending("FAILED", 3), 3),
        (Ending("FAILED", -9), 137),
        (Ending("STOPPED"), None),
    ],
)
def test_the_exit_code_is_the_jobs(server, ending, code):
    assert follow(server(Server("a", ending=ending))) == (code, "a")


def test_a_job_that_the_cluster_could_not_run_is_told_with_the_reason(server):
    ending = Ending("FAILED", message="Job supervisor actor\n died")
    with pytest.raises(ResourceError, match=r"Job supervisor actor died; submit the job again"):
        follow(server(Server(ending=ending)))


def test_a_silent_connection_is_taken_up_again(server, monkeypatch):
    class Silent(Server):
        async def tail_job_logs(self, name):
            async for chunk in super().tail_job_logs(name):
                yield chunk
            if self.breaks:
                await ray_jobs.asyncio.sleep(60)

    monkeypatch.setattr(JobServer, "silence_seconds", 0.05)
    said = []
    assert follow(server(Silent("abc", breaks=[(1, None), (3, None)])), said) == (0, "abc")
    assert said == []


def test_a_server_that_stays_away_is_given_up(server, monkeypatch):
    class Away(Server):
        def get_job_info(self, name):
            raise requests.ConnectionError("refused")

    monkeypatch.setattr(JobServer, "patience_seconds", 0.05)
    said = []
    with pytest.raises(ConnectionLostError, match="out of reach for too long"):
        follow(server(Away()), said)
    assert len(said) == 1
    assert "ConnectionError: refused" in said[0]


def test_a_server_that_was_restarted_does_not_know_the_job(server):
    class Restarted(Server):
        def get_job_info(self, name):
            raise RuntimeError("Request failed with status code 404: Job job does not exist.")

    with pytest.raises(ResourceError, match="does not know job 'job'; if it was restarted, submit the job again"):
        follow(server(Restarted()))


def test_a_reader_that_goes_away_is_no_lost_connection(server):
    def write(text):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        server(Server("a")).follow("job", write, print)


def test_the_latest_job_of_a_run_is_found(server):
    fake = Server()
    fake.jobs = [
        Ending("FAILED", start_time=1),
        Ending("RUNNING", start_time=3),
        Ending("STOPPED", start_time=2),
        Ending("RUNNING", run="runs/b", start_time=9),
        SimpleNamespace(metadata=None, submission_id=None, start_time=None),
    ]
    jobs = server(fake)
    assert jobs.find("runs/a") == jobs.find("runs/a/") == "job-3"
    fake.jobs.append(Ending("RUNNING", run="s3://bucket/runs/a?endpoint_override=http://127.0.0.1:9000", start_time=4))
    assert jobs.find("s3://bucket/runs/a/") == jobs.find(fake.jobs[-1].metadata["sfi_ray_run"]) == "job-4"
    with pytest.raises(InputError, match=r"knows no job that writes to 'runs/c'.*submit the job again"):
        jobs.find("runs/c")


def test_a_run_is_not_submitted_while_a_job_writes_to_it(server, tmp_path):
    fake = Server()
    fake.jobs = [Ending("PENDING", start_time=1)]
    jobs = server(fake)
    with pytest.raises(InputError, match="'job-1' already writes to 'runs/a'"):
        jobs.submit("true", tmp_path, "runs/a", "new")
    assert fake.submitted == []
    jobs.submit("true", tmp_path, "runs/b", "new")
    assert [job["submission_id"] for job in fake.submitted] == ["new"]


def test_a_head_that_has_just_started_is_waited_for(server, tmp_path):
    class Starting(Server):
        refusals = 3

        def submit_job(self, **job):
            if self.refusals:
                self.refusals -= 1
                raise RuntimeError("No available agent to submit job, please try again later.")
            super().submit_job(**job)

    fake = Starting()
    server(fake).submit("true", tmp_path, "runs/b", "new")
    assert len(fake.submitted) == 1


def test_a_dashboard_that_nobody_runs_is_named_with_the_mend():
    with pytest.raises(ResourceError, match=r"dashboard at http://127.0.0.1:1: .*ray dashboard cluster.yaml"):
        JobServer("127.0.0.1:1")


def test_the_address_given_goes_before_that_of_the_environment(monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:2")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:3")
    with pytest.raises(ResourceError, match=r"at http://127.0.0.1:1: .*http://127.0.0.1:1\."):
        JobServer("http://127.0.0.1:1")
    with pytest.raises(ResourceError, match=r"at http://127.0.0.1:2: .*http://127.0.0.1:2\."):
        JobServer()
    assert ray_jobs.os.environ["RAY_ADDRESS"] == "127.0.0.1:3"
