import pytest
import torch

from course import runtime
from course.kernels.norms import rows as module
from course.kernels.norms.layer_norm import ONE_BLOCK, PER_THREAD
from tests.kernels.norms.test_layer_norm import check as check_layer_norm
from tests.kernels.norms.test_softmax import check as check_softmax


@pytest.fixture(autouse=True)
def gpu_tiles(monkeypatch):
    """The tiles that a GPU would get: the interpreter's own are so large that one covers most tests."""
    monkeypatch.setattr(module, "INTERPRET", False)
    module.plan_rows.cache_clear()
    yield
    module.plan_rows.cache_clear()


@pytest.mark.parametrize("view", [
    lambda t: t, lambda t: t.T, lambda t: t[1:, 1:], lambda t: t[1:, 1:].T, lambda t: t[:, ::2],
    lambda t: t[:, :1].expand(t.shape), lambda t: t.unflatten(0, (4, -1))[..., :60].mT,
    lambda t: t.unflatten(0, (4, -1))[:, 1:], lambda t: t.unflatten(1, (8, -1)).permute(2, 0, 1),
])
@pytest.mark.parametrize("shape", [(24, 200), (16, 1200)])
def test_tiles_cover_every_row(shape, view, device):
    x = view(torch.randn(shape, device=device))
    for dim in range(x.ndim):
        check_softmax(x, dim)
    for n_dims in range(1, x.ndim + 1):
        check_layer_norm(x, n_dims)


def test_every_run_begins_at_a_multiple_of_its_alignment(device):
    """Vectors are loaded on the strength of it."""
    for cols in (2, 3, 4, 10, 197, 1000, 1024, 40_000):
        wide, tall = torch.empty(12, cols, device=device), torch.empty(cols, 12, device=device)
        for x in (wide, tall.T, wide[:, 1:], tall[:, 1:].T):
            y = torch.empty_like(x, memory_format=torch.contiguous_format)
            for dim in (0, 1):
                _, rows = module.find_rows(x, y, dim, dim + 1, 1 << 15, per_thread=32)
                for side, name, size in ((1, "M", rows.sizes[0]), (2, "N", rows.sizes[1])):
                    align = rows.tile[f"ALIGN_{name}"]
                    assert size % align == 0 and rows.tile[f"BLOCK_{name}"] % align == 0
                    for strides in (rows.x_strides, rows.y_strides):
                        if strides[side] == 1:
                            assert all(s % align == 0 for d, s in enumerate(strides) if d != side)


def test_long_rows_stay_in_one_block_unless_they_are_turned(device):
    """Turning takes shared memory, of which the smallest GPU has 64 KiB."""
    for dtype in (torch.float16, torch.float32):
        limit = 2**17 // dtype.itemsize
        x = torch.empty(4, limit, dtype=dtype, device=device)
        assert module.find_rows(x, torch.empty_like(x), 1, 2, limit, per_thread=16)[1].one_block
        x = torch.empty(2048, 64, dtype=dtype, device=device).T
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        tile = module.find_rows(x, y, 1, 2, limit, per_thread=16)[1].tile
        assert tile["BLOCK_M"] * tile["BLOCK_N"] * dtype.itemsize <= 2**16


@pytest.mark.parametrize("capability, warps", [((9, 0), 32), ((0, 0), 16)])
def test_no_program_has_more_threads_than_a_gpu_runs(capability, warps, device, monkeypatch):
    """1,024 of them: in warps of 32 by NVIDIA, of 64 by AMD."""
    monkeypatch.setattr(runtime, "capability", lambda: capability)
    x = torch.empty(1, 2**15, device=device)
    assert module.find_rows(x, torch.empty_like(x), 1, 2, 2**15, per_thread=32)[1].tile["num_warps"] == warps


def test_one_warp_has_a_whole_row_of_layer_norm(device, monkeypatch):
    """Up to 1,024 elements, in any dtype; with few rows, several warps share one."""
    monkeypatch.setattr(runtime, "num_sms", lambda: 1)
    for dtype in (torch.float16, torch.float32):
        for n_rows, warps in ((64, 1), (1, 1024 * dtype.itemsize // 512)):  # of 16 bytes a thread
            x = torch.empty(n_rows, 768, dtype=dtype, device=device)
            tile = module.find_rows(x, torch.empty_like(x), 1, 2, ONE_BLOCK, PER_THREAD)[1].tile
            assert (tile["BLOCK_M"], tile["BLOCK_N"], tile["num_warps"]) == (1, 1024, warps)
