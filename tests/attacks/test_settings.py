import json

import pytest
from pydantic import ValidationError

from sfi_ray.attacks import DIFFERENTIAL_EVOLUTION_PRESETS, DifferentialEvolutionAttackSettings, read_attack_settings


@pytest.mark.parametrize(
    ("preset", "population_size", "generations", "stop_confidence"),
    [
        ("paper", 500, 3000, None),  # Section 5.2, CIFAR-10
        ("paper_architectures", 500, 1000, None),  # Section 5.6
        ("paper_imagenet", 500, 500, None),  # Section 5.2
        ("paper_centipede", 1000, 30_000, None),  # Section 5.2, Figure 1
        ("paper_defence", 500, 3000, 0.9),  # Section 5.7
        ("small", 100, 100, None),
        ("medium", 100, 400, None),
    ],
)
def test_presets_hold_the_papers_numbers(preset, population_size, generations, stop_confidence):
    settings = read_attack_settings({"preset": preset})
    assert settings.population_size == population_size
    assert settings.generations == generations
    assert settings.stop_confidence == stop_confidence
    assert settings.differential_weight == 0.5
    assert settings.crossover_rate == 1.0
    assert settings.stall_generations is None
    assert settings.build().max_evaluations == population_size * (generations + 1)


def test_every_preset_is_held_to_the_papers_numbers():
    marks = test_presets_hold_the_papers_numbers.pytestmark
    assert {case[0] for mark in marks for case in mark.args[1]} == set(DIFFERENTIAL_EVOLUTION_PRESETS)


def test_the_defaults_are_the_papers():
    assert DifferentialEvolutionAttackSettings() == read_attack_settings({"preset": "paper"})


def test_explicit_values_win_over_a_preset():
    settings = read_attack_settings({"generations": 7, "preset": "small", "stop_confidence": 0.5})
    assert (settings.population_size, settings.generations, settings.stop_confidence) == (100, 7, 0.5)


def test_what_results_is_stored_and_not_the_presets_name():
    settings = read_attack_settings({"preset": "small"})
    assert settings == DifferentialEvolutionAttackSettings(population_size=100, generations=100)
    assert "preset" not in settings.model_dump()
    assert "preset" not in settings.model_dump_json()
    assert read_attack_settings(json.loads(settings.model_dump_json())) == settings


def test_no_preset_is_no_preset():
    assert read_attack_settings({"preset": None}) == DifferentialEvolutionAttackSettings()


@pytest.mark.parametrize("preset", ["smal", "", "Paper", 5, ["small"], {"small": 1}])
def test_unknown_presets_are_refused(preset):
    with pytest.raises(ValidationError, match="preset"):
        read_attack_settings({"preset": preset})


def test_validating_leaves_what_it_was_given_as_it_was():
    given = {"preset": "small", "generations": 3}
    read_attack_settings(given)
    assert given == {"preset": "small", "generations": 3}
