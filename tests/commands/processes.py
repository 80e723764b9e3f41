"""Commands in processes of their own, as a shell starts them."""
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(*arguments, stubs=None, **environment) -> subprocess.Popen:
    """`python -m course` with `arguments`; `stubs` is a folder whose modules come before the installed ones."""
    path = os.pathsep.join(map(str, filter(None, [stubs, ROOT])))
    return subprocess.Popen(
        [sys.executable, "-m", "course", *map(str, arguments)], text=True, encoding="utf-8", errors="surrogateescape",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "", "PYTHONPATH": path, **environment},  # buffers as users have them
        # as in a terminal; a test that itself runs in the background may have it ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def run(*arguments, **options) -> subprocess.CompletedProcess:
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=200)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
