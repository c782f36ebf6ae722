"""The parts of Ray that are not public: this Ray has them all, and another Ray is named in one line."""

import ast
import importlib
from pathlib import Path

import pytest

import sfi_ray
from sfi_ray.cluster.ray import session
from sfi_ray.cluster.ray.internals import Internal
from sfi_ray.cluster.ray.jobs import JobServer
from sfi_ray.cluster.ray.processes import sigterm_for_the_driver
from sfi_ray.cluster.ray.session import prepare_environment, ray_session
from sfi_ray.errors import ResourceError


@pytest.fixture(scope="module", autouse=True)
def _ray_as_sessions_import_it():
    """Later tests of this process may start a private Ray, which reads these when it is imported."""
    prepare_environment()
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {**session._PRIVATE, "RAY_AUTH_TOKEN": session._own_token()}.items():
            patch.setenv(key, value)
        yield


@pytest.mark.parametrize("part", Internal, ids=lambda part: part.name)
def test_ray_still_has(part):
    """When this fails, Ray has changed: see what uses the part, and what Ray has in its place."""
    part.get()


def test_no_module_takes_others():
    found = set()
    for path in Path(sfi_ray.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if any(name.startswith(("ray._", "ray.core")) for name in names):
                found.add(path.name)
    assert found == set()


def private_session():
    with ray_session("local", dashboard=False):
        pass


def ask_a_head():
    from sfi_ray.cluster.ray.head import check_head  # imports Ray

    check_head("127.0.0.1:1")


def block():
    with sigterm_for_the_driver():
        pass


@pytest.mark.parametrize(
    ("part", "use"),
    [
        (Internal.AUTHENTICATION_MODE, private_session),
        (Internal.OPEN_CHANNEL, ask_a_head),
        (Internal.SIGTERM_HANDLER, block),
        (Internal.JOB_REQUEST, lambda: JobServer("http://127.0.0.1:1")),
    ],
    ids=lambda value: value.name if isinstance(value, Internal) else "",
)
def test_a_ray_that_lacks_a_part_is_named_in_one_line(part, use, monkeypatch):
    import ray

    module, name, *_ = part.value
    kind, _, attribute = name.rpartition(".")
    holder = importlib.import_module(module)
    if kind:  # the class that defines the method
        holder = next(base for base in getattr(holder, kind).__mro__ if attribute in vars(base))
    with monkeypatch.context() as patch:
        patch.delattr(holder, attribute)
        with pytest.raises(ResourceError) as raised:
            use()
    assert str(raised.value) == (
        f"Ray {ray.__version__} is another one than this version of sfi-ray knows: `{module}.{name}` is missing; "
        "install the Ray that sfi-ray asks for"
    )


def test_a_ray_whose_part_takes_other_parameters_is_named(monkeypatch):
    from ray._private import services

    monkeypatch.setattr(services, "canonicalize_bootstrap_address", lambda place: place)
    with pytest.raises(ResourceError, match=r"services\.canonicalize_bootstrap_address` takes other"):
        Internal.FIND_HEAD.get()


def test_a_ray_that_cannot_be_told_where_its_folder_lies_is_named(monkeypatch):
    import ray

    def init(address, include_dashboard, dashboard_host, log_to_driver, logging_level, object_store_memory):
        raise AssertionError("never called")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(session, "_asks_for_tokens", lambda: True)
    with pytest.raises(ResourceError, match=r"cannot start Ray on this machine: .*unexpected .* '_temp_dir'"):
        private_session()
