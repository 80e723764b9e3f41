"""What a command does to its surroundings: the encoding of what it prints, log files, Ctrl-C, closed pipes."""
import codecs
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

INTERRUPTED, CLOSED = 130, 141
"""Exit codes: as a shell gives them to what SIGINT and SIGPIPE ended, 128 and the signal's number."""

IN_ASCII = {"✓": "+", "✗": "x", "→": "->", "×": "x", "·": "*", "–": "-", "…": "..."}
"""What stands for the signs that commands print where the terminal's encoding lacks them."""


def in_ascii(error: UnicodeError) -> tuple[str, int]:
    """An error handler for encoders: every character can be printed, a name's umlaut as \\xfc if need be."""
    lacking = error.object[error.start:error.end]
    return "".join(IN_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking), error.end


codecs.register_error("course.in_ascii", in_ascii)


def prepare() -> None:
    """Makes stdout and stderr print every character, and each line as soon as it is whole, into a pipe as well: so
    a reader sees it at once, and a closed pipe is noticed before more is computed."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's has not
            stream.reconfigure(errors="course.in_ascii", line_buffering=True)


def finish() -> bool:
    """Writes what is still to be written; False, and from now on into nothing, if that is not possible."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        return True
    except OSError:
        to_nothing()
        return False


def to_nothing() -> None:
    """Discards what stdout and stderr still hold, which Python would try to write once more at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nothing, stream.fileno())


def is_log() -> bool:
    """Whether stderr is no terminal but a file, in which progress bars would be hundreds of lines."""
    return sys.stderr is None or not sys.stderr.isatty()


@contextlib.contextmanager
def interrupts() -> Iterator[list[int]]:
    """In its block, Ctrl-C raises KeyboardInterrupt, and the list that it gives holds the signal from then on.

    The list is for exceptions that come of it: an extension module that is interrupted while it is imported may raise
    an ImportError. A second Ctrl-C ends the process at once, should something have caught the first.
    """
    received = []

    def receive(number, frame):
        if received:
            os._exit(INTERRUPTED)
        received.append(number)
        raise KeyboardInterrupt

    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as under nohup
    if ignored or threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = signal.signal(signal.SIGINT, receive)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, before)
