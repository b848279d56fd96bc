"""How a run ends when something is in its way: one exception, one sentence, one exit code."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from enum import IntEnum


class Exit(IntEnum):
    """What the shell is told; a script can tell one ending from another."""

    OK = 0
    WRONG = 1  # something of ours is wrong or crashed; not: divergence, skips, faults of torch
    USAGE = 2
    REGRESSION = 3
    UNREADABLE = 3
    DISK = 4  # no space, or not writable
    LOCKED = 5
    INTERRUPTED = 130
    TERMINATED = 143


class BenchError(Exception):
    """A sentence for the person at the keyboard: what is wrong, the wrong value, the remedy. Never a traceback."""

    def __init__(self, message: str, exit_code: Exit) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def first_line(error: BaseException) -> str:
    """What an error says first; an error may say nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


def unknown(what: str, name: str, known: Iterable[str]) -> BenchError:
    """The error for a name that is not in `known`, with the nearest one that is."""
    known = list(known)
    nearest = max(known, key=lambda candidate: _likeness(name, candidate))
    close = _likeness(name, nearest) > 0.4
    hint = f"did you mean {nearest!r}?" if close else f"there are: {', '.join(known)}."
    return BenchError(f"unknown {what} {name!r}: {hint}", Exit.USAGE)


def _likeness(left: str, right: str) -> float:
    """From 0 to 1, whatever the case; the lengths count so that ``adma`` is nearer to ``Adam`` than to ``Adamax``."""
    shorter, longer = sorted((len(left) + 1, len(right) + 1))
    return difflib.SequenceMatcher(None, left.lower(), right.lower()).ratio() * (shorter / longer) ** 0.5


def disk_error(path: object, error: OSError) -> BenchError:
    """The error for a disk that is full or may not be written to, or a name that something else has."""
    reason = error.strerror or str(error)
    in_the_way = error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
    remedy = "move away what is there" if in_the_way else "make room or choose another --out"
    return BenchError(
        f"cannot write {path}: {reason}. What was finished is kept; {remedy}, and run again.",
        Exit.DISK,
    )
