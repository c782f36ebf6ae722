"""``python -m sfi_ray`` is ``sfi-ray``."""

from sfi_ray.cli import app

app()
