"""python -m course doctor | demo | classify | evaluate | verify | info | tune | bench"""
import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from course import __version__
from course.commands import extras, old_spellings, terminal

DTYPES = ("float32", "float16", "bfloat16")

MODELS = """\
MODEL is one of
  vit, resnet18              the models that come with the course: they read handwritten digits
  resnet34, resnet50, resnet101, resnet152, resnext50_32x4d, resnext101_32x8d, resnext101_64x4d, wide_resnet50_2,
  wide_resnet101_2           torchvision's models of these names, with its default weights for ImageNet
  torchvision:NAME           the same, resnet18 included; or weights, as in torchvision:ResNet50_Weights.IMAGENET1K_V1
  hf:ID                      a ViT on the HuggingFace hub, as in hf:google/vit-base-patch16-224
  FILE                       a ResNet in a .pth or .safetensors file of torchvision's names, or the folder of a ViT
                             as HuggingFace saves it (write ./vit for a folder called vit)
What torchvision: and hf: name is downloaded once. timm's models cannot be named yet. What was loaded is said on stderr.
"""
CODES = """\
Exit codes: 0 if all went well, 1 if a check failed (doctor, demo, verify, bench --check), 2 if some input could not be
used (what is skipped is named on stderr, and the rest is done), 130 after Ctrl-C, 141 after a closed pipe.
"""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """One line, as for all input that cannot be used."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def whole_number(text: str) -> int:
    """An option's value of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return value


def program() -> str:
    """What this was called as."""
    return "course" if Path(sys.argv[0]).name == "course" else "python -m course"


def parser() -> argparse.ArgumentParser:
    """The command line. A command has its name's file in course/commands/, and in it the function of that name, which
    takes the options as arguments."""
    top = Parser(
        prog=program(), description="The course's models from the command line.", epilog=f"{MODELS}\n{CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"triton-course {__version__}")
    commands = top.add_subparsers(required=True, dest="command", metavar="command")

    def command(name, help, epilog=None):
        return commands.add_parser(
            name, help=help, description=help, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def model(sub):
        sub.add_argument("model", metavar="MODEL", help="see below")

    def dtype(sub):
        sub.add_argument("--dtype", choices=DTYPES, default="float32", help="of our model (default: float32)")

    def batch(sub, default):
        sub.add_argument("--batch", type=whole_number, default=default, metavar="N",
                         help=f"images at a time (default: {default})")

    def as_json(sub, what):
        sub.add_argument("--json", action="store_true", dest="as_json", help=f"print {what}")

    command("doctor", "what this machine can run, and what to do about what it can't")
    command("demo", "classify real images with both models, and compare them with the originals")

    sub = command("classify", "the likeliest classes of each image", MODELS)
    model(sub)
    sub.add_argument("images", nargs="+", metavar="IMAGE", help="an image file, or a folder of them")
    sub.add_argument("--topk", type=whole_number, default=5, metavar="K", help="classes an image (default: 5)")
    as_json(sub, 'a line an image: {"file": …, "classes": [{"index": …, "class": …, "probability": …}, …]}')
    dtype(sub)
    batch(sub, 16)

    sub = command("evaluate", "how often a model is right: top-1 and top-5 of images in a folder a class", MODELS)
    model(sub)
    sub.add_argument("--images", required=True, metavar="DIR", help="a folder of folders, each with the images of one "
                     "class, and called by its name or index; or as many as there are classes, in sorted order, as "
                     "ImageNet's are")
    as_json(sub, 'one line: {"model": …, "images": …, "top1": …, "top5": …, "unreadable": …}')
    dtype(sub)
    batch(sub, 64)

    sub = command("verify", "compare a model with the original, layer by layer, and their answers on every image",
                  MODELS)
    model(sub)
    sub.add_argument("--images", metavar="DIR", help="any folder of images (default: the held-out digits for vit and "
                     "resnet18, two photographs for others)")
    dtype(sub)
    batch(sub, 64)
    sub.add_argument("--dump", metavar="FILE", help="write what every compared layer returned, as safetensors")

    sub = command("info", "layers, parameters and floating-point operations", MODELS + "Here a bare name such as vit "
                  "or resnet50 is the architecture as for ImageNet, without weights.\n")
    model(sub)

    sub = command("tune", "measure a model's kernels thoroughly on this GPU, for faster calls from then on", MODELS)
    model(sub)
    sub.add_argument("--batch", type=whole_number, nargs="+", default=[1], metavar="N", dest="batches",
                     help="images at a time, each of these numbers (default: 1)")
    dtype(sub)

    sub = command("bench", "measure kernels or models beside PyTorch; without a GPU, show the stored figures")
    sub.add_argument("what", choices=("kernels", "models"))
    how = sub.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="few sizes, and nothing is stored")
    how.add_argument("--check", action="store_true", help="for models: time a few beside PyTorch's in a CUDA graph, in "
                     "about a minute, and exit with 1 where ours takes 5 %% longer, relative to PyTorch's, than in the "
                     "stored figures of this GPU; with 2 without a GPU or without such figures; nothing is stored")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code, one of CODES."""
    terminal.prepare()
    with terminal.interrupts() as interrupted:
        try:
            code = run(sys.argv[1:] if arguments is None else arguments)
        except SystemExit as end:  # argparse's, after --help and on unknown options
            code = end.code or 0
        except BrokenPipeError:
            terminal.to_nothing()
            code = terminal.CLOSED
        except BaseException:
            if not interrupted:
                raise
            code = terminal.INTERRUPTED
        if interrupted:
            code = terminal.INTERRUPTED
            exec("")  # Python remembers a KeyboardInterrupt that left some exec, and would end by SIGINT instead
            print("course: interrupted", file=sys.stderr)
        return code if terminal.finish() else code or terminal.CLOSED


def run(arguments: Sequence[str]) -> int:
    options = vars(parser().parse_args(old_spellings.renewed(arguments, program())))
    name = options.pop("command")
    try:
        # one module alone: on a machine that needs the doctor, the other commands' imports may fail
        module = importlib.import_module(f"course.commands.{name}")
        return getattr(module, name)(**options)
    except BrokenPipeError:
        raise
    except ModuleNotFoundError as error:
        if not (message := extras.missing(name, error)):
            raise
        print(f"course: {message}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        print(f"course: {name}: out of memory: try a smaller --batch ({str(error).partition(chr(10))[0]})",
              file=sys.stderr)
        return 2
    except (ValueError, TypeError, OSError) as error:
        print(f"course: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
