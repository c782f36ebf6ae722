"""The command line: parsing and printing only."""

from sfi_ray.cli.app import app

__all__ = ["app"]
