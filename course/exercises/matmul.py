"""Exercises of the chapter on matrix products (notebooks/matmul.ipynb)."""
import torch
import triton
import triton.language as tl

from course.lab.checking.exercise import Exercise, Wrong, prose


SOME = "Some elements are right"


def halves(*sizes):
    """Inputs: a float16 tensor for each of `sizes`."""
    return lambda randn: tuple(randn(*size, dtype=torch.float16) for size in sizes)


@triton.jit
def product_tile(
    a_ptr, b_ptr, offs_m, offs_n, M, N, K, stride_am, stride_ak, stride_bk, stride_bn,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    offs_k = tl.arange(0, BLOCK_K)
    #> a_ptrs = ...  # 1. pointers to the first block of a: BLOCK_M rows, BLOCK_K columns
    #> b_ptrs = ...  # 2. and to that of b: BLOCK_K rows, BLOCK_N columns
    a_ptrs = a_ptr + offs_m[:, None] * stride_am + offs_k[None, :] * stride_ak
    b_ptrs = b_ptr + offs_k[:, None] * stride_bk + offs_n[None, :] * stride_bn
    #<
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, K, BLOCK_K):
        #> a_mask = ...  # 3. which of these elements of a exist: k columns are behind us
        #> b_mask = ...  # 4. and which of b
        a_mask = (offs_m[:, None] < M) & (offs_k[None, :] < K - k)
        b_mask = (offs_k[:, None] < K - k) & (offs_n[None, :] < N)
        #<
        a = tl.load(a_ptrs, mask=a_mask, other=0.0)
        b = tl.load(b_ptrs, mask=b_mask, other=0.0)
        acc = tl.dot(a, b, acc)
        #> ...  # 5. both blocks of pointers move along K
        a_ptrs += BLOCK_K * stride_ak
        b_ptrs += BLOCK_K * stride_bk
        #<
    return acc


@triton.jit
def my_matmul_kernel(
    a_ptr, b_ptr, out_ptr, M, N, K, stride_am, stride_ak, stride_bk, stride_bn, stride_om, stride_on,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = product_tile(a_ptr, b_ptr, offs_m, offs_n, M, N, K, stride_am, stride_ak, stride_bk, stride_bn,
                       BLOCK_M, BLOCK_N, BLOCK_K)
    inside = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    tl.store(out_ptr + offs_m[:, None] * stride_om + offs_n[None, :] * stride_on, acc, mask=inside)


def my_matmul(a, b, out):
    (M, K), N = a.shape, b.shape[1]
    my_matmul_kernel[(triton.cdiv(M, 128), triton.cdiv(N, 128))](
        a, b, out, M, N, K, *a.stride(), *b.stride(), *out.stride(),
        BLOCK_M=128, BLOCK_N=128, BLOCK_K=32, num_warps=8,
    )


FILL_IN = Exercise(
    name="matmul.fill_in",
    task=prose("""
        ### Exercise 1: the loop over K

        `product_tile` computes the sums of one tile, and the kernel below stores them. Its heart is missing: the
        pointers to the first blocks of `a` and `b`, the masks, and the step along K. `M`, `N` and `K` can be
        anything, the strides too. Other exercises will call `product_tile` again.
    """),
    reference=lambda a, b: a @ b,
    cases={
        "200 × 70 by 70 × 150": halves((200, 70), (70, 150)),
        "128 × 64 by 64 × 128": halves((128, 64), (64, 128)),
        "1 × 1 by 1 × 1": halves((1, 1), (1, 1)),
        "7 × 301 by 301 × 5": halves((7, 301), (301, 5)),
        "not contiguous: a transposed, b every second column": lambda randn: (
            randn(33, 90, dtype=torch.float16).T, randn(33, 80, dtype=torch.float16)[:, ::2]
        ),
        "large: 1,001 × 100 by 100 × 130": halves((1001, 100), (100, 130)),
        "long sums: 20 × 4,096 by 4,096 × 30": halves((20, 4096), (4096, 30)),
    },
    heavy=halves((4096, 4096), (4096, 4096)),
    operations=lambda a, b: 2 * a.shape[0] * a.shape[1] * b.shape[1],
    solution=(product_tile, my_matmul_kernel, my_matmul),
    hints=(
        "A block of pointers has two dimensions, like the tile of step 2: the offsets of the rows stand upright, `[:, "
        "None]`, those of the columns lie flat, `[None, :]`, and each is multiplied by the stride of its dimension. K "
        "is the second dimension of `a` and the first of `b`.",
        "`offs_k` begins at 0 in every turn, while the pointers move on. So in the turn that began at `k`, a lane of "
        "`offs_k` stands for column `k + offs_k`, which exists where it is less than `K`. Each mask also needs the "
        "rows of `a`, or the columns of `b`, that exist.",
        "`a_ptrs = a_ptr + offs_m[:, None] * stride_am + offs_k[None, :] * stride_ak`, and `a_mask = (offs_m[:, None] "
        "< M) & (offs_k[None, :] < K - k)`. `b` is the same with `offs_k` upright and `offs_n` flat. At the end of "
        "each turn, `a_ptrs += BLOCK_K * stride_ak` and `b_ptrs += BLOCK_K * stride_bk`.",
    ),
    explanation=prose("""
        Pointers that move are cheaper than pointers computed anew in every turn: one addition instead of two
        multiplications for each lane. The mask in K is the one that the result depends on: a masked lane holds
        `other`, 0, and adds nothing to any sum. The masks of rows and columns only keep the loads inside of the
        tensors, since what they spoil, a row or a column of sums that do not exist, is never stored.
    """),
    wrong={
        "K is not masked": Wrong({" & (offs_k[None, :] < K - k)": "", "(offs_k[:, None] < K - k) & ": ""},
                                 "A load reached outside"),
        "the mask in K does not move": Wrong({"K - k": "K"}, "A load reached outside"),
        "the strides of b are swapped": Wrong(
            {"offs_k[:, None] * stride_bk + offs_n[None, :] * stride_bn":
             "offs_k[:, None] * stride_bn + offs_n[None, :] * stride_bk"},
            "A load reached outside",
        ),
        "the pointers do not move": Wrong(
            {"        a_ptrs += BLOCK_K * stride_ak\n        b_ptrs += BLOCK_K * stride_bk\n": ""},
            "missing or counted twice",
        ),
        "b moves along N": Wrong({"BLOCK_K * stride_bk": "BLOCK_K * stride_bn"}, "it resembles what is right"),
        "a lane too many in K": Wrong({"< K - k": "<= K - k"}, "A load reached outside"),
        "sums in float16": Wrong(
            {"tl.zeros((BLOCK_M, BLOCK_N), tl.float32)": "tl.zeros((BLOCK_M, BLOCK_N), tl.float16)",
             "tl.dot(a, b, acc)": "tl.dot(a, b, acc, out_dtype=tl.float16)"},
            "FAIL  long sums: 20 × 4,096 by 4,096 × 30",
        ),
        "each block forgets the one before": Wrong({"tl.dot(a, b, acc)": "tl.dot(a, b)"}, "missing or counted twice"),
    },
)


def gram(x, out):
    M, K = x.shape
    #> ...  # launch my_matmul_kernel: out = x @ x.T, from x itself
    my_matmul_kernel[(triton.cdiv(M, 128), triton.cdiv(M, 128))](
        x, x, out, M, M, K, x.stride(0), x.stride(1), x.stride(1), x.stride(0), *out.stride(),
        BLOCK_M=128, BLOCK_N=128, BLOCK_K=32, num_warps=8,
    )
    #<


GRAM = Exercise(
    name="matmul.gram",
    task=prose("""
        ### Exercise 2: transposed by strides alone

        The Gram matrix `x @ x.T` holds the product of every row of `x` with every other: attention's scores are made
        like this. Compute it with the kernel of exercise 1, which stays as it is. No tensor besides `x` and `out`,
        and no `.T`: write the launch, with the grid, the three sizes and the six strides.
    """),
    reference=lambda x: x @ x.mT,
    cases={
        "200 × 70": halves((200, 70)),
        "64 × 64": halves((64, 64)),
        "1 × 1": halves((1, 1)),
        "3 × 515": halves((3, 515)),
        "transposed 90 × 140": lambda randn: (randn(140, 90, dtype=torch.float16).T,),
        "not contiguous: every second row and column": lambda randn: (randn(90, 301, dtype=torch.float16)[::2, ::2],),
        "large: 303 × 335": halves((303, 335)),
    },
    heavy=halves((4096, 4096)),
    operations=lambda x: 2 * x.shape[0] ** 2 * x.shape[1],
    frugal=("copies", "views"),
    solution=(gram,),
    hints=(
        "The kernel knows nothing of tensors: it gets a pointer, two sizes and two strides for each matrix. Nothing "
        "forbids to hand over the same pointer twice.",
        "Row `k`, column `n` of `x.T` is row `n`, column `k` of `x`. So one step along the K of `b` is a step along "
        "a row of `x`, which is `x.stride(1)`.",
        "`a` is `x` with strides `x.stride(0), x.stride(1)`, `b` is `x` with `x.stride(1), x.stride(0)`. Sizes: `M, "
        "M, K`, and a grid of `triton.cdiv(M, 128)` in both directions.",
    ),
    explanation=prose("""
        A transposed matrix is the same memory, walked with its strides exchanged: nothing is copied, and in PyTorch
        `.T` does no more than that. `linear` uses it for its weights, which PyTorch stores as `(N, K)`.

        What does change is which elements are neighbours in memory: those along K, in both operands here. Tensor
        cores take either order, for 16-bit numbers; Triton loads a block in the order in which it lies and turns it,
        if it must, in shared memory. (Half of the work is wasted all the same: the result is symmetric.)
    """),
    wrong={
        "nothing is transposed": Wrong(
            {"x.stride(1), x.stride(0), *out": "x.stride(0), x.stride(1), *out"}, "nothing to do with the right ones"
        ),
        "the wrong operand is transposed": Wrong(
            {"x.stride(0), x.stride(1), x.stride(1), x.stride(0)": "*x.stride()[::-1], *x.stride()"},
            "not the right element",
        ),
        "PyTorch's transposed view": Wrong(
            {"x, x, out, M, M, K, x.stride(0), x.stride(1), x.stride(1), x.stride(0)":
             "x, x.T, out, M, M, K, *x.stride(), *x.T.stride()"},
            "right, but by a view of PyTorch's (",
        ),
        "a transposed copy": Wrong(
            {"x, x, out, M, M, K, x.stride(0), x.stride(1), x.stride(1), x.stride(0)":
             "x, x.mT.contiguous(), out, M, M, K, *x.stride(), M, 1"},
            "right, but PyTorch copies",
        ),
        "as many columns as x": Wrong({"M, M, K, x": "M, K, K, x"}, "Whole columns are missing"),
        "the grid of x": Wrong(
            {"(triton.cdiv(M, 128), triton.cdiv(M, 128))": "(triton.cdiv(M, 128), triton.cdiv(K, 128))"},
            "Whole columns are missing",
        ),
        "x is taken to be contiguous": Wrong(
            {"x.stride(0), x.stride(1), x.stride(1), x.stride(0)": "K, 1, 1, K"}, "is an index times the stride"
        ),
    },
)


@triton.jit
def linear_relu_kernel(
    x_ptr, weight_ptr, bias_ptr, out_ptr, M, N, K,
    stride_xm, stride_xk, stride_wn, stride_wk, stride_bias, stride_om, stride_on,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = product_tile(x_ptr, weight_ptr, offs_m, offs_n, M, N, K, stride_xm, stride_xk, stride_wk, stride_wn,
                       BLOCK_M, BLOCK_N, BLOCK_K)
    #> ...  # load the piece of the bias that belongs to these columns, add it, and apply the ReLU
    bias = tl.load(bias_ptr + offs_n * stride_bias, mask=offs_n < N)
    acc += bias[None, :].to(tl.float32)
    acc = tl.where(acc < 0, 0.0, acc)
    #<
    inside = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    tl.store(out_ptr + offs_m[:, None] * stride_om + offs_n[None, :] * stride_on, acc, mask=inside)


def linear_relu(x, weight, bias, out):
    (M, K), N = x.shape, weight.shape[0]
    linear_relu_kernel[(triton.cdiv(M, 128), triton.cdiv(N, 128))](
        x, weight, bias, out, M, N, K, *x.stride(), *weight.stride(), *bias.stride(), *out.stride(),
        BLOCK_M=128, BLOCK_N=128, BLOCK_K=32, num_warps=8,
    )


LINEAR_RELU = Exercise(
    name="matmul.linear_relu",
    task=prose("""
        ### Exercise 3: an epilogue of your own

        A linear layer with a ReLU: `out = relu(x @ weight.T + bias)`, with `weight` (N, K) and `bias` (N,). The
        product is there, as `acc`, in float32 and in registers. What follows it is missing. Where a sum is NaN, the
        result is NaN, as in PyTorch.
    """),
    reference=lambda x, weight, bias: torch.relu(torch.nn.functional.linear(x, weight, bias)),
    cases={
        "200 × 70 to 150": halves((200, 70), (150, 70), (150,)),
        "128 × 32 to 128": halves((128, 32), (128, 32), (128,)),
        "1 × 1 to 1": halves((1, 1), (1, 1), (1,)),
        "5 × 33 to 257": halves((5, 33), (257, 33), (257,)),
        "not contiguous: the weight transposed, every second bias": lambda randn: (
            randn(20, 40, dtype=torch.float16), randn(40, 140, dtype=torch.float16).T,
            randn(280, dtype=torch.float16)[::2],
        ),
        "NaN in x": lambda randn: (
            randn(30, 17, dtype=torch.float16).index_fill(0, torch.tensor(4), float("nan")),
            randn(20, 17, dtype=torch.float16), randn(20, dtype=torch.float16),
        ),
        "large: 1,001 × 100 to 130": halves((1001, 100), (130, 100), (130,)),
    },
    heavy=halves((8192, 768), (3072, 768), (3072,)),
    operations=lambda x, weight, bias: 2 * x.shape[0] * x.shape[1] * weight.shape[0],
    frugal=("launches",),
    solution=(linear_relu_kernel, linear_relu),
    hints=(
        "The bias is a row: one number for each column of the tile. Exercise 3 on the vector add added one to a tile.",
        "Load it where this program's columns are, `bias_ptr + offs_n * stride_bias`, under the mask of the columns, "
        "and add it as `[None, :]`. A ReLU keeps what is not less than zero.",
        "`acc += tl.load(bias_ptr + offs_n * stride_bias, mask=offs_n < N)[None, :]`, then `acc = tl.where(acc < 0, "
        "0.0, acc)`. A NaN is not less than zero, so it stays. `tl.maximum(acc, 0.0)` would drop it.",
    ),
    explanation=prose("""
        The tile is still in registers, where an addition and a comparison are as good as free. As kernels of their
        own they would read and write the whole result once more, each. All of it is float32: the rounding to float16
        happens once, in the store.
    """),
    wrong={
        "the bias stands upright": Wrong({"bias[None, :]": "bias[:, None]"}, SOME),
        "every tile gets the first piece of the bias": Wrong(
            {"bias_ptr + offs_n * stride_bias": "bias_ptr + tl.arange(0, BLOCK_N) * stride_bias"}, SOME
        ),
        "the bias has no mask": Wrong({"stride_bias, mask=offs_n < N)": "stride_bias)"}, "A load reached outside"),
        "ReLU before the bias": Wrong(
            {"    acc += bias[None, :].to(tl.float32)\n    acc = tl.where(acc < 0, 0.0, acc)\n":
             "    acc = tl.where(acc < 0, 0.0, acc)\n    acc += bias[None, :].to(tl.float32)\n"},
            SOME,
        ),
        "a maximum, which drops NaN": Wrong({"tl.where(acc < 0, 0.0, acc)": "tl.maximum(acc, 0.0)"}, "expected nan"),
        "a bias for each row": Wrong(
            {"bias_ptr + offs_n * stride_bias, mask=offs_n < N": "bias_ptr + offs_m * stride_bias, mask=offs_m < M"},
            "A load reached outside",
        ),
    },
)


@triton.jit
def batched_kernel(
    a_ptr, b_ptr, out_ptr, M, N, K,
    stride_ab, stride_am, stride_ak, stride_bb, stride_bk, stride_bn, stride_ob, stride_om, stride_on,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    #> ...  # find this program's matrix, and move the three pointers to where it begins
    batch = tl.program_id(2).to(tl.int64)
    a_ptr += batch * stride_ab
    b_ptr += batch * stride_bb
    out_ptr += batch * stride_ob
    #<
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = product_tile(a_ptr, b_ptr, offs_m, offs_n, M, N, K, stride_am, stride_ak, stride_bk, stride_bn,
                       BLOCK_M, BLOCK_N, BLOCK_K)
    inside = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    tl.store(out_ptr + offs_m[:, None] * stride_om + offs_n[None, :] * stride_on, acc, mask=inside)


def batched(a, b, out):
    (B, M, K), N = a.shape, b.shape[2]
    #> grid = ...  # programs for the rows, the columns and the matrices: a tuple of three numbers
    grid = (triton.cdiv(M, 128), triton.cdiv(N, 128), B)
    #<
    batched_kernel[grid](
        a, b, out, M, N, K, *a.stride(), *b.stride(), *out.stride(),
        BLOCK_M=128, BLOCK_N=128, BLOCK_K=32, num_warps=8,
    )


BATCHED = Exercise(
    name="matmul.batched",
    task=prose("""
        ### Exercise 4: many products in one launch

        `a` holds B matrices and `b` too: `out[i] = a[i] @ b[i]`. Small products do not fill a GPU one by one, but
        they do together. Give the grid a third dimension and each program its matrices. A batch is one more dimension
        with one more stride, so that a matrix shared by the whole batch (`b.expand(B, K, N)`) costs no copy.
    """),
    reference=lambda a, b: a @ b,
    cases={
        "3 times 150 × 40 by 40 × 130": halves((3, 150, 40), (3, 40, 130)),
        "2 times 128 × 32 by 32 × 128": halves((2, 128, 32), (2, 32, 128)),
        "1 × 1 by 1 × 1": halves((1, 1, 1), (1, 1, 1)),
        "5 times 9 × 33 by 33 × 7": halves((5, 9, 33), (5, 33, 7)),
        "not contiguous: every second matrix, transposed": lambda randn: (
            randn(4, 30, 50, dtype=torch.float16)[::2].mT, randn(2, 30, 20, dtype=torch.float16)
        ),
        "not contiguous: one b for all": lambda randn: (
            randn(3, 20, 30, dtype=torch.float16), randn(30, 40, dtype=torch.float16).expand(3, 30, 40)
        ),
        "large: 2 times 501 × 101 by 101 × 130": halves((2, 501, 101), (2, 101, 130)),
    },
    heavy=halves((64, 1024, 512), (64, 512, 1024)),
    operations=lambda a, b: 2 * a.numel() * b.shape[2],
    frugal=("launches", "copies"),
    solution=(batched_kernel, batched),
    hints=(
        "A grid has up to three dimensions, and `tl.program_id(2)` is a program's place in the third.",
        "Matrix number `i` of `a` begins `i * stride_ab` elements behind the first. Once the pointers stand there, "
        "the rest of the kernel need not know that there are others.",
        "`batch = tl.program_id(2).to(tl.int64)`, then `a_ptr += batch * stride_ab`, the same for `b_ptr` and "
        "`out_ptr`. The grid is `(triton.cdiv(M, 128), triton.cdiv(N, 128), B)`.",
    ),
    explanation=prose("""
        The offset of a matrix is the one that grows largest, so it is the one to compute in 64 bits. With a stride of
        0 every program reads the same `b`. `course.kernels.matmul` does the same for any number of batch dimensions,
        and turns a batch that shares its `b` into one matrix with more rows, whose tiles are fuller.

        A GPU allows 65,535 programs in the second and third dimension of a grid, and 2³¹ - 1 in the first: a kernel
        for any size would put all three into the first.
    """),
    wrong={
        "the output does not move": Wrong({"    out_ptr += batch * stride_ob\n": ""}, "both wrote out[0, 0, 0]"),
        "b does not move": Wrong({"    b_ptr += batch * stride_bb\n": ""}, SOME),
        "a copy of what the batch shares": Wrong(
            {"    grid = (": "    b = b.contiguous()\n    grid = ("}, "right, but PyTorch copies"
        ),
        "a launch for each matrix": Wrong(
            {", B)": ", 1)", "    batched_kernel[grid](\n        a, b, out, M,":
             "    for a, b, out in zip(a.split(1), b.split(1), out.split(1)):\n      batched_kernel[grid](\n"
             "        a, b, out, M,"},
            "right, but with 3 launches, where 1 would do",
        ),
        "the stride of a row instead": Wrong({"batch * stride_ab": "batch * stride_am"}, SOME),
        "a grid without the batch": Wrong({"triton.cdiv(N, 128), B)": "triton.cdiv(N, 128), 1)"}, "The end is missing"),
        "a batch that is always contiguous": Wrong({"batch * stride_bb": "batch * K * N"}, "one b for all"),
    },
)


@triton.jit
def gated_kernel(
    x_ptr, gate_ptr, up_ptr, out_ptr, M, N, K,
    stride_xm, stride_xk, stride_gn, stride_gk, stride_un, stride_uk, stride_om, stride_on,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    #> ...  # two tiles of sums, one loop over K, x loaded once a turn; then silu(gate) * up, and the store
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + offs_m[:, None] * stride_xm + offs_k[None, :] * stride_xk
    gate_ptrs = gate_ptr + offs_k[:, None] * stride_gk + offs_n[None, :] * stride_gn
    up_ptrs = up_ptr + offs_k[:, None] * stride_uk + offs_n[None, :] * stride_un

    gate = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, K, BLOCK_K):
        x_mask = (offs_m[:, None] < M) & (offs_k[None, :] < K - k)
        w_mask = (offs_k[:, None] < K - k) & (offs_n[None, :] < N)
        x = tl.load(x_ptrs, mask=x_mask, other=0.0)
        gate = tl.dot(x, tl.load(gate_ptrs, mask=w_mask, other=0.0), gate)
        up = tl.dot(x, tl.load(up_ptrs, mask=w_mask, other=0.0), up)
        x_ptrs += BLOCK_K * stride_xk
        gate_ptrs += BLOCK_K * stride_gk
        up_ptrs += BLOCK_K * stride_uk

    out = gate * tl.sigmoid(gate) * up
    inside = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    tl.store(out_ptr + offs_m[:, None] * stride_om + offs_n[None, :] * stride_on, out, mask=inside)
    #<


def gated(x, gate, up, out):
    (M, K), N = x.shape, gate.shape[0]
    gated_kernel[(triton.cdiv(M, 128), triton.cdiv(N, 128))](
        x, gate, up, out, M, N, K, *x.stride(), *gate.stride(), *up.stride(), *out.stride(),
        BLOCK_M=128, BLOCK_N=128, BLOCK_K=32, num_warps=8,
    )


def gated_reference(x, gate, up):
    linear = torch.nn.functional.linear
    return torch.nn.functional.silu(linear(x, gate)) * linear(x, up)


GATED = Exercise(
    name="matmul.gated",
    task=prose("""
        ### Exercise 5: a gated layer

        Most language models of today have this in place of a linear layer with an activation:

        ```python
        out = silu(x @ gate.T) * (x @ up.T)        # silu(z) = z * sigmoid(z)
        ```

        It is called SwiGLU; both weights are (N, K). In PyTorch it is two products and two more kernels, which write
        and read three tensors of the size of `out` on the way. Write it as one kernel, from nothing: two tiles of
        sums side by side, and each block of `x` loaded once for both.
    """),
    reference=gated_reference,
    cases={
        "200 × 70 to 150": halves((200, 70), (150, 70), (150, 70)),
        "128 × 32 to 128": halves((128, 32), (128, 32), (128, 32)),
        "1 × 1 to 1": halves((1, 1), (1, 1), (1, 1)),
        "5 × 33 to 257": halves((5, 33), (257, 33), (257, 33)),
        "not contiguous: both weights in one tensor, x transposed": lambda randn: (
            randn(40, 30, dtype=torch.float16).T, *randn(100, 80, dtype=torch.float16).split(40, dim=1)
        ),
        "large: 1,001 × 100 to 130": halves((1001, 100), (130, 100), (130, 100)),
        "long sums: 20 × 4,096 to 30": lambda randn: (
            randn(20, 4096, dtype=torch.float16), *(randn(30, 4096, dtype=torch.float16) / 64 for _ in range(2))
        ),
    },
    heavy=lambda randn: (
        randn(8192, 2048, dtype=torch.float16), *(randn(4096, 2048, dtype=torch.float16) / 32 for _ in range(2))
    ),
    operations=lambda x, gate, up: 4 * x.shape[0] * x.shape[1] * gate.shape[0],
    frugal=("launches", "reads"),
    solution=(gated_kernel, gated),
    hints=(
        "Begin with the loop of exercise 1. It needs a third block of pointers, for the second weight, and a second "
        "`acc`.",
        "The weights are (N, K): their blocks are walked with `offs_k[:, None] * stride_gk + offs_n[None, :] * "
        "stride_gn`, as if they were transposed. Both use the same mask. `tl.sigmoid` takes float32.",
        "In the loop: load `x`, then `gate = tl.dot(x, …, gate)` and `up = tl.dot(x, …, up)`, then move all three "
        "blocks of pointers. Behind it: `out = gate * tl.sigmoid(gate) * up`, and the store of step 2.",
    ),
    explanation=prose("""
        Two products share one operand, so the loop loads three blocks for two products and not four. The price is a
        second tile of sums in the registers, and the tile cannot be as large as it could be for one: 2 × 128 × 128
        float32 numbers are 128 KiB, half of a multiprocessor's registers.

        What is saved is the traffic of the intermediate results: `x @ gate.T` and `x @ up.T` are never written. (In
        training both are needed for the gradient, and a kernel would have to store them or compute them again.)
    """),
    wrong={
        "x is loaded for each of the two": Wrong(
            {"tl.dot(x, tl.load(up_ptrs": "tl.dot(tl.load(x_ptrs, mask=x_mask, other=0.0), tl.load(up_ptrs"},
            "right, but it reads",
        ),
        "sums in float16": Wrong(
            {"tl.zeros((BLOCK_M, BLOCK_N), tl.float32)": "tl.zeros((BLOCK_M, BLOCK_N), tl.float16)",
             "other=0.0), gate)": "other=0.0), gate, out_dtype=tl.float16)",
             "other=0.0), up)": "other=0.0), up, out_dtype=tl.float16)",
             "gate * tl.sigmoid(gate) * up": "gate * tl.sigmoid(gate.to(tl.float32)) * up"},
            "200 × 70 to 150: ",
        ),
        "gate and up are exchanged": Wrong({"gate * tl.sigmoid(gate) * up": "up * tl.sigmoid(up) * gate"}, SOME),
        "no gate at all": Wrong({"gate * tl.sigmoid(gate) * up": "gate * up"}, SOME),
        "a sigmoid and no silu": Wrong({"gate * tl.sigmoid(gate) * up": "tl.sigmoid(gate) * up"}, SOME),
        "up reads the gate's weights": Wrong({"up_ptrs = up_ptr": "up_ptrs = gate_ptr"}, SOME),
        "up stands still": Wrong({"        up_ptrs += BLOCK_K * stride_uk\n": ""}, SOME),
        "the weights are not masked in K": Wrong({"(offs_k[:, None] < K - k) & ": ""}, "A load reached outside"),
        "the weights' strides are swapped": Wrong(
            {"offs_k[:, None] * stride_gk + offs_n[None, :] * stride_gn":
             "offs_k[:, None] * stride_gn + offs_n[None, :] * stride_gk"},
            "not the right element",
        ),
    },
)

EXERCISES = (FILL_IN, GRAM, LINEAR_RELU, BATCHED, GATED)
