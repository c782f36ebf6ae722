import numpy as np
import pytest
import torch

from sfi_ray.models.runners.repeatable import Randomness
from sfi_ray.models.training.augmentation import FlipCrop

CPU = torch.device("cpu")


def drawn(count, seed=0):
    with Randomness(CPU, seed, "test").drawing():
        return FlipCrop.draw(count, CPU)


def noise(count, channels=3, height=6, width=5):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_is_padded_flipped_and_cropped_as_by_hand(channels):
    images = noise(40, channels)
    augmentation = drawn(40)
    for start in (0, 17):
        result = augmentation.apply(images[start : start + 9], start)
        assert result.dtype == torch.uint8
        for place in range(9):
            image = np.pad(
                images[start + place].numpy(),
                ((0, 0), (FlipCrop.padding, FlipCrop.padding), (FlipCrop.padding, FlipCrop.padding)),
            )
            row, col = augmentation.shifts[start + place].tolist()
            crop = image[:, row : row + 6, col : col + 5]
            if augmentation.flips[start + place]:
                crop = crop[:, :, ::-1]
            assert np.array_equal(result[place].numpy(), crop)


def test_half_of_the_images_are_flipped_and_all_shifts_are_alike():
    count = 50_000
    augmentation = drawn(count)
    assert augmentation.flips.float().mean() == pytest.approx(0.5, abs=4 * 0.5 / count**0.5)
    places = augmentation.shifts[:, 0] * 9 + augmentation.shifts[:, 1]
    shares = torch.bincount(places, minlength=81).double() / count
    assert len(shares) == 81
    chance = 1 / 81
    assert (shares - chance).abs().max() < 5 * (chance * (1 - chance) / count) ** 0.5
    # Neither depends on the other.
    flipped = augmentation.shifts[augmentation.flips].double().mean(dim=0)
    assert flipped.tolist() == pytest.approx([FlipCrop.padding, FlipCrop.padding], abs=0.1)


def test_a_draw_depends_on_its_seed_alone():
    torch.manual_seed(1)
    first = drawn(100)
    torch.manual_seed(2)
    second, other = drawn(100), drawn(100, seed=1)
    assert torch.equal(first.shifts, second.shifts)
    assert torch.equal(first.flips, second.flips)
    assert not torch.equal(first.shifts, other.shifts)


def test_the_batch_has_its_channels_last_in_memory_and_the_images_stay_as_they_were():
    images = noise(8)
    before = images.clone()
    result = drawn(8).apply(images, 0)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)
