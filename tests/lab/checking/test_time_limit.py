"""`with_time_limit`: what a function raises, and one that never returns."""
import threading
import time

import pytest

from course.lab.checking.time_limit import with_time_limit


def test_errors_come_through():
    with pytest.raises(KeyError):
        with_time_limit(5, lambda: {}[0])


def test_a_loop_is_stopped_even_if_it_catches_exceptions():
    def stubborn():
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                pass

    before = threading.active_count()
    with pytest.raises(TimeoutError):
        with_time_limit(0.2, stubborn)
    assert threading.active_count() == before
