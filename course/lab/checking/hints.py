"""Help with an exercise: three hints, one a call, and the solution explained."""
from collections import Counter

from course.lab.checking.exercise import Exercise, find
from course.lab.pictures.markdown import Markdown

_given: Counter[str] = Counter()
"""How many hints of each exercise were shown."""


def hint(exercise: str | Exercise) -> Markdown:
    """The next of the exercise's three hints; after the third, the third again."""
    exercise = find(exercise)
    _given[exercise.name] = min(_given[exercise.name] + 1, 3)
    number = _given[exercise.name]
    more = "Call again for the next one." if number < 3 else f'There is also `lab.solution("{exercise.name}")`.'
    return Markdown(f"**Hint {number} of 3.** {exercise.hints[number - 1]}\n\n{more}")


def solution(exercise: str | Exercise) -> Markdown:
    """The solution, with its explanation."""
    exercise = find(exercise)
    return Markdown(f"```python\n{exercise.answer}\n```\n\n{exercise.explanation}")
