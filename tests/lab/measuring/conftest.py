import pytest

from course.lab.measuring import stored


@pytest.fixture
def stored_results(monkeypatch, tmp_path):
    """The folder of a GPU's stored results, empty, on a machine without a GPU."""
    monkeypatch.setattr(stored, "RESULTS", tmp_path)
    monkeypatch.setattr(stored, "INTERPRET", True)
    folder = tmp_path / "nvidia-x" / "notebooks"
    folder.mkdir(parents=True)
    return folder
