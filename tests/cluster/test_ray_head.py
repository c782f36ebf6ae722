"""Asking the head of a cluster, in a process of its own: Ray reads how it authenticates when it is imported."""

import ast
import os
import subprocess
import sys

import pytest

# Servers that answer as the wrong ones do, and what is said of each.
SCRIPT = """
import os, socket, sys
from concurrent.futures import ThreadPoolExecutor
import grpc
from sfi_ray.cluster.ray import head as ray_head

class Refusing(grpc.GenericRpcHandler):
    def __init__(self, code):
        self.code = code
    def service(self, details):
        def answer(request, context):
            context.abort(self.code, "refused")
        return grpc.unary_unary_rpc_method_handler(answer)

def serve(*handlers):
    server = grpc.server(ThreadPoolExecutor(1), handlers=handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    servers.append(server)
    return f"127.0.0.1:{port}"

servers = []
with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as closed:
    silent, nobody = (f"127.0.0.1:{each.getsockname()[1]}" for each in (silent, closed))
    closed.close()
    other, asking = serve(), serve(Refusing(grpc.StatusCode.UNAUTHENTICATED))
    bad = ["nonsense", "host:", ":1", "127.0.0.1:99999", "http://127.0.0.1:8265", "[::1]:x"]
    for address in (silent, nobody, other, f"ray://{other}", asking, *bad):
        try:
            ray_head.check_head(address, answer_seconds=0.3)
        except ConnectionError as error:
            print(str(error).replace("\\n", "<newline>"))
        else:
            print("taken")
sys.stdout.flush()
os._exit(0)  # servers that stop say so to clients, and gRPC writes a line of it
"""


@pytest.mark.parametrize(("mode", "sent"), [("token", "another"), ("disabled", "none")])
def test_whoever_is_no_head_or_refuses_is_named_in_one_line_and_bounded_time(mode, sent):
    environment = {**os.environ, "RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": "0" * 64, "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=120, env=environment
    )
    silent, nobody, other, client, asking, *bad = done.stdout.splitlines()
    assert silent == "no answer within 0 s"
    assert "Connection refused" in nobody
    assert other.startswith("the program that listens there is no head of a Ray cluster")
    assert "submit the job with --submit http://HOST:8265" in client
    assert f"it asks for its token, and {sent} was sent; set RAY_AUTH_MODE=token" in asking
    assert bad == ["an address is host:port or auto"] * 6
    assert done.stderr == "", "Ray's own client writes a line for each second"


# Programs that are no Ray, and how a launch ends at each.
LAUNCHES = """
import contextlib, io, os, socket, sys, threading, time
from http.server import HTTPServer, SimpleHTTPRequestHandler
from sfi_ray.cli import app

held = []

def greet(server, text):
    while True:
        held.append(server.accept()[0])
        held[-1].sendall(text)
        if not text:
            held.pop().close()

def listening(text=None):
    server = socket.create_server(("127.0.0.1", 0))
    held.append(server)
    if text is not None:
        threading.Thread(target=greet, args=(server, text), daemon=True).start()
    return server.getsockname()[1]

web = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
web.RequestHandlerClass.log_message = lambda *_: None
threading.Thread(target=web.serve_forever, daemon=True).start()
with socket.create_server(("127.0.0.1", 0)) as free:
    closed = free.getsockname()[1]
ports = [listening(b"SSH-2.0-OpenSSH_9.2p1\\r\\n"), web.server_port, listening(b""), listening(), closed]
os.environ["RAY_ADDRESS"] = "ray://127.0.0.1:10001"
for where in [*(["--address", f"127.0.0.1:{port}"] for port in ports), ["--address", "ray://127.0.0.1:10001"], []]:
    began, said = time.monotonic(), io.StringIO()
    with contextlib.redirect_stderr(said):
        code = app(["launch", sys.argv[1], *where], standalone_mode=False)
    print(code, round(time.monotonic() - began), repr(said.getvalue()))
"""


def test_a_launch_names_a_port_that_is_not_rays_within_seconds(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text(
        "{name: run, dataset: digits, classifiers: {name: mlp, training: {epochs: 1}}, k: 1, "
        f"output: {tmp_path / 'runs'}}}"
    )
    command = [sys.executable, "-c", LAUNCHES, str(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280)
    ends = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert [code for code, _, _ in ends] == ["2"] * 7
    assert max(int(seconds) for _, seconds, _ in ends) < 90  # 10 s, and more on a busy machine
    ssh, web, hangs_up, silent, closed, client, from_environment = (ast.literal_eval(said) for _, _, said in ends)
    for said in (ssh, web, hangs_up):
        assert "the program that listens there is no head of a Ray cluster" in said
    assert "no answer within 10 s" in silent
    assert "Connection refused" in closed
    for said in (client, from_environment):
        assert "cannot reach the Ray cluster at 'ray://127.0.0.1:10001'" in said
        assert "submit the job with --submit" in said
    for *_, said in ends:
        *before, error = ast.literal_eval(said).splitlines()
        assert error.startswith("error: ")
        assert all(line.startswith("Connecting to Ray at ") for line in before)
        assert len(before) <= 1
    assert not (tmp_path / "runs").exists()


LOOKING = """
import threading, time
from sfi_ray.cluster.ray import shares

asked, never = threading.Event(), threading.Event()

def get_actor(*arguments, **options):
    asked.set()
    never.wait()

shares.ray.get_actor = get_actor
share = shares.Share("search-a-", {"CPU": 1}, print, look_seconds=0.0)
assert [share.limit(3, 1) for _ in range(100)] == [None] * 100
assert asked.wait(60)
assert sum("_find" in thread.name for thread in threading.enumerate()) == 1
share.withdraw()

class Arbiter:
    class claim:
        remote = staticmethod(lambda launch, claim: claim.wanted - 1)

shares.ray.get_actor = lambda *arguments, **options: Arbiter
shares.ray.wait = lambda refs, timeout: (refs, [])
shares.ray.get = lambda answer: answer
share = shares.Share("search-a-", {"CPU": 1}, print, look_seconds=0.0)
while share.limit(3, 3) != 2:
    time.sleep(0.01)
"""


def test_a_launch_looks_for_others_without_waiting_for_a_head_that_never_answers():
    """Ray waits for a lost head until it ends the process, and the driver must say before what happened."""
    done = subprocess.run([sys.executable, "-c", LOOKING], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "other launches wait for room: this one goes on with 2 actors, its fair share\n"
