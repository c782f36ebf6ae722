import pickle

import pytest
import typer

import sfi_ray
from sfi_ray.cli.exits import ExitCode, explaining
from sfi_ray.errors import InputError, ResourceError, StorageError


def printed(error, capsys):
    with pytest.raises(typer.Exit) as caught, explaining():
        raise error
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    return capsys.readouterr().err.splitlines()


def test_an_error_may_have_several_lines():
    error = InputError("job.yaml:1: one", "job.yaml:2: two")
    assert str(error) == "job.yaml:1: one\njob.yaml:2: two"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_lines_are_those_of_the_error_and_never_those_of_a_name_in_it(capsys):
    assert printed(InputError("one", "two\nthree"), capsys) == ["error: one", "two three"]
    assert printed(InputError("one\r\nerror: two"), capsys) == ["error: one error: two"]
    assert printed(ResourceError("one\ntwo"), capsys) == ["error: one two"]


def test_of_a_long_line_the_end_is_printed_too(capsys):
    (line,) = printed(InputError(f"'{'x' * 100_000}' is no class; give another"), capsys)
    assert line.startswith("error: 'xxx")
    assert line.endswith("xxx' is no class; give another")
    assert len(line) <= 600


def test_of_many_lines_the_last_is_printed_too(capsys):
    lines = printed(InputError("another job:", *map(str, range(1000)), "give it another name"), capsys)
    assert lines[:2] == ["error: another job:", "0"]
    assert lines[-2:] == ["  and 976 more", "give it another name"]
    assert len(lines) == 27


def test_errors_and_all_public_names_are_at_the_top():
    assert sfi_ray.InputError is InputError
    assert sfi_ray.StorageError is StorageError
    assert sfi_ray.ResourceError is ResourceError
    assert {"launch", "Run", "InputError", "__version__"} <= set(dir(sfi_ray))
    assert set(sfi_ray.__all__) < set(dir(sfi_ray))
    for name in dir(sfi_ray):
        assert getattr(sfi_ray, name) is not None
