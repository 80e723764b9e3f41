import pytest

from course import data


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory):
    """Three files that begin with the digit they show."""
    folder = tmp_path_factory.mktemp("digits")
    scans, labels = data.digit_scans("test")
    for i in range(3):
        scans[i].save(folder / f"{labels[i]}-{i}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def broken(tmp_path):
    """A file that begins as a PNG does."""
    file = tmp_path / "broken.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n")
    return file
