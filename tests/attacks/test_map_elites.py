"""The shared search as an attack: groups are searched whole, and share nothing with one another."""

import functools
import itertools

import pytest
import torch

from sfi_ray.attacks import AttackContext, Tick, read_attack_settings
from sfi_ray.attacks.run import by_space_k, groups_of
from sfi_ray.types import Finding, Pixel, Start, StopReason
from tests.attacks.conftest import evaluations, make_cells, outcomes, search
from tests.attacks.test_snapshots import MemoryStore

SHORT = {"kind": "map_elites", "max_evaluations": 40, "num_elites": 3, "num_candidates": 4}
LED = {**SHORT, "gradient_share": 0.5}


@pytest.fixture(params=[SHORT, LED], ids=["plain", "led"])
def attack(request):
    return read_attack_settings(request.param).build()


@pytest.fixture(params=["gray", "rgb"])
def toy(request, toy_gray, toy_rgb):
    return {"gray": toy_gray, "rgb": toy_rgb}[request.param]


some_cells = functools.partial(make_cells, ks=(1, 3), backgrounds=("black", "white"), replicates=2)


def group_of(cell):
    return cell.k, cell.background.name, cell.replicate


def test_every_cell_gets_one_finding_within_its_budget(attack, toy):
    cells = some_cells(toy.classifier)
    findings = search(attack, toy.classifier, cells)
    assert sorted(finding.cell.index for finding in findings) == [cell.index for cell in cells]
    assert {finding.evaluations for finding in findings} == {40}
    assert {finding.stop_reason for finding in findings} == {StopReason.BUDGET}
    assert evaluations(attack, toy.classifier, cells) == 40 * len(cells)


def test_findings_do_not_depend_on_the_order_or_the_company_of_groups(attack, toy, monkeypatch):
    cells = some_cells(toy.classifier)
    expected = outcomes(search(attack, toy.classifier, cells))
    shuffled = [cells[i] for i in torch.randperm(len(cells), generator=torch.Generator().manual_seed(3))]
    assert outcomes(search(attack, toy.classifier, shuffled)) == expected
    some = [cell for cell in cells if group_of(cell) in {(1, "white", 0), (3, "black", 1)}]
    assert outcomes(search(attack, toy.classifier, some)) == {cell.cell_id: expected[cell.cell_id] for cell in some}
    monkeypatch.setattr("sfi_ray.attacks.Attack.micro_batches_a_generation", 0)
    assert attack.num_slots(toy.classifier.micro_batch) == 1, "less than a group, which is never parted"
    assert outcomes(search(attack, toy.classifier, cells)) == expected


drawn_cells = functools.partial(make_cells, ks=None, k_range=(1, 6), backgrounds=("black", "white"), replicates=3)


def test_classes_that_draw_their_k_are_one_group(attack, toy):
    cells = drawn_cells(toy.classifier)
    groups = {}
    for cell in cells:
        groups.setdefault((cell.background.name, cell.replicate), []).append(cell)
    ks = {key: {cell.k for cell in group} for key, group in groups.items()}
    assert any(len(of_group) > 1 for of_group in ks.values())
    assert groups_of(cells) == list(groups.values())
    for space_k, part in by_space_k(cells).items():
        for key in {(cell.background.name, cell.replicate) for cell in part}:
            largest = max(ks[key])
            assert space_k == (largest if len(ks[key]) == 1 else min(k for k in (2, 4, 8) if k >= largest))
    findings = search(attack, toy.classifier, cells)
    assert all(len(finding.pixels) <= finding.cell.k for finding in findings)
    assert {finding.evaluations for finding in findings} == {40}
    expected = outcomes(findings)
    shuffled = [cells[i] for i in torch.randperm(len(cells), generator=torch.Generator().manual_seed(3))]
    assert outcomes(search(attack, toy.classifier, shuffled)) == expected
    some = [cell for cell in cells if (cell.background.name, cell.replicate) in {("white", 0), ("black", 2)}]
    assert outcomes(search(attack, toy.classifier, some)) == {cell.cell_id: expected[cell.cell_id] for cell in some}


def test_each_k_of_a_list_is_a_group(toy):
    cells = some_cells(toy.classifier)
    assert {k: {group_of(cell) for cell in part} for k, part in by_space_k(cells).items()} == {
        k: {key for cell in cells if (key := group_of(cell))[0] == k} for k in (1, 3)
    }
    for group in groups_of(cells):
        assert len({group_of(cell) for cell in group}) == 1
        assert [cell.target_class for cell in group] == list(range(toy.classifier.num_classes))


def test_classes_profit_from_each_other(toy_gray):
    cells = make_cells(toy_gray.classifier, ks=(3,), replicates=6)
    attack = read_attack_settings({**SHORT, "max_evaluations": 100}).build()
    together = search(attack, toy_gray.classifier, cells)
    alone = [finding for cell in cells for finding in search(attack, toy_gray.classifier, [cell])]
    mean = [sum(finding.confidence for finding in findings) / len(findings) for findings in (together, alone)]
    assert mean[0] > mean[1]


def test_a_class_that_is_done_stops_costing_and_the_others_go_on(toy):
    goal = read_attack_settings({**SHORT, "stop_confidence": 0.5, "max_evaluations": 400}).build()
    cells = some_cells(toy.classifier)
    found = list(goal.search(toy.classifier, cells, 0.5))
    findings = [event for event in found if isinstance(event, Finding)]
    by_reason = {reason: [f for f in findings if f.stop_reason is reason] for reason in StopReason}
    assert by_reason[StopReason.FOOLED]
    assert all(finding.evaluations < 400 for finding in by_reason[StopReason.FOOLED])
    assert all(finding.confidence >= 0.5 for finding in by_reason[StopReason.FOOLED])
    assert sum(finding.evaluations for finding in findings) == sum(
        event.evaluations for event in found if isinstance(event, Tick)
    )
    in_one_group = {}
    for finding in findings:
        in_one_group.setdefault(group_of(finding.cell), set()).add(finding.generations)
    assert any(len(generations) > 1 for generations in in_one_group.values())


@pytest.mark.parametrize("ks", [(2,), None], ids=["one k", "drawn"])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"stop_confidence": 0.5, "max_evaluations": 100},
        {"stall_generations": 3},
    ],
)
def test_a_group_goes_on_from_any_of_its_generations_to_the_same_findings(toy, changes, ks):
    attack = read_attack_settings({**SHORT, **changes}).build()
    cells = make_cells(toy.classifier, ks=ks, k_range=(1, 5), backgrounds=("black", "gray"))
    checkpoints = MemoryStore()
    found = attack.search(toy.classifier, cells, 0.9, AttackContext(checkpoints=checkpoints))
    expected = outcomes([event for event in found if isinstance(event, Finding)])
    assert len(expected) == len(cells)
    assert len(checkpoints.kept) >= 2
    for number in range(len(checkpoints.kept)):
        again = MemoryStore(checkpoints.kept[: number + 1])
        rest = attack.search(toy.classifier, cells, 0.9, AttackContext(checkpoints=again))
        # Cells that were done already are found again: their rows may not have been written.
        assert outcomes([event for event in rest if isinstance(event, Finding)]) == expected


def test_closing_a_search_midway_takes_back_nothing(toy):
    attack = read_attack_settings({**SHORT, "stop_confidence": 0.5}).build()
    cells = some_cells(toy.classifier)
    expected = outcomes(search(attack, toy.classifier, cells))
    running = attack.search(toy.classifier, cells, 0.9)
    early = list(itertools.islice((event for event in running if isinstance(event, Finding)), 4))
    running.close()
    assert {cell_id: expected[cell_id] for cell_id in outcomes(early)} == outcomes(early)


def test_gradients_are_counted_beside_the_images_that_they_are_taken_of(toy):
    findings = search(read_attack_settings(LED).build(), toy.classifier, some_cells(toy.classifier))
    assert {(finding.evaluations, finding.backward_passes, finding.generations) for finding in findings} == {(40, 8, 8)}
    plain = search(read_attack_settings(SHORT).build(), toy.classifier, some_cells(toy.classifier))
    assert {finding.backward_passes for finding in plain} == {0}


@pytest.mark.parametrize("budget", [1, 2, 6, 7])
def test_a_gradient_is_taken_only_where_a_candidate_can_follow(toy_gray, budget):
    attack = read_attack_settings({**LED, "max_evaluations": budget}).build()
    findings = search(attack, toy_gray.classifier, make_cells(toy_gray.classifier, ks=(2,)))
    assert {finding.evaluations for finding in findings} == {budget}
    assert {finding.backward_passes for finding in findings} == {{1: 0, 2: 1, 6: 1, 7: 2}[budget]}
    assert max(finding.backward_passes for finding in findings) <= max(1, attack.max_backward_passes)


def test_gradients_help(toy_rgb):
    cells = make_cells(toy_rgb.classifier, ks=(3,), replicates=4)
    means = []
    for settings in (SHORT, LED):
        findings = search(read_attack_settings(settings).build(), toy_rgb.classifier, cells)
        means.append(sum(finding.confidence for finding in findings) / len(findings))
    assert means[1] > means[0]


GROWING = {**SHORT, "begins_with": "smaller_k"}


def test_a_larger_k_begins_with_what_smaller_ones_found(toy):
    cells = make_cells(toy.classifier, ks=(4, 1, 2), replicates=2)
    findings = search(read_attack_settings(GROWING).build(), toy.classifier, cells)
    assert [finding.cell.k for finding in findings] == sorted(cell.k for cell in cells)
    found = {(group_of(finding.cell), finding.cell.target_class): finding.confidence for finding in findings}
    for (k, *kin), target in found:
        if k > 1:
            assert found[(k, *kin), target] >= found[(k // 2, *kin), target]


def test_the_smallest_k_is_searched_as_without_growing(toy):
    cells = make_cells(toy.classifier, ks=(2, 3))
    alone = outcomes(search(read_attack_settings(SHORT).build(), toy.classifier, cells))
    growing = outcomes(search(read_attack_settings(GROWING).build(), toy.classifier, cells))
    small = [cell.cell_id for cell in cells if cell.k == 2]
    assert {cell: growing[cell] for cell in small} == {cell: alone[cell] for cell in small}
    assert growing != alone


def test_what_a_cell_begins_with_costs_one_evaluation_and_may_end_it(toy_gray):
    attack = read_attack_settings({**GROWING, "stop_confidence": 0.2, "max_evaluations": 400}).build()
    findings = search(attack, toy_gray.classifier, make_cells(toy_gray.classifier, ks=(2, 3)))
    of_small = {finding.cell.target_class for finding in findings if finding.cell.k == 2 and finding.confidence >= 0.2}
    assert of_small
    for finding in findings:
        if finding.cell.k == 3 and finding.cell.target_class in of_small:
            assert finding.generations == 1


def test_rows_of_a_growing_search_are_the_same_when_it_goes_on_from_snapshots(toy):
    cells = make_cells(toy.classifier, ks=(1, 3))
    attack = read_attack_settings(GROWING).build()
    expected = outcomes(search(attack, toy.classifier, cells))
    checkpoints = MemoryStore()
    for stopped_after in (3, 11, 17):
        events = attack.search(toy.classifier, cells, 0.9, AttackContext(checkpoints=checkpoints))
        assert list(itertools.islice(events, stopped_after))
    last = attack.search(toy.classifier, cells, 0.9, AttackContext(checkpoints=checkpoints))
    assert outcomes([event for event in last if isinstance(event, Finding)]) == expected


def starts_of(findings, **changes):
    """What another search found, as what this one begins with."""
    background = changes.get("background")
    return tuple(
        Start(background or finding.cell.background.value, finding.cell.target_class, finding.pixels)
        for finding in findings
    )


def begun_with(attack, classifier, cells, starts):
    found = attack.search(classifier, cells, 0.9, AttackContext(starts=starts))
    return [event for event in found if isinstance(event, Finding)]


def test_a_class_begins_with_what_an_earlier_run_found_for_it(toy):
    earlier = search(read_attack_settings(SHORT).build(), toy.classifier, make_cells(toy.classifier, ks=(2,)))
    attack = read_attack_settings({**SHORT, "max_evaluations": 1}).build()
    cells = make_cells(toy.classifier, ks=(3,))
    findings = begun_with(attack, toy.classifier, cells, starts_of(earlier))
    assert {finding.evaluations for finding in findings} == {1}
    # One image for each class: the others' starts can only be better for it.
    by_class = {finding.cell.target_class: finding for finding in findings}
    assert all(by_class[known.cell.target_class].confidence >= known.confidence for known in earlier)
    made = {finding.pixels for finding in findings}
    assert made <= {known.pixels for known in earlier}


@pytest.mark.parametrize("obstacle", ["more pixels", "another background"])
def test_images_that_do_not_fit_a_cell_are_left_out(toy, obstacle):
    earlier = search(read_attack_settings(SHORT).build(), toy.classifier, make_cells(toy.classifier, ks=(3,)))
    earlier = [finding for finding in earlier if len(finding.pixels) == 3]
    assert earlier
    changes = {"background": (1,) * toy.classifier.input_shape[0]} if obstacle == "another background" else {}
    cells = make_cells(toy.classifier, ks=(2,) if obstacle == "more pixels" else (3,))
    attack = read_attack_settings(SHORT).build()
    expected = outcomes(search(attack, toy.classifier, cells))
    assert outcomes(begun_with(attack, toy.classifier, cells, starts_of(earlier, **changes))) == expected


def test_no_more_images_are_begun_with_than_a_generation_has_candidates(toy_gray):
    target = 1
    pixels = [(Pixel(row, col, (200,)),) for row, col in itertools.product(range(3), range(3))]
    starts = [Start((0,), target, altered) for altered in pixels]
    cells = make_cells(toy_gray.classifier, ks=(1,))
    attack = read_attack_settings({**SHORT, "max_evaluations": SHORT["num_candidates"]}).build()
    first = begun_with(attack, toy_gray.classifier, cells, starts[: SHORT["num_candidates"]])
    assert outcomes(begun_with(attack, toy_gray.classifier, cells, starts)) == outcomes(first)
    fewer = begun_with(attack, toy_gray.classifier, cells, starts[:1])
    assert outcomes(fewer) != outcomes(first)


def test_growing_and_an_earlier_run_go_together(toy):
    earlier = search(read_attack_settings(SHORT).build(), toy.classifier, make_cells(toy.classifier, ks=(3,)))
    attack = read_attack_settings({**GROWING, "max_evaluations": 2}).build()
    findings = begun_with(attack, toy.classifier, make_cells(toy.classifier, ks=(1, 3)), starts_of(earlier))
    found = {(finding.cell.k, finding.cell.target_class): finding.confidence for finding in findings}
    for known in earlier:
        if len(known.pixels) == 3:
            assert found[3, known.cell.target_class] >= max(known.confidence, found[1, known.cell.target_class])


def test_gradients_that_are_taken_in_parts_count_in_no_slot():
    shape = (3, 224, 224)
    shared = read_attack_settings({"kind": "map_elites", "gradient_share": 0.5}).build()
    alone = read_attack_settings({"kind": "gradient"}).build()
    one_gradient = 4 * 3 * 224 * 224
    assert shared.slot_bytes(shape, 10) < one_gradient < alone.slot_bytes(shape, 10)
