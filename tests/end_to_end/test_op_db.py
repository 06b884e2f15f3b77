"""Every op that torch has too, on torch's own sample inputs: torch's function, `tn.eager` and the compiled kernel.

The reference is torch's function as `op_db` calls it, not the one in `tritonnotes/judge/references.py`: that is judged
here as the kernels are, forward and backward, by the policy of `tritonnotes/judge/tolerance.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from compiled import Judged
from tally import Tally
from torch import Tensor
from torch_samples import ADAPTERS, OUT_OF_SCOPE, Call, Rule, error_inputs, op_infos, sample_inputs, wide

import tritonnotes as tn
from tritonnotes.ir.core.errors import TritonNotesError
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.op import OPS, catalogue
from tritonnotes.judge.tolerance import Comparison, compare

pytestmark = pytest.mark.interpreted

NAMES = sorted({*catalogue(), "amax", "amin", "matmul"})
"""The catalogue, and what has no note of its own."""
QUICK = 4
"""How many samples of an op the quick pass takes, spread over torch's list; one in each dtype beside float32."""
MORE = 8
"""How many the slow pass takes in each dtype beside float32, of which it takes all."""
REDRAWS = 32
Results = dict[str, Tensor]


def judged(call: Call, redraw: Callable[[int], Call]) -> list[str]:
    """What is wrong: results, gradients and buffers of ours that are further from float64 than the policy allows."""
    graph = call.declared()
    by_torch, exact = run_by_torch(call), run_by_torch(wide(call))
    wrong = []
    for who, ours in (("eager", run_eagerly(call, graph)), ("compiled", run_compiled(call, graph))):
        assert ours.keys() == by_torch.keys()
        for what, result in ours.items():
            found = compare(result, by_torch[what], exact[what])
            if not Judged(what, result, exact[what], found).ok and not lucky(found, what, redraw):
                wrong.append(f"{who}, {what}: {found}")
    return wrong


def run_by_torch(call: Call) -> Results:
    """torch's result, gradients, and running statistics as it leaves them."""
    tensors = leaves(call)
    results = differentiated(call, tensors, call.by_torch(tensors))
    return results | {f"buffer {i}": tensors[i] for i in call.held}


def run_eagerly(call: Call, graph: Graph) -> Results:
    """The same of the torch executor, in the form that the graph declares."""
    tensors = leaves(call)
    feeds, state = apart(call, tensors)
    result = tn.eager(graph, feeds, state, training=True)["y"]
    left = state | tn.eager_updates(graph, feeds, state)
    return differentiated(call, tensors, result) | {f"buffer {i}": left[f"t{i}"] for i in call.held}


def run_compiled(call: Call, graph: Graph) -> Results:
    """The same of the kernels."""
    model = tn.compile(graph, training=True)
    tensors = leaves(call)
    feeds, state = apart(call, tensors)
    model.load_state_dict(state)
    result = model(**{name: t.to(model.device) for name, t in feeds.items()})["y"]
    left = model.tensors()
    return differentiated(call, tensors, result) | {f"buffer {i}": left[f"t{i}"].cpu() for i in call.held}


def leaves(call: Call) -> list[Tensor]:
    """Tensors of a run's own, which autograd watches where torch does."""
    return [t.detach().clone().requires_grad_(i in call.differentiated) for i, t in enumerate(call.tensors)]


def apart(call: Call, tensors: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors that are fed, and those that a model holds."""
    named = {f"t{i}": t for i, t in enumerate(tensors)}
    held = {f"t{i}" for i in call.held}
    return {n: t for n, t in named.items() if n not in held}, {n: t for n, t in named.items() if n in held}


def differentiated(call: Call, tensors: Sequence[Tensor], result: Tensor) -> Results:
    """The result, and its gradients for the tensors that torch differentiates; none flows: zeros."""
    found = {"result": result.detach().cpu()}
    if call.differentiated and result.requires_grad:
        d = torch.linspace(-1, 1, max(result.numel(), 1))[: result.numel()].reshape(result.shape)
        upstream = d.bfloat16().to(result)  # the same number in every dtype
        watched = [tensors[i] for i in call.differentiated]
        gradients = torch.autograd.grad(result, watched, upstream, allow_unused=True, materialize_grads=True)
        found |= {f"gradient {i}": g for i, g in zip(call.differentiated, gradients, strict=True)}
    return found


def lucky(found: Comparison, what: str, redraw: Callable[[int], Call]) -> bool:
    """Whether torch rounded these few numbers luckily: its worst error on others of their kind allows ours."""
    if not found.special or found.dtype == "float64":
        return False
    others = [found]
    for seed in range(1, REDRAWS + 1):
        call = redraw(seed)
        by_torch = run_by_torch(call)[what]
        others.append(compare(by_torch, by_torch, run_by_torch(wide(call))[what]))
    worst = replace(
        found,
        eager_max_error=max(c.eager_max_error for c in others),
        eager_rms_error=max(c.eager_rms_error for c in others),
    )
    return worst.ok


def check(name: str, dtype: torch.dtype, most: int | None, record_property: Callable[[str, object], None]) -> None:
    tally = Tally("torch's sample inputs (op_db)", name)
    infos = [info for info in op_infos(name) if dtype in info.dtypes]
    if not op_infos(name) and dtype == torch.float32:
        tally.leave_out("torch has no sample inputs for an op of this name")
    wrong = []
    for info in infos:
        samples = sample_inputs(info, dtype)
        for index in spread(len(samples), most):
            call = Call.of(info, samples[index])
            reason = call.out_of_scope()
            if reason is not None:
                tally.leave_out(reason)
                continue

            def redraw(seed: int, info=info, index=index) -> Call:
                return Call.of(info, sample_inputs(info, dtype, seed)[index])

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own functions warn of what their samples do
                wrong += [f"{info.full_name} sample {index}: {line}" for line in judged(call, redraw)]
            tally.ran += 1
    tally.record(record_property)
    assert not wrong, "\n".join(wrong)


def spread(count: int, most: int | None) -> list[int]:
    """Up to `most` indices below `count`, as far apart as they can be."""
    if most is None or count <= most:
        return list(range(count))
    if most == 1:
        return [count // 2]
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


@pytest.mark.parametrize("name", NAMES)
def test_op_agrees_with_torch_on_torchs_samples(name: str, record_property: Callable[[str, object], None]) -> None:
    check(name, torch.float32, QUICK, record_property)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=["bfloat16", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_op_agrees_with_torch_in_other_dtypes(
    name: str, dtype: torch.dtype, record_property: Callable[[str, object], None]
) -> None:
    check(name, dtype, 1, record_property)


@pytest.mark.slow
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=lambda d: str(d)[6:]
)
@pytest.mark.parametrize("name", NAMES)
def test_op_agrees_with_torch_on_more_of_torchs_samples(
    name: str, dtype: torch.dtype, record_property: Callable[[str, object], None]
) -> None:
    check(name, dtype, None if dtype == torch.float32 else MORE, record_property)


@pytest.mark.parametrize("name", NAMES)
def test_what_torch_refuses_raises(name: str, record_property: Callable[[str, object], None]) -> None:
    tally = Tally("torch's error inputs (op_db)", name)
    wrong = []
    for info in op_infos(name):
        for error in error_inputs(info):
            call = Call.of(info, error.sample_input)
            reason = call.out_of_scope()
            if reason is not None:
                tally.leave_out(reason)
                continue
            tally.ran += 1
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    run_compiled(call, call.declared())
            except TritonNotesError:
                continue
            except Exception as other:
                wrong.append(f"{call.arguments(call.tensors)}: {type(other).__name__}: {other}")
            else:
                wrong.append(f"{call.arguments(call.tensors)}: accepted; torch raises {error.error_regex}")
    tally.record(record_property)
    assert not wrong, "\n".join(wrong)


# -- the judges notice what is wrong, and overlook nothing -------------------------------------------------------------


def samples_of(name: str) -> list[Call]:
    return [Call.of(info, sample) for info in op_infos(name) for sample in sample_inputs(info, torch.float32)]


def test_a_wrong_formula_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ADAPTERS, "gelu", lambda x, approximate="none": tn.silu(x))
    for call in samples_of("gelu"):
        wrong = judged(call, lambda seed, call=call: call)
        assert {line.partition(":")[0] for line in wrong} == {
            "eager, result", "eager, gradient 0", "compiled, result", "compiled, gradient 0"
        }  # fmt: skip


def test_a_wrong_gradient_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPS["hardtanh"], "derive", lambda d_y, y, x, *, min_val, max_val: (d_y,))
    call = samples_of("hardtanh")[0]
    assert [line.partition(":")[0] for line in judged(call, lambda seed: call)] == ["compiled, gradient 0"]


@pytest.mark.parametrize("rule", OUT_OF_SCOPE, ids=lambda rule: rule.reason)
def test_a_rule_that_leaves_samples_out_has_some(rule: Rule) -> None:
    """A rule that holds for none would hide what it was made for."""
    for name in rule.ops or NAMES:
        for info in op_infos(name):
            samples = [*sample_inputs(info, torch.float32), *sample_inputs(info, torch.float64)]
            calls = [Call.of(info, s) for s in (*samples, *(e.sample_input for e in error_inputs(info)))]
            if any(call.out_of_scope() == rule.reason for call in calls):
                return
    raise AssertionError(f"{rule.ops}: no sample of torch's is left out because {rule.reason}")
