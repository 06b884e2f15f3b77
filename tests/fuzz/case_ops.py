"""The ops that random cases are made of: each function draws one step over what a pool holds, or None.

What jumps says how near it is to a jump (`margin`), what can be badly conditioned how well it is (`well`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from graph_cases import FLOATS, Size, shape_text

NUMBERS = ("0.5", "2", "-1.25", "3", "0.1", "1.0", "-1")


@dataclass(frozen=True)
class Held:
    """What a pool knows of a value. `size` is its number of elements."""

    name: str
    shape: tuple[Size, ...]
    dtype: str
    exact: bool
    size: int

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass(frozen=True)
class Line:
    """A step without a name; `{name}` in its text is where the name goes."""

    operands: tuple[str, ...]
    tn: str
    torch: str
    margin: str = ""
    well: str = ""
    rounds: bool = True
    stem: str = "v"


class Pool(Protocol):
    def pick(self, options: Sequence[Any]) -> Any: ...
    def chance(self, share: float) -> bool: ...
    def any(self, fits: Callable[[Held], bool] = ...) -> Held | None: ...
    def jumpable(self, fits: Callable[[Held], bool] = ...) -> Held | None: ...
    def like(self, x: Held, exact: bool = ...) -> Held: ...
    def leaf(
        self, shape: tuple[Size, ...], domain: str = ..., dtype: str | None = ..., kind: str | None = ...
    ) -> Held: ...
    def count(self, shape: Sequence[Size]) -> int: ...


Draw = Callable[[Pool], Line | None]


def _line(tn: str, torch: str | None = None, *operands: Held | str, **how: Any) -> Line:
    """A line whose torch side reads the same but for the module, unless given."""
    names = tuple(x if isinstance(x, str) else x.name for x in operands)
    return Line(names, tn, tn.replace("tn.", "torch.") if torch is None else torch, **how)


def _of_rank(least: int) -> Callable[[Held], bool]:
    return lambda x: x.is_float and x.rank >= least


def _is_static(size: Size) -> bool:
    return isinstance(size, int)


# -- elementwise -------------------------------------------------------------------------------------------------------

SMOOTH = {
    "tn.tanh({0})": None, "tn.sigmoid({0})": None, "tn.erf({0})": None, "tn.sin({0})": None, "tn.cos({0})": None,
    "tn.exp(tn.tanh({0}))": None, "tn.expm1(tn.tanh({0}))": None, "tn.sqrt({0} * {0} + 0.5)": None,
    "tn.rsqrt({0} * {0} + 0.5)": None, "tn.log({0} * {0} + 0.5)": None, "tn.log1p({0} * {0})": None,
    "({0} * {0} + 1) ** 0.5": None, "tn.tanh({0}) ** 3": None, "1 - {0}": None, "2 / ({0} * {0} + 1)": None,
    "tn.square({0})": None, "tn.reciprocal({0} * {0} + 1)": None, "{0} ** 2": None, "0.1 * {0} + 0.3": None,
    "tn.gelu({0})": "F.gelu({0})", 'tn.gelu({0}, approximate="tanh")': 'F.gelu({0}, approximate="tanh")',
    "tn.silu({0})": "F.silu({0})", "tn.mish({0})": "F.mish({0})", "tn.softplus({0})": "F.softplus({0})",
    "tn.softsign({0})": "F.softsign({0})", "tn.logsigmoid({0})": "F.logsigmoid({0})",
    "tn.tanhshrink({0})": "F.tanhshrink({0})", "tn.elu({0})": "F.elu({0})", "tn.celu({0}, 1.0)": "F.celu({0}, 1.0)",
}  # fmt: skip

KINKED = {
    "tn.relu({0})": ("F.relu({0})", "abs({0})"),
    "abs({0})": ("abs({0})", "abs({0})"),
    "tn.leaky_relu({0}, 0.1)": ("F.leaky_relu({0}, 0.1)", "abs({0})"),
    "tn.selu({0})": ("F.selu({0})", "abs({0})"),
    "tn.floor({0})": ("torch.floor({0})", "abs({0} - {0}.round())"),
    "tn.sign({0})": ("torch.sign({0})", "abs({0})"),
    "tn.hardtanh({0})": ("F.hardtanh({0})", "abs(abs({0}) - 1)"),
    "tn.relu6({0})": ("F.relu6({0})", "torch.minimum(abs({0}), abs({0} - 6))"),
    "tn.hardswish({0})": ("F.hardswish({0})", "abs(abs({0}) - 3)"),
    "tn.hardsigmoid({0})": ("torch.clamp({0} / 6 + 0.5, 0, 1)", "abs(abs({0}) - 3)"),
    "tn.hardshrink({0})": ("F.hardshrink({0})", "abs(abs({0}) - 0.5)"),
    "tn.softshrink({0})": ("F.softshrink({0})", "abs(abs({0}) - 0.5)"),
    "tn.threshold({0}, 0.1, -2.0)": ("F.threshold({0}, 0.1, -2.0)", "abs({0} - 0.1)"),
    "tn.clamp({0}, -0.7, 0.9)": ("torch.clamp({0}, -0.7, 0.9)", "torch.minimum(abs({0} + 0.7), abs({0} - 0.9))"),
    "tn.clamp({0}, min=0.1)": ("torch.clamp({0}, min=0.1)", "abs({0} - 0.1)"),
}


def smooth(pool: Pool) -> Line | None:
    x = pool.any()
    if x is None:
        return None
    tn = pool.pick(list(SMOOTH))
    return _line(tn, SMOOTH[tn], x)


def kinked(pool: Pool) -> Line | None:
    x = pool.jumpable()
    if x is None:
        return None
    tn = pool.pick(list(KINKED))
    return _line(tn, KINKED[tn][0], x, margin=KINKED[tn][1], rounds=tn not in ("abs({0})", "tn.relu({0})"))


def negated(pool: Pool) -> Line | None:
    x = pool.any()
    return x and _line("-{0}", None, x, rounds=False)


def binary(pool: Pool) -> Line | None:
    a = pool.any()
    if a is None:
        return None
    kind = pool.pick(("{a} + {b}", "{a} - {b}", "{a} * {b}", "{a} * {b}", "{a} / ({b} * {b} + 0.5)"))
    if pool.chance(0.2):
        b = pool.pick(NUMBERS)
        kind = kind.replace("({b} * {b} + 0.5)", "{b}")
        sides = {"a": b, "b": "{0}"} if "/" not in kind and pool.chance(0.5) else {"a": "{0}", "b": b}
        return _line(kind.format(**sides), None, a)
    other = pool.like(a)
    first, second = (a, other) if pool.chance(0.5) else (other, a)
    return _line(kind.format(a="{0}", b="{1}"), None, first, second)


def extremum(pool: Pool) -> Line | None:
    a = pool.jumpable()
    if a is None:
        return None
    which = pool.pick(("maximum", "minimum"))
    if pool.chance(0.25):
        number = pool.pick(("0.1", "0.5", "-1.25"))
        torch = f"torch.{which}({{0}}, torch.as_tensor({number}, dtype={{0}}.dtype))"
        return _line(f"tn.{which}({{0}}, {number})", torch, a, margin=f"abs({{0}} - {number})")
    b = pool.like(a, exact=True)
    if b.name == a.name:
        return None
    return _line(f"tn.{which}({{0}}, {{1}})", None, a, b, margin="abs({0} - {1})", rounds=False)


def choice(pool: Pool) -> Line | None:
    a = pool.any()
    if a is None:
        return None
    decides = pool.like(a, exact=True)
    number = pool.pick(("0.0", "0.5", "-1.0"))
    condition = pool.pick((
        f"{{1}} > {number}", f"{{1}} <= {number}", f"~({{1}} < {number})", f"({{1}} > {number}) & ({{1}} < 2.0)",
        "({1} > 1.0) | ({1} != {1})",
    ))  # fmt: skip
    other = pool.pick(("0.0", "0.1", "{0} * 2", "-{0}"))
    sides = f"{{0}}, {other}" if pool.chance(0.5) else f"{other}, {{0}}"
    return _line(f"tn.where({condition}, {sides})", None, a, decides, rounds=other != "0.0")


def compared(pool: Pool) -> Line | None:
    a = pool.jumpable()
    if a is None:
        return None
    number = pool.pick(("0.0", "0.5", "-1.0"))
    text = f"{{0}} {pool.pick(('>', '<=', '<', '>='))} {number}"
    return _line(text, None, a, margin=f"abs({{0}} - {number})", rounds=False, stem="is")


def of_bool(pool: Pool) -> Line | None:
    x = pool.any(lambda v: v.dtype == "bool")
    if x is None:
        return None
    dtype = pool.pick(("float32", "float32", "int64", "float16", "float64"))
    kinds = {
        f"tn.cast({{0}}, '{dtype}')": f"{{0}}.to(torch.{dtype})",
        "~{0}": "~{0}",
        "tn.where({0}, 1.0, 0.1)": "torch.where({0}, 1.0, 0.1)",
    }
    tn = pool.pick(list(kinds))
    return _line(tn, kinds[tn], x, rounds=False)


def of_int(pool: Pool) -> Line | None:
    x = pool.any(lambda v: v.dtype == "int64")
    if x is None:
        return None
    kinds = {
        "tn.cast({0}, 'float32')": "{0}.to(torch.float32)",
        "{0} + 1": "{0} + 1",
        "{0} * {0}": "{0} * {0}",
        "{0} * 0.5": "{0} * 0.5",
        "{0} > 1": "{0} > 1",
    }
    tn = pool.pick(list(kinds))
    return _line(tn, kinds[tn], x, rounds=False)


def cast(pool: Pool) -> Line | None:
    x = pool.any()
    if x is None:
        return None
    dtype = pool.pick(FLOATS)
    return _line(f'tn.cast({{0}}, "{dtype}")', f"to({{0}}, torch.{dtype})", x, stem="cast")


def cast_to_int(pool: Pool) -> Line | None:
    x = pool.jumpable()
    if x is None:
        return None
    torch = "torch.floor(2 * {0}).to(torch.int64)"
    margin = "abs(2 * {0} - (2 * {0}).round())"
    return _line('tn.cast(tn.floor(2 * {0}), "int64")', torch, x, margin=margin, rounds=False, stem="int")


def prelu(pool: Pool) -> Line | None:
    x = pool.jumpable(_of_rank(1))
    if x is None:
        return None
    axis = 1 if x.rank > 1 else 0
    channels = x.shape[axis]
    declared = pool.chance(0.5)
    if declared:
        many = pool.chance(0.5) and x.rank > 1 and _is_static(channels)
        tn = f'tn.prelu({{0}}, num_parameters={channels if many else 1}, name="{{name}}")'
        return _line(tn, 'F.prelu({0}, T["{name}.weight"])', x, margin="abs({0})", stem="prelu")
    weight = pool.leaf((1,), "small", x.dtype, "parameter")
    return _line("tn.prelu({0}, {1})", "F.prelu({0}, {1})", x, weight, margin="abs({0})", stem="prelu")


# -- reductions --------------------------------------------------------------------------------------------------------


def _axes(pool: Pool, x: Held) -> list[int]:
    axes = [a for a in range(x.rank) if pool.chance(0.5)]
    return axes or [pool.pick(range(x.rank))]


def reduction(pool: Pool) -> Line | None:
    x = pool.any(_of_rank(1))
    if x is None:
        return None
    kind = pool.pick(("mean", "mean", "sum", "sum", "var", "std", "logsumexp"))
    axes, keep = _axes(pool, x), pool.chance(0.6)
    if kind in ("mean", "sum") and pool.chance(0.15):
        return _line(f"tn.{kind}({{0}})", None, x, stem=kind)
    if kind in ("var", "std"):
        correction = pool.pick((0, 1))
        text = f"tn.{kind}({{0}}, {axes}, correction={correction}, keepdim={keep})"
        well = f"torch.var({{0}}, {axes}, correction={correction})"
        return _line(text, None, x, well=well, stem=kind)
    return _line(f"tn.{kind}({{0}}, {axes}, keepdim={keep})", None, x, stem=kind)


def largest(pool: Pool) -> Line | None:
    x = pool.jumpable(_of_rank(1))
    if x is None:
        return None
    kind = pool.pick(("max", "min"))
    axes, keep, sign = _axes(pool, x), pool.chance(0.6), 1.0 if kind == "max" else -1.0
    tn = f"tn.{pool.pick((kind, f'a{kind}'))}({{0}}, {axes}, keepdim={keep})"
    torch = f"torch.a{kind}({{0}}, {axes}, {keep})"
    return _line(tn, torch, x, margin=f"gap({{0}}, {axes}, {sign})", rounds=False, stem=kind)


def argmax(pool: Pool) -> Line | None:
    x = pool.jumpable(_of_rank(1))
    if x is None:
        return None
    axis, keep = pool.pick(range(x.rank)), pool.chance(0.3)
    return _line(f"tn.argmax({{0}}, {axis}, {keep})", None, x, margin=f"gap({{0}}, [{axis}])", rounds=False,
                 stem="argmax")  # fmt: skip


def centered(pool: Pool) -> Line | None:
    x = pool.any(_of_rank(1))
    if x is None:
        return None
    axes = _axes(pool, x)
    return _line(f"{{0}} - tn.mean({{0}}, {axes}, keepdim=True)", None, x, stem="centered")


def softmax(pool: Pool) -> Line | None:
    x = pool.any(_of_rank(1))
    if x is None:
        return None
    kind, axis = pool.pick(("softmax", "softmax", "log_softmax", "softmin")), pool.pick(range(-x.rank, x.rank))
    return _line(f"tn.{kind}({{0}}, {axis})", f"F.{kind}({{0}}, {axis})", x, stem=kind)


# -- norms -------------------------------------------------------------------------------------------------------------


def layer_norm(pool: Pool) -> Line | None:
    x = pool.any(lambda v: _of_rank(1)(v) and _is_static(v.shape[-1]))
    if x is None:
        return None
    dims = 2 if x.rank > 2 and _is_static(x.shape[-2]) and pool.chance(0.3) else 1
    shape = tuple(x.shape[-dims:])
    well = f"torch.var({{0}}, {list(range(-dims, 0))}, correction=0)"
    how: dict[str, Any] = {"well": well, "stem": "norm"}
    kind = pool.pick(("declared", "declared", "none", "given", "rms"))
    if kind == "none":
        tn = f"tn.layer_norm({{0}}, {shape}, weight=None, bias=None, eps=0.1)"
        return _line(tn, f"F.layer_norm({{0}}, {shape}, eps=0.1)", x, **how)
    if kind == "given":
        weight = pool.leaf(shape, "weight", x.dtype, "parameter")
        tn = f"tn.layer_norm({{0}}, {shape}, weight={{1}}, bias=None, eps=0.1)"
        return _line(tn, f"F.layer_norm({{0}}, {shape}, {{1}}, None, 0.1)", x, weight, **how)
    if kind == "rms":
        tn = f'tn.rms_norm({{0}}, {shape}, eps=0.1, name="{{name}}")'
        return _line(tn, f'F.rms_norm({{0}}, {shape}, T["{{name}}.weight"], 0.1)', x, stem="norm")
    tn = f'tn.layer_norm({{0}}, {shape}, eps=0.1, name="{{name}}")'
    return _line(tn, f'F.layer_norm({{0}}, {shape}, T["{{name}}.weight"], T["{{name}}.bias"], 0.1)', x, **how)


def channel_norm(pool: Pool) -> Line | None:
    x = pool.any(lambda v: _of_rank(2)(v) and _is_static(v.shape[1]))
    if x is None:
        return None
    axes = [a for a in range(x.rank) if a != 1]
    well = f"torch.var({{0}}, {axes}, correction=0)"
    kind = pool.pick(("batch", "batch", "group", "instance"))
    if kind == "batch":
        tn = 'tn.batch_norm({0}, eps=0.1, name="{name}")'
        return _line(tn, 'batch_norm({0}, T, "{name}", training)', x, well=well, stem="bn")
    if kind == "instance":
        well = f"torch.var({{0}}, {axes[1:]}, correction=0)" if x.rank > 2 else ""
        return (
            x.rank > 2
            and _line("tn.instance_norm({0}, eps=0.1)", "F.instance_norm({0}, eps=0.1)", x, well=well)
            or None
        )
    groups = pool.pick([g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0])  # type: ignore[operator]
    well = f"{{0}}.reshape({{0}}.shape[0], {groups}, -1).var(-1, correction=0)"
    tn = f'tn.group_norm({{0}}, {groups}, eps=0.1, name="{{name}}")'
    # The backward run of torch 2.13 kills the process where channels lie last and {0} needs no gradient.
    torch = f'F.group_norm({{0}}.contiguous(), {groups}, T["{{name}}.weight"], T["{{name}}.bias"], 0.1)'
    return _line(tn, torch, x, well=well, stem="gn")


def normalize(pool: Pool) -> Line | None:
    x = pool.any(_of_rank(1))
    if x is None:
        return None
    axis = pool.pick(range(x.rank))
    text = f"normalize({{0}}, dim={axis})"
    return _line(f"tn.{text}", f"F.{text}", x, well=f"{{0}}.square().sum({axis})", stem="unit")


# -- products ----------------------------------------------------------------------------------------------------------


def linear(pool: Pool) -> Line | None:
    x = pool.any(lambda v: _of_rank(1)(v) and _is_static(v.shape[-1]))
    if x is None:
        return None
    size = x.shape[-1]
    shared = pool.any(lambda v: v.is_float and v.dtype == x.dtype and v.rank == 2 and v.shape[1] == size
                      and _is_static(v.shape[0]))  # fmt: skip
    if shared is not None and pool.chance(0.6):
        return _line("tn.linear({0}, weight={1}, bias=False)", "F.linear({0}, {1})", x, shared, stem="fc")
    out = pool.pick((1, 3, 8, size))
    if pool.chance(0.3):
        weight = pool.leaf((size, out), "small", x.dtype, "parameter")
        return _line("tn.matmul({0}, {1})", None, x, weight, stem="product")
    if x.dtype == "float32" or pool.chance(0.5):
        weight = pool.leaf((out, size), "small", x.dtype, "parameter")
        return _line("tn.linear({0}, weight={1}, bias=False)", "F.linear({0}, {1})", x, weight, stem="fc")
    tn = f'tn.linear({{0}}, {out}, name="{{name}}")'
    return _line(tn, 'F.linear({0}, T["{name}.weight"], T["{name}.bias"])', x, stem="fc")


def embedding(pool: Pool) -> Line | None:
    x = pool.any(_of_rank(1))
    if x is None:
        return None
    index = pool.leaf(x.shape[: pool.pick((1, 2))], "classes:17", "int64", "input")
    table = pool.leaf((17, pool.pick((3, 7, 8))), "normal", None, "parameter")
    return _line("tn.embedding({0}, weight={1})", "F.embedding({0}, {1})", index, table, rounds=False, stem="rows")


# -- views -------------------------------------------------------------------------------------------------------------


def reshape(pool: Pool) -> Line | None:
    x = pool.any(lambda v: v.dtype != "bool")
    if x is None:
        return None
    if not all(map(_is_static, x.shape)):
        shape = list(x.shape)
        static = [i for i, s in enumerate(shape) if _is_static(s) and s > 1]  # type: ignore[operator]
        if static and pool.chance(0.5):
            at = pool.pick(static)
            for d in (2, 3, 5, 7):
                if shape[at] % d == 0:  # type: ignore[operator]
                    shape[at : at + 1] = [d, shape[at] // d]  # type: ignore[operator]
                    break
        else:
            shape.insert(pool.pick(range(len(shape) + 1)), 1)
    else:
        count = x.size
        front = pool.pick([d for d in (1, 2, 3, 5, 7, 33) if count % d == 0])
        shape = pool.pick(([count], [front, count // front], [count // front, front], [1, count], [-1, front]))
        if count == 0:
            return None
    shown = shape_text(tuple(shape))
    return _line(f"tn.reshape({{0}}, {shown})", f"torch.reshape({{0}}, {shown})", x, rounds=False)


def turned(pool: Pool) -> Line | None:
    x = pool.any(lambda v: v.rank > 1)
    if x is None:
        return None
    order = list(range(x.rank))
    for i in range(len(order) - 1):
        j = pool.pick(range(i, len(order)))
        order[i], order[j] = order[j], order[i]
    if pool.chance(0.3):
        a, b = pool.pick(range(x.rank)), pool.pick(range(x.rank))
        return _line(f"tn.transpose({{0}}, {a}, {b})", None, x, rounds=False)
    return _line(f"tn.permute({{0}}, {order})", f"torch.permute({{0}}, {order})", x, rounds=False)


def narrowed(pool: Pool) -> Line | None:
    x = pool.any(lambda v: v.is_float and any(_is_static(s) and s > 1 for s in v.shape))  # type: ignore[operator]
    if x is None:
        return None
    axis = pool.pick([a for a, s in enumerate(x.shape) if _is_static(s) and s > 1])  # type: ignore[operator]
    size: Any = x.shape[axis]
    kind = pool.pick(("narrow", "chunk", "index", "split"))
    if kind == "narrow":
        start = pool.pick(range(size))
        length = pool.pick(range(1, size - start + 1))
        return _line(f"tn.narrow({{0}}, {axis}, {start}, {length})", None, x, rounds=False, stem="part")
    if kind == "chunk":
        return _line(f"tn.chunk({{0}}, 2, {axis})[{pool.pick((0, 1))}]", None, x, rounds=False, stem="part")
    if kind == "split":
        part = pool.pick(range(1, size))
        text = f"tn.split({{0}}, [{part}, {size - part}], {axis})[{pool.pick((0, 1))}]"
        return _line(text, None, x, rounds=False, stem="part")
    start, stop = sorted((pool.pick(range(size)), pool.pick(range(1, size + 1))))
    if start == stop:
        return None
    key = ", ".join([":"] * axis + [f"{start}:{stop}"])
    return _line(f"{{0}}[{key}]", None, x, rounds=False, stem="part")


def joined(pool: Pool) -> Line | None:
    x = pool.any(lambda v: v.is_float and any(map(_is_static, v.shape)))
    if x is None:
        return None
    axis = pool.pick([a for a, s in enumerate(x.shape) if _is_static(s)])

    def fits(v: Held) -> bool:
        return (
            v.dtype == x.dtype
            and v.rank == x.rank
            and _is_static(v.shape[axis])
            and all(a == b for i, (a, b) in enumerate(zip(v.shape, x.shape, strict=True)) if i != axis)
        )

    parts = [x] + [pool.any(fits) or x for _ in range(pool.pick((1, 1, 2)))]
    inner = ", ".join(f"{{{i}}}" for i in range(len(parts)))
    return _line(f"tn.cat([{inner}], {axis})", None, *parts, rounds=False, stem="cat")


def repeated(pool: Pool) -> Line | None:
    x = pool.any(lambda v: v.is_float and 1 in v.shape)
    if x is None:
        return None
    shape = tuple(pool.pick((2, 3, 1)) if s == 1 else s for s in x.shape)
    if pool.count(shape) > 4000:
        return None
    kind = pool.pick(("broadcast_to", "expand"))
    torch = f"{{0}}.expand({shape_text(shape)})"
    return _line(f"tn.{kind}({{0}}, {shape_text(shape)})", torch, x, rounds=False)


def squeezed(pool: Pool) -> Line | None:
    x = pool.any(lambda v: v.rank < 4 and v.dtype != "bool")
    if x is None:
        return None
    if 1 in x.shape and pool.chance(0.5):
        axis = x.shape.index(1)
        return _line(f"tn.squeeze({{0}}, {axis})", None, x, rounds=False)
    return _line(f"tn.unsqueeze({{0}}, {pool.pick(range(-1, x.rank + 1))})", None, x, rounds=False)


def flattened(pool: Pool) -> Line | None:
    x = pool.any(lambda v: v.rank > 1)
    if x is None:
        return None
    start = pool.pick(range(x.rank))
    end = pool.pick(range(start, x.rank))
    return _line(f"tn.flatten({{0}}, {start}, {end})", None, x, rounds=False)


def gated(pool: Pool) -> Line | None:
    x = pool.any(lambda v: v.is_float and any(_is_static(s) and s > 1 and s % 2 == 0 for s in v.shape))  # type: ignore[operator]
    if x is None:
        return None
    axis = pool.pick([a for a, s in enumerate(x.shape) if _is_static(s) and s > 1 and s % 2 == 0])  # type: ignore[operator]
    kinds = {
        "glu": "F.glu({0}, A)",
        "swiglu": "F.silu({0}.chunk(2, A)[0]) * {0}.chunk(2, A)[1]",
        "geglu": "F.gelu({0}.chunk(2, A)[0]) * {0}.chunk(2, A)[1]",
    }
    kind = pool.pick(list(kinds))
    return _line(f"tn.{kind}({{0}}, {axis})", kinds[kind].replace("A", str(axis)), x, stem="gate")


# -- losses and metrics ------------------------------------------------------------------------------------------------


def cross_entropy(pool: Pool, reduction: str = "") -> Line | None:
    x = pool.any(lambda v: v.is_float and v.rank > 0 and _is_static(v.shape[1 if v.rank > 1 else 0]))
    if x is None:
        return None
    axis = 1 if x.rank > 1 else 0
    if not x.shape[axis]:
        return None
    target = pool.leaf((*x.shape[:axis], *x.shape[axis + 1 :]), f"classes:{x.shape[axis]}", "int64", "input")
    reduction = reduction or pool.pick(("mean", "mean", "sum", "none"))
    smoothing = pool.pick(("", "", ", label_smoothing=0.1", ", ignore_index=0"))
    if smoothing.endswith("=0") and reduction == "mean":
        smoothing = ""
    text = f'cross_entropy({{0}}, {{1}}, reduction="{reduction}"{smoothing})'
    return _line(f"tn.{text}", f"F.{text}", x, target, stem="loss")


def accuracy(pool: Pool) -> Line | None:
    x = pool.jumpable(lambda v: v.is_float and v.rank == 2 and _is_static(v.shape[1]) and v.shape[1] > 1)  # type: ignore[operator]
    if x is None:
        return None
    target = pool.leaf(x.shape[:1], f"classes:{x.shape[1]}", "int64", "input")
    return _line("tn.accuracy({0}, {1})", "accuracy({0}, {1})", x, target, margin="gap({0}, [1])", rounds=False,
                 stem="accuracy")  # fmt: skip


REGRESSION = {
    "mse_loss({0}, {1}, reduction=R)": ("normal", ""),
    "l1_loss({0}, {1}, reduction=R)": ("normal", "abs({0} - {1})"),
    "smooth_l1_loss({0}, {1}, reduction=R)": ("normal", ""),
    "huber_loss({0}, {1}, reduction=R)": ("normal", ""),
    "binary_cross_entropy_with_logits({0}, {1}, reduction=R)": ("unit", ""),
    "poisson_nll_loss(0.3 * {0}, {1}, reduction=R)": ("unit", ""),
}


def regression(pool: Pool, reduction: str = "") -> Line | None:
    text = pool.pick(list(REGRESSION))
    domain, margin = REGRESSION[text]
    x = pool.jumpable() if margin else pool.any()
    if x is None:
        return None
    target = pool.leaf(x.shape, domain, x.dtype, "input")
    text = text.replace("R", f'"{reduction or pool.pick(("mean", "mean", "sum", "none"))}"')
    return _line(f"tn.{text}", f"F.{text}", x, target, margin=margin, stem="loss")


MENU: tuple[tuple[Draw, int], ...] = (
    (smooth, 6), (kinked, 4), (negated, 1), (binary, 10), (extremum, 2), (choice, 3), (compared, 1), (of_bool, 2),
    (of_int, 2), (cast, 3), (cast_to_int, 1), (prelu, 1), (reduction, 8), (largest, 3), (argmax, 1), (centered, 2),
    (softmax, 3), (layer_norm, 3), (channel_norm, 3), (normalize, 1), (linear, 4), (embedding, 1), (reshape, 3),
    (turned, 3), (narrowed, 2), (joined, 2), (repeated, 2), (squeezed, 2), (flattened, 1), (gated, 2),
    (cross_entropy, 2), (accuracy, 1), (regression, 2),
)  # fmt: skip
