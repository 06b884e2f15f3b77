"""Ops called on tensors: the results and gradients of torch.nn.functional, by programs that are made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode

import tritonnotes as tn
from tritonnotes import face
from tritonnotes.ir.core.errors import DeclarationError, FeedError, ShapeError
from tritonnotes.ir.core.op import Op
from tritonnotes.ir.core.types import float16
from tritonnotes.judge.tolerance import compare
from tritonnotes.runtime import calls, tensor_calls, traced
from tritonnotes.runtime.runner import pick_device

DEVICE = pick_device()
Function = Callable[..., Any]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def ones(*shape: int) -> Tensor:
    return torch.ones(shape, device=DEVICE)


def classes(batch: int, count: int) -> Tensor:
    return (torch.arange(batch) % count).to(DEVICE)


def results(function: Function, tensors: list[Tensor], exact: bool = False) -> list[Tensor]:
    """The result of a function, and the gradients of all floats that it takes; in float64 for an exact run."""
    taken = [t.double() if exact and t.is_floating_point() else t.clone() for t in tensors]
    leaves = [t.requires_grad_() for t in taken if t.is_floating_point()]
    y = function(*taken)
    upstream = numbers(*y.shape, seed=9).to(y.dtype)
    return [y, *torch.autograd.grad(y, leaves, upstream)]


def agree(mine: Function, theirs: Function, *tensors: Tensor) -> None:
    """The judge's policy: no further from float64 than twice what eager PyTorch is."""
    found, eager, exact = (
        results(mine, [*tensors]),
        results(theirs, [*tensors]),
        results(theirs, [*tensors], exact=True),
    )
    for place, (one, other, truth) in enumerate(zip(found, eager, exact, strict=True)):
        comparison = compare(one, other, truth)
        assert comparison.ok, f"{'gradient of tensor ' + str(place - 1) if place else 'result'}: {comparison}"


CASES: dict[str, tuple[Function, Function, tuple[Tensor, ...]]] = {
    "layer_norm": (
        lambda x, w, b: tn.layer_norm(x, (8,), w, b),
        lambda x, w, b: F.layer_norm(x, (8,), w, b),
        (numbers(5, 8), numbers(8, seed=1), numbers(8, seed=2)),
    ),
    "linear": (tn.linear, F.linear, (numbers(5, 8), numbers(4, 8, seed=1), numbers(4, seed=2))),
    "softmax": (lambda x: tn.softmax(x, -1), lambda x: F.softmax(x, -1), (numbers(3, 4, 5),)),
    "cross_entropy": (tn.cross_entropy, F.cross_entropy, (numbers(6, 3), classes(6, 3))),
    "batch_norm": (
        lambda x, w, b: tn.batch_norm(x, weight=w, bias=b, training=True),
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        (numbers(6, 3), numbers(3, seed=1), numbers(3, seed=2)),
    ),
    "a primitive": (tn.tanh, torch.tanh, (numbers(5, 8),)),
    "a number among tensors": (
        lambda x: tn.where(x > 0, x, 0.5),
        lambda x: torch.where(x > 0, x, 0.5),
        (numbers(5, 8),),
    ),
    "a list of tensors": (
        lambda a, b: tn.cat([a, b], 1),
        lambda a, b: torch.cat([a, b], 1),
        (numbers(5, 8), numbers(5, 2)),
    ),
    "a tensor without axes": (lambda x: tn.exp(x), torch.exp, (numbers(),)),
    "along the batch": (lambda x: tn.softmax(x, 0), lambda x: F.softmax(x, 0), (numbers(5),)),
    "a sum over the batch": (lambda x: tn.sum(x, 0), lambda x: x.sum(0), (numbers(5, 4),)),
    "a mean of all": (tn.mse_loss, F.mse_loss, (numbers(5, 2), numbers(5, 2, seed=1))),
    "no rows": (lambda x: tn.gelu(x), F.gelu, (numbers(0, 4),)),
    "one row": (lambda x, y: tn.mul(x, y), torch.mul, (numbers(1, 4), numbers(5, 4, seed=1))),
    "strides": (lambda x: tn.relu(x.t()), lambda x: F.relu(x.t()), (numbers(3, 4),)),
}


@pytest.mark.interpreted
@pytest.mark.parametrize("case", CASES)
def test_results_and_gradients_are_those_of_torch(case: str) -> None:
    mine, theirs, tensors = CASES[case]
    agree(mine, theirs, *tensors)


def test_machine_code_gives_the_same_and_takes_every_batch() -> None:
    mine, theirs, (x, w, b) = CASES["layer_norm"]
    agree(mine, theirs, x, w, b)
    agree(mine, theirs, numbers(2, 8), w, b)


@pytest.mark.interpreted
def test_batch_norm_moves_the_running_statistics_it_is_given_and_only_in_training() -> None:
    x, found = numbers(6, 3), []
    for norm in (tn.batch_norm, F.batch_norm):
        mean, var = torch.zeros(3, device=DEVICE), ones(3)
        outputs = [norm(x, mean, var, training=True), norm(x, running_var=var, running_mean=mean)]
        found.append([*outputs, mean, var])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.interpreted
def test_dropout_follows_torchs_generator_and_is_off_where_not_training() -> None:
    x, masks = ones(40, 10), []
    for _ in range(2):
        torch.manual_seed(3)
        masks.append(tn.dropout(x, 0.25))
    assert torch.equal(*masks) and not torch.equal(masks[0], tn.dropout(x, 0.25))
    assert 0.6 < float((masks[0] != 0).float().mean()) < 0.9
    assert torch.equal(tn.dropout(x, 0.25, training=False), x)


@pytest.mark.interpreted
def test_derivatives_of_second_order_are_torchs() -> None:
    found = []
    for gelu in (tn.gelu, F.gelu):
        x = numbers(3, 4).requires_grad_()
        (first,) = torch.autograd.grad(gelu(x).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), x)[0])
    torch.testing.assert_close(*found)


@pytest.mark.interpreted
def test_a_result_may_be_changed_in_place() -> None:
    found = []
    for gelu in (tn.gelu, F.gelu):
        x = numbers(3, 4).requires_grad_()
        y = gelu(x).mul_(2)
        found.append([y, *torch.autograd.grad(y.square().sum(), x)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.interpreted
def test_statistics_of_nothing_are_nan_as_in_torch() -> None:
    for name in ("mean", "var", "std"):
        assert getattr(tn, name)(numbers(0, 6)).isnan() and getattr(tn, name)(numbers(0)).isnan()


@pytest.mark.interpreted
def test_several_results_are_a_tuple() -> None:
    x = numbers(4, 6)
    for one, other in zip(tn.var_mean(x, -1), torch.var_mean(x, -1), strict=True):
        torch.testing.assert_close(one, other)


# -- what is kept ------------------------------------------------------------------------------------------------------


def declared(function: Function, *tensors: Tensor) -> int:
    """How many forms a call leaves, once those of other tests are gone. Nothing is planned or run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls.Form, "run", lambda self, *given: dict.fromkeys(self.outputs, tensors[0]))
        function(*tensors)
    return len(calls.compiled_forms())


@pytest.fixture
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for kept in ("_compiled", "_known"):
        monkeypatch.setattr(calls, kept, {})


@pytest.mark.usefixtures("nothing_kept")
def test_another_batch_makes_no_other_program_and_another_row_does() -> None:
    weight = ones(8)

    def norm(x: Tensor) -> Tensor:
        return tn.layer_norm(x, (8,), weight)

    assert [declared(norm, numbers(batch, 8)) for batch in (5, 6, 8, 700)] == [1] * 4
    assert declared(norm, numbers(1, 8)) == 2, "a size of 1 broadcasts, so that programs know it"
    assert declared(norm, numbers(0, 8)) == 3, "there is no mean of nothing"
    assert declared(norm, numbers(5, 3, 8)) == 4
    assert declared(lambda x: tn.layer_norm(x, (4,)), numbers(5, 4)) == 5
    assert declared(norm, numbers(9, 3, 8)) == 5


@pytest.mark.usefixtures("nothing_kept")
def test_sizes_that_are_equal_by_chance_are_not_taken_for_the_batch() -> None:
    assert declared(tn.matmul, numbers(5, 4), numbers(4, 3)) == 1
    assert declared(tn.matmul, numbers(4, 4), numbers(4, 3)) == 2
    assert declared(tn.matmul, numbers(4, 4), numbers(4, 3)) == 2
    assert declared(tn.linear, numbers(3, 4), numbers(3, 4), numbers(3)) == 3
    assert declared(tn.linear, numbers(7, 4), numbers(3, 4), numbers(3)) == 3


@pytest.mark.usefixtures("nothing_kept")
def test_attributes_of_another_type_are_another_call() -> None:
    x = numbers(4, 6)
    kinds = [declared(lambda x, v=v: tn.add(x, v), x) for v in (1, 1.0, True)]
    assert kinds == [1, 2, 3]


@pytest.mark.usefixtures("nothing_kept")
def test_what_was_used_longest_ago_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "KEPT", 2)
    for size in (2, 3, 2, 4):
        count = declared(lambda x: tn.softmax(x, -1), numbers(5, size))
    widths = [form.graph.inputs[0].shape[1] for form in calls.compiled_forms()]
    assert (count, widths) == (2, [2, 4])


def test_every_public_op_takes_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    record = staticmethod(lambda name, args, kwargs: called.append(name))
    monkeypatch.setattr(Op, "of_tensors", record)
    monkeypatch.setattr(tensor_calls, "of_tensors", lambda name, args, kwargs: called.append(name))
    ops = [n for n in tn.__all__ if isinstance(getattr(tn, n), Op) or hasattr(getattr(tn, n), "__wrapped__")]
    for name in ops:
        getattr(tn, name)(ones(2, 2))
    assert called == [getattr(tn, n).__name__ for n in ops] and len(ops) > 120
    undone = [n for n, f in vars(face).items() if getattr(f, "__module__", "").startswith("tritonnotes.ir.ops")]
    assert {n for n in undone if n not in ops} == {"chunk", "split"}


# -- what is remembered of a call ------------------------------------------------------------------------------------

ARGUMENTS = (
    0, 1, 2, True, False, None, 0.0, -0.0, 1.0, float("inf"), "1", "sum", torch.float32, float16, numbers(2), (),
    [1], (1,), [True], [1.0], [[1]], [numbers(2)], [numbers(2), 1],
)  # fmt: skip


def test_calls_of_one_key_have_one_text() -> None:
    """Exhaustive over kinds of arguments and their places: what is found without writing a text is as fine as one."""
    texts: dict[Any, str] = {}
    pairs = [(a, b) for a in ARGUMENTS for b in ARGUMENTS]
    calls_made: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        *((pair, {}) for pair in pairs),
        *(((a,), {"b": b}) for a, b in pairs),
        *(((), {"b": a, "a": b}) for a, b in pairs),
    ]
    for args, kwargs in calls_made:
        tensors: list[Tensor] = []
        key = calls.call_key("an_op", args, kwargs, tensors)
        again: list[Tensor] = []
        marked = [tensor_calls._marked(arg, again) for arg in args]
        text = calls.call_text("an_op", marked, {n: tensor_calls._marked(a, again) for n, a in kwargs.items()})
        assert texts.setdefault(key, text) == text
        assert len(tensors) == len(again) and all(map(lambda t, u: t is u, tensors, again))
    assert calls.call_key("an_op", [numbers(1).numpy()[0]], {}, []) is None


@pytest.mark.interpreted
def test_what_is_remembered_of_a_call_lets_nothing_else_in() -> None:
    """Tensors of the sizes and the dtype of a call that there was, which kernels cannot read as they are."""
    x = numbers(3, 4)
    for _ in range(2):
        torch.testing.assert_close(tn.gelu(x), F.gelu(x))
    turned = numbers(4, 3).t()
    conj = torch.complex(numbers(3, 4), x).conj().imag
    assert conj.is_neg()
    for other in (turned, conj, x[:, :1].expand(3, 4), x.double(), torch.nn.Parameter(x)):
        torch.testing.assert_close(tn.gelu(other), F.gelu(other))
    freed = x.clone()
    freed.untyped_storage().resize_(0)
    with pytest.raises(FeedError, match="its storage holds 0 bytes"):
        tn.gelu(freed)
    with pytest.raises(FeedError, match=r"tn.gelu: 'x': kernels cannot read a tensor of layout"):
        tn.gelu(x.to_sparse())
    with pytest.raises(FeedError, match="meta device"):
        tn.gelu(x.to("meta"))
    with FakeTensorMode() as mode, pytest.raises(FeedError, match="FakeTensor"):
        tn.gelu(mode.from_tensor(x))


@pytest.mark.interpreted
def test_the_environment_is_asked_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    x = numbers(3, 4)
    tn.gelu(x)
    monkeypatch.setenv("TRITONNOTES_STRICT", "maybe")
    with pytest.raises(DeclarationError, match="TRITONNOTES_STRICT is 'maybe'"):
        tn.gelu(x)


# -- tracers -----------------------------------------------------------------------------------------------------------


def network(x: Tensor, w: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    h = tn.batch_norm(tn.layer_norm(x * 2, (8,), w), mean, var, training=True)
    return tn.gelu(h) * tn.detach(tn.tanh(h))


@pytest.mark.interpreted
def test_calls_are_traced_in_one_graph_for_every_batch() -> None:
    found = []
    traced_network = torch.compile(network, fullgraph=True, backend="aot_eager", dynamic=True)
    for run in (network, traced_network):
        w, mean, var = numbers(8, seed=1).requires_grad_(), torch.zeros(8, device=DEVICE), ones(8)
        grads = []
        for batch in (5, 6, 9):
            x = numbers(batch, 8, seed=batch).requires_grad_()
            run(x, w, mean, var).sum().backward()
            grads.append(x.grad)
        found.append([*grads, w.grad, mean, var])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.interpreted
@pytest.mark.parametrize("name", ["softmax", "batch_norm", "dropout"])
def test_calls_pass_torchs_own_checks_of_an_op(name: str) -> None:
    x = numbers(5, 4)
    places = [calls.tensor_at(i) for i in range(3)]
    given: dict[str, tuple[list[Any], dict[str, Any], list[Tensor]]] = {
        "softmax": ([places[0], -1], {}, [x]),
        "batch_norm": (places, {"training": True}, [x, torch.zeros(4, device=DEVICE), ones(4)]),
        "dropout": ([places[0], 0.5], {}, [x]),
    }
    args, kwargs, tensors = given[name]
    text = calls.call_text(name, args, kwargs)
    seed = torch.tensor(3) if name == "dropout" else None
    for is_wanted in (True, False):
        leaves = [t.clone().requires_grad_(is_wanted and i == 0) for i, t in enumerate(tensors)]
        wanted = [t.requires_grad for t in leaves]
        torch.library.opcheck(traced.forward, (leaves, seed, text, wanted))


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_errors_name_the_op_and_the_remedy() -> None:
    x, value = numbers(5, 8), tn.Graph("g").input("v", (5, 8))
    with pytest.raises(
        DeclarationError, match=r"tn.linear of tensors: weight is 4; pass a tensor, as in torch.nn.functional"
    ):
        tn.linear(x, 4)
    with pytest.raises(DeclarationError, match=r"tn.prelu: would declare .*torch.nn.functional.prelu"):
        tn.prelu(x)
    with pytest.raises(DeclarationError, match=r"linear of tensors: 4 arguments by position; .*x, weight, bias"):
        tn.linear(x, x, x, x)
    with pytest.raises(DeclarationError, match=r"batch_norm of tensors: 'running_mean' is given by position and by"):
        tn.batch_norm(x, ones(8), running_mean=ones(8))
    with pytest.raises(ShapeError, match=r"layer_norm.*\[5, 8\] does not end in normalized_shape \[7\]"):
        tn.layer_norm(x, (7,))
    with pytest.raises(DeclarationError, match=r"tn.layer_norm: got a torch.Tensor beside the Value 'v'"):
        tn.layer_norm(value, (8,), x[0])
    with pytest.raises(DeclarationError, match=r"relu.*slope"):
        tn.relu(x, slope=3)
    with pytest.raises(DeclarationError, match=r"tn.add: got <object .* beside tensors; pass tensors, numbers"):
        tn.add(x, object())
    with pytest.raises(FeedError, match=r"tn.relu: 'x': kernels cannot read a tensor of layout"):
        tn.relu(x.to_sparse())


@pytest.mark.interpreted
def test_a_custom_op_takes_tensors_and_may_be_declared_again() -> None:
    def times_something(factor: float) -> Callable[[Tensor], Tensor]:
        @tn.op(reference=lambda x: x * factor)
        def times(x: tn.Value) -> tn.Value:
            """x · factor"""
            return x * factor

        return times

    x = numbers(3, 4)
    for factor in (2.0, 3.0):
        torch.testing.assert_close(times_something(factor)(x), x * factor)
