"""Modules of which something stays a call of torch: results, gradients and steps against eager, and what is refused."""

from __future__ import annotations

import gc
import pickle
import weakref
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from scripts import assert_declares
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import tritonnotes as tn
from tritonnotes.codegen.target.cache import KernelCache
from tritonnotes.codegen.target.load import load_source
from tritonnotes.ir.core.errors import FormatError, ModelImportError

Function = Callable[..., Any]


class Calls(nn.Module):
    """A function of tensors with fused neighbours: what it is given is scaled, what it gives is squashed."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, *more: Tensor) -> Any:
        given = self.function(torch.sin(x) if x.is_floating_point() else x, *more)
        parts = given if isinstance(given, tuple) else (given,)
        return tuple(torch.tanh(p) * 2 if p.is_floating_point() else p for p in parts)


class Attends(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.5, is_causal=True)


def floats(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


WHERE = torch.tensor([0, 3, 3, 1, 2])
CASES: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    "conv1d": (lambda x, w: F.conv1d(x, w, stride=2, padding=1), (floats(3, 2, 9), floats(4, 2, 3))),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, padding="same"), (floats(2, 2, 5, 4), floats(3, 2, 3, 3), floats(3))),
    "conv_transpose2d": (lambda x, w: F.conv_transpose2d(x, w, stride=2), (floats(2, 3, 3, 2), floats(3, 2, 2, 2))),
    "max_pool": (lambda x: F.max_pool2d(x, 2, return_indices=True), (floats(2, 3, 4, 6),)),
    "avg_pool": (lambda x: F.avg_pool1d(x, 2), (floats(2, 3, 6),)),
    "adaptive": (lambda x: F.adaptive_avg_pool2d(x, (2, 1)), (floats(2, 3, 5, 4),)),
    "attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        (floats(2, 2, 5, 4), floats(2, 2, 5, 4), floats(2, 2, 5, 4)),
    ),
    "bmm": (torch.bmm, (floats(3, 2, 4), floats(3, 4, 5))),
    "batched": (lambda a, b: a @ b.transpose(-1, -2), (floats(2, 3, 2, 4), floats(2, 3, 5, 4))),
    "einsum": (lambda a, b: torch.einsum("bij,bkj->bik", a, b), (floats(3, 2, 4), floats(3, 5, 4))),
    "bag": (
        lambda w, i: F.embedding_bag(i, w, torch.tensor([0, 2, 2]), mode="mean"),
        (floats(4, 3), WHERE),
    ),
    "frequent": (lambda w, i: F.embedding(i, w, scale_grad_by_freq=True), (floats(4, 3), WHERE)),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), (floats(1, 2, 3, 4),)),
    "sort": (lambda x: torch.sort(x, dim=1, descending=True), (floats(3, 7),)),
    "topk": (lambda x: torch.topk(x, 3), (floats(3, 7),)),
    "cumsum": (lambda x: torch.cumsum(x, dim=1), (floats(3, 7),)),
    "gather": (lambda x, i: torch.gather(x, 0, i.view(1, -1)), (floats(4, 5), WHERE)),
    "unfold": (lambda x: F.unfold(x, 2), (floats(2, 2, 3, 4),)),
    "windows": (lambda x: x.unfold(0, 2, 2), (floats(6),)),
    "views": (lambda x: torch.unbind(torch.cumsum(x, 0)), (floats(3, 4),)),
    "pad": (lambda x: F.pad(x, (1, 2), value=0.5), (floats(3, 4),)),
    "in place": (lambda x: (x + 0).cumsum_(0), (floats(3, 4),)),
    "listed": (lambda x, y: torch.cartesian_prod(x, y), (floats(3), floats(2))),
    "positions": (lambda x: x + torch.arange(x.shape[1], device=x.device), (floats(3, 4),)),
    "norm": (lambda x: torch.linalg.vector_norm(x, 3, dim=1), (floats(3, 4),)),
}


def gradients_of(outputs: Any, inputs: list[Tensor]) -> list[Tensor]:
    """The gradients of all that is differentiable in what was given, with random ones flowing in."""
    found = [o for o in outputs if o.requires_grad]
    ds = [torch.randn(o.shape, generator=torch.Generator().manual_seed(3)) for o in found]
    return [g for g in torch.autograd.grad(found, inputs, ds, allow_unused=True) if g is not None]


@pytest.mark.parametrize("case", CASES)
def test_what_stays_a_call_gives_what_torch_gives(case: str) -> None:
    function, example = CASES[case]
    net = Calls(function)
    model = tn.compile(net, *example, batch=None)
    assert any(v.op.name == "library" for v in model.graph.values)
    assert_declares(model.graph)
    for scale in (1.0, -0.5, 2.0):  # a run that is recorded, then the record over other numbers in other memory
        runs = []
        for run in (net, model):
            inputs = [(x * scale).requires_grad_() if x.is_floating_point() else x.clone() for x in example]
            outputs = run(*inputs)
            runs.append((outputs, gradients_of(outputs, [x for x in inputs if x.requires_grad])))
        torch.testing.assert_close(runs[1], runs[0], rtol=1e-5, atol=1e-5)


SPARSE: dict[str, Function] = {
    "embedding": lambda w, i: F.embedding(i, w, sparse=True),
    "bag": lambda w, i: F.embedding_bag(i.view(1, -1), w, mode="sum", sparse=True),
    "gather": lambda w, i: torch.gather(w, 0, i.view(1, -1), sparse_grad=True),
}


@pytest.mark.parametrize("case", SPARSE)
def test_a_gradient_that_torch_gives_sparse_is_dense(case: str) -> None:
    net = Calls(SPARSE[case])
    given = (floats(4, 5), WHERE)
    model, found = tn.compile(net, *given, batch=None), []
    for run in (net, model):
        weight = given[0].clone().requires_grad_()
        found += gradients_of(run(weight, WHERE), [weight])
    torch.testing.assert_close(found[1], found[0].to_dense())


RECURRENT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lstm": (lambda: nn.LSTM(3, 4, num_layers=2, batch_first=True), (2, 5, 3)),
    "gru": (lambda: nn.GRU(3, 4, bidirectional=True, batch_first=True), (2, 5, 3)),
    "transformer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), (2, 5, 4)),
}


@pytest.mark.filterwarnings("error:The tensor attributes")
@pytest.mark.parametrize("name", RECURRENT)
def test_layers_over_time_train_as_eager_does(name: str) -> None:
    made, shape = RECURRENT[name]
    torch.manual_seed(0)
    net, loss = made(), nn.MSELoss()
    example = torch.randn(shape)
    given = net(example)
    case = First() if isinstance(given, tuple) else nn.Identity()
    net = nn.Sequential(net, case)
    reference = deepcopy(net)
    step = tn.compile_step(net, example, loss=loss, optimizer=tn.sgd(lr=0.1))
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    for rows in (2, 3, 2):
        x = torch.randn(rows, *shape[1:])
        y = torch.randn_like(reference(x))
        optimizer.zero_grad()
        wanted = loss(reference(x), y)
        wanted.backward()
        optimizer.step()
        torch.testing.assert_close(step(x, y)["loss"], wanted.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net.state_dict(), reference.state_dict(), rtol=1e-5, atol=1e-6)


class First(nn.Module):
    """The first of several results."""

    def forward(self, given: tuple[Tensor, ...]) -> Tensor:
        return given[0]


def lenet() -> nn.Module:
    """Two convolutions and their pools, and two layers: a convolution at the front, in the middle and at the end."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


def digits(rows: int) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(rows)
    return torch.randn(rows, 1, 8, 8, generator=drawn), torch.randint(0, 5, (rows,), generator=drawn)


@pytest.mark.parametrize("how", [{}, {"strict": True}], ids=["native", "strict"])
def test_a_convolutional_net_trains_as_eager_does(how: dict[str, bool]) -> None:
    net, reference = lenet(), lenet()
    step = tn.compile_step(net, digits(4)[0], loss=F.cross_entropy, optimizer=tn.sgd(lr=0.1), **how)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    for rows in (4, 7, 4):
        x, y = digits(rows)
        loss = F.cross_entropy(reference(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(step(x, y)["loss"], loss.detach(), rtol=1e-5, atol=1e-5)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    # Forward and gradient of a call are one pass through torch: what it keeps is kept.
    run = step.source[step.source.index("def run(") :]
    assert run.count("called(") == 3 and run.count("gradients(") == 3


@pytest.mark.parametrize("around", [lambda: torch.autocast("cpu", torch.bfloat16), torch.inference_mode, torch.no_grad])
def test_what_surrounds_a_run_changes_nothing_within_a_call(around: Function) -> None:
    alone, within = (
        tn.compile_step(lenet(), digits(4)[0], loss=F.cross_entropy, optimizer=tn.sgd(lr=0.1)) for _ in range(2)
    )
    for rows in (4, 7, 4):
        alone(*digits(rows))
        with around():
            within(*digits(rows))
    assert not alone.state_dict()["model"]["0.weight"].equal(lenet()[0].weight)
    torch.testing.assert_close(within.state_dict()["model"], alone.state_dict()["model"], rtol=0, atol=0)


def test_gradients_that_flow_within_autocast_are_those_without() -> None:
    net = Calls(torch.bmm)
    model = tn.compile(net, floats(3, 2, 4), floats(3, 4, 5), batch=None)
    found = []
    for enabled in (False, True):
        inputs = [floats(3, 2, 4).requires_grad_(), floats(3, 4, 5).requires_grad_()]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outputs = model(*inputs)
            found.append(gradients_of(outputs, inputs))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_a_step_keeps_nothing_of_what_its_calls_made() -> None:
    step = tn.compile_step(lenet(), digits(4)[0], loss=F.cross_entropy, optimizer=tn.sgd(lr=0.1))
    made: list[weakref.ref[Tensor]] = []

    class Watched(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = func(*args, **(kwargs or {}))
            if "conv" in str(func) and isinstance(given, Tensor):
                made.append(weakref.ref(given))
            return given

    for rows in (4, 7, 4):
        with Watched():
            step(*digits(rows))
    assert len(made) >= 6 and not [ref for ref in made if ref() is not None]


def test_results_that_calls_hand_to_calls_are_freed_with_the_run() -> None:
    step = tn.compile_step(nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.Flatten()), digits(4)[0],
                           loss=nn.MSELoss(), optimizer=tn.sgd(lr=0.1))  # fmt: skip
    for rows in (4, 7, 4):
        result = step(digits(rows)[0], torch.zeros(rows, 27))["output"]
    alive = {tuple(o.shape) for o in gc.get_objects() if type(o) is Tensor}
    assert not alive & {(rows, 3, 6, 6) for rows in (4, 7)} and result.shape == (4, 27)


def test_the_graph_can_be_printed_read_judged_and_kept() -> None:
    g = tn.from_torch(lenet(), digits(4)[0], loss=F.cross_entropy)
    assert str(tn.Graph.from_text(str(g))) == str(tn.Graph.from_json(g.to_json())) == str(g)
    assert tn.check(g).ok
    model = tn.compile(pickle.loads(pickle.dumps(deepcopy(g))))
    x, y = digits(6)
    feeds, state = {"input": x, "target": y}, model.state_dict()
    torch.testing.assert_close(model(**feeds), tn.eager(g, feeds, state))


def test_a_result_is_copied_only_where_it_is_not_its_own() -> None:
    model = tn.compile(Calls(lambda x: torch.topk(x, 2)), floats(3, 7))
    kept = load_source(model.source, KernelCache()).kept
    x = floats(8, 4)
    own, other = x.exp(), torch.empty(12)[1:9].view(2, 4)
    assert kept(([x], [own]), 0, (8, 4), torch.float32).data_ptr() == own.data_ptr()
    for given, wanted in ((x.view(4, 8), (4, 8)), (own.T, (4, 8)), (other, (2, 4)), (own.double(), (8, 4))):
        made = kept(([x], [given]), 0, wanted, torch.float32)
        assert made.data_ptr() != given.data_ptr() and made.is_contiguous()
        torch.testing.assert_close(made, given.float())
    with pytest.raises(RuntimeError, match=r"torch gives \(8, 4\) where \(8, 5\) is declared"):
        kept(([x], [own]), 0, (8, 5), torch.float32)


def test_all_results_of_a_call_are_one_launch() -> None:
    model = tn.compile(Calls(lambda x: torch.topk(x, 2)), floats(3, 7))
    assert [k.kind for k in model.plan.launches].count("library") == 1
    text = model.explain()
    assert "aten.topk.default has no formula here" in text and "aten.topk.default: 1 launch" in text


def test_attention_with_dropout_is_made_of_products_and_ours() -> None:
    """Its evaluation form is torch's attention, and its mean over what is drawn, too."""
    torch.manual_seed(0)
    example = floats(2, 3, 4), floats(2, 3, 4), floats(2, 3, 4)
    g = tn.from_torch(Attends(), *example, batch=None)
    want = F.scaled_dot_product_attention(*example, is_causal=True)
    torch.testing.assert_close(tn.compile(g)(*example)["output"], want)
    model = tn.compile(g, training=True)
    drawn = torch.stack([model(*example)["output"] for _ in range(400)])
    assert (drawn[0] != drawn[1]).any()
    torch.testing.assert_close(drawn.mean(0), want, atol=0.3, rtol=0)


def test_a_call_that_draws_is_refused() -> None:
    with pytest.raises(ModelImportError, match=r"rrelu.*draws random numbers.*nn\.Dropout"):
        tn.compile(nn.Sequential(nn.Linear(4, 4), nn.RReLU()).train(), floats(3, 4))


@pytest.mark.parametrize(
    ("call", "arguments", "said"),
    [
        ("os.system.default", '["%0"]', "torch has no os.system.default"),
        ("aten.sin_.default", '["%0"]', "writes into its arguments"),
        ("aten.from_file.default", '["\'/etc/passwd"]', "takes no tensors"),
        ("aten.__class__.default", '["%0"]', "names an overload|torch has no"),
        ("aten.sin.default; print()", '["%0"]', "names an overload"),
        ("aten.sin.default", '["%0", "torch.load()"]', "is no argument"),
        ("aten.sin.default", '["%1"]', "in order"),
        ("aten.sum.default", '["%0"]', "is said to be"),
        ("aten.item.default", '["%0"]', "gives what is no tensor"),
    ],
)
def test_a_file_names_nothing_but_calls_that_compute(call: str, arguments: str, said: str) -> None:
    g = tn.Graph("g")
    x = g.input("x", (3, 4))
    g.output(y=tn.sin(x))
    args = "" if "'" in arguments else ', "args": ["x"]'
    attrs = (
        f'{{"call": "{call}", "arguments": {arguments}, "options": [], "which": 0, "shape": [3, 4], '
        '"dtype": {"dtype": "float32"}}'
    )
    text = g.to_json()
    line = next(line for line in text.splitlines() if '"op": "sin"' in line)
    name = '{"name": "y", "op": "library", "dtype": "float32", "shape": [3, 4]'
    changed = text.replace(line, f'  {name}{args}, "attrs": {attrs}}}')
    with pytest.raises(FormatError, match=said):
        tn.Graph.from_json(changed)
