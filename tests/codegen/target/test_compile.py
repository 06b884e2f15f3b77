"""Ahead-of-time compilation: every architecture, what a kernel report says, and what is refused."""

from __future__ import annotations

import kernels_for_interpreter as kernels
import pytest
import triton
import triton.language as tl

from tritonnotes.codegen.target.compile import ARCHS, CompiledReport, compile_kernel
from tritonnotes.ir.core.errors import KernelError

POINTERS = ("x_ptr", "weight_ptr", "y_ptr", "mean_ptr")


def layer_norm(arch: int, dtype: str, aligned: bool) -> CompiledReport:
    signature = dict.fromkeys(POINTERS, "*fp32") | {"x_ptr": f"*{dtype}", "y_ptr": f"*{dtype}"}
    signature |= {"cols": "i32", "eps": "fp32"}
    divisible = (*POINTERS, "cols") if aligned else ()
    return compile_kernel(kernels.layer_norm, signature, {"BLOCK": 1024}, arch=arch, divisible_by_16=divisible)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("arch", ARCHS)
def test_every_architecture_compiles_without_spills(arch: int, dtype: str) -> None:
    report = layer_norm(arch, dtype, aligned=True)
    assert f".target sm_{arch}" in report.ptx
    assert report.cubin.startswith(b"\x7fELF")
    assert 0 < report.registers < 128
    assert not report.spills
    assert report.shared_bytes >= 16  # one float for each of the four warps
    # 1024 values over 128 threads: 8 each, of x and of the float32 weight.
    wide_loads = {"fp32": 4, "bf16": 3}[dtype]
    assert report.load_widths == {128: wide_loads}
    assert report.store_widths == {128: {"fp32": 2, "bf16": 1}[dtype], 32: 1}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_without_divisibility_accesses_are_narrow(dtype: str) -> None:
    report = layer_norm(80, dtype, aligned=False)
    assert max(report.load_widths) == 32
    assert sum(report.load_widths.values()) == 16
    assert max(report.store_widths) == 32


@triton.jit
def keep_many(x_ptr, y_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(x_ptr + i)
    b = tl.load(x_ptr + BLOCK + i)
    c = tl.load(x_ptr + 2 * BLOCK + i)
    total = tl.sum(a, axis=0) + tl.sum(b, axis=0) + tl.sum(c, axis=0)
    tl.store(y_ptr + i, a * total + b / total + c)


def test_spills_are_counted() -> None:
    signature = {"x_ptr": "*fp32", "y_ptr": "*fp32"}
    report = compile_kernel(keep_many, signature, {"BLOCK": 1 << 13}, arch=80, num_warps=1)
    assert report.spills
    assert report.spills.loads > 0 and report.spills.stores > 0


def test_fusion_of_multiply_and_add_is_a_choice() -> None:
    signature = {"x_ptr": "*fp32", "y_ptr": "*fp32"}
    fused = compile_kernel(keep_many, signature, {"BLOCK": 256}, arch=80)
    plain = compile_kernel(keep_many, signature, {"BLOCK": 256}, arch=80, enable_fp_fusion=False)
    assert "FFMA" in fused.sass
    assert plain.sass.count("FFMA") < fused.sass.count("FFMA")


@pytest.mark.parametrize(
    ("signature", "constexprs", "options", "message"),
    [
        ({"x_ptr": "*fp32"}, {"BLOCK": 8}, {}, "y_ptr has neither a type nor a value"),
        ({"x_ptr": "*fp32", "y_ptr": "*fp32", "z": "i32"}, {"BLOCK": 8}, {}, "no parameter z"),
        ({"x_ptr": "*fp32", "y_ptr": "*fp32", "BLOCK": "i32"}, {}, {}, "BLOCK is constexpr"),
        ({"x_ptr": "*fp32", "y_ptr": "*fp32"}, {"y_ptr": None, "BLOCK": 8}, {}, "both in signature"),
        ({"x_ptr": "*fp32", "y_ptr": "*fp32"}, {"BLOCK": 8}, {"arch": 75}, "arch must be one of"),
        (
            {"x_ptr": "*fp32", "y_ptr": "*fp32"},
            {"BLOCK": 8},
            {"divisible_by_16": ["BLOCK"]},
            "divisible_by_16",
        ),
        ({"x_ptr": "*fp32", "y_ptr": "*fp32"}, {"BLOCK": 7}, {}, "does not compile for sm_80.*power of 2"),
    ],
)
def test_what_cannot_compile_is_refused_with_a_reason(
    signature: dict, constexprs: dict, options: dict, message: str
) -> None:
    with pytest.raises(KernelError, match=f"(?s)keep_many.*{message}"):
        compile_kernel(keep_many, signature, constexprs, **{"arch": 80, **options})


def test_error_inside_a_helper_gives_its_reason() -> None:
    with pytest.raises(KernelError, match="raises does not compile for sm_90"):
        compile_kernel(kernels.raises, {"x_ptr": "*fp32"}, {}, arch=90)
