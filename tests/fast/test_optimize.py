import copy
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import course
from course import resnet
from course.data import digits
from course.fast import vit as fast_vit
from course.fast.optimize import Fast
from course.graphs import ALONE
from course.load_weights import load_resnet, load_vit
from course.runtime import INTERPRET
from course.vit import ViT, ViTConfig
from tests.profile_kernels import assert_triton_only

SMALL = dict(image_size=(24, 16), patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
             intermediate_size=48, num_labels=5)


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
])
@pytest.mark.usefixtures("ieee")
def test_other_vits(config, images):
    model = small_vit(images.device, **config)
    assert relative(course.optimize(model)(images), model(images)) < 1e-5


@pytest.mark.parametrize("fused", [0, 5])  # of 7 tokens an image: norms are never fused, or for the class tokens alone
@pytest.mark.usefixtures("ieee")
def test_norms_of_many_tokens_have_kernels_of_their_own(fused, images, monkeypatch):
    monkeypatch.setattr(fast_vit, "FUSED_NORM_TOKENS", fused)
    model = small_vit(images.device)
    for batch in (images, images[:1]):
        assert relative(course.optimize(model)(batch), model(batch)) < 1e-5


@pytest.mark.parametrize("make, width", [
    (resnet.resnet50, 4), (resnet.resnext50_32x4d, 16), (resnet.wide_resnet50_2, 4),
])
@pytest.mark.usefixtures("ieee")
def test_bottlenecks(make, width, images):
    model = randomised(make(num_classes=5, width=width, layers=torch.nn), images.device)
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


def test_keeps_its_dtype_under_autocast(model, images):
    """And so does the graph that its first call captures, for calls outside."""
    want, fast = course.optimize(model)(images), course.optimize(model)
    with torch.autocast(images.device.type, torch.bfloat16):
        under = fast(images)
    for got in (under, fast(images)):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_made_in_inference_mode(model, images):
    """What was packed can be packed again, out of it."""
    with torch.inference_mode():
        fast = course.optimize(model, torch.float16)
    before = fast(images)
    next(iter(model.parameters())).mul_(2)
    assert not torch.equal(fast(images), before)


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


# -- Weights that PyTorch does not see written -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.usefixtures("ieee")
def test_weights_written_through_data_are_read_again(model, images, dtype):
    fast = course.optimize(model, dtype)
    before = fast(images)
    for parameter in model.parameters():
        parameter.data.mul_(1.2)
    fast.refresh()
    after, want = fast(images), course.optimize(model, dtype)(images)
    assert relative(after, want) < 1e-5 < relative(before, want)


def test_refresh_says_where_it_cannot_follow(device, images):
    model = small_resnet(device)
    fast = course.optimize(model)
    before = fast(images)
    model.fc.weight.data = 2 * model.fc.weight.data
    with pytest.raises(RuntimeError, match="got new ones: call course.optimize on it again"):
        fast.refresh()
    del model
    gc.collect()
    with pytest.raises(RuntimeError, match="refresh: expected the model to exist"):
        fast.refresh()
    assert torch.equal(fast(images), before)


# -- Threads, streams, devices -----------------------------------------------------------------------------------------


def test_eight_threads_get_their_own_answers(model, images):
    """The first call, which captures, is one of theirs."""
    fast = course.optimize(model)
    batches = [images[:1] + number for number in range(8)]
    calls = 1 if INTERPRET else 30
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda batch: [fast(batch) for _ in range(calls)], batches))
    for batch, answer in zip(batches, answers):
        want = fast(batch)
        assert all(torch.equal(got, want) for got in answer)


def test_weights_are_packed_again_by_one_thread_at_a_time(device, images, monkeypatch):
    model = small_resnet(device)
    fast = course.optimize(model)
    inside, compute = [], fast.packing.compute

    def watched():
        inside.append(ALONE._is_owned())
        compute()

    monkeypatch.setattr(fast.packing, "compute", watched)
    model.fc.weight.mul_(2)
    fast(images)
    fast.refresh()
    assert inside == [True, True] and not ALONE._is_owned()


def test_images_on_another_device(model):
    fast = course.optimize(model)
    where = next(model.parameters()).device
    with pytest.raises(ValueError, match=f"optimize: expected images on {where}, as the model is, got meta"):
        fast(torch.empty(2, 3, 24, 16, device="meta"))


@pytest.mark.gpu
def test_on_side_streams(model, images):
    """A call waits for what the calls before it, on other streams, do with the buffers."""
    fast = course.optimize(model)
    batches = [images + number for number in range(4)]
    wants = [fast(batch) for batch in batches]
    streams = [torch.cuda.Stream() for _ in batches]
    torch.cuda.synchronize()
    answers = []
    for _ in range(20):
        for batch, stream in zip(batches, streams):
            with torch.cuda.stream(stream):
                torch.cuda._sleep(100_000)
                answers.append(fast(batch))
    torch.cuda.synchronize()
    assert all(torch.equal(answer, wants[i % 4]) for i, answer in enumerate(answers))


@pytest.mark.gpu
def test_first_calls_of_several_models_in_threads(images):
    """Each captures a graph."""
    models = [make(images.device) for make in 4 * [small_vit, small_resnet]]
    wants = [course.optimize(model)(images) for model in models]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda model: course.optimize(model)(images), models))
    assert all(torch.equal(answer, want) for answer, want in zip(answers, wants))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.usefixtures("ieee")
def test_on_another_gpu_than_the_current_one(model, images):
    want = course.optimize(model)(images)  # whose graph makes the first GPU known to PyTorch's captures
    fast = course.optimize(model.to("cuda:1"))
    with torch.cuda.device(0):
        for _ in range(2):
            logits = fast(images.to("cuda:1"))
            assert logits.device == torch.device("cuda:1") and torch.cuda.current_device() == 0
            assert relative(logits.to("cuda:0"), want) < 1e-5
        with pytest.raises(ValueError, match="optimize: expected images on cuda:1, as the model is, got cuda:0"):
            fast(images)
