"""Jobs of the paper's tables: what they search is what the tables show."""

import pytest

from sfi_ray.errors import InputError
from sfi_ray.job import Job, RoundsJob
from sfi_ray.job.classifier_text import parse_classifier
from sfi_ray.job.paper_tables import SCALES, paper_table, paper_tables, reproduction_job

TABLES = paper_tables()
MINE = "{name: mine, factory: 'nets:build', weights: mine.safetensors}"


@pytest.mark.parametrize("number", TABLES)
@pytest.mark.parametrize("scale", SCALES)
def test_every_table_has_a_job_at_both_scales(number, scale):
    job = reproduction_job(TABLES[number], scale)
    assert isinstance(job, RoundsJob if number in (16, 17) else Job)
    assert job.location == f"runs/reproduction/{'tables_16_17' if number in (16, 17) else f'table_{number}'}_{scale}"
    paper = reproduction_job(TABLES[number], "paper")
    assert job.backgrounds == paper.backgrounds
    assert job.k == paper.k


@pytest.mark.parametrize(("number", "name", "k"), [(2, "vgg16", 1), (8, "nin", 25), (13, "resnet50", 125)])
def test_a_table_of_cifar10_is_one_network_and_one_k_on_six_colours(number, name, k):
    job = reproduction_job(TABLES[number], "paper")
    assert [spec.name for spec in job.classifiers] == [name]
    assert (job.k, job.replicates, len(job.backgrounds)) == ((k,), 50, 6)
    assert (job.attack.population_size, job.attack.generations) == (500, 3000)  # Section 5.2
    small = reproduction_job(TABLES[number], "small")
    assert (small.attack.kind, small.attack.max_evaluations, small.replicates) == ("map_elites", 1000, 3)


def test_a_table_is_named_by_its_number():
    assert paper_table("3") == paper_table("table 3") == paper_table("Table_03") == TABLES[3]


@pytest.mark.parametrize("text", ["1", "18", "0", "figure 4", "", "3.5", "9" * 400])
def test_a_table_without_a_job_is_named_with_those_that_have_one(text):
    with pytest.raises(InputError, match=r"no job reproduces '.*'; give the number of a table: 2, 3, .*, 17$"):
        paper_table(text)


def test_a_network_of_ones_own_takes_the_place_of_the_one_to_train():
    job = reproduction_job(TABLES[3], "small", parse_classifier(MINE), replicates=7)
    assert [spec.name for spec in job.classifiers] == ["mine"]
    assert job.replicates == 7


@pytest.mark.parametrize(
    ("number", "scale", "classifier", "replicates", "message"),
    [
        (3, "huge", None, None, "no such scale: 'huge'; use small or paper"),
        (14, "small", MINE, None, "the job of table 14 trains its networks; leave the classifier out"),
        (16, "small", MINE, None, "the job of table 16 trains its networks; leave the classifier out"),
        (17, "small", None, 2, "the job of table 17 has rounds, and no replicates; leave the number out"),
    ],
)
def test_what_does_not_fit_a_table_is_refused(number, scale, classifier, replicates, message):
    network = None if classifier is None else parse_classifier(classifier)
    with pytest.raises(InputError, match=message):
        reproduction_job(TABLES[number], scale, network, replicates)
