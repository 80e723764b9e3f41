"""Whether a given model computes what ours of the same tensors does.

Tensors that fit say nothing about the layers between them: a LeakyReLU has none, and a stride is not in any. So the
layers are compared by name, for a message that helps; and then both are run on one small image, which finds what no
list of options would.
"""
import copy

import torch

OPTIONS = (
    "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode", "ceil_mode", "return_indices",
    "output_size", "eps",
)
TOLERANCE = 1e-4
"""Of the largest logit. Both run the same operations of PyTorch in float32."""

IMAGE = (64, 96)
"""Height and width. Five halvings leave 2 by 3 pixels: a maximum is not their mean, and rows are not columns."""


def check_layers(original: torch.nn.Module, twin: torch.nn.Module) -> None:
    """Raises ValueError where a layer of `original` is of another kind, or has other options, than in `twin`, ours on
    torch.nn's layers.

    A norm of another class passes as long as its eps is the same: FrozenBatchNorm2d computes what BatchNorm2d does.
    """
    theirs = dict(original.named_modules())
    for name, layer in twin.named_modules():
        other, kind = theirs.get(name), type(layer).__name__
        if not any(True for _ in layer.children()) and not layer.state_dict():
            # a shortcut that leaves x as it is has no layer in torchvision
            if not isinstance(other, getattr(torch.nn, kind)) and not (kind == "Identity" and other is None):
                raise ValueError(f"load_resnet: expected {name} to be {kind}, got {type(other).__name__}")
        for option in OPTIONS:
            expected, got = getattr(layer, option, None), getattr(other, option, None)
            if expected is not None and as_pair(got) != as_pair(expected):
                raise ValueError(f"load_resnet: expected {name} with {option} {expected}, got {got}")


def as_pair(value):
    """3 as (3, 3), which means the same to a layer of two dimensions."""
    return (value, value) if type(value) is int else value


@torch.no_grad()
def check_results(original: torch.nn.Module, twin: torch.nn.Module) -> None:
    """Raises ValueError unless `original` computes what `twin` does, with its own weights and with random ones.

    `twin` is ours on torch.nn's layers and the meta device. Both run in float32 and eval mode where `original` is, on
    a copy of it: nothing of it changes, nor does PyTorch's random state. The random weights find what its own would
    hide, a block for instance whose last norm still has the zeros that it was initialised with.
    """
    random = torch.Generator().manual_seed(0)
    device = next(original.parameters()).device
    image = torch.randn((1, twin.conv1.in_channels, *IMAGE), generator=random).to(device)
    try:
        original = copy.deepcopy(original).eval().float()
        twin.load_state_dict(original.state_dict(), strict=False, assign=True)  # from now on they share their tensors
        for weights in ("its own", "random"):
            if weights == "random":
                for tensor in original.state_dict().values():
                    if tensor.is_floating_point():
                        tensor.copy_(random_values(tensor.shape, random))
            got, want = original(image), twin.eval()(image)
            if not isinstance(got, torch.Tensor) or got.shape != want.shape:
                shape = tuple(got.shape) if isinstance(got, torch.Tensor) else type(got).__name__
                raise ValueError(f"expected logits {tuple(want.shape)}, got {shape}")
            bound = TOLERANCE * want.abs().max()
            if not torch.isclose(got, want, rtol=0, atol=bound.item(), equal_nan=True).all():
                raise ValueError(f"with {weights} weights its logits for one image are up to "
                                 f"{(got - want).abs().max().item():.2g} from ours, whose largest is "
                                 f"{want.abs().max().item():.2g}")
    except Exception as error:  # whatever its forward raises
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"load_resnet: expected a model that computes what torchvision's ResNet does, got another: {reason}"
        ) from None


def random_values(shape, generator):
    """Filters that keep the variance; scales, shifts and statistics between 0.5 and 1.5."""
    if len(shape) < 2:
        return torch.rand(shape, generator=generator) + 0.5
    return torch.randn(shape, generator=generator) * (2 / max(torch.Size(shape[1:]).numel(), 1)) ** 0.5
