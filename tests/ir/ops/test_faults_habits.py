"""Faults of the border with torch: what a user of torch or numpy guesses works, or gets one error with the remedy."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError, TritonNotesError

B = tn.Dim("batch")


def result(build: Callable[[Any], Any], *shape: Any, dtype: str = "float32") -> Any:
    """What `build` makes of an input, by eager PyTorch."""
    g = tn.Graph("guess")
    g.output(y=build(g.input("x", (B, *shape), dtype)))
    x = fed(dtype)
    return tn.eager(g, {"x": x})["y"], x


def fed(dtype: str = "float32") -> torch.Tensor:
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) + 0.25
    return (x * 8).to(getattr(torch, dtype)) if dtype.startswith("int") else x.to(getattr(torch, dtype))


WORK: dict[str, Callable[[Any], Any]] = {
    "view": lambda x: x.view(-1, 2, 2),
    "view of a tuple": lambda x: x.view((x.size(0), 2, 2)),
    "float": lambda x: x.double().float(),
    "long": lambda x: x.long(),
    "bool": lambda x: (x - 0.25).bool(),
    "int": lambda x: x.int() + x.half().float(),
    "max": lambda x: x.max() - x.min(),
    "times a size": lambda x: x * x.shape[0],
    "a size on the left": lambda x: x.shape[0] * x - x / x.size(0),
    "sizes that are ints": lambda x: x * x.shape[1] + len(x.T) + x.dim() + x.ndim,
    "matmul": lambda x: x @ x.T if isinstance(x, torch.Tensor) else tn.matmul(x, x, transpose_b=True),
    "exp": torch.exp,
    "functions of torch": lambda x: torch.sigmoid(torch.add(x, 2) * torch.where(x > 1, x, -x)) / torch.sqrt(x),
    "torch.nn.functional": lambda x: F.gelu(F.softmax(x, dim=-1)) + F.relu(x, inplace=False) + F.elu(-x, 0.5),
    "reductions of torch": lambda x: torch.sum(x, -1) + torch.amax(x, dim=1) + torch.mean(x, 1) + torch.var(x, 1),
    "cat": lambda x: torch.cat([x, x * 2], 1),
    "numpy": lambda x: np.exp(x) * 2 if not isinstance(x, torch.Tensor) else torch.exp(x) * 2,
    "a number of numpy": lambda x: np.float32(2) * x + np.int64(3) + np.float64(1),
    "cross entropy": lambda x: F.mse_loss(x, x * 0.5, reduction="sum"),
}


@pytest.mark.parametrize("guess", WORK)
def test_a_guess_works_as_in_torch(guess: str) -> None:
    build = WORK[guess]
    width: Any = 4
    if guess == "matmul":
        g = tn.Graph("guess")
        x, w = g.input("x", (B, 4)), g.parameter("w", (4, 2), init=0.5)
        g.output(y=x @ w)
        torch.testing.assert_close(tn.eager(g, {"x": fed()}, g.state())["y"], fed() @ torch.full((4, 2), 0.5))
        return
    made, x = result(build, width)
    wanted = build(x)
    assert made.dtype == wanted.dtype
    torch.testing.assert_close(made, wanted)


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an array": (np.array, "'x' has no numbers while a graph is declared; make it an output"),
    "asarray": (np.asarray, "no numbers while a graph is declared"),
    "float()": (float, "no numbers while"),
    "int()": (int, "no numbers while"),
    "item": (lambda x: x.item(), "item: 'x' has no numbers"),
    "backward": (lambda x: x.backward(), "backward: 'x' has no numbers"),
    "cuda": (lambda x: x.cuda(), "cuda: 'x' has no numbers"),
    "len of a Dim": (len, "len: 'x' of shape .batch, 4. has no known length"),
    "max along a dim": (lambda x: x.max(1), "gives values and indices along a dim; write x.amax.dim."),
    "min along a dim": (lambda x: x.min(dim=1), "write x.amin"),
    "view of a dtype": (lambda x: x.view(torch.int32), r"keeps its dtype; write value.to\(dtype\)"),
    "a tensor on the right": (lambda x: x * torch.ones(3), "expected a number, got Tensor"),
    "a tensor on the left": (lambda x: torch.ones(3) * x, r"got a torch.Tensor beside the Value 'x'; .*g.input"),
    "a tensor in a function": (lambda x: torch.where(x > 0, x, torch.ones(4)), "torch.where: got a torch.Tensor"),
    "a tensor in cat": (lambda x: torch.cat([x, torch.ones(3, 4)]), "torch.cat: got a torch.Tensor beside"),
    "an array on the left": (lambda x: np.ones(3) * x, "numpy.multiply: an array meets the Value 'x'"),
    "a matrix of tensors": (lambda x: x @ torch.ones(4, 2), "@: got a torch.Tensor beside the Value 'x'"),
    "a matrix of another shape": (lambda x: x @ x, "do not fit"),
    "a number as a matrix": (lambda x: x @ 3, "@: takes two Values, got Value and int"),
    "what is no op": (lambda x: torch.fft.fft(x), "takes no Value of a graph; there is no tn.fft_fft"),
    "a ufunc that is no op": (np.arctan, "numpy.arctan takes no Value of a graph; there is no tn.arctan"),
    "a reduction of numpy": (np.add.reduce, "numpy.add takes no Value"),
    "linear of torch": (lambda x: F.linear(x, x), r"torch.linear takes no Value of a graph; write tn.linear\(value"),
    "layer_norm of torch": (lambda x: F.layer_norm(x, (4,)), r"write tn.layer_norm\(value"),
    "an argument of torch": (lambda x: torch.add(x, x, alpha=2), "torch.add of a Value: .*alpha.*; write tn.add"),
    "a method of torch": (lambda x: x.softplus(), r"a Value, which has no 'softplus'; write tn.softplus\(value"),
    "an unknown method": (lambda x: x.frobnicate(), "has no 'frobnicate'; there is no tn.frobnicate: write a formula"),
    "a size among integers": (lambda x: x.long() * x.shape[0], "the size batch meets .*int64; .*cast"),
}


@pytest.mark.parametrize("guess", REFUSED)
def test_a_guess_that_cannot_be_is_answered_with_the_remedy(guess: str) -> None:
    use, message = REFUSED[guess]
    g = tn.Graph("guess")
    x = g.input("x", (B, 4))
    before = len(g.values)
    with pytest.raises(DeclarationError, match=f"(?s){message}"):
        use(x)
    assert len(g.values) <= before + 2


def test_an_unknown_attribute_is_missing_as_python_has_it() -> None:
    x = tn.Graph("guess").input("x", (2,))
    assert not hasattr(x, "grad_fn") and not hasattr(x, "__cuda_array_interface__") and getattr(x, "data", 3) == 3
    assert len(x) == 2 and x.size() == (2,) and x.size(-1) == 2


def test_every_op_refuses_a_tensor_beside_a_value_with_the_remedy() -> None:
    value, tensor, raw = tn.Graph("g").input("x", (3, 4)), torch.rand(3, 4), []
    skipped = {"op", "update_rule", "check", "compile", "compile_step", "eager", "eager_updates", "autocast"}
    skipped |= {"from_torch", "from_onnx", "torch_compile_report"}
    for name in tn.__all__:
        made = getattr(tn, name)
        is_op = callable(made) and not inspect.isclass(made) and name not in skipped
        if not is_op or type(made).__module__.endswith("optimizer") or "Optimizer" in str(inspect.signature(made)):
            continue
        try:
            made(*((tensor, 1) if name in ("chunk", "split") else (value, tensor)))
        except TritonNotesError as error:
            if "tensor" not in str(error).lower():
                raw.append((name, str(error)[:80]))
        except Exception as error:
            raw.append((name, repr(error)[:80]))
        else:
            raw.append((name, "took a tensor beside a Value"))
    assert raw == []


MODULES: dict[str, Callable[[], Any]] = {
    "compile": lambda: tn.compile(nn.Sequential(nn.Linear(2, 2))),
    "compile_step": lambda: tn.compile_step(nn.Linear(2, 2), loss=F.mse_loss),
    "eager": lambda: tn.eager(nn.Linear(2, 2), {}),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("verb", MODULES)
def test_a_module_in_place_of_a_graph_is_refused_with_the_remedy(verb: str) -> None:
    with pytest.raises(DeclarationError, match=r"got (Sequential|Linear); import it with tn.from_torch"):
        MODULES[verb]()


def test_other_things_in_place_of_a_graph_are_refused() -> None:
    g = tn.Graph("g")
    g.output(y=g.input("x", (2,)) * 2)
    with pytest.raises(DeclarationError, match="got Model; it is compiled already; pass its .graph"):
        tn.compile(tn.compile(g))  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="got str; declare one with tn.Graph"):
        tn.compile("g")  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="takes a graph alone by position"):
        tn.compile(g, torch.ones(2))


def test_an_op_needs_no_domain() -> None:
    @tn.op(reference=F.mish)
    def habit(x):
        """x · tanh(softplus(x))"""
        return x * tn.tanh(tn.log1p(tn.exp(x)))

    assert habit.domain == {"x": (-3.0, 3.0)}
    for wrong in (lambda: tn.op(), lambda: tn.op(lambda x: x), lambda: tn.op(domain=(0, 1))):
        with pytest.raises(DeclarationError, match=r"op: its reference is None.*@tn.op\(reference="):
            wrong()
