import pytest
import torch

from sfi_ray.models.runners.precision import full_float32, has_bfloat16, training_precision


def settings():
    backends = torch.backends
    return [
        switch.fp32_precision
        for switch in (
            backends.cuda.matmul,
            backends.cudnn.conv,
            backends.cudnn.rnn,
            backends.mkldnn.matmul,
            backends.mkldnn.conv,
            backends.mkldnn.rnn,
        )
    ]


@pytest.fixture(params=["untouched", "old style", "new style"])
def _user_settings(request):
    if request.param == "old style":
        torch.set_float32_matmul_precision("medium")
    if request.param == "new style":
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("_user_settings")
def test_full_float32_forbids_short_cuts_and_restores_what_was_set():
    before = settings()
    with full_float32():
        assert settings() == ["ieee"] * 6
    assert settings() == before


@pytest.mark.usefixtures("_user_settings")
def test_full_float32_restores_after_an_error():
    before = settings()
    with pytest.raises(KeyError), full_float32():
        raise KeyError
    assert settings() == before


def test_full_float32_keeps_bits_on_a_cpu():
    left, right = torch.rand(64, 64), torch.rand(64, 64)
    with full_float32():
        inside = left @ right
    assert torch.equal(inside, left @ right)


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_older_gpus_do_not_multiply_bfloat16(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert has_bfloat16(torch.device("cuda", 0)) is expected
    assert training_precision("auto", "cuda") == "bfloat16", "a driver may have no GPU to ask"
