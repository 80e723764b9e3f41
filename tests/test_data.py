import hashlib

import numpy as np
import pytest
import sklearn.datasets
import torch
from PIL import Image

from course.data import FORMATS, ImageFiles, ImageFolder, batches, digit_scans, digits, open_image, photos


def test_the_held_out_fifth_is_fixed_and_stratified():
    _, everything = digits("all")
    _, train = digits("train")
    images, test = digits("test")
    assert (len(everything), len(train), len(test)) == (1797, 1438, 359)
    for digit in range(10):
        assert abs((test == digit).sum() - (everything == digit).sum() / 5) <= 0.5
    # the very scans: another choice would put some that were trained on into the test
    scans = np.stack([np.asarray(scan) for scan in digit_scans("test")[0]])
    assert hashlib.sha256(scans.tobytes()).hexdigest()[:16] == "6349bd62e363bdff"


def test_no_scan_is_in_both_parts():
    scans = [{scan.tobytes() for scan in digit_scans(split)[0]} for split in ("train", "test", "all")]
    assert scans[0] | scans[1] == scans[2]
    assert not scans[0] & scans[1]


def test_digits_are_scikit_learns_enlarged_and_normalised():
    images, labels = digits("all")
    original = sklearn.datasets.load_digits()
    assert (images.shape, images.dtype, labels.dtype) == ((1797, 3, 32, 32), torch.float32, torch.int64)
    assert images.is_contiguous() and images.min() == -1 and images.max() == 1
    assert (images[:, :1] == images).all()  # grey
    assert (labels.numpy() == original.target).all()
    # Pillow's bilinear filter is PyTorch's, but for its rounding to 8 bits
    grey = torch.from_numpy(original.images / 16).float()[:, None]
    enlarged = torch.nn.functional.interpolate(grey, (32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close((images[:, :1] + 1) / 2, enlarged, rtol=0, atol=2.5 / 255)


def test_an_unknown_split_is_an_error():
    with pytest.raises(ValueError, match="digits: expected split 'train', 'test' or 'all', got 'valid'"):
        digits("valid")


def test_photos():
    assert {name: (image.mode, image.size) for name, image in photos().items()} == {
        "china.jpg": ("RGB", (640, 427)), "flower.jpg": ("RGB", (640, 427)),
    }


def grey(value, size=(4, 4), mode="L"):
    return Image.new(mode, size, value)


def test_image_folder(tmp_path, capsys):
    (tmp_path / "n02" / "deep").mkdir(parents=True)
    (tmp_path / "n01").mkdir()
    grey(1).save(tmp_path / "n02" / "b.png")
    grey(2).save(tmp_path / "n02" / "deep" / "a.JPEG")
    grey(3, mode="LA", size=(5, 6)).save(tmp_path / "n01" / "z.webp")
    grey(4).save(tmp_path / "top.gif")
    (tmp_path / "n01" / "broken.jpg").write_bytes(b"not an image")
    (tmp_path / "n01" / "notes.txt").write_text("not an image either, and does not say it is one")
    (tmp_path / "n01" / ".hidden.png").write_bytes(b"")
    whole = (tmp_path / "n02" / "b.png").read_bytes()
    (tmp_path / "n01" / "half.png").write_bytes(whole[: len(whole) // 2])

    folder = ImageFolder(tmp_path)
    assert len(folder) == 6 and folder.class_names == ["n01", "n02"]
    for _ in range(2):  # may be walked again
        samples = list(folder)
        assert [(str(s.path.relative_to(tmp_path)), s.label) for s in samples] == [
            ("n01/z.webp", "n01"), ("n02/b.png", "n02"), ("n02/deep/a.JPEG", "n02"), ("top.gif", None),
        ]
        assert {s.image.mode for s in samples} == {"RGB"} and samples[0].image.size == (5, 6)
        assert [path.name for path in folder.unreadable] == ["broken.jpg", "half.png"]
        assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
            f"skipped {tmp_path}/n01/broken.jpg", f"skipped {tmp_path}/n01/half.png",
        ]


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no image \(.*\.jpeg.*\) in "):
        ImageFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        ImageFolder(tmp_path / "missing")


def test_open_image_leaves_postscript_alone(tmp_path):
    grey(0, mode="RGB").save(tmp_path / "program.png", format="EPS")
    with pytest.raises(OSError, match="cannot identify"):
        open_image(tmp_path / "program.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(tmp_path, suffix, orientation):
    """EXIF's orientation: how a camera was held. The seen image has its white corner at the top left."""
    seen = Image.new("L", (32, 16))
    seen.paste(255, (0, 0, 8, 8))
    back = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}
    stored = seen.transpose(Image.Transpose[back[orientation]]) if orientation > 1 else seen
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    stored.convert("RGB").save(tmp_path / f"photo.{suffix}", exif=exif, **options)
    image = open_image(tmp_path / f"photo.{suffix}")
    assert image.mode == "RGB" and image.size == (32, 16)
    assert np.abs(np.asarray(image.convert("L"), int) - np.asarray(seen, int)).max() < 16


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bits(tmp_path, suffix):
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"grey.{suffix}")
    assert np.asarray(open_image(tmp_path / f"grey.{suffix}"))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("make, reason", [
    (lambda path: Image.effect_noise((64, 64), 50).save(path, "JPEG"), "image file is truncated"),
    (lambda path: Image.effect_noise((64, 64), 50).save(path, "PNG"), "image file is truncated"),
    (lambda path: path.write_bytes(b"no image, and longer than half of it"), "cannot identify image file"),
], ids=["jpeg", "png", "none"])
def test_what_cannot_be_decoded_is_one_line_with_the_name(tmp_path, make, reason):
    path = tmp_path / "broken.png"
    make(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(OSError, match=f"^cannot decode {path}: {reason}") as error:
        open_image(path)
    assert "\n" not in str(error.value) and str(error.value).count(str(path)) == 1


def test_a_decompression_bomb(tmp_path, monkeypatch):
    grey(0, (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(OSError, match="bomb.png: Image size .10000 pixels. exceeds limit of 8000 pixels") as error:
        open_image(tmp_path / "bomb.png")
    assert "\n" not in str(error.value)


def test_one_bad_file_costs_that_file(tmp_path, capsys):
    """Opened one by one, as they are reached."""
    grey(1).save(tmp_path / "first.png")
    (tmp_path / "second.png").write_bytes((tmp_path / "first.png").read_bytes()[:-30])
    others = [tmp_path / f"{name}.png" for name in ("second", "none", "last")]
    files = ImageFiles([str(tmp_path / "first.png"), *others])
    found = iter(files)
    assert next(found).path == tmp_path / "first.png" and not files.unreadable
    grey(2).save(tmp_path / "last.png")
    assert [(sample.path.name, sample.label) for sample in found] == [("last.png", None)]
    assert len(files) == 4 and [path.name for path in files.unreadable] == ["second.png", "none.png"]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"skipped {tmp_path}/second.png: ") and first.count("second.png") == 1
    assert second.startswith(f"skipped {tmp_path}/none.png: [Errno 2] No such file")


def test_a_damaged_file_of_any_format(tmp_path):
    """Whatever a decoder raises becomes an OSError that names the file."""
    for name in FORMATS:
        path = tmp_path / f"damaged.{name.lower()}"
        Image.effect_noise((40, 40), 60).convert("RGB").save(path, name)
        whole = path.read_bytes()
        for end in (3, 20, len(whole) // 3, len(whole) * 2 // 3):
            path.write_bytes(whole[:end])
            try:
                open_image(path)
            except OSError as error:
                assert str(path) in str(error) and "\n" not in str(error)


def test_batches():
    assert list(batches(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batches([], 2)) == []
    with pytest.raises(ValueError, match="batches: expected a size of at least 1, got 0"):
        list(batches(range(5), 0))
