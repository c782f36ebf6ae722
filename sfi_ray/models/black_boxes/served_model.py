"""A model that a server runs, asked over HTTP by the Open Inference Protocol, version 2 (KServe, Triton, MLServer).

Shapes: N images, C channels, H height, W width, J classes.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sfi_ray.errors import InputError, ResourceError
from sfi_ray.models.black_boxes.input_format import FormattedPredictor, InputFormat
from sfi_ray.text import printable


class RequestSettings(BaseModel):
    """How a process asks a server. No result depends on these settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    timeout_seconds: float = Field(30.0, gt=0, le=3600, description="Longest wait for a connection or an answer.")
    retries: int = Field(5, ge=0, le=100, description="Further attempts where the server is busy or out of reach.")
    backoff_seconds: float = Field(
        0.5, ge=0, le=60, description="Wait before the second attempt; it doubles with each further one, up to 60 s."
    )
    images_per_request: int = Field(32, ge=1, le=2**16, description="Images of one request at most.")
    images_per_second_per_actor: float | None = Field(
        None, gt=0, description="Images that each actor sends a second at most; null sets no bound."
    )
    token_variable: str | None = Field(
        None, min_length=1, description="Environment variable that holds a bearer token; null sends none."
    )


class ServedPredictor(FormattedPredictor):
    """Sends images to a server and reads its scores.

    Args:
        url: ``http://HOST:PORT/v2/models/NAME``, also with ``/versions/VERSION``.
        settings: How the server is asked.
        input_shape: ``(C, H, W)`` of one image.
        num_classes: Number of classes.

    Attributes:
        format: How the model takes images.

    Raises:
        InputError: The model takes other images, has no output with a number for each class, or does not exist.
        ResourceError: The server cannot be reached.
    """

    _numbers: ClassVar[dict[str, str]] = {"UINT8": "uint8", "FP32": "float32", "FP16": "float16", "FP64": "float64"}
    _busy: ClassVar[tuple[int, ...]] = (408, 429, 500, 502, 503, 504)

    def __init__(
        self, url: str, settings: RequestSettings, input_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        self.what = f"served model '{url}'"
        self._url = url.rstrip("/")
        self._settings = settings
        self._pool: Any = None
        self._free_at = 0.0
        declared = self._asked("GET", self._url)
        try:
            (images,) = declared["inputs"]
            sizes = [None if size < 0 else int(size) for size in images["shape"]]
            self._input, self._datatype = str(images["name"]), str(images["datatype"])
            outputs = [(str(one["name"]), list(one["shape"])) for one in declared["outputs"]]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.what} does not describe one input and its outputs as the Open Inference Protocol has it "
                f"({type(error).__name__}: {error}); the address is that of its metadata, /v2/models/NAME"
            ) from error
        numbers = self._numbers.get(self._datatype, self._datatype)
        self.format = InputFormat.declared(sizes, numbers, input_shape, self.what)
        self.batch_size = sizes[0]
        widths = {-1, num_classes} | ({1} if num_classes == 2 else set())
        fitting = [name for name, shape in outputs if len(shape) == 2 and shape[1] in widths]
        if len(fitting) != 1:
            spelt = ", ".join(f"{name!r} of shape {shape}" for name, shape in outputs)
            raise InputError(
                f"{self.what} has the outputs {spelt}; just one of them has to have {num_classes} numbers for each "
                "image, one for each class of the data set"
            )
        self._output = fitting[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_pool": None, "_free_at": 0.0}

    @property
    def identity(self) -> str:
        """The path of the address; a model may move to another host."""
        return urlsplit(self._url).path

    def answer(self, images: Tensor) -> Any:
        """Asks the server; see `Predictor.answer`."""
        most = self._settings.images_per_request if self.batch_size is None else self.batch_size
        return np.concatenate([self._scores(part) for part in torch.split(images, most)])

    def _scores(self, images: Tensor) -> Any:
        array = self.format.array(images)
        request = {
            "inputs": [
                {
                    "name": self._input,
                    "shape": list(array.shape),
                    "datatype": self._datatype,
                    "data": array.ravel().tolist(),
                }
            ],
            "outputs": [{"name": self._output}],
        }
        self._wait_for(len(images))
        answer = self._asked("POST", f"{self._url}/infer", json.dumps(request).encode())
        try:
            found = next(one for one in answer["outputs"] if one["name"] == self._output)
            return np.asarray(found["data"], np.float32).reshape(found["shape"])
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise InputError(
                f"{self.what} answered without the output '{self._output}' with its shape and data "
                f"({type(error).__name__}: {error})"
            ) from error

    def _wait_for(self, count: int) -> None:
        """Waits until so many images may be sent."""
        rate = self._settings.images_per_second_per_actor
        if rate is None:
            return
        now = time.monotonic()
        time.sleep(max(0.0, self._free_at - now))
        self._free_at = max(self._free_at, now) + count / rate

    def _asked(self, method: str, url: str, body: bytes | None = None) -> Any:
        """Sends a request, again where the server is busy or out of reach; returns what its JSON says."""
        import urllib3  # half a second to import

        settings = self._settings
        try:
            response = self._connections().request(
                method, url, body=body, headers=self._headers(), redirect=False, timeout=settings.timeout_seconds
            )
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(f"{type(error).__name__}: {error}") from error
        said = printable(response.data.decode(errors="replace"), 200)
        if response.status in self._busy:
            raise self._unreachable(f"it answers {response.status}: {said}")
        if response.status != 200:
            raise InputError(f"{self.what}: {url} answers {response.status}: {said}; check the address and the token")
        try:
            return json.loads(response.data)
        except ValueError as error:
            raise InputError(f"{self.what}: {url} answers with something else than JSON: {said}") from error

    def _unreachable(self, reason: str) -> ResourceError:
        attempts = self._settings.retries + 1
        return ResourceError(
            f"{self.what} cannot be asked, also not at attempt {attempts} ({printable(reason, 300)}); start the "
            "server, or raise requests.retries, backoff_seconds or timeout_seconds"
        )

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        name = self._settings.token_variable
        if name is None:
            return headers
        token = os.environ.get(name)
        if not token:
            raise InputError(f"{self.what}: the environment variable {name}, which is to hold its token, is not set")
        return {**headers, "authorization": f"Bearer {token}"}

    def _connections(self) -> Any:
        if self._pool is None:
            import urllib3

            retry = urllib3.Retry(
                self._settings.retries,
                status_forcelist=self._busy,
                allowed_methods=None,
                backoff_factor=self._settings.backoff_seconds,
                backoff_max=60,
                raise_on_status=False,
            )
            self._pool = urllib3.PoolManager(retries=retry)
        return self._pool
