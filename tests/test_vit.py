import copy
import functools

import numpy as np
import pytest
import torch
from transformers import ViTConfig as HuggingFaceConfig
from transformers import ViTForImageClassification

from course import nn
from course.vit import ViT, ViTConfig
from tests.compare import assert_layers_like_pytorch
from tests.profile_kernels import assert_triton_only, peak_memory

TINY = dict(image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=80, num_labels=10)

CONFIGS = [
    {}, {"qkv_bias": False, "hidden_act": "relu"}, {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3},
    {"hidden_act": "gelu_pytorch_tanh", "num_attention_heads": 1}, {"image_size": (24, 44), "num_channels": 1},
    {"patch_size": 7, "num_hidden_layers": 1, "intermediate_size": 1}, {"num_labels": 0},
]


def twins(config, device="cpu", dtype=torch.float32):
    """The model on the course's layers and on PyTorch's, with the same weights, none of them 0 or 1."""
    ours = ViT(config).to(device, dtype).eval()
    theirs = ViT(config, layers=torch.nn).to(device, dtype).eval()
    for name, p in ours.named_parameters():
        if "norm" in name or name.endswith("bias"):
            p.normal_(float(name.endswith("weight")), 0.2)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def random_images(config, batch, device="cpu", dtype=torch.float32):
    return torch.randn(batch, config.num_channels, *config.image_size, device=device, dtype=dtype)


def from_hugging_face(tensors):
    """A HuggingFace state dict, of transformers 5, under our names."""
    renamed = {}
    for name, t in tensors.items():
        for theirs, ours in [
            ("vit.", ""), ("layers.", "blocks."), ("layernorm_before", "norm1"), ("layernorm_after", "norm2"),
            ("layernorm", "norm"), ("o_proj", "output"), ("fc1", "hidden"), ("fc2", "output"), ("classifier", "head"),
            ("cls_token", "class_token"), ("position_embeddings", "positions"),
            ("patch_embeddings.projection", "patches"),
        ]:
            name = name.replace(theirs, ours)
        renamed[name] = t
    for name in [name for name in renamed if ".q_proj." in name]:
        q, k, v = (renamed.pop(name.replace("q_proj", p)) for p in ("q_proj", "k_proj", "v_proj"))
        renamed[name.replace("q_proj", "qkv")] = torch.cat((q, k, v))
    return renamed


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_architecture_is_hugging_faces(changes):
    config = ViTConfig(**{**TINY, **changes})
    options = {name: getattr(config, name) for name in vars(config) if name != "num_labels"}
    options["patch_size"] = config.patch_size[0]
    original = ViTForImageClassification(HuggingFaceConfig(
        **options, num_labels=config.num_labels, attn_implementation="eager", initializer_range=0.2
    )).eval()
    for p in original.parameters():
        p.add_(0.1 * torch.randn_like(p))  # none of them 0 or 1
    model = ViT(config, layers=torch.nn).eval()
    model.load_state_dict(from_hugging_face(original.state_dict()), strict=True)
    x = random_images(config, 2)
    if config.num_labels:
        want = original(x).logits
    else:
        want = original.vit(x).last_hidden_state[:, 0]
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_like_pytorch(changes, device, ieee):
    config = ViTConfig(**{**TINY, **changes})
    ours, theirs = twins(config, device)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = random_images(config, 3, device)
    got = ours(x)
    assert got.shape == (3, config.num_labels or config.hidden_size)
    torch.testing.assert_close(got, theirs(x), rtol=1e-4, atol=1e-5)


def test_half(device):
    """float16 against the same weights in float32: the bound is that of a few dozen roundings of values about 1."""
    config = ViTConfig(**TINY)
    ours, theirs = twins(config, device, torch.float16)
    x = random_images(config, 2, device, torch.float16)
    got, want = ours(x), theirs.float()(x.float())
    assert got.dtype == torch.float16
    assert (got.float() - want).abs().max() <= 2**-6 * want.abs().max()


def test_every_step_is_a_submodule(device):
    model = ViT(ViTConfig(**TINY)).to(device).eval()
    shapes = {}
    for name, layer in model.named_modules():
        layer.register_forward_hook(lambda _, __, output, name=name: shapes.update({name: tuple(output.shape)}))
    model(random_images(model.config, 2, device))
    hidden, mlp = (2, 17, 48), (2, 17, 80)
    assert shapes == {
        "embeddings.patches": (2, 48, 4, 4), "embeddings": hidden,
        **{f"blocks.{i}.{step}".rstrip("."): shape for i in range(2) for step, shape in {
            "norm1": hidden, "attention.qkv": (2, 17, 144), "attention.output": hidden, "attention": hidden,
            "norm2": hidden, "mlp.hidden": mlp, "mlp.activation": mlp, "mlp.output": hidden, "mlp": hidden, "": hidden,
        }.items()},
        "norm": hidden, "head": (2, 10), "": (2, 10),
    }


@pytest.mark.parametrize("options, message", [
    ({"hidden_size": 50}, "ViT: expected hidden_size a multiple of 4 heads, got 50"),
    ({"hidden_size": "48"}, "ViT: expected hidden_size an integer from 1 to 16777216, got '48'"),
    ({"patch_size": 0}, "ViT: expected patch_size an integer from 1 to .*, or a list of 2, each an integer .*, got 0"),
    ({"image_size": (32, 32, 3)}, r"ViT: expected image_size an integer .* got \(32, 32, 3\)"),
    ({"layer_norm_eps": float("inf")}, "ViT: expected layer_norm_eps a finite number of at least 0, got inf"),
    ({"qkv_bias": 1}, "ViT: expected qkv_bias true or false, got 1"),
    ({"hidden_act": "silu"}, "ViT: expected hidden_act among gelu, gelu_new, gelu_pytorch_tanh, relu, got 'silu'"),
    ({"image_size": (7, 32)}, r"ViT: expected image_size at least patch_size \(8, 8\), got \(7, 32\)"),
])
def test_bad_config(options, message):
    with pytest.raises(ValueError, match=message):
        ViTConfig(**{**TINY, **options})


def test_integers_of_numpy():
    config = ViTConfig(**{name: np.int64(value) for name, value in TINY.items()})
    assert config == ViTConfig(**TINY) and config.grid == (4, 4)


@pytest.mark.parametrize("shape", [(2, 3, 32, 40), (2, 1, 32, 32), (3, 32, 32)])
def test_images_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"ViT: expected images \(batch, 3, 32, 32\), got \(\d, "):
        ViT(ViTConfig(**TINY))(torch.randn(shape))


def test_copies_and_compiles(device, ieee):
    ours, theirs = twins(ViTConfig(**TINY), device)
    x = random_images(ours.config, 2, device)
    compiled = torch.compile(copy.deepcopy(ours), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_base_at_full_size(device, ieee, capsys):
    """ViT-B/16 with random weights, every submodule's output against PyTorch's; in the interpreter under 60 s."""
    ours, theirs = twins(ViTConfig(), device)
    assert_layers_like_pytorch(ours, theirs, random_images(ours.config, 1, device), capsys)


@pytest.mark.gpu
@pytest.mark.parametrize("tf32", [True, False])
def test_only_triton_kernels_run(tf32, dtype, device, ieee):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    model = ViT(ViTConfig(num_hidden_layers=2)).to(device, dtype).eval()
    x = random_images(model.config, 2, device, dtype)
    assert_triton_only(lambda: model(x))


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 16])
def test_no_more_memory_than_pytorch(batch, dtype, device):
    x = random_images(ViTConfig(), batch, device, dtype)
    models = ViT(), ViT(layers=torch.nn), ViTForImageClassification(HuggingFaceConfig(num_labels=1000))
    ours, *theirs = [peak_memory(functools.partial(model.to(device, dtype).eval(), x)) for model in models]
    assert ours <= min(theirs)


@pytest.mark.gpu
def test_profile_sees_kernels_of_pytorch(device):
    """The two tests above are worth nothing unless this one passes."""
    x = torch.randn(64, 64, device=device)
    for run in (lambda: nn.functional.relu(x) + 1, lambda: nn.functional.relu(x) @ x):
        with pytest.raises(AssertionError, match="not Triton"):
            assert_triton_only(run)
