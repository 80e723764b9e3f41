"""The Triton code in posts/programming_model.md: it runs, and computes what the post says."""
import importlib.util
import re
from pathlib import Path

import pytest
import torch

from course.runtime import DEVICE

POST = Path(__file__).parents[1] / "posts" / "programming_model.md"


@pytest.fixture(scope="module")
def post(tmp_path_factory):
    """The post's Python, as one module: Triton reads kernels from a file."""
    file = tmp_path_factory.mktemp("post") / "programming_model.py"
    file.write_text("\n\n".join(re.findall(r"```python\n(.*?)```", POST.read_text(), flags=re.DOTALL)))
    spec = importlib.util.spec_from_file_location("programming_model", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("n", [1, 128, 300])
def test_add(post, n):
    x, y = torch.randn(2, n, device=DEVICE)
    assert torch.equal(post.add(x, y), x + y)


@pytest.mark.parametrize("n_cols", [1, 64, 100])
def test_rows(post, n_cols):
    x = torch.randn(3, n_cols, device=DEVICE)
    torch.testing.assert_close(post.row_sum(x), x.sum(1), rtol=1e-5, atol=1e-4)
    out = torch.empty_like(x)
    post.softmax_kernel[(3,)](x, out, n_cols, BLOCK=128)
    torch.testing.assert_close(out, x.softmax(1))


def test_matmul(post):
    a, b = (torch.randn(64, 64, device=DEVICE).half() for _ in range(2))
    c = torch.empty(64, 64, device=DEVICE)
    post.matmul_kernel[(2, 2)](a, b, c, 64, 64, BLOCK_M=32, BLOCK_N=32, BLOCK_K=32)
    torch.testing.assert_close(c, a.float() @ b.float(), rtol=1e-4, atol=1e-4)
