"""What a module is called with beside tensors by position: names, and values that an import fixes."""

from __future__ import annotations

import pickle
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError, FeedError

X, MASK, SCALE = torch.randn(3, 4), torch.rand(3, 4), torch.rand(3, 4)


class Flexible(nn.Module):
    """Options as code that others wrote has them: tensors, truth values, numbers and words, some by name alone."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        times: float = 1.0,
        *,
        scale: Tensor | None = None,
        how: str = "tanh",
    ) -> Tensor:
        h: Tensor = getattr(torch, how)(self.fc(x)) * times
        h = h if mask is None else h * mask
        return h if scale is None else h + scale


CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "by position": ((X, MASK, 2.0), {}),
    "by name": ((X,), {"scale": SCALE, "mask": MASK}),
    "a gap": ((X, None, 0.5), {"scale": SCALE}),
    "a word": ((X,), {"how": "sin"}),
    "all by name": ((), {"x": X, "times": 3.0, "mask": MASK}),
    "defaults": ((X,), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_compiled_module_takes_what_its_example_took(name: str) -> None:
    net = Flexible()
    args, kwargs = CALLS[name]
    model = tn.compile(net, *args, kwargs=kwargs)
    for made in (model, deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(made(*args, **kwargs), net(*args, **kwargs))
    rows = [torch.rand(5, 4) if isinstance(a, Tensor) else a for a in args]
    named = {n: torch.rand(5, 4) if isinstance(a, Tensor) else a for n, a in kwargs.items()}
    torch.testing.assert_close(model(*rows, **named), net(*rows, **named))


@pytest.mark.parametrize(
    ("example", "call", "said"),
    [
        (CALLS["by position"], ((X, MASK), {}), "'times' is 1.0, and where the module was imported 'times' was 2.0"),
        (CALLS["a word"], ((X,), {"how": "cos"}), "'how' is 'cos', and where the module was imported 'how' was 'sin'"),
        (CALLS["by name"], ((X,), {"mask": MASK, "scale": None}), "'scale' is None, .* 'scale' was a tensor"),
        (CALLS["a gap"], ((X, MASK, 0.5), {"scale": SCALE}), "'mask' is a tensor here; .* the tensors x, scale"),
        (CALLS["a word"], ((X,), {"what": "cos"}), "got an unexpected keyword argument 'what'"),
        (CALLS["defaults"], ((X, True), {}), "'mask' is True, .* 'mask' was None"),
    ],
)
def test_another_call_is_refused(example: Any, call: Any, said: str) -> None:
    model = tn.compile(Flexible(), *example[0], kwargs=example[1])
    with pytest.raises(FeedError, match=said):
        model(*call[0], **call[1])


class Opened(nn.Module):
    def forward(self, parts: tuple[Tensor, Tensor], parts_0: Tensor, *more: Tensor) -> Tensor:
        return parts[0] + 2 * parts[1] + 3 * parts_0 + 4 * more[0]


def test_arguments_that_open_into_one_name_are_two() -> None:
    args = (X, MASK), SCALE, X + 1
    model = tn.compile(Opened(), *args)
    assert len({v.name for v in model.graph.inputs}) == 4
    torch.testing.assert_close(model(*args), Opened()(*args))


def test_a_step_takes_the_tensors_then_the_target() -> None:
    net, reference = Flexible(), Flexible()
    reference.load_state_dict(net.state_dict())
    optimizer, target = torch.optim.SGD(reference.parameters(), lr=0.1), torch.randn(3, 4)
    args, kwargs = CALLS["a gap"]
    step = tn.compile_step(net, *args, kwargs=kwargs, loss=nn.functional.mse_loss, optimizer=tn.sgd(lr=0.1))
    nn.functional.mse_loss(reference(*args, **kwargs), target).backward()
    optimizer.step()
    step(X, SCALE, target)
    torch.testing.assert_close(net.state_dict(), reference.state_dict())


def test_what_can_not_be_fixed_is_refused() -> None:
    with pytest.raises(DeclarationError, match="Flexible.forward: 'times' is .*, no tensor; import a module"):
        tn.from_torch(Flexible(), X, MASK, object())
    with pytest.raises(DeclarationError, match="Flexible.forward: got an unexpected keyword argument 'masks'"):
        tn.from_torch(Flexible(), X, kwargs={"masks": MASK})
    g = tn.from_torch(Flexible(), X)
    with pytest.raises(DeclarationError, match="compile: kwargs= says how a torch module is imported"):
        tn.compile(g, kwargs={"x": X})
