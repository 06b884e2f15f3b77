"""The kernel cache: whole entries or none, built once, and never what somebody else could have written."""

from __future__ import annotations

import inspect
import linecache
import marshal
import math
import os
import random
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

from tritonnotes.codegen.target import cache as cache_module
from tritonnotes.codegen.target import load
from tritonnotes.codegen.target.cache import CACHE_DIR_VARIABLE, STALE_SECONDS, KernelCache, key_of
from tritonnotes.codegen.target.load import load_source
from tritonnotes.ir.core.errors import CacheError

PACKAGE = ROOT / "tritonnotes"
KEY = key_of(source="def f(): pass", target="sm_90")

# A child imports the cache under a bare package, so that it starts without torch.
CHILD = f"""
import os, sys, types
package = types.ModuleType("tritonnotes")
package.__path__ = [{str(PACKAGE)!r}]
sys.modules["tritonnotes"] = package
from tritonnotes.codegen.target.cache import KernelCache
root, key = sys.argv[1:3]
"""


def child(code: str, root: Path) -> subprocess.Popen[str]:
    script = CHILD + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", script, str(root), KEY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_word(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline().strip()
    assert line == word, process.stderr.read()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def temporary_files(root: Path) -> list[Path]:
    return list(root.rglob(".writing-*"))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def cache(tmp_path: Path) -> KernelCache:
    return KernelCache(tmp_path / "cache")


# What a cache does


@pytest.mark.parametrize("payload", [b"", b"\n", b"cubin\0\n\xff" * 1000, bytes(range(256))])
def test_payload_comes_back(cache: KernelCache, payload: bytes) -> None:
    assert cache.get("cubin", KEY) is None
    path = cache.put("cubin", KEY, payload)
    assert path.is_file()
    assert cache.get("cubin", KEY) == payload
    assert KernelCache(cache.root).get("cubin", KEY) == payload
    assert cache.get("ptx", KEY) is None


def test_later_put_replaces_the_earlier(cache: KernelCache) -> None:
    cache.put("cubin", KEY, b"long first payload")
    cache.put("cubin", KEY, b"second")
    assert cache.get("cubin", KEY) == b"second"


def test_folders_are_0700_and_files_0600_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        cache = KernelCache(tmp_path / "cache")
        cache.put("cubin", KEY, b"payload")
        cache.get_or_build("ptx", KEY, lambda: b"payload")
        cache.source_path("x = 1\n")
    finally:
        os.umask(before)
    paths = [cache.root, *cache.root.rglob("*")]
    assert {mode_of(path) for path in paths if path.is_dir()} == {0o700}
    files = [path for path in paths if path.is_file()]
    assert len(files) == 4  # two entries, one lock, one source
    assert {mode_of(path) for path in files} == {0o600}


def test_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_DIR_VARIABLE, str(tmp_path / "named"))
    assert KernelCache().root == tmp_path / "named"
    monkeypatch.setenv(CACHE_DIR_VARIABLE, "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert KernelCache().root.is_relative_to(tmp_path)
    assert "named" not in str(KernelCache().root)


@pytest.mark.parametrize("kind", ["", "..", "a/b", "../source", "Cubin", "a.b", "source", "locks", "x\n", "ﬁ"])
def test_kind_that_is_no_plain_word_is_refused(cache: KernelCache, kind: str) -> None:
    with pytest.raises(CacheError, match="cache kind"):
        cache.put(kind, KEY, b"")


@pytest.mark.parametrize("key", ["", "../" + "0" * 61, "0" * 63, "0" * 64 + "\n", "A" * 64])
def test_key_that_is_no_digest_is_refused(cache: KernelCache, key: str) -> None:
    with pytest.raises(CacheError, match="key_of"):
        cache.get("cubin", key)


# Building once


def test_eight_processes_build_once(tmp_path: Path) -> None:
    root, built = tmp_path / "cache", tmp_path / "built"
    code = f"""
        import time
        def build():
            with open({str(built)!r}, "a") as log:
                log.write(f"{{os.getpid()}}\\n")
            time.sleep(0.3)
            return b"payload" * 10_000
        print("ready", flush=True)
        sys.stdin.readline()
        assert KernelCache(root).get_or_build("cubin", key, build) == b"payload" * 10_000
    """
    processes = [child(code, root) for _ in range(8)]
    for process in processes:
        wait_for_word(process, "ready")
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    assert len(built.read_text().splitlines()) == 1
    assert not temporary_files(root)


def test_failed_build_leaves_nothing_and_frees_the_lock(cache: KernelCache) -> None:
    with pytest.raises(ZeroDivisionError):
        cache.get_or_build("cubin", KEY, lambda: b"%d" % (1 // 0))
    assert cache.get("cubin", KEY) is None
    assert cache.get_or_build("cubin", KEY, lambda: b"second try") == b"second try"


def test_process_killed_while_building_holds_nobody_up(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    process = child(
        """
        import time
        def build():
            print("building", flush=True)
            time.sleep(600)
        KernelCache(root).get_or_build("cubin", key, build)
        """,
        root,
    )
    wait_for_word(process, "building")
    kill(process)
    assert KernelCache(root).get_or_build("cubin", KEY, lambda: b"payload") == b"payload"


def test_waiting_for_ever_ends_in_an_error(cache: KernelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "LOCK_TIMEOUT_SECONDS", 0.2)
    process = child(
        """
        import time
        def build():
            print("building", flush=True)
            time.sleep(600)
        KernelCache(root).get_or_build("cubin", key, build)
        """,
        cache.root,
    )
    wait_for_word(process, "building")
    try:
        with pytest.raises(CacheError, match="waited"):
            cache.get_or_build("cubin", KEY, lambda: b"payload")
    finally:
        kill(process)


# Damage


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def cut_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def make_writable_by_others(path: Path) -> None:
    path.chmod(0o666)


def replace_by_link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = [
    flip_one_bit,
    truncate,
    empty,
    append,
    cut_the_header,
    make_writable_by_others,
    replace_by_link,
    replace_by_pipe,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_entry_is_noticed_and_built_once(cache: KernelCache, damage: Callable[[Path], None]) -> None:
    damage(cache.put("cubin", KEY, b"the right payload"))
    assert cache.get("cubin", KEY) is None
    builds = []

    def build() -> bytes:
        builds.append(1)
        return b"rebuilt"

    for _ in range(3):
        assert cache.get_or_build("cubin", KEY, build) == b"rebuilt"
    assert len(builds) == 1


def test_entry_moved_to_another_key_or_kind_is_noticed(cache: KernelCache) -> None:
    other = key_of(source="another kernel")
    content = cache.put("cubin", KEY, b"payload").read_bytes()
    cache.put("cubin", other, b"x").write_bytes(content)
    cache.put("ptx", KEY, b"x").write_bytes(content)
    assert cache.get("cubin", other) is None
    assert cache.get("ptx", KEY) is None


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_source_file_is_replaced_never_rewritten(cache: KernelCache, damage: Callable[[Path], None]) -> None:
    source = "answer = 42\n"
    path = cache.source_path(source)
    damage(path)
    if damage in (replace_by_link, replace_by_pipe):
        assert cache.source_path(source) == path
    else:
        with path.open("rb") as held:
            damaged = held.read()
            assert cache.source_path(source) == path
            held.seek(0)
            assert held.read() == damaged  # whoever had the old file open still reads the old file
    assert path.read_text() == source
    assert not path.is_symlink() and mode_of(path) == 0o600


# Writing


@pytest.mark.parametrize("moment", ["fdopen", "replace"])
def test_kill_in_the_middle_of_a_write_leaves_no_entry(tmp_path: Path, moment: str) -> None:
    root = tmp_path / "cache"
    process = child(
        f"""
        import time
        def hang(*args):
            print("writing", flush=True)
            time.sleep(600)
        os.{moment} = hang
        KernelCache(root).put("cubin", key, b"payload" * 1000)
        """,
        root,
    )
    wait_for_word(process, "writing")
    kill(process)
    cache = KernelCache(root)
    assert cache.get("cubin", KEY) is None
    (left,) = temporary_files(root)

    cache.put("cubin", KEY, b"payload")
    assert left.exists(), "a young temporary file may belong to a living writer"
    long_ago = left.stat().st_mtime - STALE_SECONDS - 60
    os.utime(left, (long_ago, long_ago))
    successor = child('KernelCache(root).put("cubin", key, b"payload")', root)
    assert successor.wait() == 0, successor.communicate()
    assert not temporary_files(root)
    assert cache.get("cubin", KEY) == b"payload"


def test_writes_do_not_list_what_was_written_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process sweeps a folder once in a while, however many cache objects write to it."""
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
    for number in range(20):
        KernelCache(tmp_path).put("cubin", key_of(number=number), b"payload")
    assert len(listed) == 1


def test_kills_at_random_moments_never_leave_a_damaged_entry(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    cache = KernelCache(root)
    path = cache.put("cubin", KEY, b"\0" * 3_000_000)
    pause = random.Random(0)
    for _ in range(4):
        process = child(
            """
            cache = KernelCache(root)
            print("writing", flush=True)
            for i in range(10**9):
                cache.put("cubin", key, bytes([i % 256]) * 3_000_000)
            """,
            root,
        )
        wait_for_word(process, "writing")
        seen = set()
        for _ in range(pause.randrange(5, 25)):
            payload = cache.get("cubin", KEY)
            assert payload is not None, "a partial file was visible"
            assert len(payload) == 3_000_000 and len(set(payload)) == 1
            seen.add(payload[0])
        kill(process)
        assert cache.get("cubin", KEY) is not None
        assert path.is_file()


def test_write_that_fails_keeps_the_old_entry_and_names_the_remedy(
    cache: KernelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put("cubin", KEY, b"old")

    def full(old: str, new: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CacheError, match=f"No space left on device.*{CACHE_DIR_VARIABLE}"):
        cache.put("cubin", KEY, b"new")
    monkeypatch.undo()
    assert cache.get("cubin", KEY) == b"old"
    assert not temporary_files(cache.root)


# Folders that cannot be trusted, or used


def test_symlinked_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(CacheError, match=f"symbolic link.*{CACHE_DIR_VARIABLE}"):
        KernelCache(tmp_path / "link")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CacheError, match="symbolic link"):
        KernelCache(tmp_path / "dangling")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kind", ["cubin", "source", "locks"])
def test_symlinked_folder_inside_the_root_is_refused(cache: KernelCache, tmp_path: Path, kind: str) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (cache.root / kind).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheError, match="symbolic link"):
        if kind == "source":
            cache.source_path("x = 1\n")
        else:
            cache.get_or_build("cubin", KEY, lambda: b"payload")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o720, 0o702, 0o1777])
def test_root_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    root = tmp_path / "cache"
    root.mkdir()
    root.chmod(mode)
    with pytest.raises(CacheError, match=f"chmod 700.*{CACHE_DIR_VARIABLE}"):
        KernelCache(root)
    assert list(root.iterdir()) == []


def test_root_made_writable_later_is_refused_at_the_next_use(cache: KernelCache) -> None:
    cache.put("cubin", KEY, b"payload")
    cache.root.chmod(0o777)
    with pytest.raises(CacheError, match="chmod 700"):
        cache.get("cubin", KEY)
    with pytest.raises(CacheError, match="chmod 700"):
        cache.source_path("x = 1\n")


def test_root_of_another_user_is_refused(cache: KernelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put("cubin", KEY, b"payload")
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.raises(CacheError, match=f"belongs to user {user}.*{CACHE_DIR_VARIABLE}"):
        KernelCache(cache.root)


def test_file_of_another_user_is_not_read(cache: KernelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cache.put("cubin", KEY, b"payload")
    planted = path.stat().st_ino
    genuine = cache_module._mine
    monkeypatch.setattr(cache_module, "_mine", lambda status: status.st_ino != planted and genuine(status))
    assert cache.get("cubin", KEY) is None
    assert cache.get_or_build("cubin", KEY, lambda: b"own") == b"own"


def test_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="not a folder"):
        KernelCache(tmp_path / "file")
    with pytest.raises(CacheError, match=CACHE_DIR_VARIABLE):
        KernelCache(tmp_path / "file" / "cache")


@pytest.mark.parametrize(("errno", "words"), [(30, "Read-only file system"), (13, "Permission denied")])
def test_read_only_home_is_an_error_that_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errno: int, words: str
) -> None:
    cache = KernelCache(tmp_path / "earlier")

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno, words)

    # The file system refuses here as it would there: the superuser, as whom containers run, may write
    # anywhere.
    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(CacheError, match=f"{words}.*{CACHE_DIR_VARIABLE}"):
        KernelCache(tmp_path / "home" / "cache")
    with pytest.raises(CacheError, match=f"{words}.*{CACHE_DIR_VARIABLE}"):
        cache.source_path("x = 1\n")
    assert [path.name for path in tmp_path.iterdir()] == ["earlier"]


# Keys


def test_keys_differ_wherever_the_parts_do() -> None:
    values: list[object] = [
        *(None, True, False, 0, 1, -1, 0.0, -0.0, 1.0, math.nan, math.inf, -math.inf),
        *("", "1", "a", "ab", b"", b"1", b"ab", "None", "\ud800", "ﬁ", "fi"),
        *((), ("a", "b"), ("ab",), (("a",), "b"), ("a", ("b",)), [()], ("",), (None,)),
        *(("asb",), ("a", "s1:b")),
        *({}, {"a": 1}, {"a": "1"}, {1: "a"}, {"a": {"b": 1}}, {"a": 1, "b": 1}, set(), {1}, {1, 2}, {"1"}),
    ]
    keys = [key_of(part=value) for value in values]
    assert all(len(key) == 64 for key in keys)
    for (first, a), (second, b) in combinations(zip(values, keys, strict=True), 2):
        assert a != b, f"{first!r} and {second!r} share a key"
    assert key_of(a=1) != key_of(b=1)
    assert key_of(a=1) != key_of(a=1, b=None)


def test_order_does_not_change_a_key() -> None:
    assert key_of(a=1, b=2) == key_of(b=2, a=1)
    assert key_of(x={"a": 1, "b": [1, 2]}) == key_of(x={"b": (1, 2), "a": 1})
    assert key_of(x={"a", "b", "c"}) == key_of(x=frozenset(["c", "b", "a"]))
    assert key_of(x=[1, 2]) != key_of(x=[2, 1])


def test_key_is_the_same_in_every_process(tmp_path: Path) -> None:
    code = """
        from tritonnotes.codegen.target.cache import key_of
        print(key_of(x={"a", "b", "c"}, y={"k": (1, 2.5, None, True)}))
    """
    keys = set()
    for seed in ("0", "1", "2"):
        script = CHILD + textwrap.dedent(code)
        command = [sys.executable, "-c", script, str(tmp_path), KEY]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        keys.add(done.stdout.strip())
    assert keys == {key_of(x={"a", "b", "c"}, y={"k": (1, 2.5, None, True)})}


def test_part_without_canonical_encoding_is_refused() -> None:
    with pytest.raises(CacheError, match=r"key\.options\[1\] is of type object"):
        key_of(options=[1, object()])


# Loading


SOURCE = '''"""A generated file."""

CONSTANT = 3


def scaled(x):
    # the reason
    return CONSTANT * x
'''


def test_same_source_is_the_same_module(cache: KernelCache, tmp_path: Path) -> None:
    module = load_source(SOURCE, cache)
    assert module.scaled(2) == 6
    assert load_source(SOURCE, cache) is module
    assert load_source(SOURCE, KernelCache(tmp_path / "another")) is module
    assert load_source(SOURCE.replace("3", "4"), cache) is not module
    assert sys.modules[module.__name__] is module
    assert Path(module.scaled.__code__.co_filename) == cache.source_path(SOURCE)


def test_what_is_read_back_is_what_was_verified(cache: KernelCache) -> None:
    source = SOURCE.replace("the reason", "read back")
    module = load_source(source, cache)
    assert module.__file__ is not None
    path = Path(module.__file__)
    path.write_text(source.replace("CONSTANT * x", "EVIL * x"))
    linecache.checkcache()
    assert inspect.getsource(module.scaled) == source[source.index("def scaled") :]
    path.unlink()
    linecache.checkcache()
    assert inspect.getsource(module.scaled) == source[source.index("def scaled") :]


def test_planted_bytecode_is_never_run(cache: KernelCache) -> None:
    source = SOURCE.replace("the reason", "planted")
    path = cache.source_path(source)
    (path.parent / "__pycache__").mkdir(mode=0o700)
    evil = path.parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc"
    evil.write_bytes(b"not even bytecode")
    assert load_source(source, cache).scaled(1) == 3


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that Python compiles, as in a process that has loaded nothing yet."""
    found: list[str] = []

    def counted(text: str, *args: Any, **options: Any) -> Any:
        found.append(text)
        return compile(text, *args, **options)

    monkeypatch.setattr(load, "_modules", {})
    monkeypatch.setattr(load, "compile", counted, raising=False)
    return found


def test_another_process_compiles_nothing(
    cache: KernelCache, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SOURCE.replace("the reason", "compiled once")
    assert load_source(source, cache).scaled(1) == 3 and compiled == [source]
    monkeypatch.setattr(load, "_modules", {})
    module = load_source(source, cache)
    assert module.scaled(1) == 3 and compiled == [source]
    assert Path(module.scaled.__code__.co_filename) == cache.source_path(source)


@pytest.mark.parametrize("damage", ["cut short", "flipped", "another's", "no bytecode", "no code"])
def test_wrong_bytecode_is_compiled_anew(
    damage: str, cache: KernelCache, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SOURCE.replace("the reason", damage)
    load_source(source, cache)
    (entry,) = (cache.root / load.BYTECODE).iterdir()
    content = entry.read_bytes()
    if damage == "cut short":
        entry.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        entry.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    elif damage == "another's":
        load_source(SOURCE.replace("3", "5"), cache)
        (other,) = {*(cache.root / load.BYTECODE).iterdir()} - {entry}
        entry.write_bytes(other.read_bytes())
    else:
        cache.put(load.BYTECODE, entry.stem, b"\x00" if damage == "no bytecode" else marshal.dumps("text"))
    monkeypatch.setattr(load, "_modules", {})
    assert load_source(source, cache).scaled(1) == 3
    assert compiled.count(source) == 2


def test_tampered_source_file_is_never_run(cache: KernelCache) -> None:
    source = SOURCE.replace("the reason", "tampered")
    path = cache.source_path(source)
    path.write_text("raise SystemExit('planted')\n")
    assert load_source(source, cache).scaled(1) == 3
    assert path.read_text() == source


def test_module_that_fails_is_not_kept(cache: KernelCache) -> None:
    source = "raise ValueError('at import')\n"
    before = set(sys.modules)
    for _ in range(2):
        with pytest.raises(ValueError, match="at import"):
            load_source(source, cache)
    assert set(sys.modules) == before


def test_triton_reads_the_verified_text(cache: KernelCache) -> None:
    triton = pytest.importorskip("triton", reason="triton has no wheel for this platform")
    source = textwrap.dedent(
        """\
        import triton
        import triton.language as tl


        @triton.jit
        def copy(x_ptr, y_ptr, BLOCK: tl.constexpr):
            cols = tl.arange(0, BLOCK)
            tl.store(y_ptr + cols, tl.load(x_ptr + cols))
        """
    )
    kernel = load_source(source, cache).copy
    if isinstance(kernel, triton.runtime.JITFunction):
        assert kernel.src == source[source.index("def copy") :]
    else:
        assert "copy" in kernel.__name__  # the interpreter is on in this process, and keeps no text
