"""All functions of the race by name: the test functions and the quadratic family."""

from __future__ import annotations

from bench.problems.functions import FUNCTIONS
from bench.problems.quadratics import QUADRATICS

CATALOGUE = {**FUNCTIONS, **QUADRATICS}
