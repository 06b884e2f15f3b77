"""LLVM: text to an object file for this processor, kept on disk by content, and loaded into the process.

What is kept lies in tritonnotes' own kernel cache, under its distrust: private folders, digests, atomic writes. A key
holds the IR, the processor and its features, and the versions of LLVM and of this package's own files. llvmlite is
imported here only, and only when something is compiled or loaded.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tritonnotes.codegen.target.cache import KernelCache, digest_of, key_of

from ..errors import NativeError
from .threads import openmp

LEVEL_VARIABLE = "TRITONNOTES_NATIVE_LEVEL"
"""Set to 0, it has kernels compiled in a quarter of the time; they then take up to three times as long, and leave the
same bits. For tests, which compile many kernels and run each a few times."""


OBJECTS = "native"
"""The kind of entry in the cache: one line of JSON, then an object file."""


PACKAGE = Path(__file__).parents[1]


_numbers = itertools.count()


_lock = threading.RLock()


@dataclass(frozen=True)
class Object:
    """An object file and what one must know to call it."""

    facts: dict[str, Any]
    code: bytes

    def to_bytes(self) -> bytes:
        return json.dumps(self.facts, sort_keys=True).encode() + b"\n" + self.code

    @staticmethod
    def from_bytes(payload: bytes) -> Object:
        head, _, code = payload.partition(b"\n")
        return Object(json.loads(head), code)


@dataclass(frozen=True)
class Machine:
    """The processor that code is made for."""

    triple: str
    cpu: str
    features: str

    @property
    def has_wide_registers(self) -> bool:
        return "+avx512f" in self.features.split(",")


def _binding() -> Any:
    try:
        import llvmlite.binding as llvm
    except ImportError as error:
        raise NativeError(
            "native code needs llvmlite, which is not installed: pip install llvmlite, or run kernels in the strict "
            "interpreter, with strict=True or TRITONNOTES_STRICT=1"
        ) from error
    return llvm


@cache
def _llvm() -> Any:
    llvm = _binding()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


@cache
def this_machine() -> Machine:
    llvm = _llvm()
    features = llvm.get_host_cpu_features().flatten()
    return Machine(llvm.get_process_triple(), llvm.get_host_cpu_name(), ",".join(sorted(features.split(","))))


def own_files() -> list[Path]:
    """All that decides what code is made of a kernel."""
    return sorted(PACKAGE.rglob("*.py"))


@cache
def _own_version() -> str:
    """A hash of the files of this package: whatever changes in them makes other code."""
    return digest_of(PACKAGE, own_files())


def object_key(**parts: object) -> str:
    """The key of an object file. `parts` are what it was made from: the IR, and how it was lowered."""
    machine = this_machine()
    return key_of(
        parts=parts,
        cpu=machine.cpu,
        features=machine.features,
        triple=machine.triple,
        level=level(),
        llvm=".".join(str(n) for n in _llvm().llvm_version_info),
        lowering=_own_version(),
    )


def kept_object(key: str, build: Callable[[], Object]) -> Object:
    """The object under a key, built where there is none. Of all processes that ask at once, one builds."""
    return Object.from_bytes(KernelCache().get_or_build(OBJECTS, key, lambda: build().to_bytes()))


def kept_text(kind: str, key: str, build: Callable[[], str]) -> str:
    return KernelCache().get_or_build(kind, key, lambda: build().encode()).decode()


def level() -> int:
    """How much LLVM does: 0 or 1, as the environment says."""
    found = os.environ.get(LEVEL_VARIABLE, "").strip() or "1"
    if found not in ("0", "1"):
        raise NativeError(f"{LEVEL_VARIABLE} is {found!r}; set it to 0, or leave it unset")
    return int(found)


def _target_machine() -> Any:
    llvm, machine = _llvm(), this_machine()
    target = llvm.Target.from_triple(machine.triple)
    return target.create_target_machine(
        cpu=machine.cpu, features=machine.features, opt=3 * level(), reloc="pic", codemodel="small"
    )


def compile_object(text: str, what: str) -> bytes:
    """An object file from LLVM IR text. `what` names it in errors."""
    llvm = _llvm()
    with _lock:
        machine = _target_machine()
        try:
            module = llvm.parse_assembly(text)
            module.triple, module.data_layout = this_machine().triple, str(machine.target_data)
            module.verify()
        except RuntimeError as error:
            raise NativeError(f"{what}: LLVM refuses the code made for it, a defect of tritonnotes: {error}") from error
        _optimize(module, machine)
        return bytes(machine.emit_object(module))


_PASSES = (
    ("sroa",), ("sroa", "new_gvn", "instruction_combine", "simplify_cfg", "aggressive_dce", "simplify_cfg", "new_gvn"),
)  # fmt: skip
"""By level. Loops are vectorized, unrolled and fused where they are written. All else that -O2 does takes five times as
long as these and makes no kernel faster; without them, kernels are a tenth slower."""


def _optimize(module: Any, machine: Any) -> None:
    llvm = _llvm()
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options())
    passes = llvm.create_new_module_pass_manager()
    for name in _PASSES[level()]:
        getattr(passes, f"add_{name}_pass")()
    passes.run(module, builder)


def assembly(text: str) -> str:
    """The machine code of LLVM IR text, to read."""
    llvm = _llvm()
    with _lock:
        machine = _target_machine()
        module = llvm.parse_assembly(text)
        module.triple, module.data_layout = this_machine().triple, str(machine.target_data)
        _optimize(module, machine)
        return str(machine.emit_assembly(module))


@cache
def _jit() -> Any:
    return _llvm().create_lljit_compiler(_target_machine())


class Loaded:
    """Code in the process. It stays there as long as this object does."""

    def __init__(self, codes: tuple[bytes, ...], exports: tuple[str, ...]) -> None:
        llvm = _llvm()
        with _lock:
            builder = llvm.JITLibraryBuilder().add_current_process()
            for code in codes:
                builder.add_object_img(code)
            for name, address in openmp().items():
                builder.import_symbol(name, address)
            for name in exports:
                builder.export_symbol(name)
            try:
                self._library = builder.link(_jit(), f"tritonnotes_native_{next(_numbers)}")
            except RuntimeError as error:
                raise NativeError(f"native code cannot be loaded: {error}") from error

    def __getitem__(self, name: str) -> int:
        return int(self._library[name])
