"""Exercises of the chapter on the Vision Transformer (notebooks/vit.ipynb)."""
import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from course.kernels import layer_norm, linear, scaled_dot_product_attention
from course.lab.checking.exercise import Exercise, Wrong, prose


def embeddings(images, patches, width):
    """Inputs of `embed`: the tokens with the strides that a convolution leaves them with."""

    def inputs(randn):
        tokens = randn(images, width, patches).mT
        return tokens, randn(width), randn(1 + patches, width)

    return inputs


@triton.jit
def embed_kernel(
    tokens_ptr, class_ptr, positions_ptr, out_ptr, n_cols, stride_image, stride_patch, stride_col,
    BLOCK_D: tl.constexpr,
):
    image, row = tl.program_id(0).to(tl.int64), tl.program_id(1)  # of out
    cols = tl.arange(0, BLOCK_D)
    inside = cols < n_cols
    if row == 0:
        token = tl.load(class_ptr + cols, mask=inside)
    else:
        #> token = ...  # 1. the patch that belongs into this row
        token = tl.load(
            tokens_ptr + image * stride_image + (row - 1) * stride_patch + cols * stride_col, mask=inside
        )
        #<
    #> position = ...  # 2. what is added in this row, the same in every image
    position = tl.load(positions_ptr + row * n_cols + cols, mask=inside)
    #<
    out_row = image * tl.num_programs(1) + row
    tl.store(out_ptr + out_row * n_cols + cols, token + position, mask=inside)


def embed(tokens, class_token, positions, out):
    #> grid = ...  # 3. a program for each row of each image: a tuple of two numbers
    grid = (out.shape[0], out.shape[1])
    #<
    embed_kernel[grid](
        tokens, class_token, positions, out, out.shape[2], *tokens.stride(),
        BLOCK_D=triton.next_power_of_2(out.shape[2]),
    )


def embed_reference(tokens, class_token, positions):
    return (torch.cat((class_token.expand(len(tokens), 1, -1), tokens), dim=1) + positions).contiguous()


EMBED = Exercise(
    name="vit.embed",
    task=prose("""
        ### Exercise 1: class token and positions in one kernel

        Step 2 above needs two kernels and moves the tokens twice: `torch.cat` writes them behind the class token, and
        `add` reads and writes them again. Fill in the three gaps of a kernel that does both at once. `tokens` is
        (images, patches, width), and its strides are those that the convolution left; `class_token` is (width,),
        `positions` (1 + patches, width), `out` (images, 1 + patches, width); these three are contiguous.
    """),
    reference=embed_reference,
    cases={
        "2 images, 4 patches, width 8": embeddings(2, 4, 8),
        "1 element": embeddings(1, 1, 1),
        "3 images, 15 patches, width 65": embeddings(3, 15, 65),
        "1 patch": embeddings(5, 1, 24),
        "not contiguous: every second patch": lambda randn: (randn(2, 14, 40)[:, ::2], randn(40), randn(8, 40)),
        "contiguous tokens": lambda randn: (randn(2, 9, 64), randn(64), randn(10, 64)),
        "large: 8 images, 16 patches, width 801": embeddings(8, 16, 801),
    },
    heavy=embeddings(256, 196, 768),
    frugal=("launches", "reads"),
    solution=(embed_kernel, embed),
    hints=(
        "Row 0 of an image is the class token, row 1 its patch 0, row 2 its patch 1. The positions know nothing of "
        "images: there is one for each row.",
        "Element (i, p, d) of `tokens` lies at `tokens_ptr + i * stride_image + p * stride_patch + d * stride_col`. "
        "`positions` is contiguous: row r begins at `r * n_cols`.",
        "`tl.load(tokens_ptr + image * stride_image + (row - 1) * stride_patch + cols * stride_col, mask=inside)`, "
        "`tl.load(positions_ptr + row * n_cols + cols, mask=inside)`, and `grid = (out.shape[0], out.shape[1])`.",
    ),
    explanation=prose("""
        Every token is read once and written once, where the two kernels read and write it twice. The `if` costs
        nothing: it asks for a number that is the same for all lanes of a program, and each program takes one of the
        two ways. The convolution wrote its result as (image, width, patch), so that neighbouring columns of a token
        are `patches` elements apart; the strides make that a matter of one multiplication. (They do not make it fast:
        neighbouring lanes read far apart. The fast path of this course therefore has its patches made by a linear
        layer, whose result lies in the order in which it is needed.)
    """),
    wrong={
        "the tokens begin in row 1 with patch 1": Wrong(
            {"(row - 1) * stride_patch": "row * stride_patch"}, "A load reached"
        ),
        "every image gets the patches of the first": Wrong(
            {"+ image * stride_image + ": "+ "}, "Some elements are right"
        ),
        "the positions go on from image to image": Wrong(
            {"positions_ptr + row * n_cols": "positions_ptr + (image * tl.num_programs(1) + row) * n_cols"},
            "A load reached outside",
        ),
        "the tokens are taken to be contiguous": Wrong(
            {"(row - 1) * stride_patch + cols * stride_col": "(row - 1) * n_cols + cols"}, "Some elements are right"
        ),
        "no program for the last row": Wrong({"out.shape[1])": "out.shape[1] - 1)"}, "there are too few programs"),
    },
)


@triton.jit
def cut_kernel(
    x_ptr, out_ptr, n_across, n_terms, stride_image, stride_channel, stride_row, stride_column,
    PATCH: tl.constexpr, BLOCK: tl.constexpr,
):
    image, patch = tl.program_id(0).to(tl.int64), tl.program_id(1)
    terms = tl.arange(0, BLOCK)  # of a row of out: channel, row and column in the patch
    #> ...  # where the patch begins, which pixel each term is, load, store
    top, left = patch // n_across * PATCH, patch % n_across * PATCH
    channel, row, column = terms // (PATCH * PATCH), terms // PATCH % PATCH, terms % PATCH
    offs = channel * stride_channel + (top + row) * stride_row + (left + column) * stride_column
    pixels = tl.load(x_ptr + image * stride_image + offs, mask=terms < n_terms)
    out_row = image * tl.num_programs(1) + patch
    tl.store(out_ptr + out_row * n_terms + terms, pixels, mask=terms < n_terms)
    #<


def cut(x, patch_size, out):
    n_images, n_patches, n_terms = out.shape
    cut_kernel[(n_images, n_patches)](
        x, out, x.shape[3] // patch_size, n_terms, *x.stride(),
        PATCH=patch_size, BLOCK=triton.next_power_of_2(n_terms),
    )


CUT = Exercise(
    name="vit.cut",
    task=prose("""
        ### Exercise 2: cut an image into patches

        In step 1, `unfold`, `permute` and `reshape` put the patches side by side. Write the kernel that does it: `x`
        is (images, channels, height, width), `out` is (images, patches, channels × size × size) and contiguous.
        Patches are counted along the rows of the image, `n_across` of them in each; program (i, p) makes row p of
        image i. In that row, the first size × size numbers are channel 0, row by row, then comes channel 1. What does
        not fill a patch at the right and lower edge is left out.
    """),
    reference=lambda x, patch_size: F.unfold(x, patch_size, stride=patch_size).mT.contiguous(),
    cases={
        "2 × 3 × 8 × 12, patches of 4": lambda randn: (randn(2, 3, 8, 12), 4),
        "1 element": lambda randn: (randn(1, 1, 1, 1), 1),
        "1 × 3 × 13 × 9, patches of 3, an edge left over": lambda randn: (randn(1, 3, 13, 9), 3),
        "a patch as large as the image": lambda randn: (randn(2, 5, 7, 7), 7),
        "not contiguous: channels_last": lambda randn: (randn(2, 8, 8, 3).permute(0, 3, 1, 2), 4),
        "not contiguous: a part of a larger image": lambda randn: (randn(1, 3, 20, 30)[:, :, 2:14, 5:25:2], 2),
        "large: 4 × 3 × 96 × 97, patches of 16": lambda randn: (randn(4, 3, 96, 97), 16),
    },
    heavy=lambda randn: (randn(256, 3, 224, 224), 16),
    solution=(cut_kernel, cut),
    hints=(
        "Two questions, each answered with `//` and `%`. Where in the image does patch p begin? And which channel, "
        "row and column in the patch is term t?",
        "Patch p is in row `p // n_across` and column `p % n_across` of patches; times `PATCH`, that is its first "
        "pixel. A channel has `PATCH * PATCH` terms, a row `PATCH`.",
        "`channel, row, column = terms // (PATCH * PATCH), terms // PATCH % PATCH, terms % PATCH`. Load at `channel * "
        "stride_channel + (top + row) * stride_row + (left + column) * stride_column` from this image, store at "
        "`(image * tl.num_programs(1) + patch) * n_terms + terms`; both where `terms < n_terms`.",
    ),
    explanation=prose("""
        One flat index, taken apart by divisions: an implicit convolution reads its input in the same way, with one
        difference. It does not store what it gathered, but multiplies it at once. `PATCH` is a `tl.constexpr`, so
        that the compiler turns divisions by a power of two into shifts. As for speed: `size` pixels lie next to each
        other, then the next row begins elsewhere; a program of its own for each patch reads many short pieces.
        `course.kernels.patchify` gives a whole row of patches to one program, which reads along the rows of the image
        and leaves the scattering to the stores. `lab.draw_access` shows both.
    """),
    wrong={
        "rows and columns of patches are swapped": Wrong(
            {"patch // n_across * PATCH, patch % n_across * PATCH":
             "patch % n_across * PATCH, patch // n_across * PATCH"},
            "A load reached outside",
        ),
        "rows and columns in a patch are swapped": Wrong(
            {"terms // PATCH % PATCH, terms % PATCH": "terms % PATCH, terms // PATCH % PATCH"},
            "Some elements are right",
        ),
        "patches overlap": Wrong(
            {"patch // n_across * PATCH, patch % n_across * PATCH": "patch // n_across, patch % n_across"},
            "Some elements are right",
        ),
        "the store has no mask": Wrong({"pixels, mask=terms < n_terms": "pixels"}, "A store went past the output"),
        "pixels are taken to be neighbours": Wrong(
            {"(left + column) * stride_column": "(left + column)"}, "is an index times the stride"
        ),
        "the row of the output forgets the image": Wrong(
            {"image * tl.num_programs(1) + patch\n": "patch\n"}, "The end is missing"
        ),
    },
)


def blocks(images, tokens, width, heads, dtype=torch.float32):
    """Inputs of `parallel_block`: weights that keep the size of what they are applied to."""

    def inputs(randn):
        shapes = (3 * width, width), (width, width), (4 * width, width), (width, 4 * width)
        weights = [randn(*shape, dtype=dtype) * shape[1] ** -0.5 for shape in shapes]
        return randn(images, tokens, width, dtype=dtype), randn(width, dtype=dtype), *weights, heads

    return inputs


def parallel_block(x, norm, qkv, output, hidden, down, heads, out):
    #> y = ...         # 1. the norm, which both branches read: (images, tokens, width)
    #> q, k, v = ...   # 2. one product, each of the three (images, heads, tokens, size)
    #> gathered = ...  # 3. attention, the heads side by side again: (images, tokens, width)
    #> z = ...         # 4. x + the attention branch
    #> z = ...         # 5. z + the MLP branch: two products
    y = layer_norm(x, norm.shape, norm)
    q, k, v = linear(y, qkv).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    gathered = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    z = linear(gathered, output, residual=x)
    z = linear(linear(y, hidden, activation="gelu"), down, residual=z)
    #<
    out.copy_(z)


def parallel_block_reference(x, norm, qkv, output, hidden, down, heads):
    y = F.layer_norm(x, norm.shape, norm)
    q, k, v = F.linear(y, qkv).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    gathered = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return x + F.linear(gathered, output) + F.linear(F.gelu(F.linear(y, hidden)), down)


PARALLEL_BLOCK = Exercise(
    name="vit.parallel_block",
    task=prose("""
        ### Exercise 3: another block

        ViT-22B, a Vision Transformer of 22 thousand million parameters, computes both halves of a block from one norm,
        side by side instead of one after the other:

        $$x \\leftarrow x + \\mathrm{attention}(n(x)) + \\mathrm{mlp}(n(x)).$$

        Write it with `layer_norm`, `linear` and `scaled_dot_product_attention` from `course.kernels`, in six calls. As
        in that model, the norm has a weight and no bias; its eps is `layer_norm`'s default. Here no product has a bias,
        either. `qkv` is (3 width, width): queries, keys and values one under the other, each of them in `heads` heads.
        `hidden` is (4 width, width), with GELU after it, `down` (width, 4 width).
    """),
    reference=parallel_block_reference,
    cases={
        "2 images, 5 tokens, width 32, 4 heads": blocks(2, 5, 32, 4),
        "1 element": blocks(1, 1, 1, 1),
        "1 image, 17 tokens, width 45, 3 heads": blocks(1, 17, 45, 3),
        "1 head": blocks(3, 7, 24, 1),
        "not contiguous: every second image": lambda randn: (
            randn(4, 9, 32)[::2], *blocks(1, 1, 32, 2)(randn)[1:]
        ),
        "large: 8 images, 197 tokens, width 64": blocks(8, 197, 64, 2),
    },
    heavy=blocks(64, 197, 768, 12, torch.bfloat16),
    operations=lambda x, *weights: x.shape[0] * x.shape[1] * x.shape[2] * (24 * x.shape[2] + 4 * x.shape[1]),
    frugal=("launches",),
    solution=(parallel_block,),
    hints=(
        "All of it is in steps 3 to 5 of this chapter; only what each call reads is different. Both branches read "
        "`y`, and `residual=` can be used twice.",
        "`linear(y, qkv)` is (images, tokens, 3 width). `.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)` makes "
        "q, k and v of it, `.transpose(1, 2).flatten(2)` puts the heads of the result side by side.",
        "`y = layer_norm(x, norm.shape, norm)`; the attention branch ends with `linear(gathered, output, "
        'residual=x)`; the MLP branch is `linear(linear(y, hidden, activation="gelu"), down, residual=z)`.',
    ),
    explanation=prose("""
        Six kernels where the block of this chapter has seven: a norm less. The residuals are added in two epilogues,
        first x in the attention's output, then that sum in the MLP's. The order does not matter, but each has to be
        used once. There is more to gain: `qkv` and `hidden` multiply the same `y`, so that one product with the
        weights one under the other, (7 width, width), would read `y` once; and so do `output` and `down`, whose
        results are added: side by side, (width, 5 width), they are one product with a longer sum. ViT-22B does both.
    """),
    wrong={
        "the MLP reads x without its norm": Wrong({"linear(y, hidden": "linear(x, hidden"}, "Every element is wrong"),
        "one after the other": Wrong(
            {"linear(linear(y, hidden": "linear(linear(layer_norm(z, norm.shape, norm), hidden"}, "look at the formula"
        ),
        "x is added twice": Wrong({"down, residual=z)": "down, residual=z + x)"}, "Every element is wrong"),
        "the attention branch is lost": Wrong({"residual=z)": "residual=x)"}, "Every element is wrong"),
        "GELU by tanh": Wrong({'activation="gelu"': 'activation="gelu_tanh"'}, "Nearly right"),
        "queries, keys and values of each head together": Wrong(
            {"(3, heads, -1)).permute(2, 0, 3, 1, 4)": "(heads, 3, -1)).permute(3, 0, 2, 1, 4)"},
            "Every element is wrong",
        ),
        "the heads stay in front": Wrong(
            {".transpose(1, 2).flatten(2)": ".flatten(1, 2).reshape(x.shape)"}, "Every element is wrong"
        ),
    },
)


@triton.jit
def pool_kernel(
    x_ptr, query_ptr, out_ptr, n_tokens, n_cols, scale, stride_image, stride_token, stride_col,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK_D)
    query = tl.load(query_ptr + cols, mask=cols < n_cols, other=0.0).to(tl.float32)
    #> ...  # a loop over the tokens, BLOCK_T at a time, each of them read once; then store
    highest, total = -float("inf"), 0.0
    gathered = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, n_tokens, BLOCK_T):
        tokens = start + tl.arange(0, BLOCK_T)
        inside = (tokens < n_tokens)[:, None] & (cols < n_cols)[None, :]
        offs = tokens[:, None] * stride_token + cols[None, :] * stride_col
        x = tl.load(x_ptr + image * stride_image + offs, mask=inside, other=0.0).to(tl.float32)
        scores = tl.sum(x * query[None, :], axis=1) * scale
        scores = tl.where(tokens < n_tokens, scores, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=0))
        shrink = tl.exp(highest - higher)
        e = tl.exp(scores - higher)
        total = total * shrink + tl.sum(e, axis=0)
        gathered = gathered * shrink + tl.sum(e[:, None] * x, axis=0)
        highest = higher
    tl.store(out_ptr + image * n_cols + cols, gathered / total, mask=cols < n_cols)
    #<


def pool(x, query, out):
    n_images, n_tokens, n_cols = x.shape
    pool_kernel[(n_images,)](
        x, query, out, n_tokens, n_cols, n_cols**-0.5, *x.stride(),
        BLOCK_T=16, BLOCK_D=triton.next_power_of_2(n_cols), num_warps=8,
    )


POOL = Exercise(
    name="vit.pool",
    task=prose("""
        ### Exercise 4: attention in place of a class token

        The class token goes through all blocks to collect, in the end, one vector for each image. Later models leave
        it out and ask only once, at the end, with one query *q* that was learned and is the same for every image:

        $$\\mathrm{out}_i = \\sum_t w_{it}\\, x_{it}, \\qquad
        w_i = \\mathrm{softmax}_t\\!\\left(\\frac{x_{it} \\cdot q}{\\sqrt{D}}\\right)$$

        Write the kernel: one program an image. `x` is (images, tokens, *D*), `query` (*D*,), `out` (images, *D*); the
        last two are contiguous. 196 tokens of 768 numbers do not fit into a program's registers, and reading them twice
        would take twice as long. So read `BLOCK_T` tokens at a time, and keep the highest score, the sum and the
        weighted sum of the tokens so far, as the online softmax and attention do.
    """),
    reference=lambda x, query: (
        ((x @ query) * x.shape[2] ** -0.5).softmax(dim=1).unsqueeze(1) @ x
    ).squeeze(1),
    cases={
        "2 images, 5 tokens, width 8": lambda randn: (randn(2, 5, 8), randn(8)),
        "1 element": lambda randn: (randn(1, 1, 1), randn(1)),
        "3 images, 16 tokens, width 64": lambda randn: (randn(3, 16, 64), randn(64)),
        "2 images, 49 tokens, width 65": lambda randn: (randn(2, 49, 65), 5 * randn(65)),
        "large scores": lambda randn: (randn(2, 40, 32) * 20, randn(32) * 20),
        "not contiguous: as a convolution leaves them": lambda randn: (randn(2, 24, 36).mT, randn(24)),
        "large: 4 images, 197 tokens, width 129": lambda randn: (randn(4, 197, 129), randn(129)),
    },
    heavy=lambda randn: (randn(1024, 196, 768), randn(768)),
    frugal=("reads",),
    solution=(pool_kernel, pool),
    hints=(
        "Without the softmax it would be a loop with one sum: `scores = tl.sum(x * query[None, :], axis=1)`, then "
        "`gathered += tl.sum(scores[:, None] * x, axis=0)`. With it, each turn of the loop finds a new highest score, "
        "and what was summed before has to be made smaller.",
        "If the highest score so far rises from m to m', then exp(s - m') = exp(s - m) · exp(m - m'). Multiply both "
        "sums by exp(m - m') before the new tokens are added. Begin with m = -infinity and sums of zero. Tokens that "
        "do not exist need a score of -infinity.",
        "In the loop: `higher = tl.maximum(highest, tl.max(scores, axis=0))`, `shrink = tl.exp(highest - higher)`, `e "
        "= tl.exp(scores - higher)`, `total = total * shrink + tl.sum(e, axis=0)`, `gathered = gathered * shrink + "
        "tl.sum(e[:, None] * x, axis=0)`, `highest = higher`. Store `gathered / total`.",
    ),
    explanation=prose("""
        Each token is read once, multiplied twice, and never written: 4 bytes a number in, and next to nothing out, so
        that the memory's speed is the limit. This is the kernel of the chapter on attention with a single query, and no
        matrix product is left in it: with one row, a tensor core would work for nothing. One program an image means
        that a few images leave most multiprocessors idle. For those the tokens of an image would be split among
        several programs, each with a highest score and two sums of its own, which a second kernel puts together by the
        same rule.
    """),
    wrong={
        "what was gathered is not made smaller": Wrong(
            {"gathered = gathered * shrink + ": "gathered = gathered + "}, "2 images, 49 tokens, width 65"
        ),
        "missing tokens get a score of zero": Wrong(
            {'scores = tl.where(tokens < n_tokens, scores, -float("inf"))': "scores = scores"}, "Every element is wrong"
        ),
        "no scale": Wrong({"axis=1) * scale": "axis=1)"}, "Every element is wrong"),
        "no highest score is taken away": Wrong(
            {"tl.maximum(highest, tl.max(scores, axis=0))": "tl.sum(tl.zeros((BLOCK_T,), tl.float32), axis=0)"},
            "large scores: ",
        ),
        "the sums are not divided": Wrong({"gathered / total": "gathered"}, "Every element is wrong"),
        "only the first tokens": Wrong(
            {"in range(0, n_tokens, BLOCK_T)": "in range(0, BLOCK_T, BLOCK_T)"}, "49 tokens"
        ),
    },
)

EXERCISES = (EMBED, CUT, PARALLEL_BLOCK, POOL)
