"""Both models on real images, and beside the originals."""
from course.commands.classify import likeliest
from course.commands.images import answers
from course.commands.models import SHIPPED
from course.commands.verify import Comparison, digits

IMAGES = 100
"""Compared with the original's answers: few, so that it takes seconds in the interpreter too."""


def demo() -> int:
    """Both shipped models: three digits read, and more of them compared with the originals."""
    scans = digits()
    code = 0
    for name in SHIPPED:
        comparison = Comparison(name, scans[:IMAGES], batch=IMAGES)
        model = comparison.ours
        print(f"\n{name}, {sum(p.numel() for p in model.parameters()):,} parameters, reads handwritten digits:")
        for sample, logits in answers(model, [scans[i] for i in (0, 100, 200)], size=3):
            (probability, guess), *_ = likeliest(logits, 1)
            print(f"  a {sample.label}: {model.class_names[guess]} ({probability:.1%})")
        print("and beside the original, in float32:")
        code = max(code, comparison.report())
    return code
