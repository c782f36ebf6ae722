from sfi_ray.attacks import read_attack_settings
from sfi_ray.attacks.sweep import sweep
from sfi_ray.images import parse_background

SETTINGS = read_attack_settings({"kind": "map_elites", "max_evaluations": 60})


def test_findings_are_in_the_order_of_the_grid(toy_gray):
    backgrounds = [parse_background(name, 1) for name in ("white", "black")]
    findings = sweep(toy_gray.classifier, SETTINGS, backgrounds=backgrounds, target_classes=[2, 0], ks=[3, 1])
    cells = [(finding.cell.background.name, finding.cell.k, finding.cell.target_class) for finding in findings]
    assert cells == [(name, k, target) for name in ("white", "black") for k in (3, 1) for target in (2, 0)]
    for finding in findings[4:]:
        best = toy_gray.best_confidence(finding.cell.target_class, finding.cell.k)
        assert finding.background_confidence < finding.confidence <= best + 1e-6


def test_the_same_seed_finds_the_same(toy_gray):
    backgrounds = [parse_background("black", 1)]
    found = [
        sweep(toy_gray.classifier, SETTINGS, backgrounds=backgrounds, target_classes=[1], ks=[2], seed=seed)[0].pixels
        for seed in (0, 0, 1, 2, 3, 4)
    ]
    assert found[0] == found[1]
    assert len(set(found)) > 1
