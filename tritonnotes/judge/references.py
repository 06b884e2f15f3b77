"""What each op and primitive means in torch alone: the independent witness that formulas and kernels are compared with.

A reference takes what the op's formula takes: a tensor for each argument (None where an optional one is absent, and for
an elementwise primitive a Python number where a constant stands), then the attributes by keyword, with every `Dim`
replaced by its size. It returns one tensor, and torch's autograd gives its gradient. Nothing here knows a formula.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ir.core.errors import DeclarationError
from ..tensors.dtypes import torch_dtype
from .library_references import library, library_gradient
from .scores import score
from .update_references import UPDATE_REFERENCES

Reference = Callable[..., Any]

REFERENCES: dict[str, Reference] = {}
"""The reference of each op and of each primitive that is not fed, by name (`custom.<name>` for a user's own)."""


def register_reference(name: str, reference: Reference) -> None:
    """Make `reference` what the op called `name` is compared with. Raises `DeclarationError` unless it is callable."""
    REFERENCES[name] = _callable(f"op {name!r}", reference)


def register_update_reference(name: str, reference: Reference) -> None:
    """Make `reference` what the update rule called `name` is compared with; errors as for `register_reference`."""
    UPDATE_REFERENCES[name] = _callable(f"update rule {name!r}", reference)


def _callable(what: str, reference: object) -> Reference:
    if not callable(reference):
        raise DeclarationError(
            f"{what}: reference is {reference!r}, which cannot be called; pass a function in plain torch, as in "
            "reference=torch.nn.functional.mish"
        )
    return reference


# -- ops --


def _layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, dims: int, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[x.ndim - dims :], weight, bias, eps)


def _rms_norm(x: Tensor, weight: Tensor | None, *, dims: int, eps: float) -> Tensor:
    if weight is not None and weight.dtype != x.dtype:
        # torch warns at every call that its fused kernel does not take these two.
        return (F.rms_norm(x.to(weight.dtype), x.shape[x.ndim - dims :], weight, eps)).to(x.dtype)
    return F.rms_norm(x, x.shape[x.ndim - dims :], weight, eps)


def _group_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, num_groups: int, eps: float) -> Tensor:
    # The backward run of torch 2.13 kills the process where channels lie last and x needs no gradient.
    x = x.contiguous()
    if weight is None and bias is not None:
        # torch's own backward run fails for a bias without a weight.
        return F.group_norm(x, num_groups, eps=eps) + bias.to(x.dtype).reshape(-1, *(1 for _ in x.shape[2:]))
    return F.group_norm(x, num_groups, weight, bias, eps)


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    training: bool,
    eps: float,
) -> Tensor:
    x = x.contiguous()  # where channels lie last and rows do in d, the backward run of torch 2.13 gives wrong numbers
    if training or running_mean is None or running_var is None:
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
    return F.batch_norm(x, running_mean.detach(), running_var.detach(), weight, bias, False, 0.0, eps)


def _instance_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    training: bool,
    eps: float,
) -> Tensor:
    x = x.contiguous()  # as for batch norm
    if not training and running_mean is not None and running_var is not None:
        # What torch does there too, but for an empty batch, in which it fails to find a first instance.
        return F.batch_norm(x, running_mean.detach(), running_var.detach(), weight, bias, False, 0.0, eps)
    if x.shape[0] == 0 and weight is not None:
        return F.instance_norm(x, eps=eps) * weight.sum()
    return F.instance_norm(x, None, None, weight, bias, True, 0.0, eps)


def _running(which: int) -> Reference:
    """torch moves running mean and variance together, in place: of copies, `which` is the answer."""

    def reference(x: Tensor, running: Tensor, batches: Tensor | None, *, momentum: float, per_instance: bool) -> Tensor:
        both = [torch.zeros_like(running), torch.ones_like(running)]
        both[which] = running.detach().clone()
        rate = momentum if batches is None else momentum / int(batches)
        move = F.instance_norm if per_instance else F.batch_norm
        move(x.detach(), both[0], both[1], None, None, True, rate)
        return both[which]

    return reference


def _normalize(x: Tensor, *, p: float, dim: tuple[int, ...], eps: float) -> Tensor:
    return F.normalize(x, p, dim, eps)  # type: ignore[arg-type]


def _weight_norm(v: Tensor, g: Tensor, *, dim: int) -> Tensor:
    # Of an empty tensor torch's kernel takes the process down with a division by zero.
    return torch._weight_norm(v, g, dim) if v.numel() else v * g


def _of_classes(meaning: Reference) -> Reference:
    """int32 class indices are accepted here, torch takes int64 alone; it has no gradient for the weights."""

    def reference(input: Tensor, target: Tensor, weight: Tensor | None, **attrs: Any) -> Tensor:
        return meaning(input, target.long(), _fixed(weight), **attrs)

    return reference


def _cross_entropy_of_probabilities(
    logits: Tensor, target: Tensor, weight: Tensor | None, *, label_smoothing: float, reduction: str
) -> Tensor:
    return F.cross_entropy(logits, target, _fixed(weight), label_smoothing=label_smoothing, reduction=reduction)


def _fixed(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.detach()


def _broadcasting(meaning: Reference) -> Reference:
    """The declaration has warned of shapes that differ; broadcasting first keeps torch from warning at every call."""

    def reference(input: Tensor, target: Tensor, **attrs: Any) -> Tensor:
        return meaning(*torch.broadcast_tensors(input, target), **attrs)

    return reference


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def _elementwise_loss(meaning: Callable[..., Tensor]) -> Reference:
    """A loss that torch has not, from what it is for each element."""

    def reference(input: Tensor, target: Tensor, *, reduction: str, **attrs: Any) -> Tensor:
        return _reduced(meaning(input, target, **attrs), reduction)

    return reference


def _log_cosh(input: Tensor, target: Tensor) -> Tensor:
    size = (input - target).abs()
    return size + F.softplus(-2 * size) - math.log(2)


def _quantile(input: Tensor, target: Tensor, *, q: float) -> Tensor:
    return q * F.relu(target - input) + (1 - q) * F.relu(input - target)


def _zero_one(input: Tensor, target: Tensor) -> Tensor:
    return 1 - (input.sign() * target.sign() > 0).to(input.dtype)


def _soft_margin(input: Tensor, target: Tensor, *, reduction: str) -> Tensor:
    # torch differentiates this in its first argument alone; the margin holds both.
    margin = input * target
    return F.soft_margin_loss(margin, torch.ones_like(margin), reduction=reduction)


def _multi_margin(input: Tensor, target: Tensor, weight: Tensor | None, *, reduction: str, **attrs: Any) -> Tensor:
    # torch's CPU kernel knows no 16-bit floats, and of an empty batch its mean is whatever the memory held.
    wide = torch.promote_types(input.dtype, torch.float32)
    weight = None if weight is None else weight.detach().to(wide)
    losses = F.multi_margin_loss(input.to(wide), target.long(), weight=weight, reduction="none", **attrs)
    return _reduced(losses, reduction).to(input.dtype)


def _binary_cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None, *, reduction: str) -> Tensor:
    return F.binary_cross_entropy(input, target, _fixed(weight), reduction=reduction)


def _binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, *, reduction: str
) -> Tensor:
    return F.binary_cross_entropy_with_logits(
        input, target, _fixed(weight), reduction=reduction, pos_weight=_fixed(pos_weight)
    )


def _celu(input: Tensor, *, alpha: float) -> Tensor:
    """torch's own has 1 / alpha in float32 for the gradient of float64."""
    return torch.where(input <= 0, alpha * torch.expm1(input.clamp(max=0) / alpha), input)


def _focal(input: Tensor, target: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """As torchvision.ops.sigmoid_focal_loss computes it; where nothing is missed, the slope of a root is left out."""
    p = torch.sigmoid(input)
    p_t = p * target + (1 - p) * (1 - target)
    missed = 1 - p_t
    is_right = (missed == 0) & (0 < gamma < 1)
    focus = torch.where(is_right, 0, torch.where(is_right, 1, missed) ** gamma)
    loss = F.binary_cross_entropy_with_logits(input, target, reduction="none") * focus
    return (alpha * target + (1 - alpha) * (1 - target)) * loss if alpha >= 0 else loss


def _kl_div(input: Tensor, target: Tensor, *, log_target: bool, reduction: str) -> Tensor:
    # torch warns of 'mean' at every call; the declaration has done so.
    losses = F.kl_div(input, target, reduction="none", log_target=log_target)
    return losses.sum() / input.shape[0] if reduction == "batchmean" else _reduced(losses, reduction)


def _js_divergence(p: Tensor, q: Tensor, *, dim: int, reduction: str) -> Tensor:
    middle = (p + q) / 2
    each = torch.xlogy(p, p) - torch.xlogy(p, middle) + torch.xlogy(q, q) - torch.xlogy(q, middle)
    return _reduced(each.sum(dim) / 2, reduction)


def _entropy(p: Tensor, *, dim: int, reduction: str) -> Tensor:
    return _reduced(torch.special.entr(p).sum(dim), reduction)


def _binary_entropy(p: Tensor, *, reduction: str) -> Tensor:
    return _reduced(torch.special.entr(p) + torch.special.entr(1 - p), reduction)


def _decided(logits: Tensor, target: Tensor, threshold: float, ignore_index: int) -> tuple[Tensor, Tensor, int]:
    """Predicted and true classes of the rows that count, and how many classes there are."""
    if target.shape == logits.shape:
        predicted, true, classes = (logits > threshold).long(), (target > 0.5).long(), 2
    else:
        predicted, true, classes = logits.argmax(_class_axis(logits)), target.long(), logits.shape[_class_axis(logits)]
    counted = target != ignore_index
    return predicted[counted], true[counted], classes


def _class_axis(logits: Tensor) -> int:
    return 1 if logits.ndim > 1 else 0


def _confusion_matrix(logits: Tensor, target: Tensor, *, threshold: float, ignore_index: int) -> Tensor:
    predicted, true, classes = _decided(logits, target, threshold, ignore_index)
    return torch.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def _are_right(logits: Tensor, target: Tensor, k: int, threshold: float, ignore_index: int) -> Tensor:
    if k == 1:
        predicted, true, _ = _decided(logits, target, threshold, ignore_index)
        return predicted == true
    axis = _class_axis(logits)
    largest = logits.argsort(stable=True, dim=axis, descending=True).narrow(axis, 0, k)
    return (largest == target.unsqueeze(axis)).any(axis)[target != ignore_index]


def _accuracy(logits: Tensor, target: Tensor, **attrs: Any) -> Tensor:
    return _are_right(logits, target, **attrs).double().mean().float()


def _error_rate(logits: Tensor, target: Tensor, **attrs: Any) -> Tensor:
    return (~_are_right(logits, target, **attrs)).double().mean().float()


def _score(metric: str) -> Reference:
    def reference(
        logits: Tensor, target: Tensor, *, average: str, threshold: float, zero_division: float, ignore_index: int
    ) -> Tensor:
        counts = _confusion_matrix(logits, target, threshold=threshold, ignore_index=ignore_index)
        return score(metric, counts, None if average == "none" else average, zero_division).float()

    return reference


def _gated(squash: Callable[[Tensor], Tensor]) -> Reference:
    """A gated linear unit that torch has not, from the function that squashes its first half."""

    def reference(x: Tensor, *, dim: int) -> Tensor:
        gate, up = x.chunk(2, dim)
        return squash(gate) * up

    return reference


_WORD = 0xFFFFFFFF


def _product(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """The upper and the lower 32 bits of a · b; int64 wraps, and keeps the bits of the unsigned product."""
    product = a * b
    return product >> 32 & _WORD, product & _WORD


def _uniform(seed: Tensor, *, shape: tuple[int, ...], stream: int) -> Tensor:
    """Philox 4x32-10 after Random123's philox.h, and 31 bits of its first word as a float32 below 1."""
    place = torch.arange(math.prod(shape), device=seed.device)
    counter = [place & _WORD, place >> 32, torch.full_like(place, stream), torch.zeros_like(place)]
    key = [int(seed) & _WORD, int(seed) >> 32 & _WORD]
    for _ in range(10):
        high0, low0 = _product(0xD2511F53, counter[0])
        high1, low1 = _product(0xCD9E8D57, counter[2])
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B9) & _WORD, (key[1] + 0xBB67AE85) & _WORD]
    word = counter[0]
    bits = torch.where(word < 2**31, word, _WORD - word)
    return (bits.to(torch.float32) * 4.6566127342e-10).reshape(shape)


def _dropout(x: Tensor, seed: Tensor | None, *, p: float, training: bool, stream: int) -> Tensor:
    """torch's dropout, with a mask of our own: whether u ≥ p for the number u that each element draws."""
    if not training or p == 0:
        return x
    assert seed is not None
    kept = _uniform(seed, shape=tuple(x.shape), stream=stream) >= p
    return x * kept * (1 / (1 - p) if p < 1 else 0.0)


def _spread(meaning: Callable[..., Tensor]) -> Reference:
    def reference(x: Tensor, *, dim: tuple[int, ...], correction: float, keepdim: bool) -> Tensor:
        with warnings.catch_warnings():
            # torch warns at every call where no more elements are left than the correction; the result is NaN.
            warnings.simplefilter("ignore", UserWarning)
            return meaning(x, dim or None, correction=correction, keepdim=keepdim)

    return reference


def _std(x: Tensor, *, dim: tuple[int, ...], correction: float, keepdim: bool) -> Tensor:
    """torch's; in float64 of numbers scaled by a power of two, as there it loses deviations whose squares vanish."""
    axes = dim or tuple(range(x.dim()))
    if x.dtype != torch.float64 or not x.dim() or 0 in (x.shape[axis] for axis in axes):
        return _spread(torch.std)(x, dim=dim, correction=correction, keepdim=keepdim)
    with torch.no_grad():
        largest = (x - x.mean(axes, keepdim=True)).abs().amax(axes, keepdim=True)
        unit = torch.pow(2.0, torch.frexp(largest).exponent.clamp(max=1023).double())
        unit = torch.where(largest.isfinite() & (largest > 0), unit, 1)
    scaled = _spread(torch.std)(x / unit, dim=axes, correction=correction, keepdim=True) * unit
    return scaled if keepdim else scaled.squeeze(axes)


def _embedding(input: Tensor, weight: Tensor, *, padding_idx: int) -> Tensor:
    return F.embedding(input, weight, None if padding_idx < 0 else padding_idx)


def _argmax(x: Tensor, *, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    return torch.argmax(x, dim[0] if len(dim) == 1 and x.ndim else None, keepdim)


def _hardsigmoid(x: Tensor) -> Tensor:
    # The derivative of F.hardsigmoid is float32's 1/6, in float64 as well.
    if x.dtype != torch.float64:
        return F.hardsigmoid(x)
    return torch.where((x > -3) & (x < 3), (x + 3) / 6, F.hardsigmoid(x).detach())


# -- primitives --


def _extremum(meaning: Callable[[Tensor, Tensor], Tensor]) -> Reference:
    """torch.maximum and torch.minimum take tensors alone; a number becomes one of the other argument's dtype."""

    def reference(a: Tensor | float, b: Tensor | float) -> Tensor:
        if not isinstance(a, Tensor):
            assert isinstance(b, Tensor)
            a = b.new_tensor(a)
        return meaning(a, b if isinstance(b, Tensor) else a.new_tensor(b))

    return reference


def _logical(meaning: Callable[[Tensor, Tensor], Tensor]) -> Reference:
    return lambda a, b: meaning(_as_tensor(a), _as_tensor(b))


def _as_tensor(given: Tensor | float) -> Tensor:
    """A number as a tensor, which mixes with those of any device when it lies on the CPU."""
    return given if isinstance(given, Tensor) else torch.tensor(given, device="cpu")


def _reduction(meaning: Callable[..., Tensor]) -> Reference:
    # torch reads an empty tuple of axes as "all".
    return lambda x, *, axes: meaning(x, dim=axes, keepdim=True) if axes else x


def _iota(*, size: int, before: int, after: int) -> Tensor:
    return torch.arange(size, device="cpu").reshape((1,) * before + (size,) + (1,) * after)


def _take_rows(table: Tensor, index: Tensor) -> Tensor:
    inside = (index >= 0) & (index < table.shape[0])
    outside = math.nan if table.dtype.is_floating_point else 0
    if not table.shape[0]:
        return table.new_full((*index.shape, *table.shape[1:]), outside)
    rows = table[index.long().where(inside, 0)]
    return torch.where(inside.reshape(index.shape + (1,) * (table.ndim - 1)), rows, outside)


def _add_rows(x: Tensor, index: Tensor, *, rows: int) -> Tensor:
    flat = index.reshape(-1).long()
    inside = (flat >= 0) & (flat < rows)
    result = x.new_zeros((rows, *x.shape[index.ndim :]))
    return result.index_add(0, flat[inside], x.reshape(flat.numel(), *result.shape[1:])[inside])


def _matmul(a: Tensor, b: Tensor, *, transpose_b: bool) -> Tensor:
    return torch.matmul(a, b.t() if transpose_b else b)


def _matmul_over_rows(a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("...m,...n->mn", a, b)


REFERENCES |= {
    "linear": F.linear,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "leaky_relu": F.leaky_relu,
    "prelu": F.prelu,
    "elu": F.elu,
    "selu": F.selu,
    "celu": _celu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "logsigmoid": F.logsigmoid,
    "hardsigmoid": _hardsigmoid,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "threshold": F.threshold,
    "tanhshrink": F.tanhshrink,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "glu": F.glu,
    "swiglu": _gated(F.silu),
    "geglu": _gated(F.gelu),
    "reglu": _gated(F.relu),
    "embedding": _embedding,
    "softmax": F.softmax,
    "log_softmax": F.log_softmax,
    "softmin": F.softmin,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "running_mean": _running(0),
    "running_var": _running(1),
    "normalize": _normalize,
    "weight_norm": _weight_norm,
    "cross_entropy": _of_classes(F.cross_entropy),
    "cross_entropy_of_probabilities": _cross_entropy_of_probabilities,
    "nll_loss": _of_classes(F.nll_loss),
    "mse_loss": _broadcasting(F.mse_loss),
    "l1_loss": _broadcasting(F.l1_loss),
    "smooth_l1_loss": _broadcasting(F.smooth_l1_loss),
    "huber_loss": _broadcasting(F.huber_loss),
    "log_cosh_loss": _elementwise_loss(_log_cosh),
    "quantile_loss": _elementwise_loss(_quantile),
    "poisson_nll_loss": F.poisson_nll_loss,
    "gaussian_nll_loss": F.gaussian_nll_loss,
    "hinge_loss": _elementwise_loss(lambda input, target: F.relu(1 - input * target)),
    "squared_hinge_loss": _elementwise_loss(lambda input, target: F.relu(1 - input * target).square()),
    "exponential_loss": _elementwise_loss(lambda input, target: torch.exp(-(input * target))),
    "perceptron_loss": _elementwise_loss(lambda input, target: F.relu(-input * target)),
    "zero_one_loss": _elementwise_loss(_zero_one),
    "soft_margin_loss": _soft_margin,
    "margin_ranking_loss": F.margin_ranking_loss,
    "multi_margin_loss": _multi_margin,
    "cosine_embedding_loss": F.cosine_embedding_loss,
    "triplet_margin_loss": F.triplet_margin_loss,
    "binary_cross_entropy": _binary_cross_entropy,
    "binary_cross_entropy_with_logits": _binary_cross_entropy_with_logits,
    "focal_loss": _elementwise_loss(_focal),
    "kl_div": _kl_div,
    "js_divergence": _js_divergence,
    "entropy": _entropy,
    "binary_entropy": _binary_entropy,
    "accuracy": _accuracy,
    "error_rate": _error_rate,
    "confusion_matrix": _confusion_matrix,
    "precision": _score("precision"),
    "recall": _score("recall"),
    "f1": _score("f1"),
    "specificity": _score("specificity"),
    "dropout": _dropout,
    "mean": torch.mean,
    "var": _spread(torch.var),
    "std": _std,
    "logsumexp": torch.logsumexp,
    "argmax": _argmax,
    "flatten": torch.flatten,
    "detach": torch.Tensor.detach,
    "squeeze": torch.squeeze,
    "unsqueeze": torch.unsqueeze,
    "expand": lambda x, *, shape: x.expand(shape),
    "permute": torch.permute,
    "clamp": torch.clamp,
    "square": torch.square,
    "reciprocal": torch.reciprocal,
    "neg": torch.neg,
    "abs": torch.abs,
    "sign": torch.sign,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "floor": torch.floor,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "pow": operator.pow,
    "maximum": _extremum(torch.maximum),
    "minimum": _extremum(torch.minimum),
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "logical_and": _logical(torch.logical_and),
    "logical_or": _logical(torch.logical_or),
    "logical_not": torch.logical_not,
    "where": lambda condition, a, b: torch.where(_as_tensor(condition), a, b),
    "copy": torch.clone,
    "cast": lambda x, *, dtype: x.to(torch_dtype(dtype)),
    "round_to": lambda x, *, dtype: x.to(torch_dtype(dtype)),
    # torch widens the sum of small integers to int64; a graph keeps the dtype it declared.
    "sum": _reduction(lambda x, dim, keepdim: torch.sum(x, dim, keepdim, dtype=x.dtype)),
    "max": _reduction(torch.amax),
    "min": _reduction(torch.amin),
    "iota": _iota,
    "uniform": _uniform,
    "reshape": lambda x, *, shape: torch.reshape(x, shape),
    "transpose": lambda x, *, axes: torch.permute(x, axes),
    "broadcast_to": lambda x, *, shape: torch.broadcast_to(x, shape),
    "narrow": lambda x, *, axis, start, length: torch.narrow(x, axis, start, length),
    "cat": lambda *parts, axis: torch.cat(parts, axis),
    "take_rows": _take_rows,
    "add_rows": _add_rows,
    "all_reduce": lambda x: x,
    "matmul": _matmul,
    "matmul_over_rows": _matmul_over_rows,
    "library": library,
    "library_gradient": library_gradient,
}
