"""`show_source`: the source itself, and a link to its file."""
import inspect
import textwrap

from course import lab
from course.kernels.elementwise import pointwise
from course.kernels.elementwise.add import add_op


def test_the_source_itself():
    shown = repr(lab.show_source("elementwise.add.add_op", "elementwise.pointwise.flat_kernel",
                                 "elementwise.pointwise.launch", "elementwise.add.add"))
    for thing in (add_op.fn, pointwise.flat_kernel.fn, pointwise.launch):
        assert inspect.getsource(thing).rstrip() in shown
    assert "[course/kernels/elementwise/add.py](../course/kernels/elementwise/add.py)" in shown
    assert lab.show_source("elementwise.add.add_op")._repr_markdown_() == repr(lab.show_source(add_op))


def test_a_function_behind_a_cache():
    assert "def configs(problem: Attention)" in repr(lab.show_source("attention.pointers.configs"))


def test_a_function_from_elsewhere():
    assert "`textwrap.py`" in repr(lab.show_source(textwrap.dedent))
