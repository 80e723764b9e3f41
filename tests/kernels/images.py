"""Images in every memory layout, for the kernels that take them."""
import torch
from hypothesis import strategies as st

LAYOUTS = {
    "contiguous": lambda t: t,
    "channels_last": lambda t: t.to(memory_format=torch.channels_last),
    "transposed": lambda t: t.mT.contiguous().mT,
    "images innermost": lambda t: t.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "every other column": lambda t: t.repeat_interleave(2, dim=3)[..., ::2],
    "some channels": lambda t: torch.cat((t, t), dim=1).to(memory_format=torch.channels_last)[:, t.shape[1] :],
    "expanded": lambda t: t[:, :1].expand(t.shape),
}
"""Each takes a contiguous (N, C, H, W) and returns one of the same shape."""


@st.composite
def images(draw, device, largest=12):
    shape = [draw(st.integers(1, most)) for most in (3, 5, largest, largest)]
    return LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](torch.randn(shape, device=device))
