"""What a pattern of wrong elements usually means."""
import dataclasses

import torch

from course.lab.checking.usage import Usage


@dataclasses.dataclass
class Evidence:
    """The output of one case, what it should be, and what was accessed outside of the tensors.

    `wrong` and `unwritten` are masks of the output's elements; `guard_writes` are the elements outside of the output
    that were written, counted from its first; `faults` is a Watch's; `changed` names the inputs that were written to;
    `usage` is what the interpreter saw, unless it had to give up.
    """

    name: str
    got: torch.Tensor
    wanted: torch.Tensor
    wrong: torch.Tensor
    unwritten: torch.Tensor
    guard_writes: list[int]
    faults: dict[str, str]
    inputs: dict[str, torch.Tensor]
    changed: list[str]
    usage: Usage | None = None


def meaning(e: Evidence) -> list[str]:
    """The likeliest causes, by the first rules that apply."""
    found = [*outside(e)]
    if e.wrong.any():
        rules = (missing, moved, strided, mistaken, by_row, triangular, in_images, summed, other)
        found += next(filter(None, (rule(e) for rule in rules)), [])
    if "race" in e.faults:
        found.append(
            "Programs run in any order and several at a time: the value of an element that one of them writes and "
            "another accesses depends on that order, and the interpreter's may happen to give the right one. Let one "
            "program own each element, or let all add to it with tl.atomic_add, after the launcher has set it to 0."
        )
    return found


def outside(e):
    if "store" in e.faults or e.guard_writes:
        yield (
            "A store went past the output and would overwrite other tensors: either tl.store has no mask, "
            "or the mask compares with the wrong length, or an offset or a stride is wrong."
        )
    elif "load" in e.faults:
        yield (
            "A load reached outside of its tensor. The values that it reads may never be used, but the memory may "
            "not exist: either tl.load has no mask, or an offset or a stride is wrong."
        )
    if e.changed:
        yield "An input was written to: is the pointer of the store out_ptr?"


def missing(e):
    """Elements that no program wrote."""
    gone = e.unwritten.flatten()
    if not gone.any():
        return []
    if gone.all():
        return ["Nothing was written: is the kernel launched, with at least one program, and does it store into out? "
                "If it adds to out, which is full of NaN at first: has it been set to 0 before?"]
    written = int((~gone).sum())
    if not gone[:written].any():  # all that is written comes before all that is not
        if gone.numel() - written == 1:
            return ["Only the last element is missing: is the mask off by one? The offsets are 0 to n - 1."]
        if written.bit_count() == 1 and written >= 16 and gone.numel() >= 2 * written:
            return [f"Only the first {written} elements were written: every program works on the same block, or there "
                    "is only one. Do the offsets depend on tl.program_id, and does the grid on n?"]
        return [f"The end is missing: {why_missing(e)}"]
    if e.unwritten.ndim == 2:
        if e.unwritten.equal(torch.ones_like(e.unwritten).triu(1)):
            return ["Everything right of the diagonal is missing: what a load may skip, the store still has to write."]
        columns, rows = e.unwritten.all(dim=0), e.unwritten.all(dim=1)
        if columns.any() and e.unwritten.equal(columns.expand_as(e.unwritten)):
            return [f"Whole columns are missing: {why_missing(e)}"]
        if rows.any() and e.unwritten.equal(rows[:, None].expand_as(e.unwritten)):
            return [f"Whole rows are missing: {why_missing(e)}"]
    return [f"There are gaps: {why_missing(e)}"]


def why_missing(e):
    """By what the stores did: too few lanes, lanes that met on one element, or lanes that were masked."""
    if e.usage is None or not e.usage.lanes:
        return "there are too few programs, the mask is too strict, or a stride is wrong."
    n, written = e.unwritten.numel(), int((~e.unwritten).sum())
    lanes, stored, grid = e.usage.lanes, e.usage.stored, e.usage.grid
    if stored > written:
        return (f"{stored:,} lanes stored, but only {written:,} elements were written. Several lanes meet on one: the "
                "offsets of neighbouring programs do not follow each other, or the output's strides are wrong.")
    if lanes < n:
        return (f"there are too few programs. The grid is {grid}, and all its lanes together are {lanes:,} for {n:,} "
                "elements (triton.cdiv(n, BLOCK) rounds up, n // BLOCK rounds down).")
    if len(set(grid)) > 1:
        return (f"the grid {grid} has lanes enough, but {lanes - stored:,} of {lanes:,} were masked. Are its "
                "dimensions in another order than the kernel's tl.program_id(0), (1), …, or is the mask too strict?")
    return f"there are programs enough, but {lanes - stored:,} of {lanes:,} lanes were masked: the mask is too strict."


def moved(e):
    """The right values at the wrong places."""
    got, wanted = e.got.flatten().double(), e.wanted.flatten().double()
    if e.got.ndim == 2 and min(e.got.shape) > 1 and close(got, e.wanted.double().mT.flatten()):
        return ["This is the transposed result: rows and columns, or their strides, are swapped."]
    if e.wrong.ndim == 2 and min(e.wrong.shape) > 2:
        n = min(e.wrong.shape)
        square, diagonal = e.wrong[:n, :n], e.wrong.diagonal()
        if not diagonal.any() and square.sum() > 0.9 * n * (n - 1):
            return ["Only the diagonal is right: rows and columns, or their strides, are swapped."]
    for shift in range(1, 5):
        if got.numel() > 4 * shift:
            for a, b, word in ((got[shift:], wanted[:-shift], "late"), (got[:-shift], wanted[shift:], "early")):
                if close(a, b):
                    return [f"The values are right but stand {shift} too {word}: an offset is off by {shift}."]
    return []


def strided(e):
    """A case that is about strides; those with contiguous tensors, which come before it, passed."""
    if "contiguous" in e.name or "transposed" in e.name:
        return ["Neighbours in this tensor are not neighbours in memory: every offset is an index times the stride "
                "of its dimension."]
    return []


def mistaken(e):
    """Values that show where they come from."""
    for name, x in e.inputs.items():
        if x.shape == e.got.shape and e.got.numel() > 1 and close(e.got.double(), x.double()):
            return [f"This is the input {name} itself: the rest of the formula is missing."]
    wrong = e.got[e.wrong]
    if (wrong.isinf() & e.wanted[e.wrong].isfinite()).any():
        return ["Infinity where a finite number belongs: the arithmetic ran in a narrow format and overflowed "
                "(convert what was loaded with .to(tl.float32) before computing), or a division or a logarithm met a "
                "number that was too small and became 0."]
    if (wrong.isnan() & ~e.wanted[e.wrong].isnan()).any():
        if not e.faults:
            return ["NaN where a number belongs, although every load stayed in its tensor: the arithmetic made it "
                    "from inf / inf, inf - inf or 0 / 0 (did an exp overflow, is a sum empty?), or masked lanes "
                    "without other= took part."]
        return ["NaN where a number belongs: a load brought in memory that is not the tensor's (a missing mask, a "
                "wrong stride or offset), or masked lanes without other= took part."]
    error = (e.got.double() - e.wanted.double()).abs()
    if (error < 1e-2 * e.wanted.double().abs().mean()).all():
        if all(x.dtype == torch.float32 for x in e.inputs.values()):
            return ["Nearly right: a small term is missing or counted too often (an eps, one element in a mean), two "
                    "large numbers are subtracted that differ only in their last digits, or an approximation stands in "
                    "for the formula."]
        return ["Nearly right: the arithmetic rounds too early (convert what was loaded with .to(tl.float32), compute, "
                "and let the store round once), or an approximation stands in for the formula."]
    return []


def by_row(e):
    """Rows that are right but for one number a row, which multiplies or shifts them."""
    if e.got.ndim != 2 or min(e.got.shape) < 3:
        return []
    got, wanted = e.got.double(), e.wanted.double()
    factor, shift = got.mean(1, keepdim=True) / wanted.mean(1, keepdim=True), (got - wanted).mean(1, keepdim=True)
    for fitted, each, way in (
        (wanted * factor, factor, "multiplies it: what the row is divided by is wrong"),
        (wanted + shift, shift, "is added to it: what is subtracted from the row is wrong"),
    ):
        if not close(each, each.mean().expand_as(each)) and close(got, fitted):
            return [f"Each row is right but for a number of its own, which {way}. Does it come from this row, from "
                    "all of it, and do the masked lanes add nothing?"]
    return []


def triangular(e):
    """Other numbers where a causal mask makes 0."""
    if e.got.ndim != 2 or min(e.got.shape) < 3 or not e.wanted.any():
        return []
    if e.got.triu(1).any() and not e.wanted.triu(1).any():
        return ["Right of the diagonal there should be 0: a row sees columns that it must not. What is hidden from a "
                "softmax has to be -inf before the maximum is taken."]
    return []


def in_images(e):
    """Images, (N, K, P, Q), of which the first of something is right, or all but the edges."""
    if e.wrong.ndim != 4 or e.wrong.all():
        return []
    for dim, what in enumerate(("image", "channel", "row", "column")):
        by_index = e.wrong.movedim(dim, 0).flatten(1).any(1)
        if len(by_index) > 1 and not by_index[0] and by_index[1:].all():
            return [f"Only the first {what} is right: an offset does not move on with the {what} as it should. Look at "
                    f"what is multiplied by its number, in every load and in the store."]
    if min(e.wrong.shape[2:]) > 2 and not e.wrong[..., 1:-1, 1:-1].any():
        return ["Only the edges of the images are wrong: what lies in the padding has to be masked, row by row and "
                "column by column, and to count as what changes nothing: 0 in a sum, -inf in a maximum."]
    return []


def summed(e):
    """Sums, as of a matrix product or a convolution, whose results have another shape than the inputs."""
    same = any(x.shape == e.got.shape for x in e.inputs.values())
    if same or e.got.ndim < 2 or e.got.numel() < 1000 or e.wrong.double().mean() < 0.9:
        return []
    alike = torch.corrcoef(torch.stack([e.got.flatten(), e.wanted.flatten()]).double())[0, 1]
    if alike > 0.1:
        return ["Nearly all is wrong, but it resembles what is right. Either a part of each sum is missing or counted "
                "twice: does each turn of the loop add another block to what the turns before it left? Or some of what "
                "is read is not the right element, or the formula behind the sums is wrong."]
    return ["The results have nothing to do with the right ones: look at the formula, at which elements each load "
            "reads, and at the strides of each operand."]


def other(e):
    """No pattern: at least how much is wrong."""
    if e.wrong.all():
        return ["Every element is wrong: look at the formula, and at which pointer each load reads."]
    return ["Some elements are right: where the wrong ones begin, and how often they come back, tells what is off."]


def across(results) -> list[str]:
    """What the results of all cases show together: whether just those fail that have masked lanes."""
    plain = [r for r in results if r.used and not any(word in r.name for word in ("contiguous", "transposed"))]
    masked = [r for r in plain if r.used.kernels.masked]
    full = [r for r in plain if not r.used.kernels.masked and r.used.kernels.out.tensor.numel() > 1]
    first = next((r for r in results if not r.passed), None)
    if first not in masked or not full or not all(r.passed for r in full):
        return []
    several = [r for r in masked if r.used.kernels.out.tensor.numel() > 1]
    if len(several) < 2 or any(r.passed or r.memory_fault or r.incomplete for r in several):
        return []
    return ["What fills its blocks is right, what does not is wrong: masked lanes take part in a sum, a maximum or a "
            "count. What `other=` put into them may have changed since, as 0 - mean has."]


def close(a, b):
    return torch.allclose(a, b, rtol=1e-3, atol=1e-6)
