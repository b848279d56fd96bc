import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import folder
from bench.errors import BenchError, Exit


def test_the_name_holds_time_commit_and_machine(tmp_path):
    made = folder.create(tmp_path / "a" / "results", "1234abcd-dirty", "AMD EPYC 7B13 (R) @ 2.2GHz")
    time, commit, machine = made.name.split("_")
    assert len(time) == 16 and time.endswith("Z")
    assert commit == "1234abcd-dirty"
    assert machine == "amd-epyc-7b13-r-2-2ghz"


def test_two_runs_in_one_second_get_two_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(folder.time, "strftime", lambda *_: "now")
    names = {folder.create(tmp_path, "c", "m").name for _ in range(3)}
    assert names == {"now_c_m", "now_c_m_2", "now_c_m_3"}


@pytest.mark.parametrize("text", ["../../x", "/etc", "CON", "a\0b", "x" * 300, "🙂", ""])
def test_a_slug_is_one_harmless_name(text, tmp_path):
    name = folder.slug(text)
    assert 0 < len(name) <= 40
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_latest_leads_to_the_newest(tmp_path):
    assert folder.latest(tmp_path) is None
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        folder.point_latest(tmp_path, tmp_path / name)
        assert folder.latest(tmp_path) == tmp_path / name
    assert os.readlink(tmp_path / "latest") == "two"
    assert not list(tmp_path.glob(".latest*"))


def test_latest_is_a_text_file_where_links_fail(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError(errno.EPERM, "no links here")

    (tmp_path / "one").mkdir()
    monkeypatch.setattr(Path, "symlink_to", fails)
    folder.point_latest(tmp_path, tmp_path / "one")
    assert (tmp_path / "latest.txt").read_text() == "one\n"
    assert folder.latest(tmp_path) == tmp_path / "one"


@pytest.mark.parametrize("target", ["../elsewhere", "gone"])
def test_latest_does_not_lead_out_of_the_results(tmp_path, target):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "latest").symlink_to(target)
    assert folder.latest(tmp_path / "results") is None


def test_a_second_writer_is_told_who_has_the_folder(tmp_path):
    code = (
        f"from pathlib import Path; from bench.folder import lock\nwith lock(Path({str(tmp_path)!r})): print('got it')"
    )
    with folder.lock(tmp_path):
        with (
            pytest.raises(BenchError, match=rf"in use by pid {os.getpid()} since \d\d\d\d-") as caught,
            folder.lock(tmp_path),
        ):
            pass
        assert caught.value.exit_code == Exit.LOCKED == 5
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert other.returncode != 0 and f"in use by pid {os.getpid()}" in other.stderr
    free = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert free.stdout == "got it\n"


def test_the_lock_leaves_nothing_behind_and_a_late_process_cannot_hold_a_file_that_is_gone(tmp_path, monkeypatch):
    with folder.lock(tmp_path):
        assert (tmp_path / folder.LOCK).exists()
    assert not list(tmp_path.iterdir())
    real, taken = folder._lock_descriptor, []

    def too_late(descriptor):
        """The holder has let go, and its file with it, after we had opened it."""
        if not taken:
            (tmp_path / folder.LOCK).unlink()
        taken.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(folder, "_lock_descriptor", too_late)
    with folder.lock(tmp_path):
        monkeypatch.undo()
        with pytest.raises(BenchError, match="in use"), folder.lock(tmp_path):
            pass
    assert len(taken) == 2


def test_a_file_stands_in_where_the_file_system_has_no_locks(tmp_path, monkeypatch):
    def fails(_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(folder, "_lock_descriptor", fails)
    with folder.lock(tmp_path), pytest.raises(BenchError, match="delete") as caught, folder.lock(tmp_path):
        pass
    assert caught.value.exit_code == 5
    with folder.lock(tmp_path):  # released
        assert (tmp_path / "lock.exclusive").exists()


def test_atomic_write_replaces_whole(tmp_path):
    path = tmp_path / "x.csv"
    folder.atomic_write(path, "old ü\n")
    folder.atomic_write(path, b"new\n")
    assert path.read_bytes() == b"new\n"
    assert os.listdir(tmp_path) == ["x.csv"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~folder._umask()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_atomic_write_on_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "x.csv"
    folder.atomic_write(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(BenchError, match="No space left") as caught:
        folder.atomic_write(path, "new")
    assert caught.value.exit_code == 4
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.csv"]


def test_atomic_write_syncs_the_file_before_it_replaces_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, real=real, name=name: calls.append(name) or real(*args))
    folder.atomic_write(tmp_path / "x", "y")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    # not by chmod: root may write anywhere
    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(folder.tempfile, "mkstemp", read_only)
    with pytest.raises(BenchError, match="Read-only file system.*--out") as caught:
        folder.check_writable(tmp_path)
    assert caught.value.exit_code == 4


def test_a_nearly_full_disk_is_refused(tmp_path, monkeypatch):
    usage = folder.shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(BenchError, match="1 MiB left") as caught:
        folder.check_writable(tmp_path)
    assert caught.value.exit_code == 4


def test_a_results_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "results").write_text("mine")
    with pytest.raises(BenchError) as caught:
        folder.create(tmp_path / "results", "c", "m")
    assert caught.value.exit_code == 4 and "is a file" in str(caught.value)
