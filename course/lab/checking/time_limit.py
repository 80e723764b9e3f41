"""`with_time_limit`: runs a learner's function, which may hold an endless loop."""
import ctypes
import threading
from collections.abc import Callable

import torch


class TimeUp(BaseException):
    """Raised inside a function that runs too long. Not an Exception, which the function might catch."""


def with_time_limit(seconds: float, function: Callable[[], object]) -> None:
    """Runs `function`, raises what it raises, and TimeoutError where it has not returned after `seconds`: from what
    stopped it, whose traceback shows where it was.

    It runs in a thread, which is stopped at its next line of Python: the interpreter stops, a GPU does not.
    """
    raised = []
    device = torch.cuda.current_device() if torch.cuda.is_available() else None

    def work():
        try:
            if device is not None:
                torch.cuda.set_device(device)
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        thread.join(seconds)
    finally:
        if thread.is_alive():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(TimeUp))
            thread.join(2.0)
    if raised and isinstance(raised[0], Exception):
        raise raised[0]
    if raised or thread.is_alive():
        raise TimeoutError from (raised or [None])[0]
