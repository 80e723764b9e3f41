"""What a call of scaled_dot_product_attention asks for."""
import functools
import math
from typing import NamedTuple

import torch

from course import runtime
from course.kernels.parts.loops import walk
from course.kernels.parts.sizes import cdiv, next_power_of_2

LOG2_E = math.log2(math.e)  # exp(x) = exp2(x * LOG2_E), and exp2 is what the hardware has


class Attention(NamedTuple):
    """Queries (*sizes, L, E) over keys (*sizes, S, E) with values (*sizes, S, EV).

    `sizes` are the fewest leading dimensions that reach all heads. Strides are those of the leading dimensions, the row
    and the column.
    """

    sizes: tuple[int, ...]
    L: int
    S: int
    E: int
    EV: int
    q_strides: tuple[int, ...]
    k_strides: tuple[int, ...]
    v_strides: tuple[int, ...]
    out_strides: tuple[int, ...]
    mask_strides: tuple[int, ...]
    """of a mask (*sizes, L, S), 0 where it was broadcast; () without one"""
    dtype: torch.dtype
    precision: str
    mask_dtype: torch.dtype | None
    """torch.bool for a mask that is True where a key takes part, another one if it is added to the scores"""
    is_causal: bool
    scale: float
    aligned: bool
    """whether q, k, v and the mask begin at multiples of 16 bytes"""

    @property
    def heads(self) -> int:
        return math.prod(self.sizes)

    @property
    def exponent_scale(self) -> float:
        """What a score is multiplied by before exp2: positive, as 0 times a masked score of -inf would be NaN."""
        return max(abs(self.scale) * LOG2_E, 2.0**-126)

    @property
    def block_e(self) -> int:
        """The block that covers E."""
        return head_block(self.E)

    @property
    def block_ev(self) -> int:
        """The block that covers EV."""
        return head_block(self.EV)

    @property
    def worth_measuring(self) -> bool:
        return self.heads * self.L * self.S * max(self.block_e, self.block_ev) >= 2**23

    def choice(self) -> dict[str, int | str]:
        # tiles of 64 queries for each multiprocessor: of 32 or more the number does not matter
        waves = min(cdiv(self.heads * self.L, 64 * runtime.num_sms()), 32)
        return {"L": self.L, "S": self.S, "E": self.E, "EV": self.EV, "waves": next_power_of_2(waves),
                "dtype": name_of(self.dtype), "mask": self.mask_name}

    @property
    def mask_name(self) -> str:
        """Such as "none", "causal" or "float16"; "bool of keys" if it is the same for all queries of a head."""
        if self.mask_dtype is None:
            return "causal" if self.is_causal else "none"
        return name_of(self.mask_dtype) + ("" if self.mask_strides[-2] else " of keys")


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def head_block(size: int) -> int:
    """The block that covers a head's `size`: tensor cores take 16 at least."""
    return max(16, next_power_of_2(size))


@functools.lru_cache(maxsize=4096)
def attention_problem(
    lead: tuple[int, ...], L: int, S: int, E: int, EV: int, out_strides: tuple[int, ...], q_strides: tuple[int, ...],
    k_strides: tuple[int, ...], v_strides: tuple[int, ...], mask_strides: tuple[int, ...] | None, dtype: torch.dtype,
    precision: str, mask_dtype: torch.dtype | None, is_causal: bool, scale: float | None, aligned: bool,
) -> Attention:
    """The problem of tensors with leading dimensions `lead` and these strides; `scale` is 1 / sqrt(E) if None."""
    strides = [s for s in (out_strides, q_strides, k_strides, v_strides, mask_strides) if s is not None]
    sizes, *steps = walk(lead, *(s[:-2] for s in strides))
    out, q, k, v, *mask = (step + s[-2:] for step, s in zip(steps, strides))
    scale = max(E, 1) ** -0.5 if scale is None else scale
    return Attention(sizes, L, S, E, EV, q, k, v, out, *(mask or ((),)), dtype, precision, mask_dtype, is_causal, scale,
                     aligned)
