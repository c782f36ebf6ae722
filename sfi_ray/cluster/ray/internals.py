"""The parts of Ray that this project uses although Ray promises nothing about them.

They can change with every version of Ray. The tests name those that have; a user of such a version reads one line.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterator
from enum import Enum
from operator import attrgetter
from typing import Any

from sfi_ray.errors import ResourceError


class Internal(Enum):
    """A part of Ray: its module, its name there, and the parameters that it must take."""

    AUTHENTICATION_MODE = "ray._raylet", "get_authentication_mode"
    TOKEN_MODE = "ray._raylet", "AuthenticationMode.TOKEN"
    FIND_HEAD = "ray._private.services", "canonicalize_bootstrap_address", "addr"
    OPEN_CHANNEL = "ray._private.grpc_utils", "init_grpc_channel", "address", "options"
    GCS_CLIENT = "ray._raylet", "GcsClient"
    ENABLE_CLUSTER = "ray._private.ray_constants", "ENABLE_RAY_CLUSTER"
    ACTORS = "ray._private.state", "actors", "actor_id"
    DEATH = "ray.core.generated.common_pb2", "ActorDiedErrorContext"
    IS_AUTOSCALER_V2 = "ray.autoscaler.v2.utils", "is_autoscaler_v2"
    HEAD = "ray.core.generated.gcs_service_pb2_grpc", "NodeInfoGcsServiceStub"
    HEAD_REQUEST = "ray.core.generated.gcs_service_pb2", "GetClusterIdRequest"
    RAYLET = "ray.core.generated.node_manager_pb2_grpc", "NodeManagerServiceStub"
    RAYLET_REQUEST = "ray.core.generated.node_manager_pb2", "ShutdownRayletRequest"
    NODE = "ray._private.worker", "global_worker.node"
    SIGTERM_HANDLER = "ray._private.utils", "set_sigterm_handler", "sigterm_handler"
    JOB_REQUEST = "ray.job_submission", "JobSubmissionClient._do_request", "method", "endpoint", "kwargs"

    def get(self) -> Any:
        """Returns the part.

        Raises:
            ResourceError: The installed Ray lacks it, or it takes other parameters.
        """
        module, name, *parameters = self.value
        try:
            part = attrgetter(name)(importlib.import_module(module))
        except (ImportError, AttributeError) as error:
            raise self._change("is missing") from error
        if parameters and not set(parameters) <= set(inspect.signature(part).parameters):
            raise self._change("takes other parameters")
        return part

    @contextlib.contextmanager
    def replaced(self, other: Any) -> Iterator[None]:
        """Puts something else in the place of the part for the duration of a block.

        Raises:
            ResourceError: As `get`.
        """
        part = self.get()
        module, name = self.value[0], self.value[1]
        holder = importlib.import_module(module)
        setattr(holder, name, other)
        try:
            yield
        finally:
            setattr(holder, name, part)

    def _change(self, what: str) -> ResourceError:
        import ray

        return ResourceError(
            f"Ray {ray.__version__} is another one than this version of sfi-ray knows: "
            f"`{self.value[0]}.{self.value[1]}` {what}; install the Ray that sfi-ray asks for"
        )
