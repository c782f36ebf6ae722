"""A lock on a folder of an object store."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

from obstore import get, put
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import ObjectStore
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sfi_ray.errors import StorageError
from sfi_ray.store.locks.holder import Holder, refusal
from sfi_ray.store.s3 import first_line


class LockRecord(BaseModel):
    """What the object of a lock says.

    Attributes:
        epoch: Larger than that of every holder before.
        holder: Who holds the folder, or held it last.
        renewed_at: When it renewed the lock, by its own clock in seconds since 1970; for people and for the status.
        is_released: Whether it has ended.
    """

    model_config = ConfigDict(frozen=True)

    epoch: int = Field(ge=1)
    holder: Holder
    renewed_at: float = Field(ge=0, le=1e11, allow_inf_nan=False)
    is_released: bool = False


class _Seen(NamedTuple):
    """A lock as it was read, and the version that a conditional write names."""

    record: LockRecord
    version: Any


class BucketLock:
    """A lock on a folder of an object store."""

    name: ClassVar[str] = "lock.json"
    """The object."""
    renew_seconds: ClassVar[float] = 10.0
    """Time between two renewals."""
    silent_seconds: ClassVar[float] = 40.0
    """Silence after which the holder is gone: a few renewals, since a network may fail for some seconds."""
    trust_seconds: ClassVar[float] = 20.0
    """Time for which a writer trusts its last look. It is also how long a new holder waits before it begins."""

    def __init__(self, store: ObjectStore, location: str) -> None:
        self._store = store
        self._location = location

    @contextlib.contextmanager
    def held(self, log: Callable[[str], None]) -> Iterator[Fence]:
        """Holds the folder, and renews the lock from a thread of its own.

        Args:
            log: Hears of a wait.

        Raises:
            InputError: Another launch holds it.
            StorageError: The store cannot be reached, or knows no conditional writes.
        """
        before = self._free(log)
        # Not 1, 2, 3: where somebody has deleted the lock, the epoch of an earlier holder must not come again.
        epoch = max(int(time.time()), before.record.epoch + 1 if before else 1)
        record = LockRecord(epoch=epoch, holder=Holder.here(), renewed_at=time.time())
        fence = Fence(self, epoch)
        version = self._write(record, before.version if before else "create")
        if version is None:
            now = self._read()
            raise refusal(self._location, now.record.holder if now else None)
        fence.confirm()
        has_ended = threading.Event()

        def renew() -> None:
            nonlocal record, version
            while not has_ended.wait(self.renew_seconds) and version is not None:
                # What cannot be reached is tried again. Meanwhile each write looks for itself.
                with contextlib.suppress(StorageError):
                    renewed = record.model_copy(update={"renewed_at": time.time()})
                    version = self._write(renewed, version)
                    record = renewed

        thread = threading.Thread(target=renew, name="bucket lock", daemon=True)
        thread.start()
        try:
            if before and not before.record.is_released:
                time.sleep(self.trust_seconds)
            yield fence
        finally:
            has_ended.set()
            thread.join()
            if version is not None:
                with contextlib.suppress(StorageError):
                    self._write(record.model_copy(update={"is_released": True}), version)

    def require(self, epoch: int) -> None:
        """Refuses to go on where another launch has taken the folder over.

        Args:
            epoch: The epoch of the launch that asks.

        Raises:
            StorageError: Another launch has it, or the store cannot be reached.
        """
        seen = self._read()
        if seen is not None and seen.record.epoch == epoch:
            return
        who = f"by {seen.record.holder}" if seen else "by whoever removed its lock"
        raise StorageError(
            f"'{self._location}' was taken over {who}: this launch gave no sign of life for {self.silent_seconds:g} s, "
            "as after a lost network or a suspended machine; it writes no more, and what it wrote is kept"
        )

    def _free(self, log: Callable[[str], None]) -> _Seen | None:
        """Returns the lock of a holder that has ended or is gone; None where there never was one.

        Raises:
            InputError: The holder lives.
            StorageError: The store cannot be reached.
        """
        seen = self._read()
        if seen is None or seen.record.is_released:
            return seen
        log(
            f"'{self._location}' is held by {seen.record.holder}; this launch takes it over if the other gives no sign "
            f"of life for {self.silent_seconds:g} s"
        )
        until = time.monotonic() + self.silent_seconds
        while True:
            time.sleep(self.renew_seconds / 10)
            is_over = time.monotonic() >= until
            now = self._read()
            if now is None or now.record.is_released:
                return now
            if now.version != seen.version:
                raise refusal(self._location, now.record.holder)
            if is_over:
                return seen

    def _read(self) -> _Seen | None:
        with self._explained():
            try:
                found = get(self._store, self.name)
                content = bytes(found.bytes()) if found.meta["size"] < 1 << 16 else b""
            except (NotFoundError, FileNotFoundError):
                return None
            try:
                return _Seen(LockRecord.model_validate_json(content), _version_of(found.meta))
            except ValidationError as error:
                raise StorageError(
                    f"'{self._location}': its {self.name} is broken; delete it once no launch writes to the folder"
                ) from error

    def _write(self, record: LockRecord, mode: Any) -> Any:
        """Writes the lock if nobody else has changed it.

        Args:
            record: The new content.
            mode: ``create`` where there must be none; otherwise the version that it must have.

        Returns:
            The new version; None where another launch was faster.
        """
        content = record.model_dump_json().encode()
        with self._explained():
            try:
                return _version_of(put(self._store, self.name, content, mode=mode, use_multipart=False))
            except (AlreadyExistsError, PreconditionError, NotFoundError, FileNotFoundError) as error:
                if mode == "create" and isinstance(error, NotFoundError | FileNotFoundError):
                    raise StorageError(
                        f"cannot write '{self._location}': {first_line(error)}; check that the bucket exists"
                    ) from error
        # The store may have taken an earlier write of this holder whose answer was lost.
        now = self._read()
        if now is None or (now.record.epoch, now.record.holder) != (record.epoch, record.holder):
            return None
        return now.version if now.record == record else self._write(record, now.version)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except BaseError as error:
            raise StorageError(
                f"cannot hold '{self._location}' for one launch: {first_line(error)}; check that it can be "
                "reached, and that the object store knows conditional writes (If-None-Match and If-Match)"
            ) from error


def is_live(content: bytes) -> bool:
    """Whether a launch holds the folder of a lock, by the clocks of both machines: for the status only."""
    try:
        record = LockRecord.model_validate_json(content)
    except ValidationError:
        return False
    return not record.is_released and abs(time.time() - record.renewed_at) < BucketLock.silent_seconds


class Fence:
    """Lets writes pass while the launch that they belong to holds the folder."""

    def __init__(self, lock: BucketLock, epoch: int) -> None:
        self._lock = lock
        self.epoch = epoch
        self._looked_at: tuple[float, float] | None = None

    def confirm(self) -> None:
        """Notes that the launch holds the folder now."""
        self._looked_at = time.monotonic(), time.time()

    def require(self) -> None:
        """Looks at the lock, unless the last look was a moment ago.

        Raises:
            StorageError: Another launch has taken the folder over, or the store cannot be reached.
        """
        now = time.monotonic(), time.time()
        # On some systems, the monotonic clock stands still while the machine is suspended.
        if self._looked_at and all(
            abs(clock - before) < self._lock.trust_seconds for clock, before in zip(now, self._looked_at, strict=True)
        ):
            return
        self._lock.require(self.epoch)
        self._looked_at = now


def _version_of(result: Any) -> Any:
    """Returns what a conditional write names: only what the store tells."""
    return {name: result[name] for name in ("e_tag", "version") if result.get(name) is not None}
