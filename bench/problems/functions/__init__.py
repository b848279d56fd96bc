"""The test functions: one file for each kind, one entry for each function, and the names by which all are had.

A name is that of an entry, then what is asked of it: ``-10d`` for the number of coordinates, where it has several;
``-shifted`` or ``-shifted-3`` for another place, up to a tenth of the domain's width away in each coordinate; and
``-rotated`` or ``-rotated-3`` for other axes, about the origin. The last number is a seed, 0 if it is left out:
``ackley-10d-shifted-1-rotated`` is the same function on every machine. The start and the minimisers move along.

The quadratics of `bench.problems.quadratics` are had by their own names, which say all that they are.

Starts marked M in `source` are the standard ones of Moré, Garbow & Hillstrom (1981). Minima and minimisers were
recomputed in float64 or better: several that are widely printed are wrong (McCormick, Styblinski-Tang, Shekel).
Functions whose published minimiser is the origin are shifted as a whole, domain, start and minimisers with them: weight
decay pulls towards the origin, so AdamW would be helped by nothing but the choice of coordinates. So are those that are
low at the origin, compared with their start.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterable
from dataclasses import replace

from bench.errors import BenchError, Exit, unknown
from bench.problems.function import Function, qr_rotation, rotated, shifted
from bench.problems.functions import bowls, least_squares, nonsmooth, oscillating, polynomial, valleys, waves, wells
from bench.problems.functions.scalable import Scalable
from bench.problems.quadratics import QUADRATICS, RACED

VARIANTS = ("-shifted", "-shifted-3", "-rotated", "-rotated-3", "-shifted-3-rotated-3")
SHIFT = 0.1  # of the domain's width, at most

ENTRIES: dict[str, Function | Scalable] = {
    (entry.make(entry.usual) if isinstance(entry, Scalable) else entry).name: entry
    for family in (valleys, polynomial, bowls, oscillating, waves, wells, least_squares, nonsmooth)
    for entry in family.ENTRIES
}
#: what the race takes beside each entry with its usual number of coordinates
MORE = ("rosenbrock-10d", "ellipsoid-rotated", *RACED)

_NAME = re.compile(
    r"(?P<entry>.+?)(-(?P<n>\d+)d)?(?P<shifted>-shifted(-(?P<shift>\d+))?)?(?P<rotated>-rotated(-(?P<turn>\d+))?)?"
)


def known(name: str) -> bool:
    """Whether the name begins as that of a function."""
    if name.lower() in QUADRATICS:
        return True
    found = _NAME.fullmatch(name.lower())
    return found is not None and found["entry"] in ENTRIES


def named(name: str) -> Function:
    """The function of that name, as the docstring of this module says.

    Raises `BenchError` (exit 2) for a name that is none, and for dimensions that the function does not have.
    """
    if not known(name):
        raise unknown_name("function", name, NAMES)
    return _named(name.lower())


def unknown_name(what: str, name: str, names: Iterable[str]) -> BenchError:
    """The error for a name that is not in `names` and no function's: says what may follow that of a function."""
    begins = [entry for entry in ENTRIES if name.lower().startswith(f"{entry}-")]
    if not begins:
        return unknown(what, name, names)
    return BenchError(
        f"unknown {what} {name!r}: {max(begins, key=len)} may be followed by a number of dimensions, as -10d, then by "
        "-shifted or -shifted-3, then by -rotated or -rotated-3.",
        Exit.USAGE,
    )


@functools.cache
def _named(name: str) -> Function:
    if name in QUADRATICS:
        return QUADRATICS[name]
    found = _NAME.fullmatch(name)
    assert found
    function = _in_dimension(found["entry"], found["n"] and int(found["n"]))
    if found["shifted"]:
        seed = int(found["shift"] or 0)
        generator = random.Random(f"shift/{function.name}/{seed}")
        by = tuple(generator.uniform(-SHIFT, SHIFT) * (high - low) for low, high in function.domain)
        function = _called(shifted(function, by), "shifted", seed)
    if found["rotated"]:
        seed = int(found["turn"] or 0)
        function = _called(
            rotated(function, qr_rotation(function.dimension, f"{function.name}/{seed}")), "rotated", seed
        )
    return function


def _called(function: Function, what: str, seed: int) -> Function:
    number = (f"-{seed}", f" {seed}") if seed else ("", "")
    return replace(function, name=f"{function.name}-{what}{number[0]}", title=f"{function.title}, {what}{number[1]}")


def _in_dimension(name: str, n: int | None) -> Function:
    entry = ENTRIES[name]
    if isinstance(entry, Scalable):
        if n is None:
            return entry.at(entry.usual)
        if n in entry.dimensions:
            return entry.at(n)
        there = [*entry.dimensions]
        have = f"{there[0]} to {there[-1]}" if isinstance(entry.dimensions, range) else ", ".join(map(str, there))
    else:
        if n in (None, entry.dimension):
            return entry
        have = str(entry.dimension)
    raise BenchError(f"{name} has {have} dimensions; {name}-{n}d does not exist.", Exit.USAGE)


def scalable() -> list[str]:
    """The names of those that take a number of dimensions."""
    return [name for name, entry in ENTRIES.items() if isinstance(entry, Scalable)]


#: without numbers of dimensions and variants
NAMES = tuple(dict.fromkeys((*ENTRIES, *MORE, *QUADRATICS)))
#: of the race
FUNCTIONS: dict[str, Function] = {name: named(name) for name in (*ENTRIES, *MORE)}
