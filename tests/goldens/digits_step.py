# plan of digits: 6 kernels and 0 library calls, 3,226,872 bytes at batch 256, fusion: the best found within the search budget
#   fc1_ln1_relu: row, 364,032 bytes
#     reads  x, fc1.weight, fc1.bias, ln1.weight, ln1.bias
#     covers fc1.product, fc1, ln1.sum, ln1.estimate, ln1.sub, ln1.sum_1, ln1.div, ln1.mean, ln1.centered, ln1.mul, ln1.sum_2, ln1.var, ln1.add, ln1.rstd, ln1.normalized, ln1.scaled, ln1, relu.lt, relu
#     multiplies fc1.product
#     writes fc1.product, ln1.mean, ln1.rstd, relu
#   fc2_to_h: row, 462,336 bytes
#     reads  relu, fc2.weight, fc2.bias, ln2.weight, ln2.bias
#     covers fc2.product, fc2, ln2.sum, ln2.estimate, ln2.sub, ln2.sum_1, ln2.div, ln2.mean, ln2.centered, ln2.mul, ln2.sum_2, ln2.var, ln2.add, ln2.rstd, ln2.normalized, ln2.scaled, ln2, tanh, h
#     multiplies fc2.product
#     writes fc2.product, ln2.mean, ln2.rstd, h
#   fc3_loss_accuracy_forward_backward: row and column, 158,968 bytes
#     reads  h, fc3.weight, fc3.bias, y, fc3.bias.exp_avg, fc3.bias.exp_avg_sq, partials of loss.total, partials of accuracy.right, partials of fc3.d_fc3_bias
#     covers fc3.product, fc3, loss.row_max, loss.shifted, loss.exp, loss.sum_exp, loss.is_target, loss.counted, loss.where, loss.target_logit, loss.log, loss.nll, loss.losses, loss.total, loss.count, accuracy.eq, accuracy.ne, accuracy.logical_or, accuracy.where, accuracy.predicted, accuracy.is_right, accuracy.logical_and, accuracy.cast, accuracy.right, loss.div, loss.d_row, loss.softmax, loss.one_hot, loss.sub, fc3.d_fc3, fc3.d_fc3_bias, loss.total, loss, accuracy.right, accuracy, fc3.d_fc3_bias, fc3.bias.sub, fc3.bias.mul, fc3.bias.mean, fc3.bias.mul_1, fc3.bias.mul_2, fc3.bias.mul_3, fc3.bias.mean_square, fc3.bias.mul_4, fc3.bias.sqrt, fc3.bias.div, fc3.bias.denominator, fc3.bias.div_1, fc3.bias.updated
#     multiplies fc3.product
#     recomputes loss.count
#     writes fc3, fc3.d_fc3, loss, accuracy, fc3.bias.mean, fc3.bias.mean_square, fc3.bias.updated, partials of loss.total, partials of accuracy.right, partials of fc3.d_fc3_bias
#     last block finalizes loss.total, accuracy.right, fc3.d_fc3_bias
#   h_to_fc2_backward: row and column, 419,840 bytes
#     reads  fc2.product, fc2.bias, ln2.mean, ln2.rstd, ln2.weight, ln2.bias, fc3.d_fc3, fc3.weight, fc2.bias.exp_avg, fc2.bias.exp_avg_sq, ln2.weight.exp_avg, ln2.weight.exp_avg_sq, ln2.bias.exp_avg, ln2.bias.exp_avg_sq, partials of ln2.d_ln2_weight, partials of ln2.d_ln2_bias, partials of fc2.d_fc2_bias
#     covers h.d_h, tanh.mul, tanh.sub, ln2.d_ln2, ln2.d_normalized, ln2.sum_3, ln2.mean_d_normalized, ln2.mul_1, ln2.sum_4, ln2.projection, ln2.sub_1, ln2.mul_2, ln2.sub_2, ln2.d_x, ln2.d_weight, ln2.d_ln2_weight, ln2.d_ln2_bias, fc2.d_fc2_bias, ln2.d_ln2_weight, ln2.d_ln2_bias, fc2.d_fc2_bias, fc2.bias.sub, fc2.bias.mul, fc2.bias.mean, fc2.bias.mul_1, fc2.bias.mul_2, fc2.bias.mul_3, fc2.bias.mean_square, fc2.bias.mul_4, fc2.bias.sqrt, fc2.bias.div, fc2.bias.denominator, fc2.bias.div_1, fc2.bias.updated, ln2.weight.sub, ln2.weight.mul, ln2.weight.mean, ln2.weight.mul_1, ln2.weight.mul_2, ln2.weight.mul_3, ln2.weight.mean_square, ln2.weight.mul_4, ln2.weight.sqrt, ln2.weight.div, ln2.weight.denominator, ln2.weight.div_1, ln2.weight.updated, ln2.bias.sub, ln2.bias.mul, ln2.bias.mean, ln2.bias.mul_1, ln2.bias.mul_2, ln2.bias.mul_3, ln2.bias.mean_square, ln2.bias.mul_4, ln2.bias.sqrt, ln2.bias.div, ln2.bias.denominator, ln2.bias.div_1, ln2.bias.updated
#     multiplies h.d_h
#     recomputes fc2, ln2.centered, ln2.normalized, ln2.scaled, ln2, tanh
#     writes h.d_h, ln2.d_x, fc2.bias.mean, fc2.bias.mean_square, fc2.bias.updated, ln2.weight.mean, ln2.weight.mean_square, ln2.weight.updated, ln2.bias.mean, ln2.bias.mean_square, ln2.bias.updated, partials of ln2.d_ln2_weight, partials of ln2.d_ln2_bias, partials of fc2.d_fc2_bias
#     last block finalizes ln2.d_ln2_weight, ln2.d_ln2_bias, fc2.d_fc2_bias
#   fc2_to_fc1_backward: row and column, 601,088 bytes
#     reads  fc1.product, fc1.bias, ln1.mean, ln1.rstd, ln1.weight, ln1.bias, ln2.d_x, fc2.weight, h.d_h, fc1.bias.exp_avg, fc1.bias.exp_avg_sq, ln1.weight.exp_avg, ln1.weight.exp_avg_sq, ln1.bias.exp_avg, ln1.bias.exp_avg_sq, partials of ln1.d_ln1_weight, partials of ln1.d_ln1_bias, partials of fc1.d_fc1_bias
#     covers fc2.matmul, relu.d_relu, relu.le, ln1.d_ln1, ln1.d_normalized, ln1.sum_3, ln1.mean_d_normalized, ln1.mul_1, ln1.sum_4, ln1.projection, ln1.sub_1, ln1.mul_2, ln1.sub_2, ln1.d_x, ln1.d_weight, ln1.d_ln1_weight, ln1.d_ln1_bias, fc1.d_fc1_bias, ln1.d_ln1_weight, ln1.d_ln1_bias, fc1.d_fc1_bias, fc1.bias.sub, fc1.bias.mul, fc1.bias.mean, fc1.bias.mul_1, fc1.bias.mul_2, fc1.bias.mul_3, fc1.bias.mean_square, fc1.bias.mul_4, fc1.bias.sqrt, fc1.bias.div, fc1.bias.denominator, fc1.bias.div_1, fc1.bias.updated, ln1.weight.sub, ln1.weight.mul, ln1.weight.mean, ln1.weight.mul_1, ln1.weight.mul_2, ln1.weight.mul_3, ln1.weight.mean_square, ln1.weight.mul_4, ln1.weight.sqrt, ln1.weight.div, ln1.weight.denominator, ln1.weight.div_1, ln1.weight.updated, ln1.bias.sub, ln1.bias.mul, ln1.bias.mean, ln1.bias.mul_1, ln1.bias.mul_2, ln1.bias.mul_3, ln1.bias.mean_square, ln1.bias.mul_4, ln1.bias.sqrt, ln1.bias.div, ln1.bias.denominator, ln1.bias.div_1, ln1.bias.updated
#     multiplies fc2.matmul
#     recomputes fc1, ln1.centered, ln1.normalized, ln1.scaled, ln1
#     writes ln1.d_x, fc1.bias.mean, fc1.bias.mean_square, fc1.bias.updated, ln1.weight.mean, ln1.weight.mean_square, ln1.weight.updated, ln1.bias.mean, ln1.bias.mean_square, ln1.bias.updated, partials of ln1.d_ln1_weight, partials of ln1.d_ln1_bias, partials of fc1.d_fc1_bias
#     last block finalizes ln1.d_ln1_weight, ln1.d_ln1_bias, fc1.d_fc1_bias
#   grouped_matmul_adam: grouped matmul, 1,220,608 bytes
#     joins  fc3_backward_adam, fc2_backward_adam, fc1_backward_adam
#     reads  fc3.d_fc3, h, fc3.weight.exp_avg, fc3.weight.exp_avg_sq, fc3.weight, ln2.d_x, relu, fc2.weight.exp_avg, fc2.weight.exp_avg_sq, fc2.weight, ln1.d_x, x, fc1.weight.exp_avg, fc1.weight.exp_avg_sq, fc1.weight
#     covers fc3.d_fc3_weight, fc3.weight.sub, fc3.weight.mul, fc3.weight.mean, fc3.weight.mul_1, fc3.weight.mul_2, fc3.weight.mul_3, fc3.weight.mean_square, fc3.weight.mul_4, fc3.weight.sqrt, fc3.weight.div, fc3.weight.denominator, fc3.weight.div_1, fc3.weight.updated, fc2.d_fc2_weight, fc2.weight.sub, fc2.weight.mul, fc2.weight.mean, fc2.weight.mul_1, fc2.weight.mul_2, fc2.weight.mul_3, fc2.weight.mean_square, fc2.weight.mul_4, fc2.weight.sqrt, fc2.weight.div, fc2.weight.denominator, fc2.weight.div_1, fc2.weight.updated, fc1.d_fc1_weight, fc1.weight.sub_1, fc1.weight.mul, fc1.weight.mean, fc1.weight.mul_1, fc1.weight.mul_2, fc1.weight.mul_3, fc1.weight.mean_square, fc1.weight.mul_4, fc1.weight.sqrt, fc1.weight.div, fc1.weight.denominator, fc1.weight.div_1, fc1.weight.updated
#     multiplies fc3.d_fc3_weight, fc2.d_fc2_weight, fc1.d_fc1_weight
#     writes fc3.weight.mean, fc3.weight.mean_square, fc3.weight.updated, fc2.weight.mean, fc2.weight.mean_square, fc2.weight.updated, fc1.weight.mean, fc1.weight.mean_square, fc1.weight.updated

# Triton kernels of the graph digits, generated by tritonnotes 0.1.0.
#
# 6 generated kernels and 0 library calls; 3,226,872 bytes a run at batch 256.
#
# fc1_ln1_relu: row, 364,032 bytes
#     fc1, ln1, relu
# fc2_to_h: row, 462,336 bytes
#     fc2, ln2, tanh, h
# fc3_loss_accuracy_forward_backward: row and column, 158,968 bytes
#     fc3, loss, accuracy, fc3.bias
# h_to_fc2_backward: row and column, 419,840 bytes
#     h, tanh, ln2, fc2, fc2.bias, ln2.weight, ln2.bias
# fc2_to_fc1_backward: row and column, 601,088 bytes
#     fc2, relu, ln1, fc1, fc1.bias, ln1.weight, ln1.bias
# grouped_matmul_adam: grouped matmul, 1,220,608 bytes
#     fc3, fc3.weight, fc2, fc2.weight, fc1, fc1.weight
#
# graph digits declared
# x: float32[batch, 64] = input()
# y: int64[batch] = input()
# fc1.weight: float32[128, 64] = parameter(init='kaiming_uniform', a=2.23606797749979)
# fc1.bias: float32[128] = parameter(init='bias_uniform', fan_in=64.0)
# fc1: float32[batch, 128] = linear(x, fc1.weight, fc1.bias)
# ln1.weight: float32[128] = parameter(init='ones')
# ln1.bias: float32[128] = parameter(init='zeros')
# ln1: float32[batch, 128] = layer_norm(fc1, ln1.weight, ln1.bias, dims=1, eps=1e-05)
# relu: float32[batch, 128] = relu(ln1)
# fc2.weight: float32[128, 128] = parameter(init='kaiming_uniform', a=2.23606797749979)
# fc2.bias: float32[128] = parameter(init='bias_uniform', fan_in=128.0)
# fc2: float32[batch, 128] = linear(relu, fc2.weight, fc2.bias)
# ln2.weight: float32[128] = parameter(init='ones')
# ln2.bias: float32[128] = parameter(init='zeros')
# ln2: float32[batch, 128] = layer_norm(fc2, ln2.weight, ln2.bias, dims=1, eps=1e-05)
# tanh: float32[batch, 128] = tanh(ln2)
# h: float32[batch, 128] = add(tanh, relu)
# fc3.weight: float32[10, 128] = parameter(init='kaiming_uniform', a=2.23606797749979)
# fc3.bias: float32[10] = parameter(init='bias_uniform', fan_in=128.0)
# fc3: float32[batch, 10] = linear(h, fc3.weight, fc3.bias) as logits
# loss: float32[] = cross_entropy(fc3, y, none, ignore_index=-100, label_smoothing=0.0, reduction='mean')
# accuracy: float32[] = accuracy(fc3, y, k=1, threshold=0.0, ignore_index=-100)
# output logits = fc3
# output loss = loss
# output accuracy = accuracy

import math

import torch
import triton
import triton.language as tl


def launch(kernel, grid, *arguments, **options):
    """Launch a kernel on the current device; an empty grid launches nothing."""
    if all(grid):
        kernel[grid](*arguments, enable_fp_fusion=True, **options)


@triton.jit
def add_up_group(partial_ptr, first, members, COLS: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr):
    """Add up what a group of programs left, in their order, in the place of the first one. A thread adds up columns of
    its own, and its loads do not wait for each other."""
    for start in range(0, COLS, BLOCK):
        col = start + tl.arange(0, BLOCK)
        in_cols = col < COLS
        total_ptr = partial_ptr + first * COLS + col
        total = tl.load(total_ptr, mask=in_cols, other=0)
        for member in tl.range(1, GROUP, loop_unroll_factor=GROUP):
            total += tl.load(total_ptr + member * COLS, mask=in_cols & (member < members), other=0)
        tl.store(total_ptr, total, mask=in_cols)


@triton.jit
def arrives_last(arrivals_ptr, programs):
    """Whether this program is the last of so many to come here, and so sees what all of them stored before."""
    tl.debug_barrier()
    is_last = tl.atomic_add(arrivals_ptr, 1, sem="acq_rel") == programs - 1
    if is_last:
        # The next launch counts from 0 again.
        tl.store(arrivals_ptr, 0)
    return is_last


@triton.jit
def max_or_nan(x, axis: tl.constexpr, keep_dims: tl.constexpr = False):
    """The largest, NaN if any is: tl.max alone skips NaN."""
    has_nan = tl.max((x != x).to(tl.int32), axis=axis, keep_dims=keep_dims)
    return tl.where(has_nan != 0, float("nan"), tl.max(x, axis=axis, keep_dims=keep_dims))


@triton.jit
def expm1(x):
    """eˣ − 1 without cancellation near 0 (Kahan): the rounding error of eˣ leaves both factors and cancels."""
    exp_x = tl.exp(x)
    plain = exp_x - 1.0
    near_zero = exp_x == 1.0
    beyond = (exp_x == float("inf")) | (plain == -1.0)
    log_exp_x = tl.where(near_zero | beyond, 1.0, tl.log(exp_x))
    return tl.where(near_zero, x, tl.where(beyond, plain, plain * x / log_exp_x))


@triton.jit
def tanh(x):
    """1 − 2 / (e²ˣ + 1), and near 0, where that cancels, a polynomial (Cephes) or, in float64, by expm1."""
    size = tl.abs(x)
    far = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)
    if x.dtype == tl.float64:
        t = expm1(-2.0 * size)
        near = -t / (t + 2.0)
    else:
        z = x * x
        slope = (((-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2) * z + 1.33314422036e-1) * z
        near = (slope - 3.33332819422e-1) * z * size + size
    magnitude = tl.where(size < 0.625, near, far)
    return tl.where(x < 0.0, -magnitude, tl.where(x == 0.0, x, magnitude))


def float32_precision():
    """How tensor cores may take float32: not at all, unless torch is told that tf32 will do, by its old name or new."""
    asked = torch.backends.cuda.matmul
    will_do = asked.fp32_precision == "tf32" if hasattr(asked, "fp32_precision") else asked.allow_tf32
    return "tf32" if will_do else "ieee"


@triton.jit
def replicated_loss_count(
    y_ptr,
    batch,
    BLOCK: tl.constexpr,
):
    """A reduction of loss that is replicated: every program computes it."""
    count = tl.full([], 0.0, tl.float32)
    for tile in range(tl.cdiv(batch, BLOCK)):
        offset = tl.cast(tile, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        mask = offset < batch
        y = tl.load(y_ptr + offset, mask=mask)

        # loss, cross_entropy: log Σ exp(logits) − logits[target], averaged over the targets that are not
        # ignore_index
        counted = y != -100
        count += tl.sum(tl.where(mask, counted.to(tl.float32), 0.0), axis=0)
    return count


@triton.jit
def fc1_ln1_relu(
    x_ptr,
    fc1_weight_ptr,
    fc1_bias_ptr,
    ln1_weight_ptr,
    ln1_bias_ptr,
    product_ptr,
    mean_ptr,
    rstd_ptr,
    relu_ptr,
    batch,
    COLS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """fc1, ln1, relu."""
    col = tl.arange(0, BLOCK)[None, :]
    row = tl.cast(tl.program_id(0), tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    in_rows = row < batch
    cell = row * COLS + col
    fc1_bias = tl.load(fc1_bias_ptr + col)
    ln1_weight = tl.load(ln1_weight_ptr + col)
    ln1_bias = tl.load(ln1_bias_ptr + col)

    # fc1, linear: x · weightᵀ + bias
    product = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, 64, INNER):
        inner = start + tl.arange(0, INNER)
        x = tl.load(x_ptr + row * 64 + inner[None, :], mask=in_rows, other=0.0)
        fc1_weight = tl.load(fc1_weight_ptr + col * 64 + inner[:, None])
        product = tl.dot(x, fc1_weight, product, input_precision=PRECISION)

    fc1 = product + fc1_bias

    # ln1, layer_norm: (x − mean) / √(var + eps) · weight + bias, statistics per sample over its features
    estimate = tl.sum(fc1, axis=1, keep_dims=True) / 128.0
    mean = estimate + tl.sum(fc1 - estimate, axis=1, keep_dims=True) / 128.0
    centered = fc1 - mean
    var = tl.sum(centered * centered, axis=1, keep_dims=True) / 128.0
    rstd = tl.rsqrt(var + 1e-5)
    normalized = centered * rstd
    scaled = normalized * ln1_weight
    ln1 = scaled + ln1_bias

    # relu: max(0, x)
    relu = tl.where(ln1 < 0.0, 0.0, ln1)

    tl.store(product_ptr + cell, product, mask=in_rows)
    tl.store(mean_ptr + row, mean, mask=in_rows)
    tl.store(rstd_ptr + row, rstd, mask=in_rows)
    tl.store(relu_ptr + cell, relu, mask=in_rows)


def run_fc1_ln1_relu(
    x, fc1_weight, fc1_bias, ln1_weight, ln1_bias, product, mean, rstd, relu, batch, ROWS=8, launch=launch,
):
    """8 rows of 128 a program: 1,024 elements keep 8 warps busy without spilling."""
    grid = (triton.cdiv(batch, ROWS),)
    launch(
        fc1_ln1_relu, grid, x, fc1_weight, fc1_bias, ln1_weight, ln1_bias, product, mean, rstd, relu, batch,
        COLS=128, ROWS=ROWS, BLOCK=128, INNER=16, PRECISION=float32_precision(), num_warps=8,
    )


@triton.jit
def fc2_to_h(
    relu_ptr,
    fc2_weight_ptr,
    fc2_bias_ptr,
    ln2_weight_ptr,
    ln2_bias_ptr,
    product_ptr,
    mean_ptr,
    rstd_ptr,
    h_ptr,
    batch,
    COLS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """fc2, ln2, tanh, h."""
    col = tl.arange(0, BLOCK)[None, :]
    row = tl.cast(tl.program_id(0), tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    row_start = row * COLS
    in_rows = row < batch
    cell = row_start + col
    fc2_bias = tl.load(fc2_bias_ptr + col)
    ln2_weight = tl.load(ln2_weight_ptr + col)
    ln2_bias = tl.load(ln2_bias_ptr + col)

    # fc2, linear: x · weightᵀ + bias
    product = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, 128, INNER):
        inner = start + tl.arange(0, INNER)
        relu_rows = tl.load(relu_ptr + row_start + inner[None, :], mask=in_rows, other=0.0)
        fc2_weight = tl.load(fc2_weight_ptr + col * COLS + inner[:, None])
        product = tl.dot(relu_rows, fc2_weight, product, input_precision=PRECISION)

    relu = tl.load(relu_ptr + cell, mask=in_rows)

    # fc2, linear: x · weightᵀ + bias
    fc2 = product + fc2_bias

    # ln2, layer_norm: (x − mean) / √(var + eps) · weight + bias, statistics per sample over its features
    estimate = tl.sum(fc2, axis=1, keep_dims=True) / 128.0
    mean = estimate + tl.sum(fc2 - estimate, axis=1, keep_dims=True) / 128.0
    centered = fc2 - mean
    var = tl.sum(centered * centered, axis=1, keep_dims=True) / 128.0
    rstd = tl.rsqrt(var + 1e-5)
    normalized = centered * rstd
    scaled = normalized * ln2_weight
    ln2 = scaled + ln2_bias

    # tanh: (eˣ − e⁻ˣ) / (eˣ + e⁻ˣ)
    tanh_ln2 = tanh(ln2)

    # h, add: a + b
    h = tanh_ln2 + relu

    tl.store(product_ptr + cell, product, mask=in_rows)
    tl.store(mean_ptr + row, mean, mask=in_rows)
    tl.store(rstd_ptr + row, rstd, mask=in_rows)
    tl.store(h_ptr + cell, h, mask=in_rows)


def run_fc2_to_h(
    relu, fc2_weight, fc2_bias, ln2_weight, ln2_bias, product, mean, rstd, h, batch, ROWS=8, launch=launch,
):
    """8 rows of 128 a program: 1,024 elements keep 8 warps busy without spilling."""
    grid = (triton.cdiv(batch, ROWS),)
    launch(
        fc2_to_h, grid, relu, fc2_weight, fc2_bias, ln2_weight, ln2_bias, product, mean, rstd, h, batch,
        COLS=128, ROWS=ROWS, BLOCK=128, INNER=16, PRECISION=float32_precision(), num_warps=8,
    )


@triton.jit
def finalize_loss_accuracy(
    y_ptr,
    total_partial_ptr,
    right_partial_ptr,
    loss_ptr,
    accuracy_ptr,
    batch,
    programs,
    PROGRAMS: tl.constexpr,
):
    """Finalizes loss, accuracy."""
    # Sums over all rows: add up what each program left, always in the same order.
    total = tl.full([], 0.0, tl.float32)
    right = tl.full([], 0.0, tl.float32)
    for first in range(0, programs, PROGRAMS):
        program = first + tl.arange(0, PROGRAMS)
        in_programs = program < programs
        total += tl.sum(tl.load(total_partial_ptr + program, mask=in_programs, other=0.0), axis=0)
        right += tl.sum(tl.load(right_partial_ptr + program, mask=in_programs, other=0.0), axis=0)

    # loss, cross_entropy: log Σ exp(logits) − logits[target], averaged over the targets that are not
    # ignore_index
    count = replicated_loss_count(y_ptr, batch, BLOCK=1024)

    # loss, cross_entropy: log Σ exp(logits) − logits[target], averaged over the targets that are not
    # ignore_index
    loss = total / count

    # accuracy: share of rows whose target is among the k largest logits
    accuracy = right / count

    tl.store(loss_ptr, loss)
    tl.store(accuracy_ptr, accuracy)


@triton.jit
def finalize_fc3_backward_adam(
    fc3_bias_exp_avg_ptr,
    fc3_bias_exp_avg_sq_ptr,
    fc3_bias_ptr,
    d_fc3_bias_partial_ptr,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    step_size,
    root_correction,
    eps,
    programs,
    PROGRAMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Finalizes gradient of fc3, update of fc3.bias."""
    offset = tl.arange(0, BLOCK)
    mask = offset < 10

    # Sums over all rows: add up what each group of 16 left, always in the same order.
    d_fc3_bias = tl.full([BLOCK], 0.0, tl.float32)
    for first in range(0, programs, PROGRAMS * 16):
        for member in tl.range(0, PROGRAMS * 16, 16, loop_unroll_factor=PROGRAMS):
            program = first + member
            partial_cell = program * 10 + offset
            d_fc3_bias += tl.load(d_fc3_bias_partial_ptr + partial_cell, mask=(program < programs) & mask, other=0.0)

    fc3_bias_exp_avg = tl.load(fc3_bias_exp_avg_ptr + offset, mask=mask)
    fc3_bias_exp_avg_sq = tl.load(fc3_bias_exp_avg_sq_ptr + offset, mask=mask)
    fc3_bias = tl.load(fc3_bias_ptr + offset, mask=mask)

    # update of fc3.bias, adam: m, v ← decaying means of g, g²; p ← p − lr · m̂ / (√v̂ + eps), m̂ = m / (1 −
    # β₁ᵗ), v̂ = v / (1 − β₂ᵗ)
    mean = fc3_bias_exp_avg + one_minus_beta1 * (d_fc3_bias - fc3_bias_exp_avg)
    mean_square = beta2 * fc3_bias_exp_avg_sq + one_minus_beta2 * d_fc3_bias * d_fc3_bias
    denominator = tl.sqrt(mean_square) / root_correction + eps
    updated = fc3_bias - step_size * mean / denominator

    tl.store(fc3_bias_exp_avg_ptr + offset, mean, mask=mask)
    tl.store(fc3_bias_exp_avg_sq_ptr + offset, mean_square, mask=mask)
    tl.store(fc3_bias_ptr + offset, updated, mask=mask)


@triton.jit
def fc3_loss_accuracy_forward_backward(
    h_ptr,
    fc3_weight_ptr,
    y_ptr,
    fc3_bias_ptr,
    fc3_bias_exp_avg_ptr,
    fc3_bias_exp_avg_sq_ptr,
    fc3_ptr,
    d_fc3_ptr,
    loss_ptr,
    accuracy_ptr,
    total_partial_ptr,
    right_partial_ptr,
    d_fc3_bias_partial_ptr,
    arrivals_ptr,
    batch,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    step_size,
    root_correction,
    eps,
    programs,
    COLS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """fc3, loss, accuracy, gradient of loss, gradient of fc3, update of fc3.bias."""
    program = tl.program_id(0)
    col = tl.arange(0, BLOCK)[None, :]
    in_cols = col < COLS
    fc3_bias = tl.load(fc3_bias_ptr + col, mask=in_cols)

    # loss, cross_entropy: log Σ exp(logits) − logits[target], averaged over the targets that are not
    # ignore_index
    count = replicated_loss_count(y_ptr, batch, BLOCK=1024)

    total = tl.full([], 0.0, tl.float32)
    right = tl.full([], 0.0, tl.float32)
    d_fc3_bias = tl.full([1, BLOCK], 0.0, tl.float32)
    for tile in range(program, tl.cdiv(batch, ROWS), programs):
        row = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        in_rows = row < batch
        mask = in_rows & in_cols
        cell = row * COLS + col

        # fc3, linear: x · weightᵀ + bias
        product = tl.zeros([ROWS, BLOCK], tl.float32)
        for start in range(0, 128, INNER):
            inner = start + tl.arange(0, INNER)
            h = tl.load(h_ptr + row * 128 + inner[None, :], mask=in_rows, other=0.0)
            fc3_weight = tl.load(fc3_weight_ptr + col * 128 + inner[:, None], mask=in_cols, other=0.0)
            product = tl.dot(h, fc3_weight, product, input_precision=PRECISION)

        y = tl.load(y_ptr + row, mask=in_rows)

        # fc3, linear: x · weightᵀ + bias
        fc3 = product + fc3_bias

        # loss, cross_entropy: log Σ exp(logits) − logits[target], averaged over the targets that are not
        # ignore_index
        row_max = max_or_nan(tl.where(in_cols, fc3, float("-inf")), axis=1, keep_dims=True)
        shifted = fc3 - row_max
        exp_shifted = tl.exp(shifted)
        sum_exp = tl.sum(tl.where(in_cols, exp_shifted, 0.0), axis=1, keep_dims=True)
        is_target = col == y
        counted = y != -100
        target_logit = max_or_nan(tl.where(in_cols & is_target, shifted, float("-inf")), axis=1, keep_dims=True)
        nll = tl.log(sum_exp) - target_logit
        losses = tl.where(counted, nll, 0.0)
        total += tl.sum(tl.where(in_rows, losses, 0.0))

        # accuracy: share of rows whose target is among the k largest logits
        predicted = tl.min(tl.where(in_cols, tl.where((fc3 == row_max) | (fc3 != fc3), col, 10), 2147483647), axis=1, keep_dims=True)
        is_right = predicted == y
        right += tl.sum(tl.where(in_rows, (is_right & counted).to(tl.float32), 0.0))

        # gradient of loss, cross_entropy: (softmax(logits) − one_hot(target)) / count
        d_row = tl.where(counted, 1.0 / count, 0.0)
        softmax = exp_shifted / sum_exp
        one_hot = is_target.to(tl.float32)

        # gradient of fc3, linear: d_x = d · weight; d_weight = dᵀ · x; d_bias = Σ d over rows
        d_fc3 = (softmax - one_hot) * d_row
        d_fc3_bias += tl.sum(tl.where(in_rows, d_fc3, 0.0), axis=0, keep_dims=True)

        tl.store(fc3_ptr + cell, fc3, mask=mask)
        tl.store(d_fc3_ptr + cell, d_fc3, mask=mask)

    tl.store(total_partial_ptr + program, total)
    tl.store(right_partial_ptr + program, right)
    tl.store(d_fc3_bias_partial_ptr + program * COLS + col, d_fc3_bias, mask=in_cols)

    # The last program of each 16 adds their sums up, and the last of these finalizes what is left.
    group = program // 16
    first = group * 16
    members = tl.minimum(16, programs - first)
    if arrives_last(arrivals_ptr + 1 + group, members):
        add_up_group(d_fc3_bias_partial_ptr, first, members, COLS=10, BLOCK=16, GROUP=16)
        if arrives_last(arrivals_ptr, tl.cdiv(programs, 16)):
            finalize_loss_accuracy(
                y_ptr, total_partial_ptr, right_partial_ptr, loss_ptr, accuracy_ptr, batch, programs, PROGRAMS=32,
            )
            finalize_fc3_backward_adam(
                fc3_bias_exp_avg_ptr, fc3_bias_exp_avg_sq_ptr, fc3_bias_ptr, d_fc3_bias_partial_ptr, one_minus_beta1,
                beta2, one_minus_beta2, step_size, root_correction, eps, programs, PROGRAMS=20, BLOCK=16,
            )


def run_fc3_loss_accuracy_forward_backward(
    h, fc3_weight, y, fc3_bias, fc3_bias_exp_avg, fc3_bias_exp_avg_sq, fc3, d_fc3, loss, accuracy,
    total_partial, right_partial, d_fc3_bias_partial, arrivals, batch, one_minus_beta1, beta2,
    one_minus_beta2, step_size, root_correction, eps, programs, ROWS=32, launch=launch,
):
    """32 rows of 10 a program: 512 elements keep 4 warps busy without spilling. A fixed number of programs loops
    over all rows, so few partial sums are left to add up. The last one to arrive finalizes them, which saves a
    launch."""
    grid = (programs,)
    launch(
        fc3_loss_accuracy_forward_backward, grid, h, fc3_weight, y, fc3_bias, fc3_bias_exp_avg,
        fc3_bias_exp_avg_sq, fc3, d_fc3, loss, accuracy, total_partial, right_partial, d_fc3_bias_partial,
        arrivals, batch, one_minus_beta1, beta2, one_minus_beta2, step_size, root_correction, eps, programs,
        COLS=10, ROWS=ROWS, BLOCK=16, INNER=16, PRECISION=float32_precision(), num_warps=4, maxnreg=255,
    )


@triton.jit
def finalize_ln2_fc2_backward_adam(
    fc2_bias_exp_avg_ptr,
    fc2_bias_exp_avg_sq_ptr,
    fc2_bias_ptr,
    ln2_weight_exp_avg_ptr,
    ln2_weight_exp_avg_sq_ptr,
    ln2_weight_ptr,
    ln2_bias_exp_avg_ptr,
    ln2_bias_exp_avg_sq_ptr,
    ln2_bias_ptr,
    d_ln2_weight_partial_ptr,
    d_ln2_bias_partial_ptr,
    d_fc2_bias_partial_ptr,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    step_size,
    root_correction,
    eps,
    programs,
    PROGRAMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Finalizes gradient of ln2, gradient of fc2, update of fc2.bias, update of ln2.weight, update of ln2.bias."""
    offset = tl.arange(0, BLOCK)

    # Sums over all rows: add up what each group of 16 left, always in the same order.
    d_ln2_weight = tl.full([BLOCK], 0.0, tl.float32)
    d_ln2_bias = tl.full([BLOCK], 0.0, tl.float32)
    d_fc2_bias = tl.full([BLOCK], 0.0, tl.float32)
    for first in range(0, programs, PROGRAMS * 16):
        for member in tl.range(0, PROGRAMS * 16, 16, loop_unroll_factor=PROGRAMS):
            program = first + member
            partial_cell = program * 128 + offset
            in_programs = program < programs
            d_ln2_weight += tl.load(d_ln2_weight_partial_ptr + partial_cell, mask=in_programs, other=0.0)
            d_ln2_bias += tl.load(d_ln2_bias_partial_ptr + partial_cell, mask=in_programs, other=0.0)
            d_fc2_bias += tl.load(d_fc2_bias_partial_ptr + partial_cell, mask=in_programs, other=0.0)

    fc2_bias_exp_avg = tl.load(fc2_bias_exp_avg_ptr + offset)
    fc2_bias_exp_avg_sq = tl.load(fc2_bias_exp_avg_sq_ptr + offset)
    fc2_bias = tl.load(fc2_bias_ptr + offset)
    ln2_weight_exp_avg = tl.load(ln2_weight_exp_avg_ptr + offset)
    ln2_weight_exp_avg_sq = tl.load(ln2_weight_exp_avg_sq_ptr + offset)
    ln2_weight = tl.load(ln2_weight_ptr + offset)
    ln2_bias_exp_avg = tl.load(ln2_bias_exp_avg_ptr + offset)
    ln2_bias_exp_avg_sq = tl.load(ln2_bias_exp_avg_sq_ptr + offset)
    ln2_bias = tl.load(ln2_bias_ptr + offset)

    # update of fc2.bias, adam: m, v ← decaying means of g, g²; p ← p − lr · m̂ / (√v̂ + eps), m̂ = m / (1 −
    # β₁ᵗ), v̂ = v / (1 − β₂ᵗ)
    mean = fc2_bias_exp_avg + one_minus_beta1 * (d_fc2_bias - fc2_bias_exp_avg)
    mean_square = beta2 * fc2_bias_exp_avg_sq + one_minus_beta2 * d_fc2_bias * d_fc2_bias
    denominator = tl.sqrt(mean_square) / root_correction + eps
    updated = fc2_bias - step_size * mean / denominator

    # update of ln2.weight, adam: m, v ← decaying means of g, g²; p ← p − lr · m̂ / (√v̂ + eps), m̂ = m / (1 −
    # β₁ᵗ), v̂ = v / (1 − β₂ᵗ)
    ln2_weight_mean = ln2_weight_exp_avg + one_minus_beta1 * (d_ln2_weight - ln2_weight_exp_avg)
    ln2_weight_mean_square = beta2 * ln2_weight_exp_avg_sq + one_minus_beta2 * d_ln2_weight * d_ln2_weight
    ln2_weight_denominator = tl.sqrt(ln2_weight_mean_square) / root_correction + eps
    ln2_weight_updated = ln2_weight - step_size * ln2_weight_mean / ln2_weight_denominator

    # update of ln2.bias, adam: m, v ← decaying means of g, g²; p ← p − lr · m̂ / (√v̂ + eps), m̂ = m / (1 −
    # β₁ᵗ), v̂ = v / (1 − β₂ᵗ)
    ln2_bias_mean = ln2_bias_exp_avg + one_minus_beta1 * (d_ln2_bias - ln2_bias_exp_avg)
    ln2_bias_mean_square = beta2 * ln2_bias_exp_avg_sq + one_minus_beta2 * d_ln2_bias * d_ln2_bias
    ln2_bias_denominator = tl.sqrt(ln2_bias_mean_square) / root_correction + eps
    ln2_bias_updated = ln2_bias - step_size * ln2_bias_mean / ln2_bias_denominator

    tl.store(fc2_bias_exp_avg_ptr + offset, mean)
    tl.store(fc2_bias_exp_avg_sq_ptr + offset, mean_square)
    tl.store(fc2_bias_ptr + offset, updated)
    tl.store(ln2_weight_exp_avg_ptr + offset, ln2_weight_mean)
    tl.store(ln2_weight_exp_avg_sq_ptr + offset, ln2_weight_mean_square)
    tl.store(ln2_weight_ptr + offset, ln2_weight_updated)
    tl.store(ln2_bias_exp_avg_ptr + offset, ln2_bias_mean)
    tl.store(ln2_bias_exp_avg_sq_ptr + offset, ln2_bias_mean_square)
    tl.store(ln2_bias_ptr + offset, ln2_bias_updated)


@triton.jit
def h_to_fc2_backward(
    product_ptr,
    mean_ptr,
    rstd_ptr,
    d_fc3_ptr,
    fc3_weight_ptr,
    fc2_bias_ptr,
    ln2_weight_ptr,
    ln2_bias_ptr,
    fc2_bias_exp_avg_ptr,
    fc2_bias_exp_avg_sq_ptr,
    ln2_weight_exp_avg_ptr,
    ln2_weight_exp_avg_sq_ptr,
    ln2_bias_exp_avg_ptr,
    ln2_bias_exp_avg_sq_ptr,
    d_h_ptr,
    d_x_ptr,
    d_ln2_weight_partial_ptr,
    d_ln2_bias_partial_ptr,
    d_fc2_bias_partial_ptr,
    arrivals_ptr,
    batch,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    step_size,
    root_correction,
    eps,
    programs,
    COLS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """gradient of h, gradient of tanh, gradient of ln2, gradient of fc2, update of fc2.bias, update of ln2.weight,
    update of ln2.bias. Recomputes fc2, ln2, tanh: that moves fewer bytes than loading it."""
    program = tl.program_id(0)
    col = tl.arange(0, BLOCK)[None, :]
    fc2_bias = tl.load(fc2_bias_ptr + col)
    ln2_weight = tl.load(ln2_weight_ptr + col)
    ln2_bias = tl.load(ln2_bias_ptr + col)

    d_ln2_weight = tl.full([1, BLOCK], 0.0, tl.float32)
    d_ln2_bias = tl.full([1, BLOCK], 0.0, tl.float32)
    d_fc2_bias = tl.full([1, BLOCK], 0.0, tl.float32)
    for tile in range(program, tl.cdiv(batch, ROWS), programs):
        row = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        in_rows = row < batch
        cell = row * COLS + col

        # gradient of h, add: 1 for a and for b, summed over the axes that were broadcast
        inner = tl.arange(0, INNER)
        d_fc3 = tl.load(d_fc3_ptr + row * 10 + inner[None, :], mask=in_rows & (inner[None, :] < 10), other=0.0)
        fc3_weight = tl.load(fc3_weight_ptr + col + inner[:, None] * 128, mask=inner[:, None] < 10, other=0.0)
        d_h = tl.dot(d_fc3, fc3_weight, input_precision=PRECISION)

        product = tl.load(product_ptr + cell, mask=in_rows)
        mean = tl.load(mean_ptr + row, mask=in_rows)
        rstd = tl.load(rstd_ptr + row, mask=in_rows)

        # fc2, linear: x · weightᵀ + bias
        fc2 = product + fc2_bias

        # ln2, layer_norm: (x − mean) / √(var + eps) · weight + bias, statistics per sample over its features
        centered = fc2 - mean
        normalized = centered * rstd
        scaled = normalized * ln2_weight
        ln2 = scaled + ln2_bias

        # tanh: (eˣ − e⁻ˣ) / (eˣ + e⁻ˣ)
        tanh_ln2 = tanh(ln2)

        # gradient of ln2, layer_norm: rstd · (d̂ − mean(d̂) − x̂ · mean(d̂ · x̂)) with d̂ = d · weight; d_weight
        # = Σ d · x̂; d_bias = Σ d
        d_ln2 = d_h * (1.0 - tanh_ln2 * tanh_ln2)
        d_normalized = d_ln2 * ln2_weight
        mean_d_normalized = tl.sum(d_normalized, axis=1, keep_dims=True) / 128.0
        projection = tl.sum(d_normalized * normalized, axis=1, keep_dims=True) / 128.0
        d_x = rstd * (d_normalized - mean_d_normalized - normalized * projection)
        d_weight = d_ln2 * normalized
        d_ln2_weight += tl.sum(tl.where(in_rows, d_weight, 0.0), axis=0, keep_dims=True)
        d_ln2_bias += tl.sum(tl.where(in_rows, d_ln2, 0.0), axis=0, keep_dims=True)

        # gradient of fc2, linear: d_x = d · weight; d_weight = dᵀ · x; d_bias = Σ d over rows
        d_fc2_bias += tl.sum(tl.where(in_rows, d_x, 0.0), axis=0, keep_dims=True)

        tl.store(d_h_ptr + cell, d_h, mask=in_rows)
        tl.store(d_x_ptr + cell, d_x, mask=in_rows)

    partial_row = program * COLS
    tl.store(d_ln2_weight_partial_ptr + partial_row + col, d_ln2_weight)
    tl.store(d_ln2_bias_partial_ptr + partial_row + col, d_ln2_bias)
    tl.store(d_fc2_bias_partial_ptr + partial_row + col, d_fc2_bias)

    # The last program of each 16 adds their sums up, and the last of these finalizes what is left.
    group = program // 16
    first = group * 16
    members = tl.minimum(16, programs - first)
    if arrives_last(arrivals_ptr + 1 + group, members):
        add_up_group(d_ln2_weight_partial_ptr, first, members, COLS=128, BLOCK=128, GROUP=16)
        add_up_group(d_ln2_bias_partial_ptr, first, members, COLS=128, BLOCK=128, GROUP=16)
        add_up_group(d_fc2_bias_partial_ptr, first, members, COLS=128, BLOCK=128, GROUP=16)
        if arrives_last(arrivals_ptr, tl.cdiv(programs, 16)):
            finalize_ln2_fc2_backward_adam(
                fc2_bias_exp_avg_ptr, fc2_bias_exp_avg_sq_ptr, fc2_bias_ptr, ln2_weight_exp_avg_ptr,
                ln2_weight_exp_avg_sq_ptr, ln2_weight_ptr, ln2_bias_exp_avg_ptr, ln2_bias_exp_avg_sq_ptr, ln2_bias_ptr,
                d_ln2_weight_partial_ptr, d_ln2_bias_partial_ptr, d_fc2_bias_partial_ptr, one_minus_beta1, beta2,
                one_minus_beta2, step_size, root_correction, eps, programs, PROGRAMS=20, BLOCK=128,
            )


def run_h_to_fc2_backward(
    product, mean, rstd, d_fc3, fc3_weight, fc2_bias, ln2_weight, ln2_bias, fc2_bias_exp_avg,
    fc2_bias_exp_avg_sq, ln2_weight_exp_avg, ln2_weight_exp_avg_sq, ln2_bias_exp_avg, ln2_bias_exp_avg_sq,
    d_h, d_x, d_ln2_weight_partial, d_ln2_bias_partial, d_fc2_bias_partial, arrivals, batch, one_minus_beta1,
    beta2, one_minus_beta2, step_size, root_correction, eps, programs, ROWS=8, launch=launch,
):
    """8 rows of 128 a program: 1,024 elements keep 8 warps busy without spilling. A fixed number of programs loops
    over all rows, so few partial sums are left to add up. The last one to arrive finalizes them, which saves a
    launch."""
    grid = (programs,)
    launch(
        h_to_fc2_backward, grid, product, mean, rstd, d_fc3, fc3_weight, fc2_bias, ln2_weight, ln2_bias,
        fc2_bias_exp_avg, fc2_bias_exp_avg_sq, ln2_weight_exp_avg, ln2_weight_exp_avg_sq, ln2_bias_exp_avg,
        ln2_bias_exp_avg_sq, d_h, d_x, d_ln2_weight_partial, d_ln2_bias_partial, d_fc2_bias_partial, arrivals,
        batch, one_minus_beta1, beta2, one_minus_beta2, step_size, root_correction, eps, programs, COLS=128,
        ROWS=ROWS, BLOCK=128, INNER=16, PRECISION=float32_precision(), num_warps=8, maxnreg=128,
    )


@triton.jit
def finalize_ln1_fc1_backward_adam(
    fc1_bias_exp_avg_ptr,
    fc1_bias_exp_avg_sq_ptr,
    fc1_bias_ptr,
    ln1_weight_exp_avg_ptr,
    ln1_weight_exp_avg_sq_ptr,
    ln1_weight_ptr,
    ln1_bias_exp_avg_ptr,
    ln1_bias_exp_avg_sq_ptr,
    ln1_bias_ptr,
    d_ln1_weight_partial_ptr,
    d_ln1_bias_partial_ptr,
    d_fc1_bias_partial_ptr,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    step_size,
    root_correction,
    eps,
    programs,
    PROGRAMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Finalizes gradient of ln1, gradient of fc1, update of fc1.bias, update of ln1.weight, update of ln1.bias."""
    offset = tl.arange(0, BLOCK)

    # Sums over all rows: add up what each group of 16 left, always in the same order.
    d_ln1_weight = tl.full([BLOCK], 0.0, tl.float32)
    d_ln1_bias = tl.full([BLOCK], 0.0, tl.float32)
    d_fc1_bias = tl.full([BLOCK], 0.0, tl.float32)
    for first in range(0, programs, PROGRAMS * 16):
        for member in tl.range(0, PROGRAMS * 16, 16, loop_unroll_factor=PROGRAMS):
            program = first + member
            partial_cell = program * 128 + offset
            in_programs = program < programs
            d_ln1_weight += tl.load(d_ln1_weight_partial_ptr + partial_cell, mask=in_programs, other=0.0)
            d_ln1_bias += tl.load(d_ln1_bias_partial_ptr + partial_cell, mask=in_programs, other=0.0)
            d_fc1_bias += tl.load(d_fc1_bias_partial_ptr + partial_cell, mask=in_programs, other=0.0)

    fc1_bias_exp_avg = tl.load(fc1_bias_exp_avg_ptr + offset)
    fc1_bias_exp_avg_sq = tl.load(fc1_bias_exp_avg_sq_ptr + offset)
    fc1_bias = tl.load(fc1_bias_ptr + offset)
    ln1_weight_exp_avg = tl.load(ln1_weight_exp_avg_ptr + offset)
    ln1_weight_exp_avg_sq = tl.load(ln1_weight_exp_avg_sq_ptr + offset)
    ln1_weight = tl.load(ln1_weight_ptr + offset)
    ln1_bias_exp_avg = tl.load(ln1_bias_exp_avg_ptr + offset)
    ln1_bias_exp_avg_sq = tl.load(ln1_bias_exp_avg_sq_ptr + offset)
    ln1_bias = tl.load(ln1_bias_ptr + offset)

    # update of fc1.bias, adam: m, v ← decaying means of g, g²; p ← p − lr · m̂ / (√v̂ + eps), m̂ = m / (1 −
    # β₁ᵗ), v̂ = v / (1 − β₂ᵗ)
    mean = fc1_bias_exp_avg + one_minus_beta1 * (d_fc1_bias - fc1_bias_exp_avg)
    mean_square = beta2 * fc1_bias_exp_avg_sq + one_minus_beta2 * d_fc1_bias * d_fc1_bias
    denominator = tl.sqrt(mean_square) / root_correction + eps
    updated = fc1_bias - step_size * mean / denominator

    # update of ln1.weight, adam: m, v ← decaying means of g, g²; p ← p − lr · m̂ / (√v̂ + eps), m̂ = m / (1 −
    # β₁ᵗ), v̂ = v / (1 − β₂ᵗ)
    ln1_weight_mean = ln1_weight_exp_avg + one_minus_beta1 * (d_ln1_weight - ln1_weight_exp_avg)
    ln1_weight_mean_square = beta2 * ln1_weight_exp_avg_sq + one_minus_beta2 * d_ln1_weight * d_ln1_weight
    ln1_weight_denominator = tl.sqrt(ln1_weight_mean_square) / root_correction + eps
    ln1_weight_updated = ln1_weight - step_size * ln1_weight_mean / ln1_weight_denominator

    # update of ln1.bias, adam: m, v ← decaying means of g, g²; p ← p − lr · m̂ / (√v̂ + eps), m̂ = m / (1 −
    # β₁ᵗ), v̂ = v / (1 − β₂ᵗ)
    ln1_bias_mean = ln1_bias_exp_avg + one_minus_beta1 * (d_ln1_bias - ln1_bias_exp_avg)
    ln1_bias_mean_square = beta2 * ln1_bias_exp_avg_sq + one_minus_beta2 * d_ln1_bias * d_ln1_bias
    ln1_bias_denominator = tl.sqrt(ln1_bias_mean_square) / root_correction + eps
    ln1_bias_updated = ln1_bias - step_size * ln1_bias_mean / ln1_bias_denominator

    tl.store(fc1_bias_exp_avg_ptr + offset, mean)
    tl.store(fc1_bias_exp_avg_sq_ptr + offset, mean_square)
    tl.store(fc1_bias_ptr + offset, updated)
    tl.store(ln1_weight_exp_avg_ptr + offset, ln1_weight_mean)
    tl.store(ln1_weight_exp_avg_sq_ptr + offset, ln1_weight_mean_square)
    tl.store(ln1_weight_ptr + offset, ln1_weight_updated)
    tl.store(ln1_bias_exp_avg_ptr + offset, ln1_bias_mean)
    tl.store(ln1_bias_exp_avg_sq_ptr + offset, ln1_bias_mean_square)
    tl.store(ln1_bias_ptr + offset, ln1_bias_updated)


@triton.jit
def fc2_to_fc1_backward(
    product_ptr,
    mean_ptr,
    rstd_ptr,
    d_x_ptr,
    fc2_weight_ptr,
    d_h_ptr,
    fc1_bias_ptr,
    ln1_weight_ptr,
    ln1_bias_ptr,
    fc1_bias_exp_avg_ptr,
    fc1_bias_exp_avg_sq_ptr,
    ln1_weight_exp_avg_ptr,
    ln1_weight_exp_avg_sq_ptr,
    ln1_bias_exp_avg_ptr,
    ln1_bias_exp_avg_sq_ptr,
    ln1_d_x_ptr,
    d_ln1_weight_partial_ptr,
    d_ln1_bias_partial_ptr,
    d_fc1_bias_partial_ptr,
    arrivals_ptr,
    batch,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    step_size,
    root_correction,
    eps,
    programs,
    COLS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """gradient of fc2, gradient of relu, gradient of ln1, gradient of fc1, update of fc1.bias, update of ln1.weight,
    update of ln1.bias. Recomputes fc1, ln1: that moves fewer bytes than loading it."""
    program = tl.program_id(0)
    col = tl.arange(0, BLOCK)[None, :]
    fc1_bias = tl.load(fc1_bias_ptr + col)
    ln1_weight = tl.load(ln1_weight_ptr + col)
    ln1_bias = tl.load(ln1_bias_ptr + col)

    d_ln1_weight = tl.full([1, BLOCK], 0.0, tl.float32)
    d_ln1_bias = tl.full([1, BLOCK], 0.0, tl.float32)
    d_fc1_bias = tl.full([1, BLOCK], 0.0, tl.float32)
    for tile in range(program, tl.cdiv(batch, ROWS), programs):
        row = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        row_start = row * COLS
        in_rows = row < batch
        cell = row_start + col

        # gradient of fc2, linear: d_x = d · weight; d_weight = dᵀ · x; d_bias = Σ d over rows
        fc2_matmul = tl.zeros([ROWS, BLOCK], tl.float32)
        for start in range(0, 128, INNER):
            inner = start + tl.arange(0, INNER)
            d_x = tl.load(d_x_ptr + row_start + inner[None, :], mask=in_rows, other=0.0)
            fc2_weight = tl.load(fc2_weight_ptr + col + inner[:, None] * 128)
            fc2_matmul = tl.dot(d_x, fc2_weight, fc2_matmul, input_precision=PRECISION)

        product = tl.load(product_ptr + cell, mask=in_rows)
        mean = tl.load(mean_ptr + row, mask=in_rows)
        rstd = tl.load(rstd_ptr + row, mask=in_rows)
        d_h = tl.load(d_h_ptr + cell, mask=in_rows)

        # fc1, linear: x · weightᵀ + bias
        fc1 = product + fc1_bias

        # ln1, layer_norm: (x − mean) / √(var + eps) · weight + bias, statistics per sample over its features
        centered = fc1 - mean
        normalized = centered * rstd
        scaled = normalized * ln1_weight
        ln1 = scaled + ln1_bias

        # gradient of relu: 1 where x > 0, else 0
        d_relu = d_h + fc2_matmul

        # gradient of ln1, layer_norm: rstd · (d̂ − mean(d̂) − x̂ · mean(d̂ · x̂)) with d̂ = d · weight; d_weight
        # = Σ d · x̂; d_bias = Σ d
        d_ln1 = tl.where(ln1 <= 0.0, 0.0, d_relu)
        d_normalized = d_ln1 * ln1_weight
        mean_d_normalized = tl.sum(d_normalized, axis=1, keep_dims=True) / 128.0
        projection = tl.sum(d_normalized * normalized, axis=1, keep_dims=True) / 128.0
        ln1_d_x = rstd * (d_normalized - mean_d_normalized - normalized * projection)
        d_weight = d_ln1 * normalized
        d_ln1_weight += tl.sum(tl.where(in_rows, d_weight, 0.0), axis=0, keep_dims=True)
        d_ln1_bias += tl.sum(tl.where(in_rows, d_ln1, 0.0), axis=0, keep_dims=True)

        # gradient of fc1, linear: d_x = d · weight; d_weight = dᵀ · x; d_bias = Σ d over rows
        d_fc1_bias += tl.sum(tl.where(in_rows, ln1_d_x, 0.0), axis=0, keep_dims=True)

        tl.store(ln1_d_x_ptr + cell, ln1_d_x, mask=in_rows)

    partial_row = program * COLS
    tl.store(d_ln1_weight_partial_ptr + partial_row + col, d_ln1_weight)
    tl.store(d_ln1_bias_partial_ptr + partial_row + col, d_ln1_bias)
    tl.store(d_fc1_bias_partial_ptr + partial_row + col, d_fc1_bias)

    # The last program of each 16 adds their sums up, and the last of these finalizes what is left.
    group = program // 16
    first = group * 16
    members = tl.minimum(16, programs - first)
    if arrives_last(arrivals_ptr + 1 + group, members):
        add_up_group(d_ln1_weight_partial_ptr, first, members, COLS=128, BLOCK=128, GROUP=16)
        add_up_group(d_ln1_bias_partial_ptr, first, members, COLS=128, BLOCK=128, GROUP=16)
        add_up_group(d_fc1_bias_partial_ptr, first, members, COLS=128, BLOCK=128, GROUP=16)
        if arrives_last(arrivals_ptr, tl.cdiv(programs, 16)):
            finalize_ln1_fc1_backward_adam(
                fc1_bias_exp_avg_ptr, fc1_bias_exp_avg_sq_ptr, fc1_bias_ptr, ln1_weight_exp_avg_ptr,
                ln1_weight_exp_avg_sq_ptr, ln1_weight_ptr, ln1_bias_exp_avg_ptr, ln1_bias_exp_avg_sq_ptr, ln1_bias_ptr,
                d_ln1_weight_partial_ptr, d_ln1_bias_partial_ptr, d_fc1_bias_partial_ptr, one_minus_beta1, beta2,
                one_minus_beta2, step_size, root_correction, eps, programs, PROGRAMS=20, BLOCK=128,
            )


def run_fc2_to_fc1_backward(
    product, mean, rstd, d_x, fc2_weight, d_h, fc1_bias, ln1_weight, ln1_bias, fc1_bias_exp_avg,
    fc1_bias_exp_avg_sq, ln1_weight_exp_avg, ln1_weight_exp_avg_sq, ln1_bias_exp_avg, ln1_bias_exp_avg_sq,
    ln1_d_x, d_ln1_weight_partial, d_ln1_bias_partial, d_fc1_bias_partial, arrivals, batch, one_minus_beta1,
    beta2, one_minus_beta2, step_size, root_correction, eps, programs, ROWS=8, launch=launch,
):
    """8 rows of 128 a program: 1,024 elements keep 8 warps busy without spilling. A fixed number of programs loops
    over all rows, so few partial sums are left to add up. The last one to arrive finalizes them, which saves a
    launch."""
    grid = (programs,)
    launch(
        fc2_to_fc1_backward, grid, product, mean, rstd, d_x, fc2_weight, d_h, fc1_bias, ln1_weight, ln1_bias,
        fc1_bias_exp_avg, fc1_bias_exp_avg_sq, ln1_weight_exp_avg, ln1_weight_exp_avg_sq, ln1_bias_exp_avg,
        ln1_bias_exp_avg_sq, ln1_d_x, d_ln1_weight_partial, d_ln1_bias_partial, d_fc1_bias_partial, arrivals,
        batch, one_minus_beta1, beta2, one_minus_beta2, step_size, root_correction, eps, programs, COLS=128,
        ROWS=ROWS, BLOCK=128, INNER=16, PRECISION=float32_precision(), num_warps=8, maxnreg=128,
    )


@triton.jit
def fc3_backward_adam(
    tile,
    part,
    parts,
    d_fc3_ptr,
    h_ptr,
    fc3_weight_exp_avg_ptr,
    fc3_weight_exp_avg_sq_ptr,
    fc3_weight_ptr,
    d_fc3_weight_split_k_ptr,
    arrivals_ptr,
    batch,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    step_size,
    root_correction,
    eps,
    COLS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """gradient of fc3, update of fc3.weight."""
    tile_row = tile // 4
    tile_col = tile % 4
    col = tile_col * BLOCK + tl.arange(0, BLOCK)[None, :]
    row = tl.cast(tile_row, tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    in_rows = row < 10
    cell = row * COLS + col

    # gradient of fc3, linear: d_x = d · weight; d_weight = dᵀ · x; d_bias = Σ d over rows
    d_fc3_weight = tl.zeros([ROWS, BLOCK], tl.float32)
    length = tl.cdiv(batch, INNER * parts) * INNER
    first = part * length
    for start in range(first, tl.minimum(first + length, batch), INNER):
        inner = tl.cast(start, tl.int64) + tl.arange(0, INNER)
        d_fc3 = tl.load(d_fc3_ptr + row + inner[None, :] * 10, mask=in_rows & (inner[None, :] < batch), other=0.0)
        h = tl.load(h_ptr + col + inner[:, None] * 128, mask=inner[:, None] < batch, other=0.0)
        d_fc3_weight = tl.dot(d_fc3, h, d_fc3_weight, input_precision=PRECISION)

    # Split-K: the programs of a tile store partial sums, and the last to arrive adds them up, in one order.
    tl.store(d_fc3_weight_split_k_ptr + part * 1280 + cell, d_fc3_weight, mask=in_rows)
    if arrives_last(arrivals_ptr + tile, parts):
        d_fc3_weight = tl.zeros([ROWS, BLOCK], tl.float32)
        for other in range(parts):
            d_fc3_weight += tl.load(d_fc3_weight_split_k_ptr + other * 1280 + cell, mask=in_rows)
        fc3_weight_exp_avg = tl.load(fc3_weight_exp_avg_ptr + cell, mask=in_rows)
        fc3_weight_exp_avg_sq = tl.load(fc3_weight_exp_avg_sq_ptr + cell, mask=in_rows)
        fc3_weight = tl.load(fc3_weight_ptr + cell, mask=in_rows)

        # update of fc3.weight, adam: m, v ← decaying means of g, g²; p ← p − lr · m̂ / (√v̂ + eps), m̂ = m / (1 −
        # β₁ᵗ), v̂ = v / (1 − β₂ᵗ)
        mean = fc3_weight_exp_avg + one_minus_beta1 * (d_fc3_weight - fc3_weight_exp_avg)
        mean_square = beta2 * fc3_weight_exp_avg_sq + one_minus_beta2 * d_fc3_weight * d_fc3_weight
        denominator = tl.sqrt(mean_square) / root_correction + eps
        updated = fc3_weight - step_size * mean / denominator

        tl.store(fc3_weight_exp_avg_ptr + cell, mean, mask=in_rows)
        tl.store(fc3_weight_exp_avg_sq_ptr + cell, mean_square, mask=in_rows)
        tl.store(fc3_weight_ptr + cell, updated, mask=in_rows)


@triton.jit
def fc2_backward_adam(
    tile,
    part,
    parts,
    d_x_ptr,
    relu_ptr,
    fc2_weight_exp_avg_ptr,
    fc2_weight_exp_avg_sq_ptr,
    fc2_weight_ptr,
    d_fc2_weight_split_k_ptr,
    arrivals_ptr,
    batch,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    step_size,
    root_correction,
    eps,
    COLS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """gradient of fc2, update of fc2.weight."""
    tile_row = tile // 4
    tile_col = tile % 4
    col = tile_col * BLOCK + tl.arange(0, BLOCK)[None, :]
    row = tl.cast(tile_row, tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    cell = row * COLS + col

    # gradient of fc2, linear: d_x = d · weight; d_weight = dᵀ · x; d_bias = Σ d over rows
    d_fc2_weight = tl.zeros([ROWS, BLOCK], tl.float32)
    length = tl.cdiv(batch, INNER * parts) * INNER
    first = part * length
    for start in range(first, tl.minimum(first + length, batch), INNER):
        inner = tl.cast(start, tl.int64) + tl.arange(0, INNER)
        d_x = tl.load(d_x_ptr + row + inner[None, :] * 128, mask=inner[None, :] < batch, other=0.0)
        relu = tl.load(relu_ptr + col + inner[:, None] * 128, mask=inner[:, None] < batch, other=0.0)
        d_fc2_weight = tl.dot(d_x, relu, d_fc2_weight, input_precision=PRECISION)

    # Split-K: the programs of a tile store partial sums, and the last to arrive adds them up, in one order.
    tl.store(d_fc2_weight_split_k_ptr + part * 16384 + cell, d_fc2_weight)
    if arrives_last(arrivals_ptr + tile, parts):
        d_fc2_weight = tl.zeros([ROWS, BLOCK], tl.float32)
        for other in range(parts):
            d_fc2_weight += tl.load(d_fc2_weight_split_k_ptr + other * 16384 + cell)
        fc2_weight_exp_avg = tl.load(fc2_weight_exp_avg_ptr + cell)
        fc2_weight_exp_avg_sq = tl.load(fc2_weight_exp_avg_sq_ptr + cell)
        fc2_weight = tl.load(fc2_weight_ptr + cell)

        # update of fc2.weight, adam: m, v ← decaying means of g, g²; p ← p − lr · m̂ / (√v̂ + eps), m̂ = m / (1 −
        # β₁ᵗ), v̂ = v / (1 − β₂ᵗ)
        mean = fc2_weight_exp_avg + one_minus_beta1 * (d_fc2_weight - fc2_weight_exp_avg)
        mean_square = beta2 * fc2_weight_exp_avg_sq + one_minus_beta2 * d_fc2_weight * d_fc2_weight
        denominator = tl.sqrt(mean_square) / root_correction + eps
        updated = fc2_weight - step_size * mean / denominator

        tl.store(fc2_weight_exp_avg_ptr + cell, mean)
        tl.store(fc2_weight_exp_avg_sq_ptr + cell, mean_square)
        tl.store(fc2_weight_ptr + cell, updated)


@triton.jit
def fc1_backward_adam(
    tile,
    part,
    parts,
    d_x_ptr,
    x_ptr,
    fc1_weight_exp_avg_ptr,
    fc1_weight_exp_avg_sq_ptr,
    fc1_weight_ptr,
    d_fc1_weight_split_k_ptr,
    arrivals_ptr,
    batch,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    step_size,
    root_correction,
    eps,
    COLS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """gradient of fc1, update of fc1.weight."""
    tile_row = tile // 2
    tile_col = tile % 2
    col = tile_col * BLOCK + tl.arange(0, BLOCK)[None, :]
    row = tl.cast(tile_row, tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    cell = row * COLS + col

    # gradient of fc1, linear: d_x = d · weight; d_weight = dᵀ · x; d_bias = Σ d over rows
    d_fc1_weight = tl.zeros([ROWS, BLOCK], tl.float32)
    length = tl.cdiv(batch, INNER * parts) * INNER
    first = part * length
    for start in range(first, tl.minimum(first + length, batch), INNER):
        inner = tl.cast(start, tl.int64) + tl.arange(0, INNER)
        d_x = tl.load(d_x_ptr + row + inner[None, :] * 128, mask=inner[None, :] < batch, other=0.0)
        x = tl.load(x_ptr + col + inner[:, None] * 64, mask=inner[:, None] < batch, other=0.0)
        d_fc1_weight = tl.dot(d_x, x, d_fc1_weight, input_precision=PRECISION)

    # Split-K: the programs of a tile store partial sums, and the last to arrive adds them up, in one order.
    tl.store(d_fc1_weight_split_k_ptr + part * 8192 + cell, d_fc1_weight)
    if arrives_last(arrivals_ptr + tile, parts):
        d_fc1_weight = tl.zeros([ROWS, BLOCK], tl.float32)
        for other in range(parts):
            d_fc1_weight += tl.load(d_fc1_weight_split_k_ptr + other * 8192 + cell)
        fc1_weight_exp_avg = tl.load(fc1_weight_exp_avg_ptr + cell)
        fc1_weight_exp_avg_sq = tl.load(fc1_weight_exp_avg_sq_ptr + cell)
        fc1_weight = tl.load(fc1_weight_ptr + cell)

        # update of fc1.weight, adam: m, v ← decaying means of g, g²; p ← p − lr · m̂ / (√v̂ + eps), m̂ = m / (1 −
        # β₁ᵗ), v̂ = v / (1 − β₂ᵗ)
        mean = fc1_weight_exp_avg + one_minus_beta1 * (d_fc1_weight - fc1_weight_exp_avg)
        mean_square = beta2 * fc1_weight_exp_avg_sq + one_minus_beta2 * d_fc1_weight * d_fc1_weight
        denominator = tl.sqrt(mean_square) / root_correction + eps
        updated = fc1_weight - step_size * mean / denominator

        tl.store(fc1_weight_exp_avg_ptr + cell, mean)
        tl.store(fc1_weight_exp_avg_sq_ptr + cell, mean_square)
        tl.store(fc1_weight_ptr + cell, updated)


@triton.jit
def grouped_matmul_adam(
    d_fc3_ptr,
    h_ptr,
    d_x_ptr,
    relu_ptr,
    d_x_total_ptr,
    x_ptr,
    fc3_weight_exp_avg_ptr,
    fc3_weight_exp_avg_sq_ptr,
    fc3_weight_ptr,
    fc2_weight_exp_avg_ptr,
    fc2_weight_exp_avg_sq_ptr,
    fc2_weight_ptr,
    fc1_weight_exp_avg_ptr,
    fc1_weight_exp_avg_sq_ptr,
    fc1_weight_ptr,
    d_fc3_weight_split_k_ptr,
    d_fc2_weight_split_k_ptr,
    d_fc1_weight_split_k_ptr,
    arrivals_total_ptr,
    batch,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    step_size,
    root_correction,
    eps,
    PRECISION: tl.constexpr,
):
    """Grouped matmul: fc3, fc3.weight, fc2, fc2.weight, fc1, fc1.weight."""
    tile = tl.program_id(0)
    part = tl.program_id(1)
    parts = tl.num_programs(1)
    if tile < 4:
        fc3_backward_adam(
            tile, part, parts, d_fc3_ptr, h_ptr, fc3_weight_exp_avg_ptr, fc3_weight_exp_avg_sq_ptr, fc3_weight_ptr,
            d_fc3_weight_split_k_ptr, arrivals_total_ptr, batch, one_minus_beta1, beta2, one_minus_beta2, step_size,
            root_correction, eps, COLS=128, ROWS=32, BLOCK=32, INNER=16, PRECISION=PRECISION,
        )
    elif tile < 20:
        fc2_backward_adam(
            tile - 4, part, parts, d_x_ptr, relu_ptr, fc2_weight_exp_avg_ptr, fc2_weight_exp_avg_sq_ptr,
            fc2_weight_ptr, d_fc2_weight_split_k_ptr, arrivals_total_ptr + 4, batch, one_minus_beta1, beta2,
            one_minus_beta2, step_size, root_correction, eps, COLS=128, ROWS=32, BLOCK=32, INNER=16,
            PRECISION=PRECISION,
        )
    else:
        fc1_backward_adam(
            tile - 20, part, parts, d_x_total_ptr, x_ptr, fc1_weight_exp_avg_ptr, fc1_weight_exp_avg_sq_ptr,
            fc1_weight_ptr, d_fc1_weight_split_k_ptr, arrivals_total_ptr + 20, batch, one_minus_beta1, beta2,
            one_minus_beta2, step_size, root_correction, eps, COLS=64, ROWS=32, BLOCK=32, INNER=16,
            PRECISION=PRECISION,
        )


def run_grouped_matmul_adam(
    d_fc3, h, d_x, relu, d_x_total, x, fc3_weight_exp_avg, fc3_weight_exp_avg_sq, fc3_weight,
    fc2_weight_exp_avg, fc2_weight_exp_avg_sq, fc2_weight, fc1_weight_exp_avg, fc1_weight_exp_avg_sq,
    fc1_weight, d_fc3_weight_split_k, d_fc2_weight_split_k, d_fc1_weight_split_k, arrivals_total, batch,
    one_minus_beta1, beta2, one_minus_beta2, step_size, root_correction, eps, launch=launch,
):
    """28 tiles of 3 matmuls: each alone would leave more of a GPU idle. Sums of 256 and more are split-K."""
    grid = (28, max(1, min(batch // 128, 9)))
    launch(
        grouped_matmul_adam, grid, d_fc3, h, d_x, relu, d_x_total, x, fc3_weight_exp_avg, fc3_weight_exp_avg_sq,
        fc3_weight, fc2_weight_exp_avg, fc2_weight_exp_avg_sq, fc2_weight, fc1_weight_exp_avg,
        fc1_weight_exp_avg_sq, fc1_weight, d_fc3_weight_split_k, d_fc2_weight_split_k, d_fc1_weight_split_k,
        arrivals_total, batch, one_minus_beta1, beta2, one_minus_beta2, step_size, root_correction, eps,
        PRECISION=float32_precision(), num_warps=8,
    )


def place(spans: dict[str, tuple[int, int, int]], alignment: int = 256) -> tuple[dict[str, int], int]:
    """Offsets for (bytes, first launch, last launch) by name, and the bytes of it all: the largest first, each in the
    smallest gap that is free of what lives at the same time. What is smaller than `alignment` needs less of it."""
    offsets: dict[str, int] = {}
    for name in sorted(spans, key=lambda name: -spans[name][0]):
        size, first, last = spans[name]
        step = max(16, min(alignment, 1 << (size - 1).bit_length())) if size else 16
        met = [other for other in offsets if spans[other][1] <= last and spans[other][2] >= first]
        best, room, free = 0, 0, 0
        for other in sorted(met, key=lambda other: offsets[other]):
            gap = offsets[other] - free
            if size <= gap and (not room or gap < room):
                best, room = free, gap
            free = max(free, -(-(offsets[other] + spans[other][0]) // step) * step)
        offsets[name] = best if room else free
    return offsets, max((offsets[name] + spans[name][0] for name in spans), default=0)


def in_arena(lives, device):
    """Tensors in one arena for (shape, dtype, first launch, last launch) by name; all begin as zeros."""
    spans = {n: (math.prod(shape) * dtype.itemsize, *span) for n, (shape, dtype, *span) in lives.items()}
    offsets, total = place(spans)
    arena = torch.zeros(total, dtype=torch.uint8, device=device)
    held = {n: arena[offsets[n] : offsets[n] + spans[n][0]] for n in lives}
    return {n: held[n].view(dtype).view(shape) for n, (shape, dtype, *_) in lives.items()}


def temporaries(device, *, batch, programs=1):
    """The tensors that live inside a run, in one arena: memory is reused after the last launch that
    needs it. Of each the shape, the dtype, and the first and last launch."""
    lives = {
        "fc1.product": ((batch, 128), torch.float32, 0, 4),
        "ln1.mean": ((batch, 1), torch.float32, 0, 4),
        "ln1.rstd": ((batch, 1), torch.float32, 0, 4),
        "relu": ((batch, 128), torch.float32, 0, 5),
        "fc2.product": ((batch, 128), torch.float32, 1, 3),
        "ln2.mean": ((batch, 1), torch.float32, 1, 3),
        "ln2.rstd": ((batch, 1), torch.float32, 1, 3),
        "h": ((batch, 128), torch.float32, 1, 5),
        "fc3.d_fc3": ((batch, 10), torch.float32, 2, 5),
        "loss.total:partial": ((programs, 1, 1), torch.float32, 2, 2),
        "accuracy.right:partial": ((programs, 1, 1), torch.float32, 2, 2),
        "fc3.d_fc3_bias:partial": ((programs, 1, 10), torch.float32, 2, 2),
        "fc3_loss_accuracy_forward_backward:arrivals": ((1 + triton.cdiv(programs, 16),), torch.int32, 0, 5),
        "h.d_h": ((batch, 128), torch.float32, 3, 4),
        "ln2.d_x": ((batch, 128), torch.float32, 3, 5),
        "ln2.d_ln2_weight:partial": ((programs, 1, 128), torch.float32, 3, 3),
        "ln2.d_ln2_bias:partial": ((programs, 1, 128), torch.float32, 3, 3),
        "fc2.d_fc2_bias:partial": ((programs, 1, 128), torch.float32, 3, 3),
        "h_to_fc2_backward:arrivals": ((1 + triton.cdiv(programs, 16),), torch.int32, 0, 5),
        "ln1.d_x": ((batch, 128), torch.float32, 4, 5),
        "ln1.d_ln1_weight:partial": ((programs, 1, 128), torch.float32, 4, 4),
        "ln1.d_ln1_bias:partial": ((programs, 1, 128), torch.float32, 4, 4),
        "fc1.d_fc1_bias:partial": ((programs, 1, 128), torch.float32, 4, 4),
        "fc2_to_fc1_backward:arrivals": ((1 + triton.cdiv(programs, 16),), torch.int32, 0, 5),
        "fc3.d_fc3_weight:partial": ((max(1, min(batch // 128, 9)), 10, 128), torch.float32, 5, 5),
        "fc2.d_fc2_weight:partial": ((max(1, min(batch // 128, 9)), 128, 128), torch.float32, 5, 5),
        "fc1.d_fc1_weight:partial": ((max(1, min(batch // 128, 9)), 128, 64), torch.float32, 5, 5),
        "grouped_matmul_adam:arrivals": ((1 + triton.cdiv(programs, 16), 28), torch.int32, 0, 5),
    }
    return in_arena(lives, device)


def run(t, *, batch, lr, beta1, beta2, eps, step, programs=1, launch=launch):
    """Launch everything once. `t` holds the tensors by name; `programs` share each sum over rows."""
    one_minus_beta1 = 1.0 - beta1
    one_minus_beta2 = 1.0 - beta2
    step_size = lr / (1.0 - beta1**step)
    root_correction = math.sqrt(1.0 - beta2**step)
    run_fc1_ln1_relu(
        t["x"], t["fc1.weight"], t["fc1.bias"], t["ln1.weight"], t["ln1.bias"], t["fc1.product"], t["ln1.mean"],
        t["ln1.rstd"], t["relu"], batch, launch=launch,
    )
    run_fc2_to_h(
        t["relu"], t["fc2.weight"], t["fc2.bias"], t["ln2.weight"], t["ln2.bias"], t["fc2.product"],
        t["ln2.mean"], t["ln2.rstd"], t["h"], batch, launch=launch,
    )
    run_fc3_loss_accuracy_forward_backward(
        t["h"], t["fc3.weight"], t["y"], t["fc3.bias"], t["fc3.bias.exp_avg"], t["fc3.bias.exp_avg_sq"],
        t["fc3"], t["fc3.d_fc3"], t["loss"], t["accuracy"], t["loss.total:partial"], t["accuracy.right:partial"],
        t["fc3.d_fc3_bias:partial"], t["fc3_loss_accuracy_forward_backward:arrivals"], batch, one_minus_beta1,
        beta2, one_minus_beta2, step_size, root_correction, eps, programs, launch=launch,
    )
    run_h_to_fc2_backward(
        t["fc2.product"], t["ln2.mean"], t["ln2.rstd"], t["fc3.d_fc3"], t["fc3.weight"], t["fc2.bias"],
        t["ln2.weight"], t["ln2.bias"], t["fc2.bias.exp_avg"], t["fc2.bias.exp_avg_sq"], t["ln2.weight.exp_avg"],
        t["ln2.weight.exp_avg_sq"], t["ln2.bias.exp_avg"], t["ln2.bias.exp_avg_sq"], t["h.d_h"], t["ln2.d_x"],
        t["ln2.d_ln2_weight:partial"], t["ln2.d_ln2_bias:partial"], t["fc2.d_fc2_bias:partial"],
        t["h_to_fc2_backward:arrivals"], batch, one_minus_beta1, beta2, one_minus_beta2, step_size,
        root_correction, eps, programs, launch=launch,
    )
    run_fc2_to_fc1_backward(
        t["fc1.product"], t["ln1.mean"], t["ln1.rstd"], t["ln2.d_x"], t["fc2.weight"], t["h.d_h"], t["fc1.bias"],
        t["ln1.weight"], t["ln1.bias"], t["fc1.bias.exp_avg"], t["fc1.bias.exp_avg_sq"], t["ln1.weight.exp_avg"],
        t["ln1.weight.exp_avg_sq"], t["ln1.bias.exp_avg"], t["ln1.bias.exp_avg_sq"], t["ln1.d_x"],
        t["ln1.d_ln1_weight:partial"], t["ln1.d_ln1_bias:partial"], t["fc1.d_fc1_bias:partial"],
        t["fc2_to_fc1_backward:arrivals"], batch, one_minus_beta1, beta2, one_minus_beta2, step_size,
        root_correction, eps, programs, launch=launch,
    )
    run_grouped_matmul_adam(
        t["fc3.d_fc3"], t["h"], t["ln2.d_x"], t["relu"], t["ln1.d_x"], t["x"], t["fc3.weight.exp_avg"],
        t["fc3.weight.exp_avg_sq"], t["fc3.weight"], t["fc2.weight.exp_avg"], t["fc2.weight.exp_avg_sq"],
        t["fc2.weight"], t["fc1.weight.exp_avg"], t["fc1.weight.exp_avg_sq"], t["fc1.weight"],
        t["fc3.d_fc3_weight:partial"], t["fc2.d_fc2_weight:partial"], t["fc1.d_fc1_weight:partial"],
        t["grouped_matmul_adam:arrivals"], batch, one_minus_beta1, beta2, one_minus_beta2, step_size,
        root_correction, eps, launch=launch,
    )


def main():
    """Run once on made-up tensors, on a GPU or under the interpreter (TRITON_INTERPRET=1)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    batch = 5
    t = {}
    t["x"] = torch.rand((batch, 64), dtype=torch.float32, device=device)
    t["y"] = torch.zeros((batch,), dtype=torch.int64, device=device)
    t["fc1.weight"] = torch.rand((128, 64), dtype=torch.float32, device=device)
    t["fc1.bias"] = torch.rand((128,), dtype=torch.float32, device=device)
    t["ln1.weight"] = torch.rand((128,), dtype=torch.float32, device=device)
    t["ln1.bias"] = torch.rand((128,), dtype=torch.float32, device=device)
    t["fc2.weight"] = torch.rand((128, 128), dtype=torch.float32, device=device)
    t["fc2.bias"] = torch.rand((128,), dtype=torch.float32, device=device)
    t["ln2.weight"] = torch.rand((128,), dtype=torch.float32, device=device)
    t["ln2.bias"] = torch.rand((128,), dtype=torch.float32, device=device)
    t["fc3.weight"] = torch.rand((10, 128), dtype=torch.float32, device=device)
    t["fc3.bias"] = torch.rand((10,), dtype=torch.float32, device=device)
    t["fc1.weight.exp_avg"] = torch.rand((128, 64), dtype=torch.float32, device=device)
    t["fc1.weight.exp_avg_sq"] = torch.rand((128, 64), dtype=torch.float32, device=device)
    t["fc1.bias.exp_avg"] = torch.rand((128,), dtype=torch.float32, device=device)
    t["fc1.bias.exp_avg_sq"] = torch.rand((128,), dtype=torch.float32, device=device)
    t["ln1.weight.exp_avg"] = torch.rand((128,), dtype=torch.float32, device=device)
    t["ln1.weight.exp_avg_sq"] = torch.rand((128,), dtype=torch.float32, device=device)
    t["ln1.bias.exp_avg"] = torch.rand((128,), dtype=torch.float32, device=device)
    t["ln1.bias.exp_avg_sq"] = torch.rand((128,), dtype=torch.float32, device=device)
    t["fc2.weight.exp_avg"] = torch.rand((128, 128), dtype=torch.float32, device=device)
    t["fc2.weight.exp_avg_sq"] = torch.rand((128, 128), dtype=torch.float32, device=device)
    t["fc2.bias.exp_avg"] = torch.rand((128,), dtype=torch.float32, device=device)
    t["fc2.bias.exp_avg_sq"] = torch.rand((128,), dtype=torch.float32, device=device)
    t["ln2.weight.exp_avg"] = torch.rand((128,), dtype=torch.float32, device=device)
    t["ln2.weight.exp_avg_sq"] = torch.rand((128,), dtype=torch.float32, device=device)
    t["ln2.bias.exp_avg"] = torch.rand((128,), dtype=torch.float32, device=device)
    t["ln2.bias.exp_avg_sq"] = torch.rand((128,), dtype=torch.float32, device=device)
    t["fc3.weight.exp_avg"] = torch.rand((10, 128), dtype=torch.float32, device=device)
    t["fc3.weight.exp_avg_sq"] = torch.rand((10, 128), dtype=torch.float32, device=device)
    t["fc3.bias.exp_avg"] = torch.rand((10,), dtype=torch.float32, device=device)
    t["fc3.bias.exp_avg_sq"] = torch.rand((10,), dtype=torch.float32, device=device)
    t["fc3"] = torch.empty((batch, 10), dtype=torch.float32, device=device)
    t["loss"] = torch.empty((), dtype=torch.float32, device=device)
    t["accuracy"] = torch.empty((), dtype=torch.float32, device=device)
    t |= temporaries(device, batch=batch)
    run(t, batch=batch, lr=0.5, beta1=0.5, beta2=0.5, eps=0.5, step=0.5)
    for name, tensor in t.items():
        print(f"{name}: {tuple(tensor.shape)}, mean {tensor.double().mean().item():.6g}")


if __name__ == "__main__":
    main()
