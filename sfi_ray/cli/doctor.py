"""The command `sfi-ray doctor`."""

from __future__ import annotations

import dataclasses

import typer

from sfi_ray.cli.arguments import Address, AsJson
from sfi_ray.cli.exits import ExitCode, explaining
from sfi_ray.cli.printing import echo, print_json


def doctor(address: Address = None, as_json: AsJson = False) -> None:
    """Check what a launch needs on this machine.

    The command looks at versions, devices, Ray and its ports, the cache of trained networks, disks and data sets. It
    starts nothing and downloads nothing.
    """
    from sfi_ray.cluster.doctor import examine_machine

    with explaining("stopped"):
        checks = examine_machine(address)
    faults = [check for check in checks if check.state == "fault"]
    if as_json:
        print_json({"can_launch": not faults, "checks": [dataclasses.asdict(check) for check in checks]})
    else:
        for check in checks:
            echo(f"{check.state:<6}{check.name + ':':<14}{check.text}")
    if faults:
        raise typer.Exit(ExitCode.BAD_INPUT)
