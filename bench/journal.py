"""The journal of a run, ``runs.jsonl``: one line for each finished cell, appended in one write and fsynced.

Everything else in a run folder is derived from it. A line is JSON that ends in the CRC-32 of what stands before it, so
a flipped bit is found. JSON has no nan and no infinity: they are written as the strings ``~nan``, ``~inf`` and
``~-inf``, and a string that begins with ``~`` gets a second one, so every value comes back as it was.
"""

from __future__ import annotations

import errno
import json
import os
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cell import Cell, Outcome, Status
from bench.errors import BenchError, Exit, disk_error

SCHEMA = 1
NAME = "runs.jsonl"
FLOATS = {"~nan": float("nan"), "~inf": float("inf"), "~-inf": float("-inf")}
CHECKSUM = ',"crc32":"%08x"}'
CHECKSUM_BYTES = len(CHECKSUM % 0)
# A planted link must not send our writes elsewhere; Windows has no such flag.
APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class Record:
    """A finished cell: what was measured, what came of it, how long it took (s), and where (`environment` id)."""

    cell: Cell
    outcome: Outcome
    seconds: float
    environment: str
    traceback: str = field(default="", compare=False)

    @property
    def statuses(self) -> set[str]:
        """The status of the cell and of each of its rows."""
        return {str(self.outcome.status), *(str(row.get("status", "")) for row in self.outcome.rows)} - {""}


def encode(value: Any) -> Any:
    """`value` with floats that JSON lacks as strings; TypeError names what JSON cannot hold."""
    if isinstance(value, str):
        return "~" + value if value.startswith("~") else str(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if abs(value) < float("inf") else f"~{float(value)}"
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    raise TypeError(f"the journal holds plain JSON values, not {type(value).__name__}: {value!r}")


def decode(value: Any) -> Any:
    """The inverse of `encode`."""
    if isinstance(value, str):
        return FLOATS[value] if value in FLOATS else value.removeprefix("~")
    if isinstance(value, dict):
        return {key: decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decode(item) for item in value]
    return value


def to_line(record: Record) -> bytes:
    """One line, newline included."""
    cell, outcome = record.cell, record.outcome
    content = {
        "schema": SCHEMA,
        "cell": {
            "id": cell.id,
            "kind": cell.kind,
            "device": cell.device,
            "optimizer": cell.optimizer,
            "settings": cell.settings,
        },
        "status": str(outcome.status),
        "reason": outcome.reason,
        "rows": outcome.rows,
        "seconds": record.seconds,
        "environment": record.environment,
        "traceback": record.traceback,
    }
    body = json.dumps(encode(content), allow_nan=False, separators=(",", ":")).encode()[:-1]
    return body + (CHECKSUM % zlib.crc32(body)).encode() + b"\n"


def from_line(line: bytes) -> Record:
    """The record in one line without its end; ValueError says what is wrong with it."""
    try:
        content = json.loads(line)
    except ValueError as error:  # a JSON error or bytes that are not UTF-8
        raise ValueError("it is not valid JSON") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise ValueError(f"it was written by a newer version (schema {schema}; this one reads up to {SCHEMA})")
    body, checksum = line[:-CHECKSUM_BYTES], line[-CHECKSUM_BYTES:]
    if checksum != (CHECKSUM % zlib.crc32(body)).encode():
        raise ValueError("its checksum does not match")
    content = decode(content)
    check_shape("its", content, RECORD_SHAPE)
    cell = content["cell"]
    check_shape("its cell's", cell, CELL_SHAPE)
    for number, row in enumerate(content["rows"], start=1):
        if not isinstance(row, dict):
            raise ValueError(f"its row {number} is {row!r}")
    return Record(
        Cell(cell["kind"], cell["device"], cell["optimizer"], cell["settings"]),
        Outcome(content["rows"], Status(content["status"]), content["reason"]),
        content["seconds"],
        content["environment"],
        content["traceback"],
    )


CELL_SHAPE = {"kind": str, "device": str, "optimizer": str, "settings": dict}
RECORD_SHAPE = {
    **{"cell": dict, "status": str, "reason": str, "rows": list},
    **{"seconds": int | float, "environment": str, "traceback": str},
}


def check_shape(whose: str, values: dict[str, Any], shape: dict[str, Any]) -> None:
    """ValueError if `values` lacks a key of `shape` or has something there that is not of its type."""
    for name, kind in shape.items():
        if name not in values:
            raise ValueError(f"{whose} {name} is missing")
        if not isinstance(values[name], kind):
            raise ValueError(f"{whose} {name} is {values[name]!r}")


def read(folder: Path) -> list[Record]:
    """Every finished cell in the order of writing. A torn last line is left out: its cell was not finished."""
    path = Path(folder) / NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BenchError(f"{folder} is not a run: it has no {NAME}.", Exit.USAGE) from None
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}.", Exit.UNREADABLE) from error
    records = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n")[:-1], start=1):
        try:
            records.append(from_line(line.removesuffix(b"\r")))
        except ValueError as error:
            raise BenchError(
                f"{path}, line {number}: {error}. Remove the line to measure its cell again, or run with --fresh.",
                Exit.UNREADABLE,
            ) from error
    return records


class Journal:
    """The one writer of a run's journal; hold the folder's lock while it is open.

    A last line without its end (power loss, ``kill -9``) is moved to ``runs.jsonl.torn-<time>``; `notice` says so.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / NAME
        try:
            self._descriptor = os.open(self.path, APPEND, 0o666)
            self.notice = self._set_aside_torn_tail()
        except OSError as error:
            raise disk_error(self.path, error) from error

    def _set_aside_torn_tail(self) -> str:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole == len(data):
            return ""
        torn = self.path.with_name(f"{NAME}.torn-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}")
        with open(torn, "xb") as file:
            file.write(data[whole:])
            file.flush()
            os.fsync(file.fileno())
        os.ftruncate(self._descriptor, whole)
        os.fsync(self._descriptor)
        return f"the last line of {self.path} was torn and is now in {torn.name}; its cell runs again."

    def append(self, record: Record) -> None:
        """Return once the line is on the disk; a disk that is full leaves the earlier lines as they were."""
        line = to_line(record)
        size = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, line)
            if written != len(line):
                raise OSError(errno.ENOSPC, f"no space for {len(line)} bytes")
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, size)
            raise disk_error(self.path, error) from error

    def close(self) -> None:
        os.close(self._descriptor)
