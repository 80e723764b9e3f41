from types import SimpleNamespace

import pytest
import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from course.replay import launches
from course.replay.launches import Launch, NotKept, Pointer, TensorMaps


class CudaLauncher:
    """As Triton's: `since` which version."""

    global_scratch_size = profile_scratch_size = 0
    launch_cooperative_grid, launch_pdl = False, True

    def __init__(self, started, since="3.7"):
        def launcher(*args):
            started.append(args)

        def encodes_descriptors(*args):
            launcher("encoded", *args)

        self.launch = encodes_descriptors
        if since == "3.7":
            self.arg_annotations, self.kernel_signature = "annotations", b"signature"


def kernel_of(launcher, **metadata):
    return SimpleNamespace(run=launcher, function=7, packed_metadata=(4, 1, 0), metadata=SimpleNamespace(**metadata))


@pytest.fixture
def started(monkeypatch):
    """The arguments of Triton's function in C, of each launch."""
    found = []
    monkeypatch.setattr(launches.triton.runtime.driver, "_active", SimpleNamespace(
        utils=SimpleNamespace(launch=lambda *args: found.append(args))), raising=False)
    return found


def test_the_function_in_c_gets_what_triton_gives_it(started):
    """Its arguments are those of CudaLauncher.__call__ in triton/backends/nvidia/driver.py."""
    launches.c_launcher(kernel_of(CudaLauncher([])), (5, 6))(9, [1, 2])
    assert started == [(5, 6, 1, 9, 7, False, True, (4, 1, 0), None, None, None, None, None, "annotations",
                        b"signature", [1, 2])]
    older = []
    launches.c_launcher(kernel_of(CudaLauncher(older, "3.6")), (5,))(9, [1, 2])
    assert older == [(5, 1, 1, 9, 7, False, True, None, None, (4, 1, 0), None, None, None, 1, 2)]


@pytest.mark.parametrize("change, reason", [
    ({"global_scratch_size": 128}, "memory of Triton's"), ({"profile_scratch_size": 1}, "memory of Triton's"),
    ({"gsan_enabled": True}, "memory of Triton's"),
])
def test_what_needs_more_than_a_launch_is_not_kept(change, reason):
    launcher = CudaLauncher([])
    vars(launcher).update(change)
    with pytest.raises(NotKept, match=reason):
        launches.c_launcher(kernel_of(launcher), (1,))


def test_launchers_of_other_gpus_are_not_kept():
    class HIPLauncher(CudaLauncher):
        pass

    with pytest.raises(NotKept, match="none of NVIDIA's"):
        launches.c_launcher(kernel_of(HIPLauncher([])), (1,))


@pytest.fixture
def kept(monkeypatch):
    """Makes a Launch of arguments; the list of the arguments that it launched with."""
    found = []
    monkeypatch.setattr(launches, "c_launcher", lambda kernel, grid: lambda stream, args: found.append(args))
    monkeypatch.setattr(TensorMaps, "encoded", lambda self, pointer: ("map", pointer))

    def make(args, tensors, encodings=()):
        def place(t):
            return Pointer(next(i for i, other in enumerate(tensors) if other is t), 0)

        return Launch(kernel_of(None, tensordesc_meta=list(encodings)), (1,), args, place)

    return make, found


def test_pointers_take_the_places_of_tensors(kept):
    make, found = kept
    x, y = torch.randn(4, 4), torch.randn(4)
    descriptor = TensorDescriptor(x, [4, 4], [4, 1], [4, 4])
    launch = make((x, 3, (y, None, (1, 2)), (5, 6), descriptor, None, "op"), [x, y], ["encoding"])
    for a, b in ((100, 200), (300, 400)):
        launch([], [a, b], 0)
        assert found.pop() == [a, 3, (b, None, (1, 2)), (5, 6), ("map", a), 4, 4, 4, 1, None, "op"]


def test_offsets_are_added(kept, monkeypatch):
    make, found = kept
    x = torch.randn(4)
    launch = Launch(kernel_of(None), (1,), (x, (x,)), lambda t: Pointer(1, 16))
    launch([], [0, 100], 0)
    assert found == [[116, (116,)]]


def test_pointers_in_another_form_are_not_kept(kept):
    make, _ = kept
    x = torch.randn(4, 4)
    descriptor = TensorDescriptor(x, [4, 4], [4, 1], [4, 4])
    with pytest.raises(NotKept, match="as SimpleNamespace"):
        make((SimpleNamespace(data_ptr=lambda: 1),), [x])
    with pytest.raises(NotKept, match="a TensorDescriptor in a tuple"):
        make(((descriptor,),), [x], ["encoding"])
    with pytest.raises(NotKept, match="a descriptor as pointers"):
        make((descriptor,), [x])


def test_descriptors_are_encoded_once_for_a_pointer(monkeypatch):
    monkeypatch.setattr(launches, "MOST_MAPS", 3)
    encoded = []
    monkeypatch.setattr(TensorMaps, "encoded", lambda self, pointer: encoded.append(pointer) or -pointer)
    maps = TensorMaps(TensorDescriptor(torch.randn(4, 4), [4, 4], [4, 1], [4, 4]), "encoding")
    assert maps.descriptor.base is None
    assert [maps.at(pointer) for pointer in (1, 2, 1, 2, 3, 4, 1)] == [-1, -2, -1, -2, -3, -4, -1]
    assert encoded == [1, 2, 3, 4, 1] and len(maps.known) <= 3


def test_tritons_own_function_encodes_a_descriptor(monkeypatch):
    driver = pytest.importorskip("triton.backends.nvidia.driver")
    got = []

    def fill(*args):
        got.append(args)
        return "map"

    utils = SimpleNamespace(fill_tma_descriptor=fill, fill_tma_descriptor_tiled=fill)
    monkeypatch.setattr(driver.triton.runtime.driver, "_active", SimpleNamespace(utils=utils), raising=False)
    encoding = {"swizzle": 3, "elem_size": 4, "elem_type": 7, "block_size": [4, 4], "fp4_padded": False}
    maps = TensorMaps(TensorDescriptor(torch.randn(4, 8), [4, 8], [8, 1], [4, 4]), encoding)
    assert maps.at(1024) == "map" and maps.at(2048) == "map"
    assert [args[0] for args in got] == [1024, 2048] and got[0][-3:] == ([4, 8], [8, 1], 0)
