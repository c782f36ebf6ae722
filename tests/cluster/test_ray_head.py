"""Asking the head of a cluster, in a process of its own: Ray reads how it authenticates when it is imported."""

import os
import subprocess
import sys

import pytest

# Servers that answer as the wrong ones do, and what is said of each.
SCRIPT = """
import os, socket
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
    for address in (silent, nobody, other, f"ray://{other}", f"ray://{nobody}", asking, *bad):
        try:
            ray_head.check_head(address, answer_seconds=0.3)
        except ConnectionError as error:
            print(str(error).replace("\\n", "<newline>"))
        else:
            print("taken")
for server in servers:
    server.stop(None).wait()
"""


@pytest.mark.parametrize(("mode", "sent"), [("token", "another"), ("disabled", "none")])
def test_whoever_is_no_head_or_refuses_is_named_in_one_line_and_bounded_time(mode, sent):
    environment = {**os.environ, "RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": "0" * 64, "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=120, env=environment
    )
    silent, nobody, other, client, no_client, asking, *bad = done.stdout.splitlines()
    assert silent == "no answer within 0 s"
    assert "Connection refused" in nobody
    assert "Connection refused" in no_client
    assert other == "the program that listens there is no head of a Ray cluster"
    assert client == "taken"
    assert f"it asks for its token, and {sent} was sent; set RAY_AUTH_MODE=token" in asking
    assert bad == ["an address is host:port, ray://host:port or auto"] * 6
    assert done.stderr == "", "Ray's own client writes a line for each second"
