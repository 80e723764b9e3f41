import copy
import gc
import weakref

import pytest
import torch

import course
from course import fast_vit, resnet
from course.data import digits
from course.load_weights import load_resnet, load_vit
from course.fast_path import Fast
from course.runtime import INTERPRET
from course.vit import ViT, ViTConfig
from tests.profile_kernels import assert_triton_only

SMALL = dict(image_size=(24, 16), patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
             intermediate_size=48, num_labels=5)  # fmt: skip


def randomised(model, device):
    """`model` with statistics and shifts that are not their initial zeros and ones, in eval mode."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.LayerNorm)):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.3)
    return model.to(device).eval()


def small_vit(device, **kwargs):
    return randomised(ViT(ViTConfig(**{**SMALL, **kwargs}), layers=torch.nn), device)


def small_resnet(device):
    return randomised(resnet.resnet18(num_classes=5, width=16, layers=torch.nn), device)


def relative(got, want):
    return ((got.double() - want.double()).abs().max() / want.double().abs().max()).item()


@pytest.fixture(params=[small_vit, small_resnet], ids=["vit", "resnet"])
def model(request, device):
    return request.param(device)


@pytest.fixture
def images(device):
    return torch.randn(3, 3, 24, 16, device=device)


@pytest.mark.usefixtures("ieee")
def test_same_as_the_plain_model(model, images):
    assert relative(course.optimize(model)(images), model(images)) < 1e-5


@pytest.mark.parametrize("config", [
    {"num_labels": 0}, {"num_hidden_layers": 1}, {"qkv_bias": False},
    {"hidden_act": "relu"}, {"hidden_act": "gelu_new"},
])  # fmt: skip
@pytest.mark.usefixtures("ieee")
def test_other_vits(config, images):
    model = small_vit(images.device, **config)
    assert relative(course.optimize(model)(images), model(images)) < 1e-5


@pytest.mark.parametrize("few", [0, 5])  # of 7 tokens an image: none are few, or the class tokens alone
@pytest.mark.usefixtures("ieee")
def test_many_tokens_are_normalised_by_kernels(few, images, monkeypatch):
    monkeypatch.setattr(fast_vit, "FEW", few)
    model = small_vit(images.device)
    for batch in (images, images[:1]):
        assert relative(course.optimize(model)(batch), model(batch)) < 1e-5


@pytest.mark.usefixtures("ieee")
def test_bottlenecks(images):
    model = randomised(resnet.resnet50(num_classes=5, width=4, layers=torch.nn), images.device)
    assert relative(course.optimize(model)(images), model(images)) < 1e-5


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 1e-2), (torch.bfloat16, 8e-2)])
def test_half_precision(model, images, dtype, tolerance):
    logits = course.optimize(model, dtype=dtype)(images)
    assert logits.dtype == dtype
    assert relative(logits, model(images)) < tolerance


@pytest.mark.parametrize("load", [load_vit, load_resnet])
@pytest.mark.usefixtures("ieee")
def test_all_digits_are_read_alike(load, device):
    images = digits("test")[0].to(device)
    logits = load(layers=torch.nn).to(device)(images)
    if INTERPRET:  # which takes long: those that the original is least sure of
        first, second = logits.topk(2).values.T
        hardest = (first - second).argsort()[:40]
        images, logits = images[hardest], logits[hardest]
    fast = course.optimize(load().to(device))
    assert torch.equal(fast(images).argmax(1), logits.argmax(1))


def test_inputs_are_not_written_and_outputs_not_overwritten(model, images):
    fast = course.optimize(model)
    kept_images = images.clone()
    first = fast(images)
    kept = first.clone()
    fast(torch.randn_like(images))
    assert torch.equal(images, kept_images) and torch.equal(first, kept)


def test_called_in_inference_mode_and_out_of_it(model, images):
    fast = course.optimize(model)
    with torch.inference_mode():
        first = fast(images.clone())
    assert torch.equal(fast(images), first)


def test_any_dtype_and_strides_of_images(model, images):
    fast = course.optimize(model)
    want = fast(images)
    strided = torch.zeros(3, 3, 24, 32, device=images.device, dtype=torch.float64)[..., ::2]
    strided.copy_(images)
    for same in (strided, images.to(memory_format=torch.channels_last)):
        assert torch.equal(fast(same), want)


@pytest.mark.usefixtures("ieee")
def test_changed_weights_are_followed(model, images):
    fast = course.optimize(model)
    before = fast(images)
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    model.load_state_dict(other.state_dict())
    after = fast(images)
    assert relative(after, other(images)) < 1e-5 < relative(before, after)


def test_weights_are_packed_only_where_they_differ(device):
    model = small_vit(device)
    weight = model.blocks[0].attention.output.weight
    plans = [course.optimize(model, dtype).plan for dtype in (torch.float32, torch.float16)]
    same, half = (plan.blocks[0].output.weight for plan in plans)
    assert same.data_ptr() == weight.data_ptr()
    assert half.dtype == torch.float16 and torch.equal(half, weight.half())


def test_a_replaced_parameter_is_not_ignored(model, images):
    fast = course.optimize(model)
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]  # shared, not packed
    last.weight = torch.nn.Parameter(last.weight * 2)
    with pytest.raises(RuntimeError, match="got new ones: call course.optimize on it again"):
        fast(images)


def test_works_on_when_the_model_is_gone(images):
    model = small_resnet(images.device)
    gone = weakref.ref(model.layer1[0].conv1.weight)
    fast = course.optimize(model)
    before = fast(images)
    del model
    gc.collect()
    assert gone() is None and torch.equal(fast(images), before)


def test_images_that_do_not_fit(model):
    fast = course.optimize(model)
    with pytest.raises(ValueError, match=r"expected images \(batch, 3, .*got \(2, 4, 24, 16\)"):
        fast(torch.randn(2, 4, 24, 16))


def test_models_that_are_not_ours():
    with pytest.raises(TypeError, match=r"optimize: expected a course\.vit\.ViT or .*, got Linear"):
        course.optimize(torch.nn.Linear(2, 2))


def test_other_dtypes(model):
    with pytest.raises(TypeError, match="optimize: expected dtype float32, float16 or bfloat16, got torch.float64"):
        course.optimize(model, dtype=torch.float64)


@pytest.mark.gpu
def test_graphs_are_bounded(images):
    fast = course.optimize(small_resnet(images.device), graphs=2)
    for batch in (1, 2, 3, 2):
        fast(images[:batch])
    assert isinstance(fast, Fast) and list(fast.graphs) == [(3, 3, 24, 16), (2, 3, 24, 16)]
    assert fast(images, reuse_output=True).data_ptr() == fast(images, reuse_output=True).data_ptr()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [ViT, resnet.resnet18], ids=["vit", "resnet18"])
def test_full_size_on_the_gpu(make, dtype, device):
    model = randomised(make(layers=torch.nn), device)
    images = torch.randn(4, 3, 224, 224, device=device)
    fast = course.optimize(model, dtype=dtype)
    # float32 is TF32 here, in ours alone: 2**-11 for each operand of some twenty layers
    tolerance = {torch.float32: 1e-2, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
    assert relative(fast(images), model(images)) < tolerance
    fast.graphs.clear()  # captured while the tests' NaN were launched as kernels
    assert_triton_only(lambda: fast(images))
