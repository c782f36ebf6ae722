import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sfi_ray.search.philox import (
    Draws,
    below,
    philox_4x32,
    power,
    random_streams,
    random_words,
    standard_normal,
    uniform,
)

WORD = st.integers(0, 2**32 - 1)


def reference(counter, key):
    """Philox 4x32-10 in Python integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for step in range(10):
        if step:
            k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
        low, high = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (high >> 32) ^ c1 ^ k0, high % 2**32, (low >> 32) ^ c3 ^ k1, low % 2**32
    return [c0, c1, c2, c3]


def tensors(values):
    return tuple(torch.tensor([value]) for value in values)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_test_vectors(counter, key, expected):
    assert [int(word) for word in philox_4x32(tensors(counter), tensors(key))] == list(expected)


@given(st.tuples(WORD, WORD, WORD, WORD), st.tuples(WORD, WORD))
def test_philox_equals_the_reference(counter, key):
    assert [int(word) for word in philox_4x32(tensors(counter), tensors(key))] == reference(counter, key)


def test_words_depend_on_cell_generation_and_stream_only():
    seeds = torch.tensor([5, 2**63 - 1, 7])
    generations = torch.tensor([0, 3, 2**40])
    together = random_words(seeds, generations, 2, 11)
    for i in range(3):
        alone = random_words(seeds[i : i + 1], generations[i : i + 1], 2, 11)
        assert torch.equal(alone[0], together[i])
        assert torch.equal(random_words(seeds[i : i + 1], generations[i : i + 1], 2, 40)[0, :11], together[i])
        for other in (
            random_words(seeds[i : i + 1] - 1, generations[i : i + 1], 2, 11),
            random_words(seeds[i : i + 1], generations[i : i + 1] + 1, 2, 11),
            random_words(seeds[i : i + 1], generations[i : i + 1], 3, 11),
        ):
            assert not torch.equal(other[0], together[i])


def test_words_below_a_bound_are_uniform_and_reach_both_ends():
    draws = below(random_words(torch.tensor([1]), torch.tensor([0]), 0, 70_000), 7)[0].numpy()
    assert stats.chisquare(np.bincount(draws, minlength=7)).pvalue > 1e-3
    assert below(torch.tensor([0, 2**32 - 1]), 7).tolist() == [0, 6]


def test_units_stay_inside_the_open_interval():
    cumulative = uniform(torch.tensor([0, 2**32 - 1]))
    assert 0 < cumulative[0] < cumulative[1] < 1


def test_normals_are_standard_normal():
    draws = standard_normal(random_words(torch.tensor([9]), torch.tensor([0]), 0, 50_000))[0].numpy()
    assert stats.kstest(draws, "norm").pvalue > 1e-3


def test_normals_do_not_depend_on_where_they_stand():
    words = random_words(torch.tensor([9]), torch.tensor([0]), 0, 1003)[0]
    whole = standard_normal(words)
    assert all(torch.equal(standard_normal(words[i : i + 3]), whole[i : i + 3]) for i in range(0, 1000, 7))


def test_streams_that_are_drawn_in_one_go_are_those_drawn_alone():
    seeds, generations = torch.tensor([3, 2**62 + 1]), torch.tensor([0, 2**40])
    counts = {7: 5, 0: 4, 2**32 - 1: 1, 9: 0}
    together = random_streams(seeds, generations, counts)
    for stream, count in counts.items():
        assert torch.equal(together[stream], random_words(seeds, generations, stream, count))
        assert together[stream].shape == (2, count)


def test_draws_hand_out_the_words_of_a_stream_whether_drawn_before_or_not():
    seeds, counters = torch.tensor([3, 4]), torch.tensor([1, 1])
    draws = Draws(seeds, counters, {7: 5})
    for stream, count in ((7, 5), (7, 2), (7, 9), (8, 3)):
        assert torch.equal(draws.words(stream, count), random_words(seeds, counters, stream, count))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["both", "base", "exponent"])
def test_a_power_is_the_same_alone_as_among_others(dtype, kind):
    generator = torch.Generator().manual_seed(3)
    base = 0.1 + 9 * torch.rand(1001, dtype=dtype, generator=generator)
    exponent = 4 * torch.rand(1001, dtype=dtype, generator=generator)
    base, exponent = base if kind != "exponent" else 3.7, exponent if kind != "base" else 2.5

    def part(value, where):
        return value[where] if isinstance(value, torch.Tensor) else value

    together = power(base, exponent)
    alone = [power(part(base, slice(i, i + 1)), part(exponent, slice(i, i + 1))) for i in range(1001)]
    assert torch.equal(together, torch.cat(alone))
    torch.testing.assert_close(together, base**exponent)
