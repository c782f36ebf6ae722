import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfi_ray.errors import InputError
from sfi_ray.images import altered_pixels, decode, paint_pixels, parse_background, render
from sfi_ray.types import Background, Pixel


@st.composite
def batches(draw):
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    channels = draw(st.sampled_from([1, 3]))
    count, k = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    genes = torch.rand(count, k, 2 + channels, generator=generator) * 1.4 - 0.2
    genes[..., 0] *= height
    genes[..., 1] *= width
    backgrounds = torch.randint(0, 256, (count, channels), generator=generator)
    return genes, backgrounds, height, width


def slow_render(genes, backgrounds, height, width):
    """Paints one pixel after the other."""
    images = np.empty((len(genes), backgrounds.shape[1], height, width))
    for image, candidate, background in zip(images, genes.numpy(), backgrounds.numpy(), strict=True):
        image[:] = background[:, None, None]
        for row, col, *values in candidate:
            row, col = min(max(int(np.floor(row)), 0), height - 1), min(max(int(np.floor(col)), 0), width - 1)
            image[:, row, col] = [min(max(np.rint(np.float32(v) * np.float32(255)), 0), 255) for v in values]
    return images


@settings(deadline=None)
@given(batches())
def test_rendering_equals_painting_pixel_after_pixel(batch):
    images = render(*batch)
    np.testing.assert_array_equal((images * 255).round().numpy(), slow_render(*batch))


@settings(deadline=None)
@given(batches())
def test_the_stored_pixels_rebuild_the_rendered_image(batch):
    genes, backgrounds, height, width = batch
    colours = [Background("x", tuple(value)) for value in backgrounds.tolist()]
    stored = altered_pixels(genes, colours, height, width)
    assert torch.equal(paint_pixels(stored, colours, height, width).float() / 255.0, render(*batch))
    for pixels, colour in zip(stored, colours, strict=True):
        spots = [(pixel.row, pixel.col) for pixel in pixels]
        assert len(set(spots)) == len(spots) <= genes.shape[1]
        assert all(pixel.value != colour.value for pixel in pixels)


def test_positions_at_the_ends_decode_to_the_first_and_last_spot():
    upper = torch.nextafter(torch.tensor([4.0, 7.0]), torch.zeros(2))
    genes = torch.tensor([[[0.0, 0.0, 0.0], [*upper.tolist(), 1.0], [4.0, 7.0, 2.0], [-1.0, -1.0, -1.0]]])
    spots, levels = decode(genes, 4, 7)
    assert spots.tolist() == [[0, 27, 27, 0]]
    assert levels.flatten().tolist() == [0, 255, 255, 0]


def test_a_pixel_of_the_backgrounds_value_is_not_altered():
    genes = torch.tensor([[[0.0, 0.0, 0.5], [1.0, 1.0, 0.25]]])
    assert altered_pixels(genes, [Background("gray", (128,))], 2, 2) == [(Pixel(1, 1, (64,)),)]


def test_one_thousand_pixels_can_be_altered():
    genes = torch.rand(2, 1000, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([40, 40, 1, 1, 1.0])
    backgrounds = torch.zeros(2, 3, dtype=torch.int64)
    images = render(genes, backgrounds, 40, 40)
    np.testing.assert_array_equal((images * 255).round().numpy(), slow_render(genes, backgrounds, 40, 40))


@pytest.mark.parametrize(
    ("text", "channels", "value"),
    [
        ("black", 1, (0,)),
        ("gray", 1, (128,)),
        ("White", 3, (255, 255, 255)),
        ("blue", 3, (0, 0, 255)),
        ("#0a0B0c", 3, (10, 11, 12)),
        ("#7f7f7f", 1, (127,)),
    ],
)
def test_backgrounds_are_read(text, channels, value):
    assert parse_background(text, channels).value == value


@pytest.mark.parametrize(
    ("text", "channels", "message"),
    [
        ("blak", 3, "did you mean 'black'"),
        ("#12345", 3, "#rrggbb"),
        ("", 1, "unknown background"),
        ("red", 1, "the images of this data set are gray"),
        ("#010203", 1, "three equal parts"),
    ],
)
def test_bad_backgrounds_are_refused(text, channels, message):
    with pytest.raises(InputError, match=message):
        parse_background(text, channels)
