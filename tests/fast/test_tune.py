import pytest
import torch

import course
from course import nn, tuning
from course.runtime import INTERPRET
from tests.fast.test_optimize import relative, small_resnet


@pytest.mark.skipif(not INTERPRET, reason="there is a GPU")
def test_there_is_nothing_to_tune_in_the_interpreter():
    with pytest.raises(ValueError, match="tune: expected a GPU, got the interpreter"):
        course.tune(torch.nn.Identity(), torch.ones(1))


@pytest.mark.gpu
class TestOnTheGPU:
    @pytest.fixture(autouse=True)
    def nothing_stored(self, tmp_path, monkeypatch):
        monkeypatch.delenv("COURSE_TUNE", raising=False)
        monkeypatch.setattr(tuning, "CACHE", tmp_path / "cache")
        monkeypatch.setattr(tuning, "TUNED", tmp_path / "tuned")
        monkeypatch.setattr(tuning, "MANY", 3)
        tuning.known_choices.cache_clear()
        for engines in tuning.Engines.everywhere:
            engines.chosen.clear()
        yield
        tuning.known_choices.cache_clear()

    @staticmethod
    def images():
        return torch.randn(64, 3, 224, 224, device="cuda", dtype=torch.float16)

    def test_a_model_of_the_course(self, capsys):
        model, images = small_resnet("cuda"), self.images()
        done = course.tune(model, images, torch.float16)
        assert 0 < done.problems < done.configurations <= 3 * done.problems and 0 < done.seconds < 600
        assert done.cpu_seconds > 0
        capsys.readouterr()
        fast = course.optimize(model, torch.float16)
        assert relative(fast(images), model(images.float())) < 1e-2
        assert "tuning" not in capsys.readouterr().err  # what was stored is used

    def test_what_optimize_made(self):
        model, images = small_resnet("cuda"), self.images()
        fast = course.optimize(model, torch.float16)
        before = fast(images)
        assert fast.graphs and course.tune(fast, images).problems and not fast.graphs
        assert relative(fast(images), before) < 1e-2

    def test_any_model(self, capsys):
        model, images = small_resnet("cuda").half(), self.images()
        want = model(images)
        nn.replace_layers(model)
        assert course.tune(model, images).problems > 0
        capsys.readouterr()
        with torch.no_grad():
            assert relative(model(images), want) < 1e-2
        assert "tuning" not in capsys.readouterr().err

    def test_a_dtype_for_any_model(self):
        with pytest.raises(ValueError, match="tune: expected dtype with a ViT or ResNet of this course, got Identity"):
            course.tune(torch.nn.Identity(), self.images(), torch.float16)
