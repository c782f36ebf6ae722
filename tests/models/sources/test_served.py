"""Served models, asked over HTTP on the loopback interface: answers, retries, pauses, and what is wrong."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from sfi_ray import Job, launch, open_run
from sfi_ray.errors import InputError, ResourceError
from sfi_ray.models import Classifier
from sfi_ray.models.black_boxes.served_model import RequestSettings
from sfi_ray.models.sources.served import ServedSource
from sfi_ray.review.networks import RunClassifiers

WEIGHTS = np.random.default_rng(0).normal(size=(64, 10)) / 4


class Server(ThreadingHTTPServer):
    """A model of one layer; what it does wrong is set by a test."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.metadata = {
            "name": "digits",
            "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 1]}],
            "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 10]}],
        }
        self.sizes, self.faults, self.tokens, self.answer = [], [], [], None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v2/models/digits"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.say(200 if self.path == "/v2/models/digits" else 404, self.server.metadata)

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.tokens.append(self.headers.get("authorization"))
        if self.server.faults:
            fault = self.server.faults.pop(0)
            if fault == "slow":
                time.sleep(0.5)
            elif fault == "cut":
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            else:
                self.say(fault, {"error": "later"})
                return
        (given,) = request["inputs"]
        images = np.array(given["data"]).reshape(given["shape"])
        self.server.sizes.append(len(images))
        # One image at a time, so that the bits depend on no other image.
        scores = np.stack([image.ravel() / 255 @ WEIGHTS for image in images])
        output = {"name": "scores", "datatype": "FP32", "shape": list(scores.shape), "data": scores.ravel().tolist()}
        self.say(200, self.server.answer or {"outputs": [output]})

    def say(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server():
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def asked(server, **settings):
    requests = RequestSettings(**{"backoff_seconds": 0.01, "retries": 2, "timeout_seconds": 5, **settings})
    module, _ = ServedSource(what=server.url, requests=requests).load((1, 8, 8), 10)
    known = Classifier(module, name="served", input_shape=(1, 8, 8), num_classes=10, micro_batch=16)
    server.sizes.clear()
    return known


def expected(images):
    levels = images.double().mul(255).round().flatten(1).numpy() / 255
    return torch.log_softmax(torch.tensor(levels @ WEIGHTS).float(), dim=1)


def test_it_says_what_the_server_says(server):
    known = asked(server, images_per_request=5)
    images = torch.randint(0, 256, (16, 1, 8, 8)) / 255
    assert torch.allclose(known.log_probs(images), expected(images), atol=1e-5)
    assert server.sizes[-4:] == [5, 5, 5, 1]


def test_floats_in_the_order_of_torch_are_normalised(server):
    server.metadata["inputs"][0].update(datatype="FP32", shape=[-1, 1, 8, 8])
    source = ServedSource(what=server.url, mean=(0.5,), std=(0.25,))
    module, normalisation = source.load((1, 8, 8), 10)
    assert normalisation == ((0.5,), (0.25,))
    images = torch.rand(3, 1, 8, 8)
    assert np.allclose(module(images), images.flatten(1).numpy() / 255 @ WEIGHTS, atol=1e-5)
    server.metadata["inputs"][0].update(datatype="UINT8")
    with pytest.raises(InputError, match="takes levels, 0 to 255, and normalises them itself"):
        source.load((1, 8, 8), 10)


@pytest.mark.parametrize("faults", [[503], [429, 500], ["cut"], ["slow"]], ids=str)
def test_a_request_that_fails_is_sent_again(server, faults):
    known = asked(server, timeout_seconds=0.25 if faults == ["slow"] else 5)
    images = torch.rand(16, 1, 8, 8)
    server.faults = list(faults)
    assert torch.allclose(known.log_probs(images), expected(images), atol=1e-5)
    assert server.faults == []


def test_after_the_last_attempt_the_server_is_named(server):
    known = asked(server)
    server.faults = [503] * 3
    with pytest.raises(
        ResourceError, match=r"served model 'http://127.*' cannot be asked, .*attempt 3 \(it answers 503"
    ):
        known.log_probs(torch.rand(16, 1, 8, 8))
    server.faults = [400]
    with pytest.raises(InputError, match=r"answers 400: .*later.*; check the address and the token"):
        known.log_probs(torch.rand(16, 1, 8, 8))


def test_a_server_out_of_reach_is_named():
    source = ServedSource(what="http://127.0.0.1:9/v2/models/x", requests=RequestSettings(retries=0))
    with pytest.raises(ResourceError, match=r"127.0.0.1:9.* cannot be asked, .*refused"):
        source.load((1, 8, 8), 10)


def test_no_more_images_a_second_are_sent_than_said(server):
    known = asked(server, images_per_request=4, images_per_second_per_actor=100)
    started = time.monotonic()
    known.log_probs(torch.rand(16, 1, 8, 8))
    known.log_probs(torch.rand(16, 1, 8, 8))
    assert time.monotonic() - started >= 28 / 100  # the last four need not be waited for


def test_the_token_is_sent_and_kept_nowhere(server, monkeypatch):
    with pytest.raises(
        InputError, match="the environment variable MODEL_TOKEN, which is to hold its token, is not set"
    ):
        asked(server, token_variable="MODEL_TOKEN")
    monkeypatch.setenv("MODEL_TOKEN", "s3cret")
    known = asked(server, token_variable="MODEL_TOKEN")
    assert set(server.tokens) == {"Bearer s3cret"}
    assert b"s3cret" not in known.to_payload().pickled


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": []}, "does not describe one input and its outputs"),
        ({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [-1, 1, 8, 8]}]}, "takes images of BYTES"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 8, 8]}]}, r"takes an input of shape \(any, 3"),
        ({"outputs": [{"name": "y", "shape": [-1, 9]}]}, r"has the outputs 'y' of shape \[-1, 9\]; just one"),
        ({"outputs": None}, "does not describe one input and its outputs"),
    ],
    ids=range(5),
)
def test_a_model_that_does_not_fit_is_named(server, changes, message):
    server.metadata.update(changes)
    with pytest.raises(InputError, match=message):
        asked(server)


@pytest.mark.parametrize(
    "answer",
    [
        {"outputs": []},
        {"outputs": [{"name": "scores", "shape": [3, 10], "data": [1, 2]}]},
        {"outputs": [{"name": "y"}]},
    ],
)
def test_an_answer_without_the_scores_is_named(server, answer):
    known = asked(server)
    server.answer = answer
    with pytest.raises(InputError, match="answered without the output 'scores' with its shape and data"):
        known.log_probs(torch.rand(16, 1, 8, 8))


def test_what_is_no_address_is_refused():
    with pytest.raises(InputError, match="'file:///etc/passwd' is no address; write http://HOST:PORT/v2/models/NAME"):
        ServedSource(what="file:///etc/passwd").load((1, 8, 8), 10)


def test_a_grid_costs_its_evaluations_and_resumes_with_other_requests(server, tmp_path):
    def job(**requests):
        return Job.model_validate(
            {
                "name": "served",
                "dataset": {"name": "mine", "shape": [1, 8, 8], "class_names": list("0123456789")},
                "classifiers": [{"name": "far", "served": server.url, "requests": requests}],
                "target_classes": [0, 1],
                "k": 3,
                "attack": {"kind": "de", "population_size": 16, "generations": 4},
                "output": str(tmp_path),
            }
        )

    run = launch(job(), in_process=True)
    rows = run.table(["evaluations", "verifications"])
    evaluations = sum(rows["evaluations"].to_pylist())
    assert evaluations == 2 * 16 * 5
    examined = sum(server.sizes) - evaluations - sum(rows["verifications"].to_pylist())
    assert 0 < examined < 300  # the examination, and the checks of smaller passes
    assert launch(job(timeout_seconds=7), in_process=True).table().equals(run.table())
    with pytest.raises(
        InputError, match="must not choose whom to ask: check that address and allow it with --allow-code"
    ):
        RunClassifiers(open_run(str(tmp_path / "served")))["far"]
    assert RunClassifiers(open_run(str(tmp_path / "served")), allow_code=True)["far"].is_black_box


def test_requests_belong_to_a_served_model():
    with pytest.raises(ValueError, match="`requests` belongs to `served`; remove it"):
        Job.model_validate(
            {"name": "x", "dataset": "digits", "k": 1, "classifiers": [{"name": "mlp", "requests": {"retries": 1}}]}
        )
