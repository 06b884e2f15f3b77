"""Kind 10 of faults: arithmetic of integers and truth values is what torch makes of it, or one typed error."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError, DTypeError, TritonNotesError

DTYPES = ("bool", "int32", "int64", "float16", "bfloat16", "float32", "float64")
PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    **{name: (function, function) for name, function in {
        "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "**": operator.pow,
        "<": operator.lt, "==": operator.eq, "&": operator.and_, "|": operator.or_, "^": operator.xor,
    }.items()},
    "maximum": (tn.maximum, torch.maximum), "minimum": (tn.minimum, torch.minimum),
}  # fmt: skip
SINGLE = ("exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "sin", "cos", "tanh", "erf", "sigmoid", "reciprocal")


def numbers(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype == "bool":
        return torch.randint(0, 2, shape, generator=generator).bool()
    return torch.randint(1, 5, shape, generator=generator).to(getattr(torch, dtype))


def declared(build: Callable[..., Any], **fed: Tensor) -> tn.Graph | None:
    """The graph with this one output; None where a typed error says that it cannot be."""
    g = tn.Graph("g")
    values = [g.input(name, tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in fed.items()]
    try:
        g.output(y=build(*values))
    except TritonNotesError:
        return None
    return g


def torchs(build: Callable[..., Any], *given: Any) -> Tensor | None:
    try:
        return build(*given)
    except RuntimeError:
        return None


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_of_dtypes_are_what_torch_makes_of_them(name: str) -> None:
    """Property of the kind: every pair of dtypes, of tensors, 0-dim tensors and numbers, each on either side. What
    torch refuses may work; what works has torch's dtype and numbers."""
    ours, theirs = PAIRS[name]
    refused = 0
    for a, b in itertools.product(DTYPES, DTYPES):
        for shapes in (((3,), (3,)), ((3,), ()), ((), (3,))):
            x, z = numbers(a, shapes[0]), numbers(b, shapes[1], 1)
            refused += judged(declared(ours, x=x, z=z), {"x": x, "z": z}, torchs(theirs, x, z))
    for a, number in itertools.product(DTYPES, (True, 2, 0, 2.5) if "m" not in name else ()):
        x = numbers(a, (3,))
        refused += judged(declared(lambda v, n=number: ours(v, n), x=x), {"x": x}, torchs(theirs, x, number))
        refused += judged(declared(lambda v, n=number: ours(n, v), x=x), {"x": x}, torchs(theirs, number, x))
    # Bitwise arithmetic of integers, and powers whose exponent is a tensor of integers, are refused with a remedy.
    assert refused == 0 or name in ("**", "&", "|", "^")


def judged(graph: tn.Graph | None, fed: dict[str, Tensor], expected: Tensor | None) -> int:
    """1 where torch computes what we refuse."""
    if graph is None or expected is None:
        return int(graph is None and expected is not None)
    found = tn.eager(graph, fed)["y"]
    assert found.dtype == expected.dtype, graph
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True, msg=str(graph))
    return 0


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_elementary_functions_of_integers_are_floats(name: str, dtype: str) -> None:
    x = numbers(dtype, (4,))
    graph = declared(getattr(tn, name), x=x)
    assert graph is not None
    torch.testing.assert_close(tn.eager(graph, {"x": x})["y"], getattr(torch, name)(x))


def test_compiled_arithmetic_of_integers_is_torchs() -> None:
    g = tn.Graph("whole")
    batch = tn.Dim("batch")
    a, b = g.input("a", (batch, 5), "int64"), g.input("b", (batch, 5), "int32")
    p, q, x = g.input("p", (batch, 5), "bool"), g.input("q", (batch, 5), "bool"), g.input("x", (batch, 5))

    def build(a: Any, b: Any, p: Any, q: Any, x: Any) -> dict[str, Any]:
        return {
            "ratio": a / b, "half": a / 2, "inverse": 1 / b, "powers": a**3, "none": a**0, "all": b**5,
            "root": (a * a) ** 0.5, "either": p + q, "both": p * q, "one": p ^ q, "flip": True ^ p, "and": True & p,
            "ratio_of_truths": p / (q + True), "count": p + a, "scaled": p * x,
            "square_of_truth": p**2, "exp": a.exp(), "sigmoid": b.sigmoid(),
        }  # fmt: skip

    g.output(**build(a, b, p, q, x))
    feeds = {"a": numbers("int64", (3, 5)), "b": numbers("int32", (3, 5), 1), "p": numbers("bool", (3, 5), 2)}
    feeds |= {"q": numbers("bool", (3, 5), 3), "x": torch.randn(3, 5)}
    expected = build(**feeds)
    for fusion in ("optimal", "off"):
        found = tn.compile(g, fusion=fusion, device="cpu")(**feeds)
        for name, value in expected.items():
            assert found[name].dtype == value.dtype, name
            torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("build", [lambda a: a // 2, lambda a: 2 // a, lambda a: a % 2, lambda a: 7 % a])
def test_floor_division_and_remainder_name_the_remedy(build: Callable[[Any], Any]) -> None:
    for dtype in ("int64", "float32"):
        with pytest.raises(DeclarationError, match=r"tn.floor\(a / b\)"):
            build(tn.Graph("g").input("a", (3,), dtype))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda a: a**-1, r"pow: integers to the power -1.*cast the base"),
        (lambda a: 2**a, "pow: of integers.*cast the base"),
        (lambda a: a**a, "pow: of integers.*cast the base"),
        (lambda a: a ^ a, "works on bool, compare first"),
        (lambda a: (a > 1) & 2, "2 is no truth value; compare first"),
    ],
)
def test_what_has_no_kernel_says_what_to_do(build: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(DTypeError, match=message):
        build(tn.Graph("g").input("a", (3,), "int64"))


# -- detach ------------------------------------------------------------------------------------------------------------


def test_detached_value_passes_no_gradient() -> None:
    g = tn.Graph("straight_through")
    x = g.input("x", (tn.Dim("batch"), 6))
    w = g.parameter("w", (6,), init=0.5)
    scaled = x * w
    through = scaled + (tn.floor(scaled) - scaled).detach()
    g.output(through=through, loss=tn.mean(through * through) + tn.sum(tn.detach(w) * w), kept=scaled.detach())
    model = tn.compile(g, device="cpu")
    fed = torch.randn(4, 6, requires_grad=True)
    weight = torch.full((6,), 0.5, requires_grad=True)
    product = fed * weight
    wanted = product + (product.floor() - product).detach()
    loss = (wanted * wanted).mean() + (weight.detach() * weight).sum()
    expected = torch.autograd.grad(loss, [fed, weight])
    found = model(x=fed)
    gradients = torch.autograd.grad(found["loss"], [fed, model.get_parameter("w")])
    torch.testing.assert_close(gradients, expected)
    torch.testing.assert_close(found["kept"], product.detach())
    assert tn.check(g, optimizer=tn.sgd(lr=0.1)).ok


def test_step_of_what_is_detached_alone_is_refused() -> None:
    g = tn.Graph("g")
    w = g.parameter("w", (6,), init=0.5)
    g.output(loss=tn.sum(w.detach() * g.input("x", (6,))))
    with pytest.raises(TritonNotesError, match="nothing to train"):
        tn.compile_step(g, optimizer=tn.sgd(lr=0.1), device="cpu")


def test_detach_leaves_no_trace_in_the_plan() -> None:
    def plan(build: Callable[[Any], Any]) -> str:
        g = tn.Graph("g")
        g.output(y=tn.exp(build(tn.tanh(g.input("x", (8, 4))))))
        return tn.compile(g, device="cpu").source

    assert plan(lambda h: h.detach()).partition("import")[2] == plan(lambda h: h).partition("import")[2]


# -- average="binary" of two classes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["precision", "recall", "f1", "specificity"])
def test_binary_score_of_two_classes_is_that_of_class_one(metric: str) -> None:
    from sklearn import metrics

    g = tn.Graph("g")
    logits, target = g.input("logits", (tn.Dim("batch"), 2)), g.input("target", (tn.Dim("batch"),), "int64")
    g.output(default=getattr(tn, metric)(logits, target), each=getattr(tn, metric)(logits, target, average=None))
    model = tn.compile(g, device="cpu")
    generator = torch.Generator().manual_seed(0)
    for rows in (1, 7, 40):
        feeds = {
            "logits": torch.randn(rows, 2, generator=generator),
            "target": torch.randint(0, 2, (rows,), generator=generator),
        }
        found = model(**feeds)
        assert found["default"] == found["each"][1] == tn.eager(g, feeds)["default"]
        if metric != "specificity":
            score = getattr(metrics, f"{metric}_score")
            wanted = score(feeds["target"], feeds["logits"].argmax(1), zero_division=0)
            assert found["default"].item() == pytest.approx(wanted, abs=1e-6)


INDICES: dict[str, tuple[Callable[[Any], Any], Callable[[Tensor], Tensor]]] = {
    "last": (lambda x: tn.argmax(x, dim=1), lambda x: x.argmax(1)),
    "first": (lambda x: tn.argmax(x, dim=0), lambda x: x.argmax(0)),
    "all": (lambda x: tn.argmax(x), lambda x: x.argmax()),
}
SCALED: dict[str, Callable[[Any], Any]] = {
    "product": lambda i: i * 1_000_000_000,
    "large": lambda i: i * 3_000_000_000 - 2**40,
    "power": lambda i: i**20,
    "both": lambda i: (i + 2_000_000_000) + (i + 2_000_000_000),
    "difference": lambda i: (i - 2_000_000_000) - 2_000_000_000,
}


@pytest.mark.parametrize("scaled", SCALED)
@pytest.mark.parametrize("index", INDICES)
def test_an_index_is_an_int64_in_arithmetic(index: str, scaled: str) -> None:
    ours, theirs = INDICES[index]
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(3))
    g = declared(lambda v: SCALED[scaled](ours(v)), x=x)
    assert g is not None
    assert torch.equal(tn.compile(g)(x=x)["y"], SCALED[scaled](theirs(x)))
