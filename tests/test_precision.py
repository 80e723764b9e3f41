import pytest
import torch

from course.precision import conv_precision, full_precision, matmul_precision

SETTINGS = {matmul_precision: torch.backends.cuda.matmul, conv_precision: torch.backends.cudnn}


@pytest.mark.parametrize("precision", SETTINGS)
@pytest.mark.parametrize("allowed", [True, False])
def test_float32_follows_pytorchs_setting(precision, allowed, ieee, dtype):
    for setting in SETTINGS.values():
        setting.allow_tf32 = not allowed
    SETTINGS[precision].allow_tf32 = allowed
    assert precision(dtype) == ("tf32" if allowed and dtype == torch.float32 else "ieee")


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
