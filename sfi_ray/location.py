"""Locations of folders: local paths, and URIs whose options follow a question mark.

``s3://bucket/runs?endpoint_override=http://127.0.0.1:9000`` names the folder ``runs``; the options say how to reach it.
"""

from __future__ import annotations

from urllib.parse import parse_qsl


def within(location: str, name: str) -> str:
    """Returns the location of a file or folder within a folder."""
    place, options = parted(location)
    return f"{place.rstrip('/')}/{name}{options}"


def around(location: str, levels: int = 1) -> str:
    """Returns the location of the folder some levels above."""
    place, options = parted(location)
    return place.rstrip("/").rsplit("/", levels)[0] + options


def base_name(location: str) -> str:
    """Returns the last name of a location."""
    return parted(location)[0].rstrip("/").rpartition("/")[2]


def parted(location: str) -> tuple[str, str]:
    """Parts a location into the place and the options with their question mark; a local path has none."""
    place, mark, options = location.partition("?") if "://" in location else (location, "", "")
    return place, mark + options


def is_same(one: str, other: str) -> bool:
    """Whether two locations name one folder: slashes at the end and the order of options do not matter.

    Options say how to reach a folder, and whoever names it elsewhere may need none. So a location without options is
    the same as one with any.
    """
    (place, options), (other_place, other_options) = parted(one), parted(other)
    if place.rstrip("/") != other_place.rstrip("/"):
        return False
    return not (options and other_options) or sorted(parse_qsl(options[1:])) == sorted(parse_qsl(other_options[1:]))
