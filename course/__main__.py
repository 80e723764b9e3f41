"""python -m course doctor | demo | classify | verify | info | bench"""
import argparse
import importlib
import sys

DTYPES = ("float32", "float16", "bfloat16")
MODELS = ("vit", "resnet18")


def parser() -> argparse.ArgumentParser:
    """The command line. A command's name is also the function that runs it, with its options as arguments."""
    top = argparse.ArgumentParser(prog="python -m course", description="The course's models from the command line.")
    commands = top.add_subparsers(required=True, dest="command", metavar="command")

    def command(name, help):
        return commands.add_parser(name, help=help, description=help)

    def weights(sub, default):
        sub.add_argument("--weights", metavar="W", help="a HuggingFace id or folder for vit; a torchvision weights "
                         f"name, .pth or .safetensors for resnet18 (default: {default})")  # fmt: skip

    def dtype(sub):
        sub.add_argument("--dtype", choices=DTYPES, default="float32", help="of our model (default: float32)")

    command("doctor", "what this machine can run, and what to do about what it can't")
    command("demo", "classify real images with both models, and compare them with the originals")

    sub = command("classify", "the five likeliest classes of each image")
    sub.add_argument("images", nargs="+", metavar="IMAGE", help="an image file")
    sub.add_argument("--model", choices=MODELS, default="vit")
    weights(sub, "the shipped ones, handwritten digits")
    dtype(sub)

    sub = command("verify", "compare a model with the original, layer by layer, and their answers on every image")
    sub.add_argument("model", choices=MODELS)
    weights(sub, "the shipped ones, handwritten digits")
    sub.add_argument("--images", metavar="DIR", help="any folder of images (default: the held-out digits for the "
                     "shipped weights, two photographs for others)")  # fmt: skip
    dtype(sub)
    sub.add_argument("--batch", type=int, default=64, metavar="N", help="images at a time (default: 64)")
    sub.add_argument("--dump", metavar="FILE", help="write what every compared layer returned, as safetensors")

    sub = command("info", "layers, parameters and floating-point operations")
    sub.add_argument("model", choices=MODELS)
    weights(sub, "none: ViT-B/16 and ResNet-18 as for ImageNet")

    sub = command("bench", "measure kernels or models beside PyTorch; without a GPU, show the stored figures")
    sub.add_argument("what", choices=("kernels", "models"))
    sub.add_argument("--quick", action="store_true", help="few sizes, and nothing is stored")
    return top


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 1 when a check fails, 2 on input that cannot be used."""
    options = vars(parser().parse_args(argv))
    name = options.pop("command")
    # the doctor comes without the others' imports: it is for machines on which those may fail
    module = importlib.import_module("course.doctor" if name == "doctor" else "course.commands")
    try:
        return getattr(module, name)(**options)
    except (ValueError, TypeError, OSError) as error:
        print(f"course: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
