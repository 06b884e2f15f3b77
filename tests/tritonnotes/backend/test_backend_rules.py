"""The backend of torch.compile on small functions: which calls make a program, what stays torch's, and that either way
results, gradients and memory are those of eager PyTorch."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from paths import ROOT
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import tritonnotes as tn

Function = Callable[..., Any]


def views(x: Tensor, y: Tensor) -> Any:
    h = torch.tanh(x) * 2
    return x.view(-1), h, h.view(-1)


def slices(x: Tensor, y: Tensor) -> Any:
    h = torch.tanh(x) + 1
    column = h[:, 1]
    h[:, 0] = column * 2
    return torch.sigmoid(h) * column.unsqueeze(1)


def draws(x: Tensor, y: Tensor) -> Any:
    dropped = F.dropout(torch.tanh(x) * 2, 0.5, True)
    return torch.sigmoid(dropped) * torch.rand_like(x) + 1


def towers(x: Tensor, y: Tensor) -> Any:
    return torch.tanh(x) * 2, torch.tanh(y) * 3


def without_gradient(x: Tensor, y: Tensor) -> Any:
    with torch.no_grad():
        scale = torch.sigmoid(x) * 2
    return torch.tanh(x * y) * scale.mean(), (x * y + 1).detach()


def across_a_mode(x: Tensor, y: Tensor) -> Any:
    """A lone call before a change of mode, of which what uses it waits for that change, and that for the call."""
    before = torch.tanh(x)
    with torch.no_grad():
        scale = torch.cumsum(y, 1)
    return torch.sigmoid(before * scale) * 2


def chain_in_place(x: Tensor, y: Tensor) -> Any:
    h = torch.tanh(x) + 1
    before = h * 2
    h.mul_(3)
    h += y
    return before + h


def torch_in_place(x: Tensor, y: Tensor) -> Any:
    h = torch.tanh(x) * y
    h.cumsum_(1)
    return h


def tuples(x: Tensor, y: Tensor) -> Any:
    largest, place = (torch.tanh(x) * 2).max(dim=1)
    parts = torch.split(torch.sigmoid(y) + y, 2, 1)
    return {"largest": largest, "parts": (place, torch.cat(parts[::-1], 1)), "rows": x.shape[0], "given": y}


def constants(x: Tensor, y: Tensor) -> Any:
    return torch.tanh(x * torch.tensor([1.0, 2, 3, 4, 5, 6])) + torch.FloatTensor([1, 2, 3, 4, 5, 6])


def by_strides(x: Tensor, y: Tensor) -> Any:
    h = torch.tanh(x.t()) * 2 + 1
    return torch.sigmoid(h.as_strided((2, 3), (1, 2))) * 3, torch.exp(h) + 1


def transposed(x: Tensor, y: Tensor) -> Any:
    h = torch.tanh(x.unsqueeze(1).transpose(0, 2)) * 2
    torch._dynamo.graph_break()
    return h, h.transpose(0, 2).view(-1) + 1, torch.sigmoid(h.mT) * 2


def depends_on_values(x: Tensor, y: Tensor) -> Any:
    return (torch.tanh(x) * 2)[y > 0].sum()


def made_of_nothing(x: Tensor, y: Tensor) -> Any:
    return torch.tanh(x * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])) + torch.arange(6)


FUNCTIONS: dict[Function, str] = {
    views: "",
    slices: "setitem: reads memory that is written later",
    draws: "dropout: draws random numbers",
    towers: "2 programs",
    without_gradient: "",
    across_a_mode: "tanh: is one op alone",
    chain_in_place: "6 ops in 1 program",
    torch_in_place: "cumsum_: aten.cumsum_.default has no formula here",
    tuples: "",
    constants: "3 ops in 1 program",
    by_strides: "lies in memory whose strides are seen",
    transposed: "",
    made_of_nothing: "3 ops in 1 program",
    depends_on_values: "2 ops in 1 program",
}
"""With what the report says of them."""

BROKEN = (depends_on_values, transposed)
"""Those with a graph break."""


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_results_gradients_and_memory_are_those_of_eager(function: Function) -> None:
    torch.manual_seed(0)
    first = [torch.randn(4, 6, requires_grad=True) for _ in range(2)]
    second = [x.detach().clone().requires_grad_() for x in first]
    compiled = torch.compile(function, backend="tritonnotes", fullgraph=function not in BROKEN)
    torch.manual_seed(1)
    got = pytree.tree_leaves(compiled(*first))
    torch.manual_seed(1)
    wanted = pytree.tree_leaves(function(*second))
    for one, other in zip(got, wanted, strict=True):
        if not isinstance(other, Tensor):
            assert one == other
            continue
        torch.testing.assert_close(one, other)
        assert one.requires_grad is other.requires_grad and _strides(one) == _strides(other)
        assert [_shares(one, x) for x in first] == [_shares(other, x) for x in second]
    for one, other in zip(_gradients(got, first), _gradients(wanted, second), strict=True):
        assert (one is None) is (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-6)
    report = str(tn.torch_compile_report())
    assert FUNCTIONS[function] in report and "report this" not in report, report
    assert tn.torch_compile_report().fused >= 2


def _strides(tensor: Tensor) -> list[int]:
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def _shares(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _gradients(results: list[Any], leaves: list[Tensor]) -> tuple[Tensor | None, ...]:
    floats = [t.square().sum() for t in results if isinstance(t, Tensor) and t.requires_grad]
    return torch.autograd.grad(floats, leaves, allow_unused=True)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: torch.tanh(x), "tanh: is one op alone"),
        (lambda x: x @ x @ x, "matmul ×2: is only matrix products"),
        (lambda x: torch.cumsum(x, 0), "cumsum: aten.cumsum.default has no formula here"),
        (lambda x: (x.to(torch.complex64) * 2).abs(), "complex64"),
        (lambda x: F.embedding(torch.tensor([0, 2]), x, sparse=True) * 2, "gives sparse gradients"),
        (lambda x: F.embedding(torch.tensor([0, 2]), x, scale_grad_by_freq=True) * 2, "by_freq=True is not"),
        (lambda x: torch.vmap(lambda row: torch.tanh(row) * 2 + 1)(x), "a class of their own"),
    ],
)
def test_what_has_no_program_is_torchs_call_and_told(function: Function, reason: str) -> None:
    x = torch.randn(3, 3)
    assert torch.equal(torch.compile(function, backend="tritonnotes")(x), function(x))
    report = tn.torch_compile_report()
    assert report.fused == 0 and reason in str(report), str(report)


def test_other_batches_compile_nothing_once_sizes_are_symbolic() -> None:
    compiled = torch.compile(lambda x: torch.tanh(x) * 2 + x.mean(), backend="tritonnotes")
    counts = []
    for rows in (32, 20, 7, 1, 9, 32):
        x = torch.randn(rows, 3)
        torch.testing.assert_close(compiled(x), torch.tanh(x) * 2 + x.mean())
        counts.append(len(tn.torch_compile_report().graphs))
    assert counts == [1, 2, 2, 3, 3, 3]


def test_values_that_a_program_refuses_are_refused_by_torch() -> None:
    compiled = torch.compile(lambda x, y: F.cross_entropy(torch.tanh(x) * 2, y), backend="tritonnotes")
    x = torch.randn(3, 4)
    compiled(x, torch.tensor([0, 1, 3]))
    assert tn.torch_compile_report().fused == 3
    with pytest.raises(IndexError, match="Target 4 is out of bounds"):
        compiled(x, torch.tensor([0, 1, 4]))


def test_autocast_rounds_where_torch_does() -> None:
    weight = torch.randn(6, 6)

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = F.gelu(F.linear(x, weight)) * 2
        return h, torch.tanh(h.float()) + x

    x = torch.randn(5, 6)
    got, wanted = torch.compile(function, backend="tritonnotes")(x), function(x)
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype is other.dtype
        torch.testing.assert_close(one.float(), other.float(), rtol=2**-7, atol=2**-7)
    assert tn.torch_compile_report().stayed == 0


@pytest.mark.parametrize(
    ("said", "wrong"), [({"mode": "max-autotune"}, "Inductor's"), ({"options": {"warp": 3}}, "warp")]
)
def test_wrong_options_are_refused(said: dict[str, Any], wrong: str) -> None:
    with pytest.raises(Exception, match=wrong):
        torch.compile(lambda x: x + 1, backend="tritonnotes", **said)(torch.ones(2))


def test_a_checkout_is_found_by_name_and_imports_no_compiler() -> None:
    code = (
        "import sys; import tritonnotes; assert 'torch._dynamo' not in sys.modules; import torch;"
        "print('tritonnotes' in torch._dynamo.list_backends())"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert found.stdout.strip() == "True"


def test_the_example_of_the_page_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/torch_compile.md").read_text(encoding="utf-8")
    (code,), (printed,) = (re.findall(rf"^```{kind}\n(.*?)^```", page, re.M | re.S) for kind in ("python", "text"))
    exec(compile(code, "docs/torch_compile.md", "exec"), {})
    assert printed in capsys.readouterr().out
