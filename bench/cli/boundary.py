"""What a user's machine can do to any command, told in one line: no traceback, no half-told signal.

Exit codes: 2 for what the user can mend, 128 + its number for a signal.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import typer

from bench.study import signals
from bench.study.errors import UsageError
from bench.study.folders import PROGRAM
from codevar.files import is_oom

# The base of typer's own complaints (its module has moved between versions).
Complaint: Any = typer.BadParameter.__mro__[-4]

LONGEST_LINE = 300  # characters; what is longer holds a user's data whole


class ReaderGoneError(Exception):
    """Who read our output has gone, as `| head` does."""


@contextmanager
def one_line() -> Iterator[None]:
    """Ends the process with one line on standard error for whatever is no fault of the program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a locale that lacks a character
    os.environ["MPLBACKEND"] = "agg"  # we write files; a notebook's may be unknown here
    try:
        with signals.stopping() as stopped:
            try:
                yield
                sys.stdout.flush()
            except (KeyboardInterrupt, typer.Abort):
                stopped.append(signal.SIGINT)
            if stopped:  # typer makes an exit code of Ctrl-C itself
                signals.tell(stopped[0])
                sys.exit(128 + stopped[0])
    except UsageError as e:
        fail(str(e))
    except Complaint as e:
        fail(e.format_message())
    except (ReaderGoneError, BrokenPipeError):
        drop_output()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as e:
        if e.errno == errno.ENOSPC and e.filename is None:
            drop_output()
            fail("standard output cannot be written (No space left on device)")
        fail(f"{e.filename or 'the system'}: {e.strerror or e}")
    except Exception as e:
        if is_oom(e):
            fail("this machine's memory does not suffice; choose a smaller batch or fewer images")
        traceback.print_exc()  # a fault of the program
        sys.exit(2)  # Python's own exit code, 1, is a verdict of `compare`


def check_words(words: Sequence[str]) -> None:
    """Raises UsageError for what no record or page could hold, as a file's name that is no UTF-8,
    and for a pipe or a device, of which nobody knows whether it ever ends.  Nor does anything work
    in a folder that has been deleted: MKL ends the process."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UsageError("the working folder has been deleted; change to another") from None
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{word}: is no UTF-8; rename the file") from None
        for path in word.rpartition("=")[2].split("+"):
            kind = stat.S_IFREG
            with suppress(OSError, ValueError):  # no path at all; who opens it says so
                kind = stat.S_IFMT(os.stat(path).st_mode)
            if path != os.devnull and kind not in (stat.S_IFREG, stat.S_IFDIR):
                raise UsageError(f"{path}: is a pipe or a device; give a file or a folder")


def drop_output() -> None:
    """Leaves what standard output did not take; Python would try again at its end, and exit 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(message: str) -> NoReturn:
    """Says in one line what is wrong, and ends with exit code 2."""
    line = " ".join(message.split()).replace("bench.py", PROGRAM)
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    if len(line) > LONGEST_LINE:
        line = f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
    print(f"{PROGRAM}: {line}", file=sys.stderr)
    sys.exit(2)
