import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, ValidationError

from sfi_ray.attacks import DifferentialEvolutionAttackSettings as De
from sfi_ray.errors import InputError
from sfi_ray.job import ClassifierSpec, Job, KRange, RoundsJob, load_any, parse_job, rounds_schema_json, schema_json

JOBS = sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))
SHORT = {"name": "a", "dataset": "digits", "classifiers": "mlp", "k": 5}

# What a job may say, and what it is read as.
FORMS = [
    ({"classifiers": "mlp"}, "classifiers", (ClassifierSpec(name="mlp"),)),
    ({"classifiers": ["mlp", "cnn_mp"]}, "classifiers", (ClassifierSpec(name="mlp"), ClassifierSpec(name="cnn_mp"))),
    (
        {"classifiers": {"name": "m", "architecture": "mlp"}},
        "classifiers",
        (ClassifierSpec(name="m", architecture="mlp"),),
    ),
    (
        {"classifiers": {"torchvision": "resnet50", "weights": "DEFAULT"}},
        "classifiers",
        (ClassifierSpec(name="resnet50", torchvision="resnet50", weights="DEFAULT"),),
    ),
    ({"classifiers": {"timm": "a.b_c"}}, "classifiers", (ClassifierSpec(name="a.b_c", timm="a.b_c"),)),
    ({"classifiers": ["mlp", {"name": "b"}]}, "classifiers", (ClassifierSpec(name="mlp"), ClassifierSpec(name="b"))),
    ({"backgrounds": "red"}, "backgrounds", ("red",)),
    ({"backgrounds": ["red", "#00ff7f"]}, "backgrounds", ("red", "#00ff7f")),
    ({}, "backgrounds", ("black",)),
    ({"k": 5}, "k", (5,)),
    ({"k": [1, 5, 10]}, "k", (1, 5, 10)),
    ({"k": {"low": 2, "high": 9}}, "k", KRange(low=2, high=9)),
    ({"k": {"low": 4, "high": 4}}, "k", KRange(low=4, high=4)),
    ({}, "target_classes", "all"),
    ({"target_classes": "all"}, "target_classes", "all"),
    ({"target_classes": ["all"]}, "target_classes", ("all",)),
    ({"target_classes": 3}, "target_classes", (3,)),
    ({"target_classes": "cat"}, "target_classes", ("cat",)),
    ({"target_classes": [0, "1"]}, "target_classes", (0, "1")),
    ({"target_classes": [1, "1"]}, "target_classes", (1, "1")),
    ({"attack": {}}, "attack", De()),
    (
        {"attack": {"preset": "small", "generations": 7}},
        "attack",
        De(population_size=100, generations=7),
    ),
    ({"attack": {"preset": None}}, "attack", De()),
]


def validator_of(text):
    schema = json.loads(text)
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)


@pytest.fixture(scope="module")
def validator():
    return validator_of(schema_json())


@pytest.fixture(scope="module")
def rounds_validator():
    return validator_of(rounds_schema_json())


@pytest.mark.parametrize(("values", "key", "expected"), FORMS)
def test_short_forms_are_read_as_long_ones(values, key, expected):
    job = Job.model_validate({**SHORT, **values})
    assert getattr(job, key) == expected
    assert parse_job(yaml.safe_dump({**SHORT, **values})) == job


def test_a_data_set_is_named_by_its_name():
    assert Job.model_validate(SHORT) == Job.model_validate({**SHORT, "dataset": {"name": "digits"}})


@pytest.mark.parametrize(("values", "key", "expected"), FORMS)
def test_the_json_schema_accepts_what_is_read(validator, values, key, expected):
    del key, expected
    assert list(validator.iter_errors({**SHORT, **values})) == []


@pytest.mark.parametrize(
    "values",
    [
        {"unknown": 1},
        {"name": "../x"},
        {"name": ""},
        {"name": 5},
        {"k": 0},
        {"k": []},
        {"k": [0]},
        {"k": {"low": 1}},
        {"k": {"low": 0, "high": 2}},
        {"classifiers": []},
        {"classifiers": "../x"},
        {"classifiers": [{"weights": "x"}]},
        {"classifiers": [{"name": "a", "weigths": "x"}]},
        {"backgrounds": []},
        {"backgrounds": 5},
        {"target_classes": []},
        {"target_classes": 1.5},
        {"replicates": 0},
        {"attack": "de"},
        {"attack": {"kind": "other"}},
        {"attack": {"preset": "smal"}},
        {"attack": {"population_size": 3}},
        {"verification": {"threshold": 0}},
        {"compute": {"device": "gpu"}},
        {"cluster": {"actors": 0}},
        {"output": ""},
    ],
    ids=str,
)
def test_the_json_schema_refuses_what_is_refused(validator, values):
    with pytest.raises(InputError):
        Job.model_validate({**SHORT, **values})
    assert list(validator.iter_errors({**SHORT, **values}))


def test_the_shipped_jobs_are_found():
    assert len(JOBS) >= 5


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_shipped_jobs_load_and_fit_the_json_schema(validator, rounds_validator, path):
    job = load_any(path)
    assert job.name == path.stem
    assert path.read_text("utf-8").startswith("# "), "a comment says what it is for"
    fitting, other = (validator, rounds_validator) if isinstance(job, Job) else (rounds_validator, validator)
    values = yaml.safe_load(path.read_text("utf-8"))
    assert list(fitting.iter_errors(values)) == []
    assert list(other.iter_errors(values)), "the two kinds are told apart"


def test_the_json_schema_ends_with_a_newline_and_is_the_same_every_time():
    assert schema_json() == schema_json()
    assert schema_json().endswith("}\n")


def models_in(model, seen=None):
    seen = {} if seen is None else seen
    if model.__name__ not in seen:
        seen[model.__name__] = model
        for field in model.model_fields.values():
            queue = [field.annotation]
            while queue:
                part = queue.pop()
                queue += getattr(part, "__args__", ())
                if isinstance(part, type) and issubclass(part, BaseModel):
                    models_in(part, seen)
    return seen


def test_every_key_is_described():
    models = models_in(Job)
    assert {"Job", "ClassifierSpec", "TrainingSettings", "KRange", "Compute", "DatasetSpec"} <= set(models)
    bare = [
        f"{name}.{key}" for name, model in models.items() for key, f in model.model_fields.items() if not f.description
    ]
    assert not bare


def test_settings_cannot_be_changed_afterwards():
    job = Job.model_validate(SHORT)
    with pytest.raises(ValidationError, match="frozen"):
        job.seed = 3
    with pytest.raises(ValidationError, match="frozen"):
        job.compute.threads = 3


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"k": [5, 6]},
        {"replicates": 2},
        {"backgrounds": "white"},
        {"target_classes": [0]},
        {"attack": {"preset": "small"}},
        {"verification": {"threshold": 0.5}},
        {"compute": {"precision": "bfloat16"}},
        {"classifiers": {"name": "mlp", "training": {"epochs": 1}}},
        {"dataset": "mnist"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_decides_results_is_part_of_the_identity(changes):
    assert Job.model_validate({**SHORT, **changes}).identity() != Job.model_validate(SHORT).identity()


def test_where_it_runs_is_no_part_of_the_identity():
    moved = Job.model_validate({**SHORT, "name": "b", "output": "s3://bucket", "cluster": {"actors": 3}})
    assert moved.identity() == Job.model_validate(SHORT).identity()


def test_the_identity_is_plain_data():
    identity = Job.model_validate(SHORT).identity()
    assert json.loads(json.dumps(identity)) == identity


def test_numbers_written_as_people_write_them_are_read():
    job = parse_job(
        "name: a\ndataset: digits\nk: 5\nclassifiers: {name: m, training: {learning_rate: 1e-3}}\nseed: '7'\n"
    )
    assert job.classifiers[0].training.learning_rate == 0.001
    assert job.seed == 7


def test_infinity_and_nan_are_refused_in_code_too():
    for value in (float("inf"), float("nan")):
        with pytest.raises(InputError):
            Job.model_validate({**SHORT, "cluster": {"flush_seconds": value}})
        with pytest.raises(InputError):
            Job.model_validate({**SHORT, "classifiers": {"name": "a", "weights": "w", "mean": [value], "std": [1]}})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"clasifiers": ["mlp"], "classifiers": None},
            "Job: unknown argument 'clasifiers'; did you mean 'classifiers'?",
        ),
        ({"k": 0}, "Job: k: should be greater than or equal to 1 (found 0)"),
        ({"k": None}, "Job: key 'k' is missing"),
        ({"dataset": None}, "Job: argument 'dataset' is missing; add it. Data set that"),
        ({"attack": {"kind": "de", "populaton_size": 3}}, "Job: unknown key 'attack.populaton_size'; did you mean"),
        ({"compute": {"device": "gpu"}}, "Job: compute.device: should be 'auto', 'cpu' or 'cuda' (found 'gpu')"),
    ],
)
def test_a_wrong_argument_in_python_is_one_line_as_in_a_job_file(wrong, message):
    values = {"name": "x", "dataset": "digits", "classifiers": ["mlp"], "k": 3} | wrong
    given = {key: value for key, value in values.items() if value is not None}
    ways = (lambda: Job(**given), lambda: Job.model_validate(given), lambda: Job.model_validate_json(json.dumps(given)))
    for way in ways:
        with pytest.raises(InputError) as caught:
            way()
        assert len(caught.value.args) == 1
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: Job.model_validate([]), r"^Job: should be a mapping with keys among name, .* \(found \[\]\)$"),
        (lambda: Job.model_validate_json("{x"), r"^Job: Invalid JSON: .* at line 1 column 2 \(found '\{x'\)$"),
    ],
)
def test_what_is_no_mapping_or_no_json_is_one_line(read, message):
    with pytest.raises(InputError, match=message):
        read()


def test_a_job_of_rounds_in_python_is_told_alike():
    with pytest.raises(InputError, match=r"^RoundsJob: unknown argument 'round'; did you mean 'rounds'\?$"):
        RoundsJob(name="x", dataset="digits", classifier="mlp", round={"number": 2}, k=3)
