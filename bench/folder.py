"""The folder of a run under ``results/``: its name, its lock, the link to the newest, files replaced at a stroke."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.errors import BenchError, Exit, disk_error

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = "lock"
NEED_BYTES = 64 * 2**20  # a full run with its charts takes far less
NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # what network file systems without locks answer


def slug(text: str) -> str:
    """`text` as a part of a file name that every file system takes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "unknown"


def create(root: Path, commit: str, machine: str) -> Path:
    """A new, empty run folder ``<UTC time>_<commit>_<machine>`` under `root`, which is made if it is not there."""
    name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}_{commit}_{slug(machine)}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            folder = root / (name if attempt == 1 else f"{name}_{attempt}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
    except (FileExistsError, NotADirectoryError) as error:
        raise _in_the_way(root) from error
    except OSError as error:
        raise disk_error(root, error) from error
    raise BenchError(f"{root} already holds 999 runs of this second.", Exit.DISK)


def _in_the_way(root: Path) -> BenchError:
    file = next(path for path in (root, *root.parents) if os.path.lexists(path) and not path.is_dir())
    return BenchError(f"--out {root}: {file} is a file, not a folder; choose another --out.", Exit.DISK)


def check_place(folder: Path) -> None:
    """As `check_writable`, of a folder that may not be there yet and is not made."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise _in_the_way(folder)
    check_writable(there)


def check_writable(folder: Path) -> None:
    """Fail now, in a sentence, rather than after minutes of measuring."""
    try:
        atomic_write(folder / "probe", b"x")
        (folder / "probe").unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise disk_error(folder, error) from error
    if free < NEED_BYTES:
        raise BenchError(
            f"{folder} has {free / 2**20:.0f} MiB left, a run needs up to {NEED_BYTES >> 20} MiB; "
            "make room or choose another --out.",
            Exit.DISK,
        )


def atomic_write(path: Path, data: bytes | str) -> None:
    """Replace `path` by `data` (text as UTF-8) whole, or leave it untouched and say why (exit 4)."""
    path = Path(path)
    content = data.encode() if isinstance(data, str) else data
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only the owner reads
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise disk_error(path, error) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def point_latest(root: Path, folder: Path) -> None:
    """Make ``latest`` lead to `folder`: a link, or ``latest.txt`` with its name where links fail."""
    link, text = root / "latest", root / "latest.txt"
    temporary = root / f".latest-{os.getpid()}"
    try:
        temporary.symlink_to(folder.name, target_is_directory=True)
        os.replace(temporary, link)
        text.unlink(missing_ok=True)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        atomic_write(text, folder.name + "\n")


def latest(root: Path) -> Path | None:
    """The newest run under `root`; None if there is none, or if the link leads out of `root`."""
    link, text = root / "latest", root / "latest.txt"
    try:
        folder = (root / text.read_text().strip() if text.is_file() else link).resolve(strict=True)
    except OSError:
        return None
    return root / folder.name if folder.is_dir() and folder.parent == root.resolve() else None


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; a second one is told who has it (exit 5). Ends with the process, even killed."""
    path = folder / LOCK
    descriptor, exclusive = _acquire(path)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _holder())
        yield
    finally:
        with contextlib.suppress(OSError):  # while it is held, so that it is ours; Windows keeps an open file
            path.unlink()
        os.close(descriptor)
        if exclusive:
            exclusive.unlink(missing_ok=True)


def _acquire(path: Path) -> tuple[int, Path | None]:
    """The open, locked file, and the file that stands in for its lock where the file system has none."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise disk_error(path, error) from error
        try:
            try:
                _lock_descriptor(descriptor)
            except OSError as error:
                if error.errno not in NO_FLOCK:
                    raise _in_use(path) from error
                return descriptor, _exclusive_file(path.parent)
            # The last holder removed its file when it let go: a lock on that one would keep nobody out.
            if path.exists() and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor, None
        except BaseException:  # Ctrl-C too may not leave it open
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock_descriptor(descriptor: int) -> None:
    if fcntl:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        import msvcrt

        os.lseek(descriptor, 2**30, os.SEEK_SET)  # beyond the text, which a second process must be able to read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)


def _exclusive_file(folder: Path) -> Path:
    """The lock of file systems without locks: a file that only one process can make. A kill leaves it behind."""
    path = folder / "lock.exclusive"
    try:
        with open(path, "xb") as file:
            file.write(_holder())
    except FileExistsError:
        error = _in_use(path)
        raise BenchError(f"{error} If that process is gone, delete {path}.", Exit.LOCKED) from None
    return path


def _holder() -> bytes:
    return f"pid {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}".encode()


def _in_use(path: Path) -> BenchError:
    holder = ""
    with contextlib.suppress(OSError):  # it may have let go just now
        holder = path.read_text().strip()
    holder = holder or "another process"
    return BenchError(f"{path.parent} is in use by {holder}; wait for it, or choose another --out.", Exit.LOCKED)
