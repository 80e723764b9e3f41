import pytest
import torch

from course import kernels
from course.precision import conv_precision, full_precision, matmul_precision

SETTINGS = {matmul_precision: torch.backends.cuda.matmul, conv_precision: torch.backends.cudnn}


@pytest.mark.parametrize("precision", SETTINGS)
@pytest.mark.parametrize("allowed", [True, False])
def test_float32_follows_pytorchs_setting(precision, allowed, ieee, dtype):
    for setting in SETTINGS.values():
        setting.allow_tf32 = not allowed
    SETTINGS[precision].allow_tf32 = allowed
    assert precision(dtype) == ("tf32" if allowed and dtype == torch.float32 else "ieee")


@pytest.mark.parametrize("precision", SETTINGS)
def test_a_gpu_without_tf32_multiplies_in_float32(precision, ieee, set_capability):
    SETTINGS[precision].allow_tf32 = True
    for capability, expected in (((7, 5), "ieee"), ((8, 0), "tf32")):
        set_capability(*capability)
        assert precision(torch.float32) == expected


def test_full_precision_is_put_back():
    before = [setting.allow_tf32 for setting in SETTINGS.values()]
    for allowed in (True, False):
        for setting in SETTINGS.values():
            setting.allow_tf32 = allowed
        try:
            with pytest.raises(KeyError), full_precision():
                assert not any(setting.allow_tf32 for setting in SETTINGS.values())
                raise KeyError
            assert all(setting.allow_tf32 == allowed for setting in SETTINGS.values())
        finally:
            for setting, was in zip(SETTINGS.values(), before):
                setting.allow_tf32 = was


NEWER = {matmul_precision: torch.backends.cuda.matmul, conv_precision: torch.backends.cudnn.conv}


@pytest.fixture
def newer():
    """PyTorch's newer settings, put back afterwards so that the older ones can be read again."""
    before = [setting.allow_tf32 for setting in SETTINGS.values()]
    yield NEWER
    torch.backends.fp32_precision = "none"
    for setting, was in zip(SETTINGS.values(), before):
        setting.allow_tf32 = was


@pytest.mark.parametrize("precision", NEWER)
def test_the_newer_settings_are_followed(precision, newer):
    for value in ("tf32", "ieee", "tf32"):
        newer[precision].fp32_precision = value
        assert precision(torch.float32) == value
        with full_precision():
            assert precision(torch.float32) == "ieee"
        assert precision(torch.float32) == newer[precision].fp32_precision == value


def test_the_setting_for_everything_is_followed(newer):
    newer[matmul_precision].fp32_precision = "none"
    torch.backends.fp32_precision = "tf32"
    assert matmul_precision(torch.float32) == "tf32"
    torch.backends.fp32_precision = "ieee"
    assert matmul_precision(torch.float32) == "ieee"
    torch.set_float32_matmul_precision("high")
    assert matmul_precision(torch.float32) == "tf32"


def test_kernels_run_under_the_newer_settings(newer, device):
    newer[matmul_precision].fp32_precision = "tf32"
    newer[conv_precision].fp32_precision = "ieee"
    x = torch.randn(1, 4, 8, 8, device=device)
    torch.testing.assert_close(kernels.conv2d(x, x), torch.nn.functional.conv2d(x, x))
    torch.testing.assert_close(kernels.matmul(x, x), x @ x, rtol=1e-2, atol=1e-2)
