"""The kernel cache on disk: generated sources and compiled kernels, by content.

    root/                  0700; TRITONNOTES_CACHE_DIR, or the platform's cache folder (for a user without a home,
                           one among the temporary files)
        source/<sha256>.py    a generated file, named by the hash of its text
        <kind>/<key>.entry    one header line (format, digest, length), then the payload
        locks/<kind>-<key>    held while one process builds what the others wait for

What is read from here runs as code, so nothing is believed on sight: the folders must belong to this user and
be writable by nobody else, and every file is compared with its digest before use. The digest catches damage
and mixed-up files; ownership and mode are what keep other people out. A damaged entry counts as missing and
is built again.

Every file appears under its final name by `os.replace` of a finished temporary file, so a process killed in
the middle of a write leaves at most a temporary file, which a later writer sweeps away. Files are not synced to the
disk, which takes most of the time of a write: what a power cut leaves of them is damaged.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import filelock
import platformdirs

from tritonnotes.ir.core.errors import CacheError

CACHE_DIR_VARIABLE = "TRITONNOTES_CACHE_DIR"


FORMAT = "tritonnotes-cache-1"
"""Names the layout of an entry and of a key: when either changes, so does this, and no old one is found."""


STALE_SECONDS = 600.0
"""A write takes milliseconds, so a temporary file this old belongs to a process that died. Age is the test
because process ids mean nothing where containers share a folder."""


LOCK_TIMEOUT_SECONDS = 600.0
"""No kernel takes this long to build. The operating system frees the lock of a process that dies."""


_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}")


_KEY = re.compile(r"[0-9a-f]{64}")


_TEMPORARY_PREFIX = ".writing-"


_NOT_KINDS = frozenset({"source", "locks"})


_swept: dict[Path, float] = {}
"""When this process last removed from a folder what killed writers left there."""


class KernelCache:
    """Bytes on disk, found by a kind (`cubin`, `plan`) and a key (from `key_of`).

    `root` is the folder; without it, `$TRITONNOTES_CACHE_DIR` or the platform's cache folder. It is created
    here. Raises `CacheError` where the folder cannot be created or cannot be trusted.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = _default_root() if root is None else Path(root).expanduser().absolute()
        _private_folder(self.root, parents=True)

    def get(self, kind: str, key: str) -> bytes | None:
        """The payload, or None where there is no entry or the entry is damaged."""
        content = _read_trusted(self._entry_path(kind, key))
        return None if content is None else _unseal(kind, key, content)

    def put(self, kind: str, key: str, payload: bytes) -> Path:
        """Stores the payload, replacing an earlier one, and returns the entry's path."""
        path = self._entry_path(kind, key)
        self._write(path, _seal(kind, key, payload))
        return path

    def get_or_build(self, kind: str, key: str, build: Callable[[], bytes]) -> bytes:
        """The payload, built first if need be: of all who ask at once, one builds and the others wait."""
        payload = self.get(kind, key)
        if payload is not None:
            return payload
        lock_path = self._folder("locks") / f"{kind}-{key}"
        lock = filelock.FileLock(lock_path, timeout=LOCK_TIMEOUT_SECONDS, mode=0o600)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise CacheError(
                f"waited {LOCK_TIMEOUT_SECONDS:.0f} s for another process to build {kind} {key[:12]}…; "
                f"if none is at work, remove {lock_path}"
            ) from error
        except (OSError, NotImplementedError) as error:
            raise _unusable("lock", lock_path, error) from error
        try:
            payload = self.get(kind, key)
            if payload is None:
                payload = build()
                self.put(kind, key, payload)
            return payload
        finally:
            lock.release()

    def source_path(self, source: str) -> Path:
        """The file that holds exactly this Python text, written if need be.

        The name is the content's hash, and a file whose content does not match is replaced by a new file,
        never rewritten: a process that still has the old one open keeps reading what it opened.
        """
        content = source.encode("utf-8")
        path = self._folder("source") / f"{hashlib.sha256(content).hexdigest()}.py"
        if _read_trusted(path) != content:
            self._write(path, content)
        return path

    def _entry_path(self, kind: str, key: str) -> Path:
        # Both become file names, so neither may hold a separator, a dot or anything else a file system reads.
        if not _KIND.fullmatch(kind) or kind in _NOT_KINDS:
            raise CacheError(f"a cache kind is lower-case letters, digits and underscores, not {kind!r}")
        if not _KEY.fullmatch(key):
            raise CacheError(f"a cache key is 64 hexadecimal digits, as key_of returns, not {key!r}")
        return self._folder(kind) / f"{key}.entry"

    def _folder(self, name: str) -> Path:
        # Checked at each use: a process lives for days, and permissions change under it.
        _private_folder(self.root, parents=True)
        folder = self.root / name
        _private_folder(folder)
        return folder

    def _write(self, path: Path, content: bytes) -> None:
        self._sweep(path.parent)
        try:
            # mkstemp creates the file 0600 under a name that nobody else has.
            descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY_PREFIX, dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                os.replace(temporary, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            raise _unusable("write", path, error) from error

    @staticmethod
    def _sweep(folder: Path) -> None:
        # Once in a while: listing a folder at every write would make n writes cost n².
        now = time.time()
        oldest = now - STALE_SECONDS
        if _swept.get(folder, 0.0) > oldest:
            return
        _swept[folder] = now
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                # Another process may sweep the same file at the same moment.
                with suppress(OSError):
                    if entry.name.startswith(_TEMPORARY_PREFIX) and entry.stat(follow_symlinks=False).st_mtime < oldest:
                        os.unlink(entry.path)


def key_of(**parts: object) -> str:
    """A key that differs whenever any part differs: sha256 over a canonical encoding.

    The caller names everything that can change the entry: source, signature, constants, options, target,
    versions. Parts are None, booleans, integers, floats, strings, bytes, and sequences, sets and mappings of
    these. The order of keywords, of mappings and of sets does not matter; True differs from 1, 1 from 1.0,
    and 0.0 from −0.0. Raises `CacheError` for a part of any other type.
    """
    return hashlib.sha256(_encode(FORMAT, "") + _encode(parts, "key")).hexdigest()


def digest_of(root: Path, files: Iterable[Path]) -> str:
    """A hash of files, with their places below `root`: of code that decides what is kept, so that other code finds
    nothing of it."""
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _encode(value: object, where: str) -> bytes:
    """Type tag, length, body: no two different values share an encoding, however they nest."""
    match value:
        case None:
            tag, body = b"n", b""
        case bool():  # before int, which it is a subclass of
            tag, body = b"b", b"1" if value else b"0"
        case int():
            tag, body = b"i", b"%x" % value
        case float():
            tag, body = b"f", float.hex(value).encode()
        case str():
            tag, body = b"s", value.encode("utf-8", "surrogatepass")
        case bytes():
            tag, body = b"y", value
        case list() | tuple():
            tag, body = b"l", b"".join(_encode(item, f"{where}[{i}]") for i, item in enumerate(value))
        case set() | frozenset():
            tag, body = b"u", b"".join(sorted(_encode(item, where) for item in value))
        case Mapping():
            pairs = [(_encode(k, where), _encode(v, f"{where}.{k}")) for k, v in value.items()]
            tag, body = b"m", b"".join(k + v for k, v in sorted(pairs))
        case _:
            raise CacheError(
                f"{where} is of type {type(value).__name__}, which has no canonical encoding; "
                "pass its fields, or a string that says everything about it"
            )
    return b"%b%d:%b" % (tag, len(body), body)


def _default_root() -> Path:
    chosen = os.environ.get(CACHE_DIR_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    if not os.path.isabs(os.path.expanduser("~")) and not os.environ.get("XDG_CACHE_HOME"):
        # Nobody's home: a folder of this user's among the temporary files, which is checked like any other.
        return Path(tempfile.gettempdir()).absolute() / f"tritonnotes-{os.geteuid()}"
    return platformdirs.user_cache_path("tritonnotes", appauthor=False).absolute()


def _private_folder(folder: Path, parents: bool = False) -> None:
    """Creates the folder 0700 if need be; raises where it is not a folder that only this user can write."""
    try:
        if parents:
            folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        # lstat, never stat: whoever may place a link may choose where it leads.
        status = os.lstat(folder)
    except OSError as error:
        raise _unusable("create", folder, error) from error
    problem = remedy = None
    if stat.S_ISLNK(status.st_mode):
        problem, remedy = "is a symbolic link", "name the folder it leads to"
    elif not stat.S_ISDIR(status.st_mode):
        problem, remedy = "is not a folder", "remove it"
    elif not _mine(status):
        problem, remedy = f"belongs to user {status.st_uid}", "choose a folder of your own"
    elif _others_can_write(status):
        problem, remedy = "can be written by other users", f"run chmod 700 {folder}"
    if problem:
        raise CacheError(
            f"the kernel cache {folder} {problem}, so what it holds cannot be trusted: "
            f"{remedy}, or set {CACHE_DIR_VARIABLE} to a private folder"
        )


def _read_trusted(path: Path) -> bytes | None:
    """The content of a regular file that only this user can write; None where there is no such file."""
    flags = os.O_RDONLY
    # NOFOLLOW refuses a link, NONBLOCK keeps a named pipe in the file's place from hanging the reader, and
    # BINARY is for Windows, which has none of the others.
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        # A file that cannot be opened is no entry; if it cannot be replaced either, the write says why.
        descriptor = os.open(path, flags)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not _mine(status) or _others_can_write(status):
            return None
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read()
    finally:
        os.close(descriptor)


def _mine(status: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


def _others_can_write(status: os.stat_result) -> bool:
    # Windows has no such bits: Python makes some up there.
    return os.name == "posix" and bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _digest(kind: str, key: str, payload: bytes) -> str:
    # Kind and key are digested too: a whole entry under another entry's name is damage like any other.
    return hashlib.sha256(f"{FORMAT}\0{kind}\0{key}\0".encode() + payload).hexdigest()


def _header(kind: str, key: str, payload: bytes) -> bytes:
    return f"{FORMAT} {_digest(kind, key, payload)} {len(payload)}\n".encode()


def _seal(kind: str, key: str, payload: bytes) -> bytes:
    return _header(kind, key, payload) + payload


def _unseal(kind: str, key: str, content: bytes) -> bytes | None:
    header, newline, payload = content.partition(b"\n")
    return payload if header + newline == _header(kind, key, payload) else None


def _unusable(doing: str, path: Path, error: BaseException) -> CacheError:
    reason = getattr(error, "strerror", None) or str(error)
    remedy = "remove it, or " if isinstance(error, IsADirectoryError) else ""
    return CacheError(
        f"cannot {doing} {path} in the kernel cache: {reason}; {remedy}"
        f"set {CACHE_DIR_VARIABLE} to a folder that you own and can write"
    )
