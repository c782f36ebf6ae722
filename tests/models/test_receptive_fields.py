"""Outputs that altered pixels change, against going through all outputs one by one."""

from hypothesis import assume, given
from hypothesis import strategies as st

from sfi_ray.models.runners.receptive_fields import Window, altered_outputs

sizes = st.integers(1, 12)


@st.composite
def windows(draw):
    kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    pool_kernel = draw(st.integers(1, 3))
    return Window(
        kernel=kernel,
        stride=draw(st.integers(1, 3)),
        padding=draw(st.integers(0, 3)),
        dilation=dilation,
        pool_kernel=pool_kernel,
        pool_stride=draw(st.integers(1, 3)),
        pool_padding=draw(st.integers(0, pool_kernel // 2)),
    )


def convolved_of(window, output, num_convolved):
    """Outputs of the convolution that an output of the pooling looks at."""
    first = output * window.pool_stride - window.pool_padding
    return [place for place in range(first, first + window.pool_kernel) if 0 <= place < num_convolved]


def pixels_of(window, place):
    """Pixels that an output of the convolution looks at."""
    first = place * window.stride - window.padding
    return {first + tap * window.dilation for tap in range(window.kernel)}


@given(window=windows(), size=sizes, rounds_up=st.booleans())
def test_all_outputs_that_see_a_pixel_are_computed_anew_from_all_that_they_see(window, size, rounds_up):
    num_convolved = (size + 2 * window.padding - (window.kernel - 1) * window.dilation - 1) // window.stride + 1
    left = num_convolved + 2 * window.pool_padding - window.pool_kernel
    assume(num_convolved >= 1)
    assume(left >= 0)
    num_outputs = left // window.pool_stride + 1
    if (
        rounds_up
        and left % window.pool_stride
        and num_outputs * window.pool_stride < num_convolved + window.pool_padding
    ):
        num_outputs += 1
    found = altered_outputs(window, size, num_convolved, num_outputs)
    for pixel in range(size):
        first, first_pixel = int(found.first_output[pixel]), int(found.first_pixel[pixel])
        anew = range(first, first + found.outputs)
        assert anew.start >= 0
        assert anew.stop <= num_outputs
        patch = range(first_pixel, first_pixel + found.length)
        for output in range(num_outputs):
            places = convolved_of(window, output, num_convolved)
            seen = set().union(*(pixels_of(window, place) for place in places))
            assert output in anew or pixel not in seen
            if output in anew:
                assert all(one in patch for one in seen)
        place = first * window.pool_stride - window.pool_padding
        exists = [0 <= place + step < num_convolved for step in range(found.convolved)]
        assert found.is_convolved[pixel].tolist() == exists


def test_one_pixel_of_a_small_network_reaches_four_outputs():
    found = altered_outputs(Window(kernel=3, padding=1, pool_kernel=2, pool_stride=2), 28, 28, 14)
    assert (found.outputs, found.convolved, found.length) == (2, 4, 6)
    assert found.first_output[:5].tolist() == [0, 0, 0, 1, 1]
    assert found.first_pixel[:5].tolist() == [-1, -1, -1, 1, 1]
    assert found.first_output[-1] == 12
