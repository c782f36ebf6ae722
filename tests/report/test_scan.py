from __future__ import annotations

import numpy as np

from sfi_ray.report.scan import FirstTimes


def test_first_times_agree_with_a_set_over_a_long_stream() -> None:
    generator = np.random.default_rng(0)
    first_times = FirstTimes()
    seen: set[str] = set()
    for _ in range(100):
        ids = [str(number) for number in generator.integers(0, 3000, size=generator.integers(0, 90))]
        expected = [name not in seen and name not in ids[:place] for place, name in enumerate(ids)]
        seen.update(ids)
        assert first_times.among(ids).tolist() == expected


def test_runs_stay_few() -> None:
    first_times = FirstTimes()
    for start in range(1000):
        first_times.among([f"{start}-{number}" for number in range(10)])
    assert len(first_times._runs) <= 15
    assert sum(run.size for run in first_times._runs) == 10_000
