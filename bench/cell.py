"""The unit of work of a run: a `Cell` says what to measure, an `Outcome` what came of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How a cell or a row ended; what went wrong is a row too, never a gap."""

    OK = "ok"
    INCONCLUSIVE = "inconclusive"  # measured, but the interval is too wide to say anything
    DIVERGED = "diverged"  # a loss became nan, inf or absurdly large: a result, not a fault
    WRONG = "wrong"  # differs from the reference by more than the tolerance
    REFERENCE_FAULT = "reference fault"  # torch itself is wrong here
    SKIPPED = "skipped"
    OOM = "oom"
    ERROR = "error"


@dataclass(frozen=True)
class Cell:
    """One thing to measure. Its `id` is made from its content, so a second run knows what is done."""

    kind: str  # one of `bench.plan.KINDS`
    device: str  # cpu | cuda
    optimizer: str  # or the loss, of kinds that measure losses
    settings: dict[str, Any] = field(default_factory=dict)  # plain JSON values; whatever the kind needs
    expected_seconds: float = field(default=1.0, compare=False)

    @property
    def id(self) -> str:
        content = [self.kind, self.device, self.optimizer, self.settings]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """One line for people: ``Adam · rosenbrock · cpu``."""
        return " · ".join([self.optimizer, str(self.settings.get("name", self.kind)), self.device])


@dataclass(frozen=True)
class Outcome:
    """What a cell gave: rows for its CSV table, or the reason why there are none."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    status: Status = Status.OK
    reason: str = ""
