"""`hint` and `solution`."""
import ast

from course import lab
from course.lab.checking.exercise import find


def test_three_hints_one_a_call():
    exercise = find("vector_add.axpy")
    given = [repr(lab.hint("vector_add.axpy")) for _ in range(4)]
    for number, text in enumerate(given[:3], start=1):
        assert text.startswith(f"**Hint {number} of 3.** {exercise.hints[number - 1]}")
    assert given[3] == given[2]


def test_solution():
    shown = repr(lab.solution("vector_add.fill_in"))
    assert "mask = offs < n" in shown and "#>" not in shown
    assert find("vector_add.fill_in").explanation in shown
    ast.parse(shown.split("```python")[1].split("```")[0])
