"""Where kernels run: compiled on a GPU, or anywhere through Triton's interpreter.

Triton reads TRITON_INTERPRET while it is imported, so this module decides before it imports Triton:
a value that the user set stands; otherwise a machine on which PyTorch sees no GPU interprets.
"""
import functools
import os
import sys

import torch

if "TRITON_INTERPRET" not in os.environ and not torch.cuda.is_available():
    if "triton.language" in sys.modules:
        raise RuntimeError(
            "course: no GPU found, and triton was imported before course, so it can no longer switch to its "
            "interpreter: import course first, or set TRITON_INTERPRET=1"
        )
    os.environ["TRITON_INTERPRET"] = "1"

import triton

INTERPRET: bool = triton.knobs.runtime.interpret
"""True where kernels are interpreted on the CPU rather than compiled."""

DEVICE = torch.device("cpu" if INTERPRET else "cuda")
"""The device on which examples and tests create their tensors."""

SEVERAL: bool = not INTERPRET and torch.cuda.device_count() > 1
"""Whether this process sees several GPUs, which may differ."""


def per_gpu(fn):
    """`fn` with a cache as `functools.lru_cache` has it, one for each GPU: for what depends on the current one."""
    if not SEVERAL:
        return functools.lru_cache(maxsize=4096)(fn)

    @functools.lru_cache(maxsize=4096)
    def on_gpu(gpu, *args):
        return fn(*args)

    @functools.wraps(fn)
    def on_current_gpu(*args):
        return on_gpu(torch.cuda.current_device(), *args)

    on_current_gpu.cache_clear = on_gpu.cache_clear
    return on_current_gpu


@per_gpu
def gpu_name() -> str:
    """The current GPU's name as a file name, such as `nvidia-h200`."""
    return file_name(torch.cuda.get_device_name())


def file_name(gpu: str) -> str:
    """A GPU's name as its files and folders have it: "NVIDIA H200" is `nvidia-h200`."""
    return gpu.lower().replace(" ", "-").replace("/", "-")


@per_gpu
def capability() -> tuple[int, int]:
    """The current NVIDIA GPU's compute capability, (9, 0) for Hopper; (0, 0) in the interpreter and on AMD."""
    return torch.cuda.get_device_capability() if not INTERPRET and torch.version.hip is None else (0, 0)


@per_gpu
def num_sms() -> int:
    """Multiprocessors of the current GPU: how many programs run at once, at least. 1 in the interpreter."""
    return 1 if INTERPRET else torch.cuda.get_device_properties().multi_processor_count


@per_gpu
def has_tensor_cores() -> bool:
    """Whether Triton multiplies on the current GPU's tensor cores, in TF32 among others: from Ampere (8.0) on.

    Turing (7.5) has them, for float16, but there Triton converts to float32 and multiplies with ordinary instructions:
    to the same results, slowly. True in the interpreter and on AMD.
    """
    return capability() == (0, 0) or capability() >= (8, 0)


def tma_feeds_tensor_cores() -> bool:
    """Whether the current GPU's tensor cores read their operands from shared memory, where TMA puts them: Hopper's
    (9.0) and those of Blackwell's data centre GPUs (10.0).

    A GeForce or RTX PRO of Blackwell (12.0) has TMA as well, but its tensor cores take operands from registers, and a
    program has less than half of the shared memory.
    """
    return capability() in ((9, 0), (10, 0))


def shared_memory() -> int:
    """Bytes of shared memory that one program can have, by the compute capability; AMD's is the least."""
    kib = {(0, 0): 64, (7, 5): 64, (8, 0): 163, (8, 7): 163, (9, 0): 227, (10, 0): 227, (10, 3): 227}
    return kib.get(capability(), 99) * 1024


def tensor_core_products() -> int:
    """16-bit products that the tensor cores of one multiprocessor add up in float32 in a cycle, by the compute
    capability; of GeForce and RTX, and of others not known here, 256."""
    return {(8, 0): 1024, (9, 0): 2048, (10, 0): 4096, (10, 3): 4096}.get(capability(), 256)
