"""A run's folder on a local disk or on any file system that pyarrow or fsspec supports.

A file appears whole or not at all. A local file is written under another name, synced and renamed. An object store
shows only complete objects.

A folder may come from a stranger. Only regular files up to a size are read. Links that lead out of the folder are not
followed.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.store import ObjectStore
from pyarrow import fs

from sfi_ray.errors import InputError, StorageError
from sfi_ray.location import parted, within
from sfi_ray.store.locks.bucket_lock import BucketLock, Fence, is_live
from sfi_ray.store.locks.file_lock import FileLock
from sfi_ray.store.s3 import list_from, open_s3

logger = logging.getLogger(__name__)

RECORD = "job.yaml"
"""The file that marks a folder as a run's; `store.record` defines its content."""

WEIGHTS_BYTES = 1 << 34
"""Most bytes of a file of weights, or of a whole network."""


class RunFolder:
    """Files of one run.

    Args:
        location: Path or URI of the run's folder.
        epoch: The epoch of the launch that this object writes for. Once another launch holds the folder, writing is
            refused; see `sfi_ray.store.locks`.

    Raises:
        InputError: The URI's scheme is unknown, or the location cannot be a path.
    """

    _temporary: ClassVar[str] = ".tmp"
    """Ending of a file that is still being written."""
    _lock_file: ClassVar[str] = ".lock"

    def __init__(self, location: str | Path, epoch: int | None = None) -> None:
        self.location = str(location)
        if re.search("[\0\ud800-\udfff]", self.location):  # a shell or a job file can give any text
            raise InputError(f"'{self.location}' is not a path: it has a character that no path can have; give another")
        self._fs, self._root = _open(self.location)
        self._fence: Fence | None = None
        if epoch is not None and (lock := self._bucket_lock()) is not None:
            self._fence = Fence(lock, epoch)

    def __repr__(self) -> str:
        return f"RunFolder({self.location!r})"

    @property
    def filesystem(self) -> fs.FileSystem:
        """The file system that holds the folder."""
        return self._fs

    @property
    def is_local(self) -> bool:
        """Whether the folder lies on this machine's file system."""
        return isinstance(self._fs, fs.LocalFileSystem)

    def path(self, name: str) -> str:
        """Returns the path of a file in the folder, on `filesystem`.

        Raises:
            InputError: The name would leave the folder.
        """
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\0" in name:
            raise InputError(f"'{name}' lies outside the run's folder")
        return f"{self._root}/{name}" if name else self._root

    def inner(self, name: str) -> RunFolder:
        """Returns a folder within this one, which need not exist; the same launch holds it.

        Raises:
            InputError: The name would leave this folder.
            StorageError: A link leads it out of this folder.
        """
        with self._explained("read", name):
            self._inside(name)
        inner = RunFolder(within(self.location, name))
        inner._fence = self._fence
        return inner

    def exists(self, name: str) -> bool:
        """Whether a file or folder of this name exists."""
        with self._explained("read", name):
            return bool(self._fs.get_file_info(self._inside(name)).type != fs.FileType.NotFound)

    def read(self, name: str, most_bytes: int = 1 << 26) -> bytes:
        """Returns the content of a file.

        Args:
            name: The file.
            most_bytes: A larger file is refused before it is read.

        Raises:
            StorageError: It cannot be read, is larger, or is not a regular file.
        """
        with self.opened(name) as stream, self._explained("read", name):
            content = bytes(stream.read(most_bytes + 1))
        if len(content) > most_bytes:
            raise StorageError(
                f"'{within(self.location, name)}' has more than {most_bytes:,} bytes, more than any run writes; check "
                "the file"
            )
        return content

    def size(self, name: str) -> int:
        """Returns how many bytes a file has.

        Raises:
            StorageError: It cannot be read, or is not a regular file.
        """
        with self.opened(name) as file:
            return int(file.size())

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[pa.NativeFile]:
        """Opens a file for reading, with random access.

        Raises:
            StorageError: It cannot be read, or is not a regular file.
        """
        with self._explained("read", name):
            path = self._inside(name)
            if self.is_local:
                _require_regular(path)
            file = self._fs.open_input_file(path)
        with file:
            yield file

    def entries(self, folder: str) -> list[fs.FileInfo]:
        """Lists the direct content of a folder by name, without names that begin with a dot.

        A folder that does not exist counts as empty.
        """
        with self._explained("read", folder):
            infos = self._fs.get_file_info(fs.FileSelector(self._inside(folder), allow_not_found=True))
        return sorted((i for i in infos if not i.base_name.startswith(".")), key=lambda info: info.base_name)

    def entries_from(self, folder: str, beginning: str) -> list[fs.FileInfo]:
        """Lists the direct content of a folder whose names begin alike; on S3, it lists nothing else."""
        if not isinstance(self._fs, fs.S3FileSystem):
            return [info for info in self.entries(folder) if info.base_name.startswith(beginning)]
        with self._explained("read", folder):
            return list_from(self._store, self._root, f"{folder}/{beginning}")

    def list(self, folder: str, suffix: str = "") -> list[fs.FileInfo]:
        """Lists the finished files directly in a folder, sorted by name; none when the folder does not exist."""
        infos = self.entries(folder)
        return [i for i in infos if i.type == fs.FileType.File and i.base_name.endswith(suffix)]

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        """Writes a file, whole or not at all.

        Raises:
            StorageError: It cannot be written; nothing is left behind.
        """
        path = self.path(name)
        folder, _, base = path.rpartition("/")
        self._require_held()
        with self._explained("write", name):
            self._inside(str(PurePosixPath(name).parent))  # a link of this name is replaced, not followed
            if self._fs.type_name in ("s3", "gcs", "abfs"):  # object stores: they have no folders to make
                with self._fs.open_output_stream(path) as stream:
                    stream.write(content)
                return
            self._fs.create_dir(folder, recursive=True)
            temporary = f"{folder}/.{base}.{secrets.token_hex(4)}{self._temporary}"
            try:
                self._write_through(temporary, content)
                self._fs.move(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    self._fs.delete_file(temporary)
                raise

    def write_table(self, name: str, table: pa.Table, **options: Any) -> None:
        """Writes a table as a parquet file, whole or not at all.

        Args:
            name: The file.
            table: The table.
            options: As for `pyarrow.parquet.write_table`; the compression is zstd by default.

        Raises:
            StorageError: It cannot be written; nothing is left behind.
        """
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **{"compression": "zstd", **options})
        self.write(name, sink.getvalue())

    def _write_through(self, path: str, content: bytes | pa.Buffer) -> None:
        if self.is_local:
            with open(path, "wb") as file:  # noqa: PTH123 - a path of the pyarrow file system
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        else:
            with self._fs.open_output_stream(path) as stream:
                stream.write(content)

    def delete(self, name: str) -> None:
        """Deletes a file, or a folder with its content, if it exists; of a link, only the link itself."""
        self._require_held()
        # Somebody else may delete it at the same time.
        with self._explained("write", name), contextlib.suppress(FileNotFoundError):
            path = self.path(name)
            self._inside(str(PurePosixPath(name).parent))
            if self.is_local and Path(path).is_symlink():
                Path(path).unlink()
                return
            info = self._fs.get_file_info(path)
            if info.type == fs.FileType.Directory:
                self._fs.delete_dir(info.path)
            elif info.type != fs.FileType.NotFound:
                self._fs.delete_file(info.path)

    def sweep(self, *folders: str) -> None:
        """Removes the unfinished files of killed writers directly in some folders; nobody may be writing there."""
        for folder in folders:
            with self._explained("read", folder):
                infos = self._fs.get_file_info(fs.FileSelector(self._inside(folder), allow_not_found=True))
            for info in infos:
                is_temporary = info.base_name.startswith(".") and info.base_name.endswith(self._temporary)
                if is_temporary and info.type == fs.FileType.File:
                    with self._explained("write", folder), contextlib.suppress(FileNotFoundError):
                        self._fs.delete_file(info.path)

    def check_writable(self) -> None:
        """Checks that the folder can be written, without a trace. A remote folder is not checked.

        Raises:
            StorageError: It cannot be written.
        """
        if self.is_local:
            with self._explained("write"):
                try_writing(Path(self._root))

    @property
    def can_be_locked(self) -> bool:
        """Whether one launch at a time can hold the folder: on a local disk of a POSIX system, and on S3."""
        return isinstance(self._fs, fs.S3FileSystem) or (self.is_local and os.name == "posix")

    @property
    def epoch(self) -> int | None:
        """The epoch of the launch that this object writes for; None where no lock in a bucket guards the folder."""
        return self._fence.epoch if self._fence else None

    def is_locked(self) -> bool:
        """Whether a driver holds the folder; False where nobody can know (`can_be_locked`).

        Raises:
            StorageError: The folder cannot be reached.
        """
        if isinstance(self._fs, fs.S3FileSystem):
            return self.exists(BucketLock.name) and is_live(self.read(BucketLock.name, 1 << 16))
        if self.can_be_locked:
            with contextlib.suppress(OSError):  # a link that leads out of the folder is no lock
                return FileLock(self._inside(self._lock_file), self.location).is_held()
        return False

    @contextlib.contextmanager
    def lock(self, log: Callable[[str], None] = logger.warning) -> Iterator[None]:
        """Holds the folder for one driver, where `can_be_locked`.

        A lock of the operating system ends with the process. On S3, the hold of a process that is gone is taken over
        after a minute, and from then on its writes are refused; see `sfi_ray.store.locks`.

        Args:
            log: Hears of a wait.

        Raises:
            InputError: Another driver holds it.
            StorageError: The folder cannot be written.
        """
        lock = self._bucket_lock()
        if lock is not None:
            with lock.held(log) as self._fence:
                try:
                    yield
                finally:
                    self._fence = None
            return
        with contextlib.ExitStack() as stack:
            if self.can_be_locked:
                with self._explained("write"):
                    self._fs.create_dir(self._root, recursive=True)
                    stack.enter_context(FileLock(self._inside(self._lock_file), self.location).held())
            yield

    def _bucket_lock(self) -> BucketLock | None:
        return BucketLock(self._store, self.location) if isinstance(self._fs, fs.S3FileSystem) else None

    @functools.cached_property
    def _store(self) -> ObjectStore:
        return open_s3(self.location, self._root, self._fs.region)

    def _require_held(self) -> None:
        if self._fence is not None:
            self._fence.require()

    def _inside(self, name: str) -> str:
        """Returns the path of a file or folder, and refuses links that lead out of this folder."""
        path = self.path(name)
        if not self.is_local:
            return path
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            Path(path).stat()  # raises an error for a circle of links
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self._root)):
            raise StorageError(
                f"'{within(self.location, name)}' is behind a link that leads out of '{self.location}'; such links are "
                "not followed: put the files themselves there, or remove the link"
            )
        return path

    @contextlib.contextmanager
    def _explained(self, action: str, name: str = "") -> Iterator[None]:
        """Turns an error of the file system into one line that names the folder and the mend."""
        try:
            yield
        except (OSError, pa.ArrowInvalid, pa.ArrowIOError) as error:
            if isinstance(error, StorageError):
                raise
            number = getattr(error, "errno", None)
            mend = {
                errno.ENOSPC: "free some space and launch again: finished cells are kept",
                errno.EDQUOT: "free some of your quota and launch again: finished cells are kept",
                errno.EROFS: "choose another folder with --output",
                errno.EACCES: "choose another folder with --output, or mend its permissions",
                errno.ENOTDIR: "a part of the path is a file; choose another folder with --output",
                errno.EEXIST: "a part of the path is a file; choose another folder with --output",
            }.get(number or 0, "check that the path exists and can be reached")
            what = os.strerror(number) if number else str(error)
            where = within(self.location, name) if name else self.location.rstrip("/")
            raise StorageError(f"cannot {action} '{where}': {what}; {mend}") from error


def try_writing(folder: Path) -> None:
    """Writes a nameless file into a folder of this machine, or into the nearest one above it that exists.

    Raises:
        OSError: It cannot be written.
    """
    place = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(bytes(4096))  # a full disk may still take an empty file
        file.flush()


def _require_regular(path: str) -> None:
    """Refuses a folder, and a pipe, device or socket, which could block or never end."""
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError("it is a pipe or a device")


def _in_one_request(location: str) -> str:
    """Has a file that fits into one part of an upload to S3 written with one request, not with three."""
    place, options = parted(location)
    if not place.startswith("s3://"):
        return location
    return f"{place}{options or '?'}{'&' if options else ''}allow_delayed_open=true"


def _open(location: str) -> tuple[fs.FileSystem, str]:
    scheme, separator, _ = location.partition("://")
    if not separator:
        return fs.LocalFileSystem(), Path(location).expanduser().absolute().as_posix().rstrip("/")
    try:
        filesystem, path = fs.FileSystem.from_uri(_in_one_request(location))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        try:
            wrapped, path = fsspec.core.url_to_fs(location)
        except (ValueError, ImportError) as error:
            raise InputError(f"cannot open '{location}': {error}") from error
        filesystem = fs.PyFileSystem(fs.FSSpecHandler(wrapped))
    except OSError as error:
        raise StorageError(f"cannot open '{location}': {error}") from error
    if scheme == "file":
        filesystem = fs.LocalFileSystem()
    return filesystem, path.rstrip("/")
