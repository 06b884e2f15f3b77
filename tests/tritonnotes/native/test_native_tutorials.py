"""Kernels of the kind that Triton's tutorials teach, run on CPU tensors and held against torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from tritonnotes.native import enabled, launch


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offset < n
    tl.store(out_ptr + offset, tl.load(x_ptr + offset, mask=mask) + tl.load(y_ptr + offset, mask=mask), mask=mask)


def test_vector_addition() -> None:
    x, y, out = torch.rand(98_432), torch.rand(98_432), torch.empty(98_432)
    with enabled():
        add_kernel[lambda meta: (triton.cdiv(98_432, meta["BLOCK"]),)](x, y, out, 98_432, BLOCK=1024, num_warps=8)
    assert torch.equal(out, x + y)


@triton.jit
def softmax_kernel(out_ptr, x_ptr, x_stride, out_stride, rows, cols, BLOCK: tl.constexpr, num_stages: tl.constexpr):
    first, step = tl.program_id(0), tl.num_programs(0)
    for row in tl.range(first, rows, step, num_stages=num_stages):
        offset = tl.arange(0, BLOCK)
        mask = offset < cols
        x = tl.load(x_ptr + row * x_stride + offset, mask=mask, other=-float("inf"))
        numerator = tl.exp(x - tl.max(x, axis=0))
        tl.store(out_ptr + row * out_stride + offset, numerator / tl.sum(numerator, axis=0), mask=mask)


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (183, 781), (7, 4097)])
def test_fused_softmax(rows: int, cols: int) -> None:
    x, out = torch.randn(rows, cols), torch.empty(rows, cols)
    block = triton.next_power_of_2(cols)
    launch(softmax_kernel, (min(rows, 8),), out, x, x.stride(0), out.stride(0), rows, cols, block, num_stages=2)
    torch.testing.assert_close(out, x.softmax(-1))


@triton.autotune(
    [triton.Config({"M_BLOCK": 32, "N_BLOCK": 64, "K_BLOCK": 32, "GROUP": 4}, num_warps=4)], key=["m", "n", "k"]
)
@triton.jit
def matmul_kernel(
    a_ptr, b_ptr, c_ptr, m, n, k, am, ak, bk, bn, cm, cn,
    M_BLOCK: tl.constexpr, N_BLOCK: tl.constexpr, K_BLOCK: tl.constexpr, GROUP: tl.constexpr, LEAKY: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    rows, cols = tl.cdiv(m, M_BLOCK), tl.cdiv(n, N_BLOCK)
    group = program // (GROUP * cols)
    first = group * GROUP
    height = min(rows - first, GROUP)
    row, col = first + (program % (GROUP * cols)) % height, (program % (GROUP * cols)) // height
    m_at, n_at = (row * M_BLOCK + tl.arange(0, M_BLOCK)) % m, (col * N_BLOCK + tl.arange(0, N_BLOCK)) % n
    k_at = tl.arange(0, K_BLOCK)
    a_ptrs, b_ptrs = a_ptr + m_at[:, None] * am + k_at[None, :] * ak, b_ptr + k_at[:, None] * bk + n_at[None, :] * bn
    total = tl.zeros((M_BLOCK, N_BLOCK), dtype=tl.float32)
    for step in range(0, tl.cdiv(k, K_BLOCK)):
        a = tl.load(a_ptrs, mask=k_at[None, :] < k - step * K_BLOCK, other=0.0)
        b = tl.load(b_ptrs, mask=k_at[:, None] < k - step * K_BLOCK, other=0.0)
        total = tl.dot(a, b, total)
        a_ptrs += K_BLOCK * ak
        b_ptrs += K_BLOCK * bk
    if LEAKY:
        total = tl.where(total >= 0, total, 0.01 * total)
    m_out, n_out = row * M_BLOCK + tl.arange(0, M_BLOCK), col * N_BLOCK + tl.arange(0, N_BLOCK)
    c_ptrs = c_ptr + cm * m_out[:, None] + cn * n_out[None, :]
    tl.store(c_ptrs, total.to(c_ptr.dtype.element_ty), mask=(m_out[:, None] < m) & (n_out[None, :] < n))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_matrix_multiplication(dtype: torch.dtype, turned: bool) -> None:
    m, n, k = 130, 200, 70
    a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
    b = b.t().contiguous().t() if turned else b
    c = torch.empty(m, n, dtype=dtype)
    with enabled():
        matmul_kernel[lambda meta: (triton.cdiv(m, meta["M_BLOCK"]) * triton.cdiv(n, meta["N_BLOCK"]),)](
            a, b, c, m, n, k, *a.stride(), *b.stride(), *c.stride(), LEAKY=True
        )
    expected = F.leaky_relu(a.double() @ b.double(), 0.01).to(dtype)
    torch.testing.assert_close(c, expected, rtol=1e-4 if dtype == torch.float32 else 1e-2, atol=1e-4)


@triton.jit
def dropout_kernel(x_ptr, out_ptr, n, p, seed, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offset < n
    x = tl.load(x_ptr + offset, mask=mask)
    tl.store(out_ptr + offset, tl.where(tl.rand(seed, offset) > p, x / (1 - p), 0.0), mask=mask)


def test_dropout_with_a_seed() -> None:
    x = torch.ones(10_000)
    outs = [torch.empty_like(x) for _ in range(3)]
    for out, seed in zip(outs, (123, 123, 512), strict=True):
        launch(dropout_kernel, (triton.cdiv(10_000, 1024),), x, out, 10_000, 0.5, seed, BLOCK=1024)
    assert torch.equal(outs[0], outs[1]) and not torch.equal(outs[0], outs[2])
    assert set(outs[0].unique().tolist()) == {0.0, 2.0}
    assert abs((outs[0] > 0).float().mean().item() - 0.5) < 0.03


@triton.jit
def layer_norm_kernel(x_ptr, y_ptr, w_ptr, b_ptr, mean_ptr, rstd_ptr, stride, n, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    x_ptr += row * stride
    y_ptr += row * stride
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, n, BLOCK):
        col = start + tl.arange(0, BLOCK)
        total += tl.load(x_ptr + col, mask=col < n, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=0) / n
    squares = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, n, BLOCK):
        col = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + col, mask=col < n, other=0.0).to(tl.float32)
        x = tl.where(col < n, x - mean, 0.0)
        squares += x * x
    rstd = 1 / tl.sqrt(tl.sum(squares, axis=0) / n + eps)
    tl.store(mean_ptr + row, mean)
    tl.store(rstd_ptr + row, rstd)
    for start in range(0, n, BLOCK):
        col = start + tl.arange(0, BLOCK)
        mask = col < n
        w, b = tl.load(w_ptr + col, mask=mask), tl.load(b_ptr + col, mask=mask)
        x = tl.load(x_ptr + col, mask=mask, other=0.0).to(tl.float32)
        tl.store(y_ptr + col, (x - mean) * rstd * w + b, mask=mask)


@triton.jit
def layer_norm_weights_kernel(
    d_ptr, x_ptr, mean_ptr, rstd_ptr, dw_ptr, db_ptr, lock_ptr, stride, n, GROUP: tl.constexpr, BLOCK: tl.constexpr
):
    """Sums over rows, in groups that take turns: each holds a lock while it adds to the sum of its group."""
    row = tl.program_id(0)
    col = tl.arange(0, BLOCK)
    mask = col < n
    x = tl.load(x_ptr + row * stride + col, mask=mask, other=0.0)
    d = tl.load(d_ptr + row * stride + col, mask=mask, other=0.0)
    x_hat = tl.where(mask, (x - tl.load(mean_ptr + row)) * tl.load(rstd_ptr + row), 0.0)
    dw, db = d * x_hat, d
    lock = row % GROUP
    lock_ptr += lock
    count_ptr = lock_ptr + GROUP
    dw_ptr += lock * n
    db_ptr += lock * n
    while tl.atomic_cas(lock_ptr, 0, 1) == 1:
        pass
    if tl.load(count_ptr) == 0:
        tl.atomic_xchg(count_ptr, 1)
    else:
        dw += tl.load(dw_ptr + col, mask=mask)
        db += tl.load(db_ptr + col, mask=mask)
    tl.store(dw_ptr + col, dw, mask=mask)
    tl.store(db_ptr + col, db, mask=mask)
    tl.debug_barrier()
    tl.atomic_xchg(lock_ptr, 0)


@pytest.mark.parametrize("threads", [1, 2])
def test_layer_norm(threads: int) -> None:
    rows, cols, group = 37, 300, 4
    x, w, b = torch.randn(rows, cols), torch.rand(cols, requires_grad=True), torch.rand(cols, requires_grad=True)
    y, mean, rstd = torch.empty(rows, cols), torch.empty(rows), torch.empty(rows)
    launch(layer_norm_kernel, (rows,), x, y, w, b, mean, rstd, cols, cols, 1e-5, BLOCK=128, threads=threads)
    expected = F.layer_norm(x, (cols,), w, b, 1e-5)
    torch.testing.assert_close(y, expected.detach(), rtol=1e-5, atol=1e-5)
    d = torch.randn(rows, cols)
    dw, db, locks = torch.zeros(group, cols), torch.zeros(group, cols), torch.zeros(2 * group, dtype=torch.int32)
    args = (d, x, mean, rstd, dw, db, locks, cols, cols)
    launch(layer_norm_weights_kernel, (rows,), *args, GROUP=group, BLOCK=512, threads=threads)
    want_w, want_b = torch.autograd.grad(expected, (w, b), d)
    torch.testing.assert_close(dw.sum(0), want_w, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(db.sum(0), want_b, rtol=1e-4, atol=1e-4)


@triton.jit
def attention_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, n, scale, ROWS: tl.constexpr, COLS: tl.constexpr, HEAD: tl.constexpr
):
    row, dim = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, HEAD)
    start = tl.program_id(1) * n * HEAD
    in_rows = row[:, None] < n
    q = tl.load(q_ptr + start + row[:, None] * HEAD + dim[None, :], mask=in_rows, other=0.0)
    largest = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, HEAD], tl.float32)
    for first in range(0, (tl.program_id(0) + 1) * ROWS, COLS):
        col = first + tl.arange(0, COLS)
        in_cols = col[:, None] < n
        k = tl.load(k_ptr + start + col[:, None] * HEAD + dim[None, :], mask=in_cols, other=0.0)
        v = tl.load(v_ptr + start + col[:, None] * HEAD + dim[None, :], mask=in_cols, other=0.0)
        scores = tl.dot(q, tl.trans(k)) * scale
        scores = tl.where(row[:, None] >= col[None, :], scores, -float("inf"))
        new = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp(scores - new[:, None])
        shrink = tl.exp(largest - new)
        total = total * shrink + tl.sum(weights, 1)
        out = out * shrink[:, None]
        out = tl.dot(weights.to(v.dtype), v, out)
        largest = new
    tl.store(out_ptr + start + row[:, None] * HEAD + dim[None, :], out / total[:, None], mask=in_rows)


@pytest.mark.parametrize("n", [64, 100])
def test_causal_attention(n: int) -> None:
    q, k, v = (torch.randn(3, n, 32) for _ in range(3))
    out = torch.empty_like(q)
    launch(attention_kernel, (triton.cdiv(n, 32), 3), q, k, v, out, n, 32**-0.5, ROWS=32, COLS=16, HEAD=32)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
