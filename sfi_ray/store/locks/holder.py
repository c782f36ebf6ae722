"""Who holds a run's folder, and the error of a launch that finds it held."""

from __future__ import annotations

import os
import shlex
import socket
import time
from datetime import UTC, datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from sfi_ray.errors import InputError


class Holder(BaseModel):
    """The launch that holds a folder."""

    model_config = ConfigDict(frozen=True)

    host: str = Field(max_length=255)
    pid: int = Field(ge=0)
    since: float = Field(ge=0, le=1e11, allow_inf_nan=False)

    @classmethod
    def here(cls) -> Self:
        """Returns this process as the holder from now on."""
        return cls(host=socket.gethostname(), pid=os.getpid(), since=time.time())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {datetime.fromtimestamp(self.since, UTC):%Y-%m-%d %H:%M} UTC"


def refusal(location: str, holder: Holder | None) -> InputError:
    """Returns the error of a launch that finds a folder held."""
    return InputError(
        f"another launch is writing to '{location}'{f' ({holder})' if holder else ''}; wait for it, or end it with "
        f"sfi-ray stop {shlex.quote(location)}, and launch again"
    )
