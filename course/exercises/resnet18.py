"""Exercises of the chapter on ResNet-18 (notebooks/resnet18.ipynb)."""
import copy

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from course import resnet
from course.kernels import adaptive_avg_pool2d, batch_norm, conv2d, linear, relu
from course.lab.checking.exercise import Exercise, Wrong, prose
from course.nn import replace_layers


def filters(randn, n_filters, channels, size=1, gain=1.0, dtype=torch.float32):
    """Weights that multiply the size of what they are applied to by `gain`."""
    return (randn(n_filters, channels, size, size) * gain * (channels * size**2) ** -0.5).to(dtype)


def bottlenecks(images, channels, planes, height, width, stride=1, projected=True, dtype=torch.float32):
    """Inputs of `bottleneck`; without the projection the block keeps the shape of its input."""

    def inputs(randn):
        wide = 4 * planes if projected else channels
        shortcut = filters(randn, wide, channels, dtype=dtype), randn(wide, dtype=dtype)
        return (
            randn(images, channels, height, width, dtype=dtype),
            filters(randn, planes, channels, dtype=dtype), randn(planes, dtype=dtype),
            filters(randn, planes, planes, 3, dtype=dtype), randn(planes, dtype=dtype),
            filters(randn, wide, planes, gain=0.25, dtype=dtype), randn(wide, dtype=dtype),
            *(shortcut if projected else (None, None)), stride,
        )

    return inputs


def bottleneck(x, weight1, bias1, weight2, bias2, weight3, bias3, shortcut_weight, shortcut_bias, stride, out):
    if shortcut_weight is None:
        shortcut = x
    else:
        #> shortcut = ...  # 1. x through a 1 × 1 convolution, as many pixels as the block's result
        shortcut = conv2d(x, shortcut_weight, shortcut_bias, stride=stride)
        #<
    #> y = ...  # 2. 1 × 1, ReLU
    #> y = ...  # 3. 3 × 3 with the stride, ReLU
    #> y = ...  # 4. 1 × 1, the shortcut, ReLU
    y = conv2d(x, weight1, bias1, activation="relu")
    y = conv2d(y, weight2, bias2, stride=stride, padding=1, activation="relu")
    y = conv2d(y, weight3, bias3, residual=shortcut, activation="relu")
    #<
    out.copy_(y)


def bottleneck_reference(
    x, weight1, bias1, weight2, bias2, weight3, bias3, shortcut_weight, shortcut_bias, stride
):
    shortcut = x if shortcut_weight is None else F.conv2d(x, shortcut_weight, shortcut_bias, stride)
    y = F.relu(F.conv2d(x, weight1, bias1))
    y = F.relu(F.conv2d(y, weight2, bias2, stride, padding=1))
    return F.relu(F.conv2d(y, weight3, bias3) + shortcut)


def bottleneck_operations(x, weight1, bias1, weight2, bias2, weight3, bias3, shortcut_weight, shortcut_bias, stride):
    pixels = x.shape[0] * (x.shape[2] // stride) * (x.shape[3] // stride)
    after = sum(w.numel() for w in (weight2, weight3, shortcut_weight) if w is not None)
    return 2 * pixels * (weight1.numel() * stride**2 + after)


BOTTLENECK = Exercise(
    name="resnet18.bottleneck",
    task=prose("""
        ### Exercise 1: ResNet-50's block

        From 50 layers on, a residual block is a *bottleneck*: a 1 × 1 convolution to few channels, the 3 × 3
        convolution on those, and a 1 × 1 convolution to four times as many. The norms are folded already, so that
        every convolution has a bias. The 3 × 3 has the block's stride. Where the block changes the shape, its shortcut
        goes through a 1 × 1 convolution with the same stride. Four calls of `conv2d` with its epilogues are all that
        is missing.
    """),
    reference=bottleneck_reference,
    cases={
        "2 × 8 × 6 × 6, stride 1, projected": bottlenecks(2, 8, 4, 6, 6),
        "stride 2": bottlenecks(2, 8, 4, 6, 6, stride=2),
        "1 pixel": bottlenecks(1, 1, 1, 1, 1),
        "shortcut as it is": bottlenecks(1, 16, 4, 7, 5, projected=False),
        "odd: 3 × 5 × 9 × 7, stride 2": bottlenecks(3, 5, 3, 9, 7, stride=2),
        "not contiguous: channels_last": lambda randn: (
            randn(2, 6, 8, 12).permute(0, 3, 1, 2), *bottlenecks(1, 12, 4, 1, 1)(randn)[1:]
        ),
        "large: 8 × 16 × 32 × 32": bottlenecks(8, 16, 4, 32, 32, projected=False),
    },
    heavy=bottlenecks(64, 256, 128, 56, 56, stride=2, dtype=torch.float16),
    operations=bottleneck_operations,
    frugal=("launches",),
    solution=(bottleneck,),
    hints=(
        "Step 5 above is a block with a shortcut of its own. Here there is one convolution more, and the stride is "
        "that of another one.",
        "A 3 × 3 convolution keeps the resolution with `padding=1`, a 1 × 1 needs none. Two of the convolutions have "
        "a stride: the 3 × 3, and the shortcut, whose result must have the same shape.",
        '`conv2d(x, weight1, bias1, activation="relu")`, then `conv2d(y, weight2, bias2, stride=stride, padding=1, '
        'activation="relu")`, then `conv2d(y, weight3, bias3, residual=shortcut, activation="relu")`. The shortcut is '
        "`conv2d(x, shortcut_weight, shortcut_bias, stride=stride)`, without a ReLU.",
    ),
    explanation=prose("""
        Four kernels; with a norm, a ReLU and an addition of their own it would be twelve. The shortcut has no ReLU: it
        is one side of the sum, and the ReLU comes after the addition, which is the order in which the epilogue applies
        residual and activation. The paper has the stride in the first 1 × 1 convolution; torchvision, and this course,
        have it in the 3 × 3, which throws away fewer pixels unseen. A 1 × 1 convolution with stride 2 looks at every
        fourth pixel only, as the shortcut still does.
    """),
    wrong={
        "the stride of the paper": Wrong(
            {"bias1, activation": "bias1, stride=stride, activation", "bias2, stride=stride, ": "bias2, "}, "stride 2: "
        ),
        "no stride in the shortcut": Wrong({"shortcut_bias, stride=stride": "shortcut_bias"}, "expected residual"),
        "a ReLU too many, in the shortcut": Wrong(
            {"shortcut_bias, stride=stride": 'shortcut_bias, stride=stride, activation="relu"'},
            "Some elements are right",
        ),
        "the shortcut after the ReLU": Wrong(
            {'residual=shortcut, activation="relu")': 'activation="relu") + shortcut'}, "Some elements are right"
        ),
        "no padding": Wrong({"stride=stride, padding=1": "stride=stride"}, "expected residual"),
        "no bias in the last convolution": Wrong({"(y, weight3, bias3": "(y, weight3"}, "Some elements are right"),
        "no ReLU at the end": Wrong(
            {'residual=shortcut, activation="relu"': "residual=shortcut"}, "Some elements are right"
        ),
    },
)


def norm(randn, channels, dtype=torch.float32):
    """(4, channels): a batch norm's mean, variance, weight and bias."""
    variance = randn(channels).abs() + 0.5
    return torch.stack((randn(channels), variance, randn(channels), randn(channels))).to(dtype)


def preactivations(images, channels, planes, height, width, dtype=torch.float32):
    """Inputs of `preactivation`, a block that keeps the shape of its input."""

    def inputs(randn):
        return (
            randn(images, channels, height, width, dtype=dtype),
            norm(randn, channels, dtype), filters(randn, planes, channels, 3, dtype=dtype),
            norm(randn, planes, dtype), filters(randn, channels, planes, 3, gain=0.25, dtype=dtype),
        )

    return inputs


def preactivation(x, norm1, weight1, norm2, weight2, out):
    mean, variance, weight, bias = norm2
    #> ...  # y = x + conv2(relu(norm2(conv1(relu(norm1(x)))))), in four calls
    s = weight / torch.sqrt(variance + 1e-5)
    y = relu(batch_norm(x, *norm1))
    y = conv2d(y, weight1 * s.view(-1, 1, 1, 1), bias - mean * s, padding=1, activation="relu")
    y = conv2d(y, weight2, padding=1, residual=x)
    #<
    out.copy_(y)


def preactivation_reference(x, norm1, weight1, norm2, weight2):
    y = F.conv2d(F.relu(F.batch_norm(x, *norm1)), weight1, padding=1)
    return x + F.conv2d(F.relu(F.batch_norm(y, *norm2)), weight2, padding=1)


PREACTIVATION = Exercise(
    name="resnet18.preactivation",
    task=prose("""
        ### Exercise 2: norm first

        A year after the first ResNets their authors turned the block around: norm and ReLU come *before* each
        convolution, and nothing at all after the addition:

        $$y = x + \\mathrm{conv}_2(r_2), \\quad r_2 = \\mathrm{relu}(\\mathrm{norm}_2(\\mathrm{conv}_1(r_1))), \\quad
        r_1 = \\mathrm{relu}(\\mathrm{norm}_1(x))$$

        One of the two norms can still be folded into a convolution. Which one, and into which convolution? Write the
        block with four calls of `course.kernels`. A norm comes as one tensor of its mean, variance, weight and bias,
        so that `batch_norm(x, *norm1)` applies it; ε is 10⁻⁵. Both convolutions are 3 × 3 with padding 1 and have no
        bias.
    """),
    reference=preactivation_reference,
    cases={
        "2 × 4 × 6 × 6": preactivations(2, 4, 4, 6, 6),
        "1 pixel": preactivations(1, 1, 1, 1, 1),
        "4 channels to 7 and back": preactivations(2, 4, 7, 6, 6),
        "odd: 1 × 3 × 9 × 5": preactivations(1, 3, 5, 9, 5),
        "not contiguous: every second row": lambda randn: (
            randn(1, 6, 14, 7)[:, :, ::2], *preactivations(1, 6, 6, 1, 1)(randn)[1:]
        ),
        "large: 8 × 16 × 32 × 32": preactivations(8, 16, 4, 32, 32),
    },
    heavy=preactivations(256, 64, 64, 56, 56, torch.float16),
    operations=lambda x, norm1, weight1, norm2, weight2: (
        2 * x.shape[0] * x.shape[2] * x.shape[3] * (weight1.numel() + weight2.numel())
    ),
    frugal=("launches",),
    solution=(preactivation,),
    hints=(
        "A norm can be folded into a convolution that stands directly before it. What stands before norm1, and what "
        "before norm2?",
        "norm2 folds into conv1: multiply the weights of filter k by `s[k]`, and give the convolution the bias `bias "
        "- mean * s`, as in step 3. The ReLU that follows is its activation.",
        "`s = weight / torch.sqrt(variance + 1e-5)`, then `y = relu(batch_norm(x, *norm1))`, then `conv2d(y, weight1 "
        '* s.view(-1, 1, 1, 1), bias - mean * s, padding=1, activation="relu")`, and last `conv2d(y, weight2, '
        "padding=1, residual=x)`.",
    ),
    explanation=prose("""
        norm2 stands behind conv1 with nothing between them: it folds, and its ReLU goes into the epilogue. norm1
        cannot go anywhere: what stands before it is the addition of the block before, whose result is also needed
        without the norm, as the x of this sum. And it cannot go into conv1 either, for between them is a ReLU. (Even
        without one it could not, for a padded convolution: the padding is zero *after* the norm.) Norm and ReLU in one
        kernel would save two of the nine passes that are left. Better still, the block before could write both: the
        sum, and, from the same registers, what norm and ReLU make of it.
    """),
    wrong={
        "norm2 folded into conv2": Wrong(
            {"weight1 * s.view(-1, 1, 1, 1), bias - mean * s, padding=1": "weight1, padding=1",
             "(y, weight2, ": "(y, weight2 * s.view(1, -1, 1, 1), "},
            "Every element is wrong",
        ),
        "the scale along the channels that come in": Wrong(
            {"s.view(-1, 1, 1, 1)": "s.view(1, -1, 1, 1)"}, "Every element is wrong"
        ),
        "no bias": Wrong({"bias - mean * s, padding=1": "padding=1"}, "Every element is wrong"),
        "the bias without the mean": Wrong({"bias - mean * s": "bias"}, "Every element is wrong"),
        "the shortcut after norm and ReLU": Wrong(
            {"y = relu(batch_norm(x, *norm1))": "x = y = relu(batch_norm(x, *norm1))"}, "Every element is wrong"
        ),
        "a ReLU after the addition": Wrong(
            {"residual=x)": 'residual=x, activation="relu")'}, "Some elements are right"
        ),
    },
)


def with_numbers(model, randn):
    """`model` in eval mode with weights and statistics drawn from `randn`, none of which wants a gradient."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 1
            drawn = randn(*tensor.shape) * fan_in**-0.5
            tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)
    return model.eval().requires_grad_(False)


def two_convolutions(randn):
    return with_numbers(torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, stride=2, bias=False), torch.nn.BatchNorm2d(6), torch.nn.ReLU(),
        torch.nn.Sequential(torch.nn.Conv2d(6, 4, 1), torch.nn.BatchNorm2d(4, eps=1e-2)),
    ), randn)


def one_convolution(randn):
    return with_numbers(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1)), randn)


def grouped(randn):
    return with_numbers(
        torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, groups=2, bias=False), torch.nn.BatchNorm2d(8)), randn
    )


def residual_block(randn):
    return with_numbers(resnet.BasicBlock(3, 5, 2, torch.nn), randn)


def narrow_resnet18(randn):
    return with_numbers(resnet.resnet18(num_classes=10, width=4, layers=torch.nn), randn)


def without_norms(x, model, out):
    model = copy.deepcopy(model).to(x.device)
    with torch.no_grad():
        #> ...  # fold each norm into the convolution before it, and put torch.nn.Identity() in its place
        previous = None
        for name, layer in list(model.named_modules()):
            if isinstance(layer, torch.nn.BatchNorm2d):
                s = layer.weight / torch.sqrt(layer.running_var + layer.eps)
                before = 0 if previous.bias is None else previous.bias
                previous.weight = torch.nn.Parameter(previous.weight * s.view(-1, 1, 1, 1))
                previous.bias = torch.nn.Parameter((before - layer.running_mean) * s + layer.bias)
                model.set_submodule(name, torch.nn.Identity())
            previous = layer
        #<
        norms = [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        if norms:
            raise ValueError(f"these norms are still there: {', '.join(norms)}")
        replace_layers(model)
        out.copy_(model(x))


WITHOUT_NORMS = Exercise(
    name="resnet18.without_norms",
    task=prose("""
        ### Exercise 3: fold the norms of a model that exists

        The fast path folds the norms of *our* ResNet. Now do it to any model: go through its modules, fold every
        `BatchNorm2d` into the convolution before it, and put an `Identity` in its place. `replace_layers`, which comes
        after it, then finds no norm any more. You may take for granted that a norm's convolution is the module that
        stands directly before it in `model.named_modules()`, as it does in torchvision's ResNets. `model` is in eval
        mode, and a copy: change it as you like. A convolution may have a bias of its own, and a norm may have another
        ε.
    """),
    reference=lambda x, model: copy.deepcopy(model).to(x.device, x.dtype)(x),
    cases={
        "two convolutions": lambda randn: (randn(2, 3, 9, 9), two_convolutions(randn)),
        "1 element": lambda randn: (randn(1, 1, 1, 1), one_convolution(randn)),
        "a residual block with a shortcut": lambda randn: (randn(1, 3, 7, 7), residual_block(randn)),
        "groups": lambda randn: (randn(1, 4, 5, 6), grouped(randn)),
        "not contiguous: channels_last": lambda randn: (
            randn(2, 9, 11, 3).permute(0, 3, 1, 2), two_convolutions(randn)
        ),
        "a narrow ResNet-18": lambda randn: (randn(1, 3, 33, 33), narrow_resnet18(randn)),
        "large: 4 × 3 × 96 × 96": lambda randn: (randn(4, 3, 96, 96), two_convolutions(randn)),
    },
    solution=(without_norms,),
    hints=(
        "A loop over `list(model.named_modules())` (a list, because the model changes on the way) that remembers the "
        "module before. The formula is that of step 3; only the convolution's own bias is new.",
        "With s = weight / √(running_var + eps), norm(w * x + b) = (s w) * x + (b - running_mean) s + bias. A "
        "convolution takes new tensors as `torch.nn.Parameter`. `model.set_submodule(name, torch.nn.Identity())` puts "
        "a module into another's place.",
        "In the loop, for a norm called `layer` after a convolution called `previous`: `previous.weight = "
        "torch.nn.Parameter(previous.weight * s.view(-1, 1, 1, 1))`, `previous.bias = torch.nn.Parameter((b - "
        "layer.running_mean) * s + layer.bias)`, where `b` is the old bias, or 0 if that is None.",
    ),
    explanation=prose("""
        Every `conv` of the model now has a bias and every norm is gone, in a model of any origin: with `replace_layers`
        a torchvision ResNet-18 runs 20 kernels less. What cannot be done from outside is the fusion with the ReLU and
        the addition, since these are called in the model's `forward`. And the order of the modules is an assumption.
        `named_modules` lists them as they were created, not as they are called; in a DenseNet a norm comes before its
        convolution, and the same loop would make nonsense of it, without an error. `torch.fx` records the calls
        themselves. Either way, compare the model's results before and after.
    """),
    wrong={
        "the convolution's own bias is forgotten": Wrong({"(before - layer": "(0 - layer"}, "Every element is wrong"),
        "the bias is not scaled": Wrong(
            {"(before - layer.running_mean) * s + layer.bias": "before - layer.running_mean * s + layer.bias"},
            "Every element is wrong",
        ),
        "an eps of one's own": Wrong(
            {"layer.running_var + layer.eps": "layer.running_var + 1e-5"}, "Some elements are right"
        ),
        "the norm stays": Wrong({"model.set_submodule(name, torch.nn.Identity())": "pass"}, "still there: 1, 3.1"),
        "only the top level": Wrong({"model.named_modules())": "model.named_children())"}, "still there: 3.1"),
        "the scale along the channels that come in": Wrong(
            {"s.view(-1, 1, 1, 1)": "s.view(1, -1, 1, 1)"}, "The size of tensor"
        ),
    },
)


@triton.jit
def gate_kernel(
    x_ptr, gate_ptr, residual_ptr, out_ptr, n_channels, n_pixels, x_strides, residual_strides, out_strides,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    pixels = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    #> ...  # relu(x * sigmoid(gate) + residual) for this tile of channels and pixels
    exists = channels < n_channels
    inside = exists[:, None] & (pixels < n_pixels)[None, :]
    gate = tl.load(gate_ptr + image * n_channels + channels, mask=exists, other=0.0).to(tl.float32)
    c, p = channels[:, None], pixels[None, :]
    x_offs = image * x_strides[0] + c * x_strides[1] + p * x_strides[2]
    residual_offs = image * residual_strides[0] + c * residual_strides[1] + p * residual_strides[2]
    out_offs = image * out_strides[0] + c * out_strides[1] + p * out_strides[2]
    x = tl.load(x_ptr + x_offs, mask=inside).to(tl.float32)
    residual = tl.load(residual_ptr + residual_offs, mask=inside).to(tl.float32)
    tl.store(out_ptr + out_offs, tl.maximum(x * tl.sigmoid(gate)[:, None] + residual, 0.0), mask=inside)
    #<


def squeeze_excite(x, weight1, bias1, weight2, bias2, residual, out):
    #> gate = ...  # (images, channels): the mean over all pixels, linear with ReLU, linear
    mean = adaptive_avg_pool2d(x, 1).flatten(1)
    gate = linear(linear(mean, weight1, bias1, activation="relu"), weight2, bias2)
    #<
    x, residual, out = (t.flatten(2) for t in (x, residual, out))  # (images, channels, pixels)
    n_images, n_channels, n_pixels = out.shape
    gate_kernel[(n_images, triton.cdiv(n_channels, 16), triton.cdiv(n_pixels, 128))](
        x, gate, residual, out, n_channels, n_pixels, x.stride(), residual.stride(), out.stride(),
        BLOCK_C=16, BLOCK_P=128,
    )


def squeezes(images, channels, reduced, height, width, memory_format=torch.contiguous_format):
    """Inputs of `squeeze_excite`."""

    def inputs(randn):
        x, residual = (
            randn(images, channels, height, width).contiguous(memory_format=memory_format) for _ in range(2)
        )
        weights = (
            randn(reduced, channels) * channels**-0.5, randn(reduced),
            randn(channels, reduced) * reduced**-0.5, randn(channels),
        )
        return x, *weights, residual

    return inputs


def squeeze_excite_reference(x, weight1, bias1, weight2, bias2, residual):
    gate = F.linear(F.relu(F.linear(x.mean((2, 3)), weight1, bias1)), weight2, bias2).sigmoid()
    return F.relu(x * gate[:, :, None, None] + residual)


SQUEEZE_EXCITE = Exercise(
    name="resnet18.squeeze_excite",
    task=prose("""
        ### Exercise 4: a new ResNet

        A squeeze-and-excitation network ends each block's *f* by asking: which channels matter in *this* image? The
        mean of each channel over all pixels goes through two small linear layers, the first to fewer channels and with
        a ReLU, the second back; a sigmoid makes a number between 0 and 1 of each result, and with it the whole channel
        is multiplied. Then come the shortcut and the ReLU, as always:

        $$y = \\mathrm{relu}\\big(x \\cdot \\mathrm{sigmoid}(W_2\\, \\mathrm{relu}(W_1 \\bar x + b_1) + b_2) + r\\big)$$

        Compute the gate, without its sigmoid, with `adaptive_avg_pool2d` and `linear`. Then write the kernel that does
        all the rest in one pass: a program owns a tile of `BLOCK_C` channels and `BLOCK_P` pixels of one image. `gate`
        is contiguous; the strides of the others are tuples of three: image, channel, pixel.
    """),
    reference=squeeze_excite_reference,
    cases={
        "2 × 8 × 6 × 6": squeezes(2, 8, 4, 6, 6),
        "1 element": squeezes(1, 1, 1, 1, 1),
        "odd: 3 × 17 × 5 × 27": squeezes(3, 17, 2, 5, 27),
        "1 pixel, 33 channels": squeezes(2, 33, 8, 1, 1),
        "not contiguous: channels_last": squeezes(2, 20, 5, 7, 9, torch.channels_last),
        "not contiguous: residual of every second channel": lambda randn: (
            *squeezes(2, 9, 3, 4, 5)(randn)[:5], randn(2, 18, 4, 5)[:, ::2]
        ),
        "large: 2 × 64 × 28 × 29": squeezes(2, 64, 16, 28, 29),
    },
    heavy=squeezes(256, 64, 16, 56, 56),
    frugal=("launches",),
    solution=(gate_kernel, squeeze_excite),
    hints=(
        "The gate is three calls: `adaptive_avg_pool2d(x, 1)` has shape (images, channels, 1, 1), `.flatten(1)` makes "
        "a matrix of it, and `linear` can apply the ReLU itself.",
        "In the kernel, load the gates of `BLOCK_C` channels, a row of numbers, and multiply the tile by "
        "`tl.sigmoid(gate)[:, None]`. The element (image, c, p) of x lies at `image * x_strides[0] + c * x_strides[1] "
        "+ p * x_strides[2]`. A lane needs a channel and a pixel that exist.",
        '`gate = linear(linear(mean, weight1, bias1, activation="relu"), weight2, bias2)`. In the kernel: `inside = '
        "(channels < n_channels)[:, None] & (pixels < n_pixels)[None, :]`, load x and residual with it, store "
        "`tl.maximum(x * tl.sigmoid(gate)[:, None] + residual, 0.0)`.",
    ),
    explanation=prose("""
        x is read twice, once for its mean and once to be scaled: the gate of a channel depends on all of its pixels,
        so that the first pass has to end before the second can begin. Residual and result move once. That makes four
        passes; sigmoid, product, addition and ReLU as operations of PyTorch's make eight. The first pass could be
        saved: the convolution before has the pixels in its registers, and could add them up for each channel as it
        writes them. To make a network of it, give `BasicBlock` two more linear layers and call this in place of its
        addition.
    """),
    wrong={
        "no sigmoid": Wrong({"tl.sigmoid(gate)": "gate"}, "Some elements are right"),
        "every image has the gates of the first": Wrong(
            {"gate_ptr + image * n_channels + channels": "gate_ptr + channels"}, "Only the first image is right"
        ),
        "the gates are of pixels": Wrong(
            {"tl.sigmoid(gate)[:, None]": "tl.sigmoid(gate)[None, :]"}, "Two blocks of different shapes"
        ),
        "pixels are not masked": Wrong(
            {"exists[:, None] & (pixels < n_pixels)[None, :]": "exists[:, None] & (pixels >= 0)[None, :]"},
            "A store went past the output",
        ),
        "the residual has the strides of x": Wrong(
            {"image * residual_strides[0] + c * residual_strides[1] + p * residual_strides[2]": "x_offs"},
            "residual of every second channel: ",
        ),
        "no ReLU between the linear layers": Wrong({'bias1, activation="relu"': "bias1"}, "Some elements are right"),
        "the ReLU before the residual": Wrong(
            {"[:, None] + residual, 0.0)": "[:, None], 0.0) + residual"}, "Some elements are right"
        ),
    },
)

EXERCISES = (BOTTLENECK, PREACTIVATION, WITHOUT_NORMS, SQUEEZE_EXCITE)
