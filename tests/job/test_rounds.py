import pytest

from sfi_ray.errors import InputError
from sfi_ray.job import ONLY_TRIAL, RoundsJob, load_job, parse_any, parse_job

JOB = """\
name: defended
dataset: digits
classifier: cnn_mp
rounds: {number: 3, per_class: 6}
k: {low: 1, high: 20}
attack: {kind: de, preset: small, stop_confidence: 0.9}
"""
TRIALS = """\
trials:
  paper: {}
  colours:
    backgrounds: [black, gray, white]
  shared:
    attack: {kind: map_elites, max_evaluations: 50}
    rounds: {loss: outlier_exposure}
"""


def refused(text):
    with pytest.raises(InputError) as caught:
        parse_any(text, "job.yaml")
    return str(caught.value)


def test_the_key_rounds_tells_the_kinds_of_job_files_apart(tmp_path):
    assert isinstance(parse_any(JOB), RoundsJob)
    file = tmp_path / "rounds.yaml"
    file.write_text(JOB)
    for read in (lambda: parse_job(JOB, "job.yaml"), lambda: load_job(file)):
        with pytest.raises(InputError, match="which only `sfi-ray launch` takes"):
            read()


def test_without_trials_there_is_one():
    job = parse_any(JOB)
    assert job.trial_names == (ONLY_TRIAL,)
    assert job.trial(ONLY_TRIAL) == job


def test_a_trial_is_the_job_with_some_keys_changed():
    job = parse_any(JOB + TRIALS)
    assert job.trial_names == ("paper", "colours", "shared")
    assert job.trial("paper").identity() == parse_any(JOB).identity()
    assert job.trial("colours").backgrounds == ("black", "gray", "white")
    shared = job.trial("shared")
    assert shared.attack.kind == "map_elites"
    assert (shared.rounds.number, shared.rounds.loss) == (3, "outlier_exposure")
    assert shared.rounds.outlier_loss.weight == 0.5


def test_the_papers_numbers_are_the_defaults():
    job = parse_any("name: x\ndataset: cifar10\nclassifier: vgg16\nrounds: {}\nk: {low: 1, high: 100}\n")
    assert (job.rounds.number, job.rounds.per_class, job.rounds.parts(10)) == (5, 600, (5000, 1000))
    assert (job.backgrounds, job.rounds.final_backgrounds) == (("black",), ("white",))
    assert job.rounds.outlier_loss.weight == 1


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("per_class: 6", "per_clas: 6", 4, "unknown key 'rounds.per_clas'; did you mean 'per_class'?"),
        ("number: 3", "number: 0", 4, "rounds.number: should be greater than or equal to 1 (found 0)"),
        ("high: 20", "high: 0", 5, "k.high: should be greater than or equal to 1 (found 0)"),
        ("kind: de, ", "kind: ed, ", 6, "attack.kind: should be one of de,"),
        ("classifier: cnn_mp\n", "", 1, "key 'classifier' is missing; add it"),
        ("cnn_mp", "{torchvision: resnet50, weights: DEFAULT}", 1, "needs a network of the zoo"),
        ("per_class: 6", "per_class: 6, final_backgrounds: [red, red]", 4, "'red' is listed twice"),
        (
            "backgrounds: [black, gray, white]",
            "rounds: {per_class: 7}\n    backgrounds: [black, gray]",
            1,
            "multiple of 2",
        ),
        ("backgrounds: [black, gray, white]", "background: red", 10, "trial colours: unknown key 'background'"),
        ("max_evaluations: 50", "max_evaluations: -1", 12, "trial shared: attack.max_evaluations: should be greater"),
        (
            "per_class: 6",
            "per_class: 6, evade: odin",
            4,
            "rounds.evade: should be 'none', 'msp', 'max_logit', 'energy'",
        ),
        ("loss: outlier_exposure", "loss: outlier_exposure, evade: outlier_class", 1, "adds no outlier_class"),
        ("per_class: 6", "per_class: 6, evade: msp}\nverification: {threshold: 0.5", 1, "above 0.5 (found 0.5)"),
        ("paper: {}", "paper: {dataset: mnist}", 7, "paper: `dataset` is the same in all trials"),
        ("paper: {}", "tune: {}", 7, "a trial cannot be called 'tune'"),
        ("kind: map_elites, max_evaluations: 50", "kind: inversion", 1, "trial shared: attack kind inversion imitates"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_the_mend(old, new, line, message):
    text = JOB + TRIALS
    assert old in text
    said = refused(text.replace(old, new, 1))
    assert said.startswith(f"job.yaml:{line}: "), said
    assert message in said


def test_more_sfis_to_train_and_test_with_than_are_searched_are_refused():
    rounds = parse_any(JOB.replace("per_class: 6", "per_class: 6, train: 50, held_out: 20")).rounds
    with pytest.raises(ValueError, match="more than the 60 cells of a round"):
        rounds.parts(10)
    assert rounds.parts(20) == (50, 20)


def test_a_trial_changed_in_code_is_checked_when_it_is_taken():
    job = parse_any(JOB).model_copy(update={"trials": {"a": {"k": 0}}})
    with pytest.raises(InputError, match=r"^RoundsJob: k: should be greater than or equal to 1 \(found 0\)"):
        job.trial("a")


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ("label_selector: {zone: a}", "cluster.label_selector: a trial reserves its first actor without"),
        ("gpus_per_actor: 1", "cluster.gpus_per_actor: 1 would reserve GPUs"),
    ],
)
def test_what_actors_of_a_trial_cannot_reserve_is_refused(cluster, message):
    text = f"{JOB}\ncluster: {{{cluster}}}\n" + ("" if "compute:" in JOB else "compute: {device: cpu}\n")
    assert message in refused(text)
