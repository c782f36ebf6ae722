"""Bad jobs: every message names the place, the key, what was found, and the mend."""

import io
import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sfi_ray.errors import InputError
from sfi_ray.job import Job, load_job, parse_job

# Key by key, so that a test can put another line in a key's place and know the line's number.
LINES = {"name": "name: a", "dataset": "dataset: digits", "classifiers": "classifiers: mlp", "k": "k: 5"}
JARGON = re.compile(
    r"tuple\[|function-|pydantic|Input should|valid (tuple|dictionary|string|integer)|instance of|literal\[|KRange"
    r"|constrained|unable to parse|validation|Settings|Spec\b|\bNone\b"
)


def job_with(line):
    """A job with one line replaced, or added as its fifth."""
    key = line.split(":")[0]
    return "\n".join({**LINES, key: line}.values()) + "\n"


def refusal(text):
    with pytest.raises(InputError) as caught:
        parse_job(text, "job.yaml")
    message = str(caught.value)
    assert message
    assert all(re.match(r"job\.yaml:\d+: ", line) for line in message.splitlines()), message
    assert not JARGON.search(message), message
    return message


def test_the_job_that_the_others_are_made_from_is_good():
    assert parse_job(job_with("k: 5")).k == (5,)


BAD = [
    # Keys.
    ("classifer: mlp", 5, "unknown key 'classifer'", "did you mean 'classifiers'?"),
    ("zzz: 1", 5, "unknown key 'zzz'", "the keys here are name, dataset, classifiers"),
    ("threshold: 0.5", 5, "unknown key 'threshold'", "did you mean 'verification.threshold'?"),
    ("generations: 5", 5, "unknown key 'generations'", "did you mean 'attack.generations'?"),
    ("attack: {population: 5}", 5, "unknown key 'attack.population'", "did you mean 'population_size'?"),
    ("attack: {prest: small}", 5, "unknown key 'attack.prest'", "did you mean 'preset'?"),
    ("verification: {treshold: 1}", 5, "unknown key 'verification.treshold'", "did you mean 'threshold'?"),
    ("cluster: {zzz: 1}", 5, "unknown key 'cluster.zzz'", "the keys here are actors, cpus_per_actor"),
    ("k: {low: 1, high: 2, mid: 3}", 4, "unknown key 'k.mid'", "the keys here are low, high"),
    ("classifiers: [{name: a, weigths: b}]", 3, "unknown key 'classifiers[0].weigths'", "did you mean 'weights'?"),
    ("classifiers: {name: a, training: {epoch: 3}}", 3, "'classifiers.training.epoch'", "did you mean 'epochs'?"),
    ("dataset: {nam: digits, name: a}", 2, "unknown key 'dataset.nam'", "did you mean 'name'?"),
    ("attack: {kind: de, kind: de}", 5, "key 'kind' stands twice", "remove one"),
    ("5: 1", 5, "key '5' is not text", "the keys of a job are names"),
    ("~: 1", 5, "key '~' is not text", "the keys of a job are names"),
    ("attack: {true: 1}", 5, "key 'true' is not text", "the keys of a job are names"),
    ("2020-01-01: 1", 5, "key '2020-01-01' is not text", "the keys of a job are names"),
    ("attack: {[a, b]: 1}", 5, "key is not text", "the keys of a job are names"),
    ("? {a: b}\n: 1", 5, "key is not text", "the keys of a job are names"),
    ("<<: {a: b}", 5, "key '<<' is not text", "the keys of a job are names"),
    ('"\\e[31m": 1', 5, r"unknown key '\x1b[31m'", "the keys here are"),
    ("? " + "x" * 5000 + "\n: 1", 5, "unknown key 'xxx", "the keys here are"),
    # What YAML has and a job has not.
    ("output: &a runs", 5, "anchors and aliases", "write the value out"),
    ("output: *a", 5, "anchors and aliases", "write the value out"),
    ("output: !!python/object/apply:os.system ['touch x']", 5, "'!!python/object/apply:os.system'", "value alone"),
    ("output: !!python/name:os.system", 5, "'!!python/name:os.system'", "write the value alone"),
    ("output: !secret x", 5, "'!secret'", "write the value alone"),
    ("seed: !!int x", 5, "'!!int'", "write the value alone"),
    ("seed: !!timestamp x", 5, "'!!timestamp'", "write the value alone"),
    ("seed: !!bool x", 5, "'!!bool'", "write the value alone"),
    ("output: !!binary aGk=", 5, "'!!binary'", "write the value alone"),
    ("output: [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]", 5, "levels deep", "a job is flatter"),
    ("output: [a", 6, "not valid YAML", "expected ',' or ']'"),
    ("output: a: b", 5, "not valid YAML", "mapping values are not allowed here"),
    ("\toutput: a", 5, "not valid YAML", r"found character '\t'"),
    ("output: 'a", 6, "not valid YAML", "found unexpected end of stream"),
    ("output: a\n---\nname: b", 6, "not valid YAML", "found another document"),
    ("output: a\0b", 5, "not valid YAML", "an unprintable character; remove it"),
    ("output: 2020-13-45", 5, "not valid YAML", "month must be in 1..12"),
    ("seed: " + "9" * 5000, 5, "not valid YAML", "4300 digits"),
    ("seed: 0x" + "f" * 5000, 5, "not valid YAML", "more than 64 bits"),
    ('output: "\\UFFFFFFFF"', 5, "not valid YAML", "too large"),
    ("output: =", 5, "not valid YAML", "could not determine"),
    # Types.
    ("name: 5", 1, "name: should be text; put it in quotes (found 5)", "letters, digits"),
    ("name: ~", 1, "name: should be text (found nothing)", "letters, digits"),
    ("name: 2020-01-01", 1, "name: should be text; put it in quotes (found 2020-01-01)", "letters, digits"),
    ("name: [a]", 1, "name: should be text (found ['a'])", "letters, digits"),
    ("name: yes", 1, "name: no key takes true or false (found yes)", "put it in quotes: 'yes'"),
    ("output: ~", 5, "output: should be text (found nothing)", "Folder or URI"),
    ('output: "\\ud800"', 5, "output: should be text", "Folder or URI"),
    ("replicates: x", 5, "replicates: should be a whole number (found 'x')", "Repetitions of every cell"),
    ("replicates: 2.5", 5, "replicates: should be a whole number (found 2.5)", "Repetitions of every cell"),
    ("replicates: true", 5, "replicates: no key takes true or false (found true)", "put it in quotes"),
    ("replicates: [1]", 5, "replicates: should be a whole number (found [1])", "Repetitions of every cell"),
    ("replicates: 0", 5, "replicates: should be greater than or equal to 1 (found 0)", "Repetitions"),
    ("seed: -1", 5, "seed: should be greater than or equal to 0 (found -1)", "Seed of all random draws"),
    ("seed: 9223372036854775808", 5, "seed: should be less than 9223372036854775808", "Seed of all"),
    ("seed: " + "x" * 500, 5, "seed: should be a whole number (found 'xxxx", "x ... x"),
    ("attack: de", 5, "attack: should be a mapping with keys among", "population_size"),
    ("attack: ~", 5, "attack: should be a mapping with keys among", "(found nothing)"),
    ("dataset: 5", 2, "dataset: should be a mapping with keys among name, path", "(found 5)"),
    ("dataset: [digits]", 2, "dataset: should be a mapping with keys among name, path", "(found ['digits'])"),
    ("classifiers: [[mlp]]", 3, "classifiers[0]: should be a mapping with keys among name", "(found ['mlp'])"),
    ("classifiers: 5", 3, "classifiers: should be a list (found 5)", "Classifiers to attack"),
    ("backgrounds: 5", 5, "backgrounds: should be a list (found 5)", "black, gray, white"),
    ("backgrounds: [black, 5]", 5, "backgrounds[1]: should be text; put it in quotes (found 5)", "black, gray"),
    ("backgrounds: [no]", 5, "backgrounds[0]: no key takes true or false (found no)", "put it in quotes: 'no'"),
    # k and target classes.
    ("k: 0", 4, "k: should be greater than or equal to 1 (found 0)", "Pixels that may be altered"),
    ("k: -3", 4, "k: should be greater than or equal to 1 (found -3)", "Pixels that may be altered"),
    ("k: [5, 0]", 4, "k[1]: should be greater than or equal to 1 (found 0)", "Pixels that may be altered"),
    ("k: [5, many]", 4, "k[1]: should be a whole number (found 'many')", "Pixels that may be altered"),
    ("k: [[5]]", 4, "k[0]: should be a whole number (found [5])", "Pixels that may be altered"),
    ("k: 99999999999", 4, "k: should be less than 2147483648 (found 99999999999)", "Pixels that may be altered"),
    ("k: many", 4, "k: should be a whole number (found 'many')", "a range {low, high}"),
    ("k: 1.5", 4, "k: should be of another form (found 1.5)", "a number, a list, or a range {low, high}"),
    ("k: ~", 1, "key 'k' is missing; add it", "a number, a list, or a range {low, high}"),
    ("k: .nan", 4, "k: should be of another form (found nan)", "a number, a list, or a range {low, high}"),
    ("k: true", 4, "k: no key takes true or false (found true)", "quotes"),
    ("k: 2020-01-01", 4, "k: should be of another form (found 2020-01-01)", "a number, a list, or a range"),
    ("k: []", 4, "k: should have at least 1 item(s) (found [])", "a number, a list, or a range {low, high}"),
    ("k: [5, 3, 5]", 4, "k: 5 is listed twice", "remove one"),
    ("k: {low: 5, high: 3}", 4, "k: low (5) is above high (3)", "swap them"),
    ("k: {low: 5}", 4, "key 'k.high' is missing", "add it. Largest k"),
    ("k: {}", 4, "key 'k.low' is missing", "add it. Smallest k"),
    ("k: {low: 0, high: 3}", 4, "k.low: should be greater than or equal to 1 (found 0)", "Smallest k"),
    ("k: {low: a, high: 3}", 4, "k.low: should be a whole number (found 'a')", "Smallest k"),
    ("target_classes: []", 5, "target_classes: should have at least 1 item(s) (found [])", "all, or a list"),
    ("target_classes: [0, 3, 0]", 5, "target_classes: 0 is listed twice", "remove one"),
    ("target_classes: [a, a]", 5, "target_classes: 'a' is listed twice", "remove one"),
    ("target_classes: 1.5", 5, "target_classes: should be of another form (found 1.5)", "all, or a list"),
    ("target_classes: [1.5]", 5, "target_classes[0]: should be of another form (found 1.5)", "indices or names"),
    ("target_classes: [a, ~]", 5, "target_classes[1]: should be of another form (found nothing)", "indices or names"),
    ("target_classes: {a: b}", 5, "target_classes: should be of another form (found {'a': 'b'})", "indices or names"),
    ("target_classes: [yes, no]", 5, "no key takes true or false", "put it in quotes: "),
    # Lists.
    ("backgrounds: []", 5, "backgrounds: should have at least 1 item(s) (found [])", "black, gray"),
    ("backgrounds: [red, red]", 5, "backgrounds: 'red' is listed twice", "remove one"),
    ("classifiers: []", 3, "classifiers: should have at least 1 item(s) (found [])", "Classifiers to attack"),
    ("classifiers: [a, b, {name: a}]", 3, "classifiers: 'a' is listed twice", "remove one"),
    # Names.
    ("name: ''", 1, "name: should have at least 1 character (found '')", "letters, digits"),
    ("name: ../x", 1, "name: has forbidden characters (found '../x')", "letters, digits, '.', '_' and '-'"),
    ("name: a/b", 1, "name: has forbidden characters (found 'a/b')", "letters, digits"),
    ("name: ..", 1, "name: has forbidden characters (found '..')", "letters, digits"),
    ('name: "a\\n"', 1, r"name: has forbidden characters (found 'a\n')", "letters, digits"),
    ("name: " + "x" * 300, 1, "name: should have at most 100 characters (found 'xxx", "letters, digits"),
    ("name: é", 1, "name: has forbidden characters (found 'é')", "letters, digits"),
    ("classifiers: ../x", 3, "classifiers: has forbidden characters (found '../x')", "letters, digits"),
    ("classifiers: [a, '']", 3, "classifiers[1]: should have at least 1 character (found '')", "letters, digits"),
    ("dataset: ''", 2, "dataset: should have at least 1 character (found '')", "digits, mnist"),
    ("output: ''", 5, "output: should have at least 1 character (found '')", "Folder or URI"),
    # Attacks.
    (
        "attack: {kind: deo}",
        5,
        "attack.kind: should be one of de, jde, map_elites, sparse_rs",
        "(found 'deo'); did you mean 'de'?",
    ),
    ("attack: {kind: [de]}", 5, "attack.kind: should be one of de, jde, map_elites, sparse_rs", "(found ['de'])"),
    ("attack: {kind: elites}", 5, "attack.kind: should be one of", "(found 'elites'); it is now called 'map_elites'"),
    ("attack: {kind: map_elites, patience: 5}", 5, "unknown key 'attack.patience'", "now called 'restart_after'"),
    ("attack: {kind: gradient, patience: 5}", 5, "unknown key 'attack.patience'", "now called 'restart_after'"),
    ("attack: {kind: nevergrad, optimiser: CMA}", 5, "unknown key 'attack.optimiser'", "did you mean 'optimizer'?"),
    ("attack: {kind: nevergrad, num_workers: 0}", 5, "attack.num_workers: should be greater", "told of any"),
    ("attack: {preset: smal}", 5, "attack.preset: unknown preset 'smal'; did you mean 'small'?", "presets are paper,"),
    ("attack: {preset: 5}", 5, "attack.preset: should be text; put it in quotes (found 5)", "paper_imagenet"),
    ("attack: {preset: [small]}", 5, "attack.preset: should be text (found ['small'])", "paper_imagenet"),
    ("attack: {preset: {small: 1}}", 5, "attack.preset: should be text (found {'small': 1})", "paper_imagenet"),
    ("attack: {population_size: 3}", 5, "population_size: should be greater than or equal to 4 (found 3)", "Candid"),
    ("attack: {differential_weight: .nan}", 5, "attack.differential_weight: should be", "(found nan)"),
    ("attack: {differential_weight: .inf}", 5, "attack.differential_weight: should be", "(found inf)"),
    ("attack: {stop_confidence: 90}", 5, "stop_confidence: should be less than or equal to 1 (found 90)", "(0, 1]"),
    ("verification: {threshold: 1.5}", 5, "threshold: should be less than or equal to 1 (found 1.5)", "in (0, 1]"),
    ("verification: {threshold: 0}", 5, "threshold: should be greater than 0 (found 0)", "in (0, 1]"),
    ("verification: {threshold: .nan}", 5, "threshold: should be a finite number (found nan)", "in (0, 1]"),
    ("verification: {threshold: high}", 5, "threshold: should be a number (found 'high')", "in (0, 1]"),
    # Where it runs.
    ("compute: {micro_batch: 100}", 5, "compute.micro_batch: 100 is not a power of two", "use 64 or 128"),
    ("compute: {micro_batch: 0}", 5, "micro_batch: should be greater than or equal to 1 (found 0)", "a power of two"),
    ("compute: {precision: float3}", 5, "compute.precision: should be 'float32'", "did you mean 'float32'?"),
    ("compute: {device: gpu}", 5, "compute.device: should be 'auto', 'cpu' or 'cuda' (found 'gpu')", "auto takes"),
    ("cluster: {flush_seconds: .inf}", 5, "flush_seconds: should be a finite number (found inf)", "at most"),
    ("cluster: {cpus_per_actor: .inf}", 5, "cpus_per_actor: should be a finite number (found inf)", "CPUs"),
    ("compute: {device: cpu}\ncluster: {gpus_per_actor: 1}", 1, "cluster.gpus_per_actor: 1 would reserve GPUs", "cuda"),
    ("cluster: {gpus_per_actor: 1.5}", 5, "above 1, Ray reserves whole numbers only, got 1.5", "round it"),
    ("cluster: {resources: {fast: 2.5}}", 5, "above 1, Ray reserves whole numbers only, got 2.5", "round it"),
    ("cluster: {actors: {min: 3, max: 2}}", 5, "min: 3 is more than max: 2", "swap them"),
    ("cluster: {gpus_per_actor: .nan}", 5, "gpus_per_actor: should be a finite number (found nan)", "GPUs"),
    ("cluster: {actors: 0}", 5, "cluster.actors: should be greater than or equal to 1 (found 0)", "no bound"),
    # Classifiers and data sets.
    (
        "classifiers: {name: a, served: 'http://h/v2/models/a', requests: {images_per_second: 5}}",
        3,
        "unknown key 'classifiers.requests.images_per_second'",
        "now called 'images_per_second_per_actor'",
    ),
    ("classifiers: {name: a, weights: w, mean: [0.5]}", 3, "classifiers: mean and std need each other", "give both"),
    (
        "classifiers: [{name: a, weights: w, std: [0.5]}]",
        3,
        "classifiers[0]: mean and std need each other",
        "give both",
    ),
    ("classifiers: {name: a, mean: [0.5], std: [0.5]}", 3, "belong to `weights`", "measures its own"),
    ("classifiers: {name: a, weights: w, mean: [.nan], std: [1]}", 3, "mean[0]: should be a finite", "(found nan)"),
    ("classifiers: {name: a, weights: w, mean: [1], std: [0]}", 3, "std[0]: should be greater than 0", "above 0"),
    ("classifiers: {name: a, weights: w, mean: [], std: []}", 3, "mean: should have at least 1 item", "(found [])"),
    ("classifiers: {name: a, weights: w, mean: 0.1, std: 0.3}", 3, "mean: should be a list (found 0.1)", "Mean of"),
    ("classifiers: {name: a, training: {optimizer: adm}}", 3, "should be 'adam' or 'sgd'", "did you mean 'adam'?"),
    ("classifiers: {name: a, training: 5}", 3, "classifiers.training: should be a mapping", "learning_rate"),
    ("classifiers: [a, {}]", 3, "key 'classifiers[1].name' is missing", "add it"),
    ("classifiers: {torchvision: resnet50}", 3, "classifiers: torchvision needs `weights`", "IMAGENET1K_V1 or DEFAULT"),
    ("classifiers: {torchvison: resnet50}", 3, "unknown key 'classifiers.torchvison'", "did you mean 'torchvision'?"),
    ("classifiers: {torchvision: 5, weights: w}", 3, "torchvision: should be text; put it in quotes", "(found 5)"),
    ("classifiers: {torchvision: a b, weights: w}", 3, "classifiers: has forbidden characters", "(found 'a b')"),
    ("classifiers: {timm: a, torchvision: b, weights: w}", 3, "torchvision and timm each name a network", "keep one"),
    ("classifiers: {name: a, architecture: mlp, factory: 'b:c'}", 3, "architecture and factory each name", "keep one"),
    ("classifiers: {name: a, export: m.pt2, weights: w}", 3, "an export holds its weights", "remove `weights`"),
    ("classifiers: {export: m.pt2}", 3, "key 'classifiers.name' is missing", "add it"),
    ("classifiers: {factory: 'a:b'}", 3, "key 'classifiers.name' is missing", "add it"),
    ("classifiers: {timm: a, training: {epochs: 1}}", 3, "not those of `timm`", "remove `training`"),
    ("dataset: {name: imagenet, class_names: [a, b]}", 2, "`class_names` needs `shape` beside it", "together"),
    ("dataset: {path: x}", 2, "key 'dataset.name' is missing", "add it"),
    ("dataset: {name: x, shape: [1, 2]}", 2, "key 'dataset.shape[2]' is missing", "add it"),
    ("dataset: {name: x, shape: [1, 2, 3]}", 2, "dataset: `shape` needs `class_names` beside it", "together"),
]


@pytest.mark.parametrize(("line", "number", "found", "mend"), BAD, ids=[row[0][:50] for row in BAD])
def test_a_bad_line_is_named_with_its_key_its_value_and_the_mend(line, number, found, mend):
    message = refusal(job_with(line))
    assert message.startswith(f"job.yaml:{number}: ")
    assert found in message
    assert mend in message
    assert len(message) < 400


@pytest.mark.parametrize("key", LINES)
def test_a_missing_key_is_named(key):
    text = "\n".join(line for name, line in LINES.items() if name != key)
    assert f"key '{key}' is missing; add it" in refusal(text)


@pytest.mark.parametrize("text", ["", "~", "5", "job", "[a, b]", "- a\n- b", "# nothing", "---", "2020-01-01", "yes"])
def test_what_is_no_mapping_is_refused(text):
    assert refusal(text) == "job.yaml:1: a job is a mapping of keys to values, such as 'name: my_run'"


@pytest.mark.parametrize("key", ["name", "dataset", "classifiers", "k"])
def test_a_key_that_stands_twice_is_refused_where_it_stands_again(key):
    text = job_with("seed: 1") + f"'{key}': again\n"
    assert refusal(text) == f"job.yaml:6: key '{key}' stands twice; remove one"


def test_a_misspelt_key_is_not_missing_too():
    text = "nam: a\ndataset: {nam: digits}\nclassifiers: [{nme: a}]\nk: {lo: 1, high: 2}\n"
    assert refusal(text).splitlines() == [
        "job.yaml:1: unknown key 'nam'; did you mean 'name'?",
        "job.yaml:2: unknown key 'dataset.nam'; did you mean 'name'?",
        "job.yaml:3: unknown key 'classifiers[0].nme'; did you mean 'name'?",
        "job.yaml:4: unknown key 'k.lo'; did you mean 'low'?",
    ]


def test_every_problem_is_told_once():
    text = "name: a b\ndataset: digits\nclassifiers:\n  - mlp\n  - name: c\n    trainin: {}\nk: 0\nseed: x\n"
    lines = refusal(text).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["job.yaml:1", "job.yaml:6", "job.yaml:7", "job.yaml:8"]


def test_the_line_is_that_of_the_value_in_a_long_file():
    text = "# a comment\n\n" + job_with("k:\n  - 1\n\n  - 2\n  - 0  # too few")
    assert refusal(text).startswith("job.yaml:10: k[2]: ")


def test_of_very_many_problems_the_first_are_told():
    with pytest.raises(InputError) as caught:
        parse_job(job_with("\n".join(f"unknown_{i}: 1" for i in range(500))), "job.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "job.yaml: and 480 more like these"


DEEP = 10_000


@pytest.mark.parametrize(
    "value",
    ["[" * DEEP, "[" * DEEP + "]" * DEEP, "{a: " * DEEP, "- " * DEEP + "x", "? " * DEEP + "x", "[{a: " * DEEP],
)
def test_depth_is_refused_at_once(value):
    started = time.monotonic()
    assert "levels deep" in refusal(job_with(f"output:\n  {value}"))
    assert time.monotonic() - started < 3


def test_aliases_cannot_multiply():
    bomb = "a: &a [x, x, x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert refusal(bomb) == "job.yaml:1: anchors and aliases are not allowed; write the value out"


def test_tags_run_nothing(tmp_path):
    mark = tmp_path / "mark"
    refusal(job_with(f"output: !!python/object/apply:os.system ['touch {mark}']"))
    assert not mark.exists()


def test_many_values_are_checked_in_little_time():
    started = time.monotonic()
    assert len(parse_job(job_with(f"k: {list(range(1, 8001))}")).k) == 8000
    assert time.monotonic() - started < 5


# Files.


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "my job.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_a_file_is_read(written):
    path = written(job_with("output: überall"))
    assert load_job(path) == load_job(str(path))
    assert load_job(path).output == "überall"


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", b"---\r\n"])
def test_byte_order_marks_and_carriage_returns_are_no_matter(written, prefix):
    assert load_job(written(prefix + job_with("seed: 3").replace("\n", "\r\n").encode())).seed == 3


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read job file '.*nothing\.yaml': No such file or directory"):
        load_job(tmp_path / "nothing.yaml")


def test_a_folder_is_no_job(tmp_path):
    with pytest.raises(InputError, match=f"cannot read job file '{tmp_path}': Is a directory"):
        load_job(tmp_path)


def test_a_path_that_cannot_be_is_refused():
    with pytest.raises(InputError, match="cannot read job file"):
        load_job("a\0b")


def test_errors_in_a_file_name_it(written):
    path = written(job_with("k: 0"))
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}:4: k: "):
        load_job(path)


@pytest.mark.parametrize("content", [b"name: a\nk: \xff\xfe", b"name: a\noutput: caf\xe9\n"])
def test_other_encodings_are_refused_with_the_line(written, content):
    path = written(content)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}:2: not text in UTF-8; save the file in that"):
        load_job(path)


def test_utf_16_is_refused(written):
    with pytest.raises(InputError, match="not text in UTF-8"):
        load_job(written(job_with("k: 5").encode("utf-16")))


def test_a_huge_file_is_not_read(written):
    path = written(b"# " + b"x" * 10_000_000)
    with pytest.raises(InputError, match=r"a job file has at most 262,144 bytes; is it the right file\?"):
        load_job(path)


class Endless(io.RawIOBase):
    """What /dev/zero is, to a reader who asks for all of it."""

    def read(self, size=-1):
        assert size > 0, "all of an endless file was asked for"
        return b"x" * size


def test_an_endless_file_is_not_read(monkeypatch):
    monkeypatch.setattr(Path, "open", lambda *_arguments: Endless())
    with pytest.raises(InputError, match="a job file has at most"):
        load_job("pipe")


# Whatever is given, the error is one for the user.

KEYS = [*Job.model_fields, "low", "high", "kind", "preset", "weights", "mean", "std", "training", "epochs", "shape"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dates(),
    st.datetimes(),
    st.text(max_size=8),
    st.sampled_from(["all", "digits", "mlp", "black", "small", "de", "1", "", "../x", "~", "1e400", "0x1F"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
JOBS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys([*Job.model_fields, "unknown"], VALUES),
)
GOOD = {"name": "a", "dataset": "digits", "classifiers": "mlp", "k": 5}


@settings(deadline=None, max_examples=150)
@given(JOBS)
def test_any_mapping_is_a_job_or_an_input_error(values):
    text = yaml.safe_dump({**GOOD, **values}, allow_unicode=True, sort_keys=False)
    try:
        job = parse_job(text, "job.yaml")
    except InputError as error:
        message = str(error)
        assert all(line.startswith("job.yaml:") for line in message.splitlines())
        assert not re.search(r"tuple\[|function-|pydantic|Input should", message)
    else:
        assert Job.model_validate_json(job.model_dump_json()) == job, "what is accepted survives its record"


@settings(deadline=None, max_examples=150)
@given(st.text(st.sampled_from("ab:- \n\t[]{},&*!'\"|>%@`#?~=<\\0159.e_x\u0085\ufeff\0"), max_size=40))
@example("? [a]\n: b")
@example("{a: b, ? c}")
@example("%YAML 1.1\n---\n")
@example("%TAG ! tag:a\n---\n!b c")
@example('"\\UFFFFFFFF": 1')
@example("a: 0b_")
@example("a: -")
@example("a: 1_")
@example("[0x" + "f" * 5000 + "]")
@example("0x" + "f" * 5000)
def test_any_text_is_a_job_or_an_input_error(text):
    with pytest.raises(InputError):
        parse_job(text)
