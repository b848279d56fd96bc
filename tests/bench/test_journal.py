import json
import math
import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import journal
from bench.cell import Cell, Outcome, Status
from bench.errors import BenchError, Exit
from bench.journal import Journal, Record


def record(number: int = 0, rows=None, **changes) -> Record:
    outcome = Outcome([{"loss": 0.5, "status": "ok"}] if rows is None else rows, Status.DIVERGED, "because")
    values = {
        "cell": Cell("functions", "cpu", "Adam", {"name": f"f{number}", "lr": 0.1}),
        "outcome": outcome,
        "seconds": 1.5,
        "environment": "here",
        "traceback": "line 1\nline 2",
    }
    return Record(**{**values, **changes})


def write(folder, count=3):
    store = Journal(folder)
    for number in range(count):
        store.append(record(number))
    store.close()
    return folder / journal.NAME


def test_what_was_appended_comes_back(tmp_path):
    write(tmp_path, 3)
    assert journal.read(tmp_path) == [record(0), record(1), record(2)]
    assert journal.read(tmp_path)[0].traceback == "line 1\nline 2"
    assert journal.read(tmp_path)[2].cell.id == record(2).cell.id


def test_a_second_writer_goes_on_after_the_first(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2)
    assert len(journal.read(tmp_path)) == 3


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["~nan", "~~inf", "~"])
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


def same(left, right) -> bool:
    """Equal with the same types, nan equal to nan, -0.0 not to 0.0."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and math.isnan(left):
        return isinstance(right, float) and math.isnan(right)
    return type(left) is type(right) and repr(left) == repr(right)


@given(values)
def test_every_value_comes_back_as_it_was(value):
    line = journal.to_line(record(rows=[{"value": value}]))
    assert line.count(b"\n") == 1
    json.loads(line, parse_constant=pytest.fail)  # NaN and Infinity are not JSON
    assert same(journal.from_line(line[:-1]).outcome.rows[0]["value"], value)


def test_what_json_cannot_hold_is_named():
    with pytest.raises(TypeError, match="not set"):
        journal.to_line(record(rows=[{"value": {1, 2}}]))


def test_a_torn_tail_is_set_aside_with_one_notice(tmp_path):
    path = write(tmp_path, 3)
    whole = path.read_bytes()
    torn = whole[: len(whole) - 20]
    path.write_bytes(torn)
    assert journal.read(tmp_path) == [record(0), record(1)]  # a reader does not mind

    store = Journal(tmp_path)
    assert "torn" in store.notice
    store.append(record(9))
    store.close()
    assert journal.read(tmp_path) == [record(0), record(1), record(9)]
    (aside,) = tmp_path.glob("runs.jsonl.torn-*")
    assert whole.startswith(torn[: -len(aside.read_bytes())] + aside.read_bytes())
    again = Journal(tmp_path)
    assert again.notice == ""
    again.close()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_flipped_bit_is_found_and_its_line_named(tmp_path, number):
    path = write(tmp_path, 3)
    lines = path.read_bytes().split(b"\n")
    lines[number - 1] = lines[number - 1].replace(b"because", b"becausd")
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(BenchError, match=f"line {number}: its checksum") as caught:
        journal.read(tmp_path)
    assert caught.value.exit_code == Exit.UNREADABLE == 3


@pytest.mark.parametrize("bad", [b"", b"\x00\x00", b"\xff\xfe", b"{}", b"[]", b'{"schema":1}', b"null"])
def test_a_line_that_is_no_record_is_named(tmp_path, bad):
    path = write(tmp_path, 1)
    path.write_bytes(path.read_bytes() + bad + b"\n")
    with pytest.raises(BenchError, match="line 2") as caught:
        journal.read(tmp_path)
    assert caught.value.exit_code == 3


def test_a_newer_schema_is_said_to_be_newer(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SCHEMA", 7)
    write(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(BenchError, match="newer version .schema 7; this one reads up to 1") as caught:
        journal.read(tmp_path)
    assert caught.value.exit_code == 3


def test_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path):
    path = write(tmp_path, 2)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert journal.read(tmp_path) == [record(0), record(1)]


def test_no_journal_is_no_run(tmp_path):
    with pytest.raises(BenchError, match="is not a run") as caught:
        journal.read(tmp_path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("failing", ["short write", "no write", "no fsync"])
def test_a_full_disk_keeps_the_earlier_lines(tmp_path, monkeypatch, failing):
    store = Journal(tmp_path)
    store.append(record(0))
    real_write = os.write

    def full(*_):
        raise OSError(28, "No space left on device")

    if failing == "short write":
        monkeypatch.setattr(os, "write", lambda descriptor, data: real_write(descriptor, data[:10]))
    else:
        monkeypatch.setattr(os, "write" if failing == "no write" else "fsync", full)
    with pytest.raises(BenchError, match="(?i)no space") as caught:
        store.append(record(1))
    assert caught.value.exit_code == Exit.DISK == 4
    monkeypatch.undo()
    assert journal.read(tmp_path) == [record(0)]
    store.append(record(2))  # room was made
    store.close()
    assert journal.read(tmp_path) == [record(0), record(2)]


def test_an_appended_line_is_on_the_disk_before_append_returns(tmp_path, monkeypatch):
    calls = []
    real_write, real_fsync = os.write, os.fsync
    store = Journal(tmp_path)
    monkeypatch.setattr(os, "write", lambda fd, data: calls.append(("write", len(data))) or real_write(fd, data))
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append(("fsync", fd)) or real_fsync(fd))
    store.append(record(0))
    store.close()
    assert calls == [("write", len(journal.to_line(record(0)))), ("fsync", store._descriptor)]


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="this system cannot refuse links")
def test_a_planted_link_is_refused(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (tmp_path / journal.NAME).symlink_to(elsewhere)
    with pytest.raises(BenchError) as caught:
        Journal(tmp_path)
    assert caught.value.exit_code == 4
    assert elsewhere.read_text() == "mine"


def with_checksum(content: dict) -> bytes:
    body = json.dumps(content, separators=(",", ":")).encode()[:-1]
    return body + (journal.CHECKSUM % zlib.crc32(body)).encode() + b"\n"


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("cell", 5, "its cell is 5"),
        ("cell", {"kind": 1}, "its cell's kind is 1"),
        ("cell", {"settings": []}, "its cell's settings is []"),
        ("rows", {}, "its rows is {}"),
        ("rows", [{}, 7], "its row 2 is 7"),
        ("status", 1, "its status is 1"),
        ("status", "fine", "'fine' is not a valid Status"),
        ("reason", None, "its reason is None"),
        ("seconds", "long", "its seconds is 'long'"),
        ("environment", [], "its environment is []"),
    ],
)
def test_a_line_with_the_right_checksum_and_the_wrong_shape_is_named(tmp_path, place, value, says):
    path = write(tmp_path, 1)
    content = json.loads(path.read_bytes())
    del content["crc32"]
    content[place] = {**content[place], **value} if place == "cell" and isinstance(value, dict) else value
    path.write_bytes(path.read_bytes() + with_checksum(content))
    with pytest.raises(BenchError, match="line 2") as caught:
        journal.read(tmp_path)
    assert caught.value.exit_code == 3 and says in str(caught.value)
