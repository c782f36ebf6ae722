import pytest
import torch

from sfi_ray.search import SearchSpace
from sfi_ray.search.map_elites.differences import difference

SPACE = SearchSpace(height=9, width=12, channels=1, k=2, num_classes=3)
PARENT = (4.5, 0.5, 0.2, 1.5, 11.5, 1.0)


def compared(*pixels):
    """Candidates of two gray pixels each, row, column and colour of both, beside one parent."""
    candidates = torch.tensor(pixels).view(len(pixels), 2, 3)
    return difference(candidates, torch.tensor(PARENT).view(1, 2, 3).expand(len(pixels), -1, -1), SPACE)


def test_a_difference_is_what_is_painted_otherwise():
    unchanged = PARENT
    within_its_spot = (4.9, 0.1, 0.2, 1.5, 11.5, 1.0)
    another_gray = (4.5, 0.5, 0.5, 1.5, 11.5, 1.0)
    second_moved = (4.5, 0.5, 0.2, 8.5, 3.5, 1.0)
    both = (2.5, 0.5, 0.0, 0.5, 0.5, 0.0)
    changed = compared(unchanged, within_its_spot, another_gray, second_moved, both)
    assert changed.is_new.tolist() == [[False, False], [False, False], [True, False], [False, True], [True, True]]
    assert changed.is_single.tolist() == [False, False, True, True, False]
    assert changed.place[2:].tolist() == [0, 1, 0]
    assert changed.spot[2:].tolist() == [4 * 12, 8 * 12 + 3, 2 * 12]
    assert changed.levels[2:].tolist() == [[128], [255], [0]]


@pytest.mark.parametrize(
    ("row", "column", "is_far"),
    [
        (4, 0, False),
        (7, 0, False),
        (8, 0, True),
        (4, 3, False),
        (4, 4, True),
        (0, 0, True),
        (1, 3, False),
        (8, 4, True),
    ],
)
def test_a_pixel_is_elsewhere_from_four_rows_or_columns_on(row, column, is_far):
    changed = compared((row + 0.5, column + 0.5, 1.0, 1.5, 11.5, 1.0))
    assert changed.is_far.tolist() == [is_far]


def test_the_next_row_is_not_the_next_column():
    """The last spot of a row and the first of the next have adjacent numbers and lie at opposite ends."""
    changed = compared((4.5, 0.5, 0.2, 2.5, 0.5, 1.0))
    assert changed.is_far.tolist() == [True]
