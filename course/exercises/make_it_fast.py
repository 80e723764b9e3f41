"""Exercises of the chapter on speed (notebooks/make_it_fast.ipynb)."""
import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from course import lab
from course.lab.checking.exercise import Exercise, Wrong, prose


def limit_us(moved, operations, gbps, tflops, out):
    #> time_to_move = ...     # microseconds for `moved` bytes at `gbps` GB/s
    #> time_to_compute = ...  # microseconds for `operations` at `tflops` TFLOP/s
    #> out.copy_(...)         # and a kernel that overlaps the two as well as it can
    time_to_move = moved / (gbps * 1e9) * 1e6
    time_to_compute = operations / (tflops * 1e12) * 1e6
    out.copy_(torch.maximum(time_to_move, time_to_compute))
    #<


def kernels_of(n):
    """Bytes and operations of n kernels, some of which wait for memory and some for arithmetic."""
    return lambda randn: (randn(n).abs() * 1e9, randn(n).abs() * 1e12, 4282.0, 805.0)


LIMIT = Exercise(
    name="make_it_fast.limit",
    task=prose("""
        ### Exercise 1: how fast can it be at all?

        Before you make a kernel fast, know when to stop. `limit_us` gets the bytes that some kernels have to move and
        the operations that they have to do, a number each for every kernel, in two tensors. Write into `out` how many
        microseconds each of them takes at least on hardware that moves `gbps` GB/s and computes `tflops` TFLOP/s. This
        one is plain PyTorch; the difficulty is in the units, and in how the two times combine.
    """),
    reference=lambda moved, operations, gbps, tflops: torch.maximum(moved / gbps / 1e3, operations / tflops / 1e6),
    cases={
        "an addition and a matrix product": lambda randn: (
            torch.tensor([12.0 * 2**26, 6.0 * 4096**2]), torch.tensor([1.0 * 2**26, 2.0 * 4096**3]), 4282.0, 805.0
        ),
        "1 kernel": kernels_of(1),
        "7 kernels": kernels_of(7),
        "another GPU": lambda randn: (randn(5).abs() * 1e9, randn(5).abs() * 1e12, 936.0, 71.0),
        "not contiguous: every second of 30": lambda randn: (
            (randn(30).abs() * 1e9)[::2], randn(15).abs() * 1e12, 4282.0, 805.0
        ),
        "large: 100,003 kernels": kernels_of(100_003),
    },
    solution=(limit_us,),
    hints=(
        "GB/s are 10⁹ bytes a second, TFLOP/s are 10¹² operations a second, and a second has 10⁶ microseconds.",
        "Divide, then convert: `moved / (gbps * 1e9)` are seconds.",
        "While it computes, a good kernel loads what it needs next. So the two times do not add up: the longer one "
        "is the limit, `torch.maximum(time_to_move, time_to_compute)`.",
    ),
    explanation=prose("""
        This is the roofline as a formula: the larger of two times, each of which would be enough by itself if the
        other part were free. Which one it is says what to work on: fewer bytes, or better use of the tensor cores. A
        measured time divided by this limit is the figure that means something, on every GPU and for every size that is
        large enough to keep it busy.
    """),
    wrong={
        "the times added": Wrong(
            {"torch.maximum(time_to_move, time_to_compute)": "time_to_move + time_to_compute"}, "are wrong"
        ),
        "the shorter of the two": Wrong({"torch.maximum": "torch.minimum"}, "are wrong"),
        "milliseconds": Wrong({"* 1e6": "* 1e3"}, "are wrong"),
        "gigabytes of 2**30": Wrong({"gbps * 1e9": "gbps * 2**30"}, "an addition and a matrix product: 1 of 2"),
    },
)


@triton.jit
def normalise_kernel(
    x_ptr, scale_ptr, shift_ptr, out_ptr, C, H, W, stride_xn, stride_xh, stride_xw, stride_xc, BLOCK: tl.constexpr
):
    plane = tl.program_id(0)  # one channel of one image
    n, c = plane // C, plane % C
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < H * W
    h, w = pixel // W, pixel % W
    #> ...  # load the pixels of channel c, scale and shift them in float32, store them
    x = tl.load(x_ptr + n * stride_xn + h * stride_xh + w * stride_xw + c * stride_xc, mask=inside).to(tl.float32)
    y = x * tl.load(scale_ptr + c) + tl.load(shift_ptr + c)
    tl.store(out_ptr + plane * H * W + pixel, y, mask=inside)
    #<


def normalise(x, mean, std, out):
    N, H, W, C = x.shape
    #> scale = ...  # so that x * scale + shift is (x / 255 - mean) / std
    #> shift = ...
    scale = 1 / (255 * std)
    shift = -mean / std
    #<
    normalise_kernel[(N * C, triton.cdiv(H * W, 1024))](x, scale, shift, out, C, H, W, *x.stride(), BLOCK=1024)


def photos(randn, *shape):
    return (60 * randn(*shape) + 128).clamp(0, 255).to(torch.uint8)


def colours(randn, channels=3):
    return randn(channels).abs(), randn(channels).abs() + 0.1


NORMALISE = Exercise(
    name="make_it_fast.normalise",
    task=prose("""
        ### Exercise 2: four operations, one pass

        Images arrive as bytes, (N, H, W, C), and a model wants them as float32, (N, C, H, W), each channel shifted and
        scaled: `(x / 255 - mean) / std`. PyTorch does it in a conversion, a division, a subtraction, another division
        and a copy that brings the channels to the front. Write it as one kernel that reads each byte once. The
        constants can be brought together before the launch, so that one multiplication and one addition are left. `x`
        may have any strides; `out` is contiguous.
    """),
    reference=lambda x, mean, std: (
        (x.permute(0, 3, 1, 2).float() / 255 - mean[:, None, None]) / std[:, None, None]
    ).contiguous(),
    cases={
        "2 × 16 × 20 × 3": lambda randn: (photos(randn, 2, 16, 20, 3), *colours(randn)),
        "1 × 1 × 1 × 1": lambda randn: (photos(randn, 1, 1, 1, 1), *colours(randn, 1)),
        "3 × 33 × 37 × 3": lambda randn: (photos(randn, 3, 33, 37, 3), *colours(randn)),
        "not contiguous: every second row": lambda randn: (photos(randn, 2, 16, 9, 3)[:, ::2], *colours(randn)),
        "not contiguous: channels first in memory": lambda randn: (
            photos(randn, 2, 4, 12, 13).permute(0, 2, 3, 1), *colours(randn, 4)
        ),
        "large: 2 × 130 × 150 × 3": lambda randn: (photos(randn, 2, 130, 150, 3), *colours(randn)),
    },
    heavy=lambda randn: (photos(randn, 256, 224, 224, 3), *colours(randn)),
    frugal=("launches", "reads"),
    solution=(normalise_kernel, normalise),
    hints=(
        "Multiply out: `(x / 255 - mean) / std` is `x` times something, plus something. Both depend on the channel "
        "only.",
        "`scale = 1 / (255 * std)` and `shift = -mean / std`. In the kernel `tl.load(scale_ptr + c)` is one number, "
        "since a program has one channel.",
        "The offset of a pixel is `n * stride_xn + h * stride_xh + w * stride_xw + c * stride_xc`. In `out` the "
        "planes lie one behind the other, `plane * H * W + pixel`.",
    ),
    explanation=prose("""
        The fused kernel reads one byte and writes four for each number; PyTorch's five operations move 37. The
        permutation costs nothing extra: it is in the strides of the load. Bringing constants together before the
        launch is the smallest kind of folding, and that of a batch norm into a convolution is no different. The next
        step would be to have the model's first layer read bytes, and to never write the floats at all.
    """),
    wrong={
        "255 forgotten": Wrong({"1 / (255 * std)": "1 / std"}, "are wrong"),
        "the shift is not divided": Wrong({"-mean / std": "-mean"}, "are wrong"),
        "the channels stay behind": Wrong(
            {"out_ptr + plane * H * W + pixel": "out_ptr + (n * H * W + pixel) * C + c"}, "are wrong"
        ),
        "taken to be contiguous": Wrong(
            {"h * stride_xh + w * stride_xw + c * stride_xc": "pixel * C + c"}, "is an index times the stride"
        ),
        "the store has no mask": Wrong({"pixel, y, mask=inside)": "pixel, y)"}, "A store went past the output"),
    },
)


@triton.jit
def add_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, out_ptr, n_rows, n_cols, stride_xm, stride_rm, eps, BLOCK: tl.constexpr
):
    #> ...  # the sum of this program's row of x and residual goes to out[0], the sum's layer norm to out[1]
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < n_cols
    x = tl.load(x_ptr + row * stride_xm + cols, mask=mask, other=0.0)
    x += tl.load(residual_ptr + row * stride_rm + cols, mask=mask, other=0.0)
    tl.store(out_ptr + row * n_cols + cols, x, mask=mask)

    diff = tl.where(mask, x - tl.sum(x, axis=0) / n_cols, 0.0)
    rstd = tl.rsqrt(tl.sum(diff * diff, axis=0) / n_cols + eps)
    weight = tl.load(weight_ptr + cols, mask=mask)
    bias = tl.load(bias_ptr + cols, mask=mask)
    tl.store(out_ptr + (n_rows + row) * n_cols + cols, diff * rstd * weight + bias, mask=mask)
    #<


def add_norm(x, residual, weight, bias, out):
    n_rows, n_cols = x.shape
    add_norm_kernel[(n_rows,)](
        x, residual, weight, bias, out, n_rows, n_cols, x.stride(0), residual.stride(0), 1e-5,
        BLOCK=triton.next_power_of_2(n_cols),
    )


def rows(m, n):
    return lambda randn: (randn(m, n), randn(m, n), randn(n), randn(n))


ADD_NORM = Exercise(
    name="make_it_fast.add_norm",
    task=prose("""
        ### Exercise 3: a sum that two want

        In a transformer `x + residual` is needed twice: by the layer norm that follows, and by the next addition.
        Fused or not, it has to be written. Does it pay to fuse then? Write the kernel: `out[0]` is the sum, `out[1]`
        its layer norm with `weight`, `bias` and an eps of 10⁻⁵. Count the passes over a matrix before you start: the
        two kernels make five, yours should make four. A row fits into one block; `out` is contiguous, and elements of
        one row of `x` and `residual` are neighbours in memory.
    """),
    reference=lambda x, residual, weight, bias: torch.stack(
        (x + residual, F.layer_norm(x + residual, x.shape[-1:], weight, bias))
    ),
    cases={
        "16 × 50": rows(16, 50),
        "1 × 1": rows(1, 1),
        "5 × 64": rows(5, 64),
        "7 × 129": rows(7, 129),
        "not contiguous: slices": lambda randn: (randn(9, 50)[:, 3:40], randn(18, 37)[::2], randn(37), randn(37)),
        "large: 130 × 770": rows(130, 770),
    },
    heavy=rows(65536, 768),
    frugal=("launches", "reads"),
    solution=(add_norm_kernel, add_norm),
    hints=(
        "The layer norm is that of its own chapter, one program a row. Its input is the sum of two loads.",
        "The sum stays in registers: store it to `out_ptr + row * n_cols + cols`, and go on computing with it. Mean, "
        "difference (0 in masked lanes), mean of squares, `tl.rsqrt`.",
        "`out[1]` begins `n_rows * n_cols` elements behind `out[0]`: store to `out_ptr + (n_rows + row) * n_cols + "
        "cols`.",
    ),
    explanation=prose("""
        Two rows are read and two written: four passes. The separate kernels read two and write one, then read that one
        again and write the norm: five. So even a sum that must be written is worth fusing, for a fifth of the bytes
        and a launch. Our fast path goes another way: its `linear` adds the residual in its epilogue, where the sum
        costs one pass. The norm, which needs whole rows, stays a kernel of its own, unless there are so few tokens
        that the next product takes it in.
    """),
    wrong={
        "the norm of x alone": Wrong(
            {"    x += tl.load(residual_ptr + row * stride_rm + cols, mask=mask, other=0.0)\n"
             "    tl.store(out_ptr + row * n_cols + cols, x, mask=mask)\n":
             "    r = tl.load(residual_ptr + row * stride_rm + cols, mask=mask, other=0.0)\n"
             "    tl.store(out_ptr + row * n_cols + cols, x + r, mask=mask)\n"},
            "16 × 50: ",
        ),
        "the sum is not stored": Wrong(
            {"    tl.store(out_ptr + row * n_cols + cols, x, mask=mask)\n": ""}, "nothing was written"
        ),
        "padding in the variance": Wrong(
            {"tl.where(mask, x - tl.sum(x, axis=0) / n_cols, 0.0)": "x - tl.sum(x, axis=0) / n_cols"}, "16 × 50: "
        ),
        "both into one matrix": Wrong({"(n_rows + row) * n_cols": "row * n_cols"}, "16 × 50: "),
        "rows taken to be contiguous": Wrong({"row * stride_xm": "row * n_cols"}, "slices: "),
    },
)


@triton.jit
def cat_kernel(
    a_ptr, b_ptr, c_ptr, out_ptr, n_a, n_b, n_c, stride_a, stride_b, stride_c, BLOCK: tl.constexpr
):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    #> ...  # which lanes belong to a, which to b, which to c? Each has its own mask
    in_a = offs < n_a
    in_b = (offs >= n_a) & (offs < n_a + n_b)
    in_c = (offs >= n_a + n_b) & (offs < n_a + n_b + n_c)
    value = tl.load(a_ptr + offs * stride_a, mask=in_a, other=0.0)
    value += tl.load(b_ptr + (offs - n_a) * stride_b, mask=in_b, other=0.0)
    value += tl.load(c_ptr + (offs - n_a - n_b) * stride_c, mask=in_c, other=0.0)
    tl.store(out_ptr + offs, value, mask=in_a | in_b | in_c)
    #<


def cat(a, b, c, out):
    cat_kernel[(triton.cdiv(out.numel(), 1024),)](
        a, b, c, out, len(a), len(b), len(c), a.stride(0), b.stride(0), c.stride(0), BLOCK=1024
    )


CAT = Exercise(
    name="make_it_fast.cat",
    task=prose("""
        ### Exercise 4: many small things, one launch

        Three vectors are to be put one behind the other. Three copies would do it, three launches for a few bytes
        each. Write one kernel that does all three: program and lane count through `out`, which is contiguous, and each
        lane finds out which vector it belongs to. (So do the optimisers of PyTorch that update all parameters of a
        model in a few launches.)
    """),
    reference=lambda a, b, c: torch.cat((a, b, c)),
    cases={
        "1,000 + 500 + 3 elements": lambda randn: (randn(1000), randn(500), randn(3)),
        "1 element each": lambda randn: (randn(1), randn(1), randn(1)),
        "1,024 + 1,024 + 1,024 elements": lambda randn: (randn(1024), randn(1024), randn(1024)),
        "none + 777 + none": lambda randn: (randn(1)[:0], randn(777), randn(1)[:0]),
        "not contiguous: every second": lambda randn: (randn(600)[::2], randn(70)[::2], randn(3001)[::2]),
        "large: 100,003 + 1 + 2,000 elements": lambda randn: (randn(100_003), randn(1), randn(2000)),
    },
    heavy=lambda randn: (randn(2**24), randn(2**25), randn(2**24)),
    frugal=("launches", "copies"),
    solution=(cat_kernel, cat),
    hints=(
        "Lane `offs` belongs to `a` if `offs < n_a`; to `b` if it is at least `n_a` and less than `n_a + n_b`; else "
        "to `c`.",
        "In `b` it is element `offs - n_a`. For lanes in front of `b` that is negative: they need to be masked, and "
        "so do those behind it.",
        "Load three times, each with its own mask and `other=0.0`. In each lane at most one of the three is not 0, "
        "so their sum is the value to store.",
    ),
    explanation=prose("""
        A masked lane moves no bytes, so three masked loads cost hardly more than one: most programs lie entirely in
        one vector, and two of their loads are masked altogether. What is saved is two launches, which for small
        vectors is nearly everything. With many tensors one would not write a load for each, but hand over a table of
        addresses, and of where in the output each begins.
    """),
    wrong={
        "b is read from its start": Wrong({"(offs - n_a) * stride_b": "offs * stride_b"}, "outside of b"),
        "b without a lower bound": Wrong(
            {"(offs >= n_a) & (offs < n_a + n_b)": "offs < n_a + n_b"}, "the first lies 1000 before its start"
        ),
        "c overwrites b": Wrong({"value += tl.load(c": "value = tl.load(c"}, "1,000 + 500 + 3 elements: "),
        "c is masked by its own length": Wrong({"(offs < n_a + n_b + n_c)": "(offs < n_c)"}, "elements: 3 of 1503"),
        "PyTorch's cat": Wrong(
            {"    cat_kernel[": "    a, b, c = torch.cat((a, b, c)), b[:0], c[:0]\n    cat_kernel["},
            "right, but computed by PyTorch (cat, in line",
        ),
        "no stride for b": Wrong({"(offs - n_a) * stride_b": "(offs - n_a)"}, "every second: "),
    },
)


def in_batches(batches, weight, out):
    x = torch.zeros_like(batches[0])
    graph = lab.record(lambda: torch.relu(x * weight))
    for i in range(len(batches)):
        #> ...  # bring batch i to where the graph reads, replay it, and take its result from graph.outputs[0]
        x.copy_(batches[i])
        graph.replay()
        out[i] = graph.outputs[0]
        #<


IN_BATCHES = Exercise(
    name="make_it_fast.in_batches",
    task=prose("""
        ### Exercise 5: a graph in use

        `in_batches` computes `relu(x * weight)` for every row of `batches`, with one graph. The graph is recorded,
        reading from `x`. Write the loop's body. Afterwards `out[i]` holds the result for `batches[i]`, for every `i`.
    """),
    reference=lambda batches, weight: torch.relu(batches * weight),
    cases={
        "5 batches of 100": lambda randn: (randn(5, 100), randn(100)),
        "1 batch of 1": lambda randn: (randn(1, 1), randn(1)),
        "3 batches of 33": lambda randn: (randn(3, 33), randn(33)),
        "transposed: 4 batches of 70": lambda randn: (randn(70, 4).T, randn(70)),
        "not contiguous: every second of 12": lambda randn: (randn(12, 40)[::2], randn(80)[::2]),
        "large: 3 batches of 40,000": lambda randn: (randn(3, 40_000), randn(40_000)),
    },
    solution=(in_batches,),
    hints=(
        "The graph knows an address and not the variable `x`: what is to be computed has to be *copied into* that "
        "tensor.",
        "`x.copy_(batches[i])` and `graph.replay()`. The result is in `graph.outputs[0]`, until the next replay.",
        "`out[i] = graph.outputs[0]` copies it. Keeping the tensor itself in a list would keep the same tensor every "
        "time.",
    ),
    explanation=prose("""
        Two copies more than without a graph: one in, one out. `course.optimize` does just this, with a graph for each
        shape of input, and leaves the second copy out on request (`reuse_output=True`), for those who are done with a
        result before they ask for the next. Captured once and replayed often, the graph saves the launches; here,
        where every call of `in_batches` records a new one, it would not.
    """),
    wrong={
        "another tensor instead of other contents": Wrong({"x.copy_(batches[i])": "x = batches[i]"}, "are wrong"),
        "replayed before the copy": Wrong(
            {"        x.copy_(batches[i])\n        graph.replay()\n":
             "        graph.replay()\n        x.copy_(batches[i])\n"},
            "5 batches of 100: ",
        ),
        "kept instead of copied": Wrong(
            {"    for i in": "    kept = []\n    for i in", "        out[i] = graph.outputs[0]":
             "        kept.append(graph.outputs[0])\n    out.copy_(torch.stack(kept))"},
            "5 batches of 100: ",
        ),
        "never replayed": Wrong({"        graph.replay()\n": ""}, "are wrong"),
    },
)

EXERCISES = (LIMIT, NORMALISE, ADD_NORM, CAT, IN_BATCHES)
