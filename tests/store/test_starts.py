"""What a search begins with of an earlier run: what is chosen, and how it is kept."""

import pytest

from sfi_ray.errors import InputError
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.starts import STARTS, digest_of, read_starts, write_starts
from sfi_ray.types import Pixel, Start

KNOWN = (
    Start((0,), 3, (Pixel(1, 2, (255,)), Pixel(0, 7, (9,)))),
    Start((128,), 0, (Pixel(7, 7, (0,)),)),
)


def test_what_was_written_is_read_back(tmp_path):
    folder = RunFolder(str(tmp_path))
    write_starts(folder, KNOWN)
    assert read_starts(folder, digest_of(KNOWN)) == KNOWN


def test_the_digest_tells_images_and_their_order_apart():
    assert digest_of(()) is None
    assert digest_of(KNOWN) == digest_of(tuple(KNOWN))
    assert len({digest_of(starts) for starts in (KNOWN, KNOWN[::-1], KNOWN[:1])}) == 3


@pytest.mark.parametrize("damage", ["nothing of the kind", "other images"])
def test_a_file_that_is_not_what_was_written_is_refused(tmp_path, damage):
    folder = RunFolder(str(tmp_path))
    write_starts(folder, KNOWN[:1])
    if damage == "nothing of the kind":
        (tmp_path / STARTS).write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"starts\.parquet' (is broken|holds other images).*--fresh"):
        read_starts(folder, digest_of(KNOWN))
