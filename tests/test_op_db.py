"""Every op that torch has too, on torch's own sample inputs: torch's function, `tn.eager` and the compiled kernel.

The reference is torch's function as `op_db` calls it, not the one in `tritonnotes/references.py`: that is judged here
as the kernels are, forward and backward, by the policy of `tritonnotes/tolerance.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from tally import Tally
from torch import Tensor
from torch_samples import ADAPTERS, OUT_OF_SCOPE, Call, Rule, error_inputs, op_infos, sample_inputs, wide

import tritonnotes as tn
from tritonnotes.ir.errors import TritonNotesError
from tritonnotes.ir.registry import OPS, catalogue
from tritonnotes.tolerance import Comparison, compare

NAMES = sorted(catalogue())
QUICK = 6
"""How many samples of an op the quick pass takes, spread over torch's list; two in the dtypes beside float32."""
REDRAWS = 32
Run = Callable[[Sequence[Tensor]], Tensor]


def judged(call: Call, redraw: Callable[[int], Call]) -> list[str]:
    """What is wrong: results and gradients of ours that are further from float64 than the policy allows."""
    graph = call.declared()
    model = tn.compile(graph)

    def fed(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        return {f"t{i}": t.to(model.device) for i, t in enumerate(tensors)}

    by_torch = differentiated(call, call.by_torch)
    exact = differentiated(wide(call), wide(call).by_torch)
    wrong = []
    for who, run in (("eager", lambda t: tn.eager(graph, fed(t))["y"]), ("compiled", lambda t: model(**fed(t))["y"])):
        ours = differentiated(call, run)
        assert len(ours) == len(by_torch)
        for place, results in enumerate(zip(ours, by_torch, exact, strict=True)):
            found = compare(*(r.cpu() for r in results))
            # For float64 eager is its own oracle: what cancels to nothing is as exact as the numbers it is made of.
            cancels = found.dtype == "float64" and found.special and found.max_error <= 1e-11
            if not (found.ok or cancels) and not lucky(found, place, redraw):
                wrong.append(f"{who}, {'result' if place == 0 else f'gradient {place - 1}'}: {found}")
    return wrong


def differentiated(call: Call, run: Run) -> list[Tensor]:
    """The result of `run`, then its gradients for the tensors that torch differentiates; none flows: zeros."""
    tensors = [t.detach().requires_grad_(i in call.differentiated) for i, t in enumerate(call.tensors)]
    result = run(tensors)
    watched = [t for t in tensors if t.requires_grad]
    if not (watched and result.requires_grad):
        return [result.detach()]
    d = torch.linspace(-1, 1, max(result.numel(), 1))[: result.numel()].reshape(result.shape)
    upstream = d.bfloat16().to(result)  # the same number in every dtype
    found = torch.autograd.grad(result, watched, upstream, allow_unused=True, materialize_grads=True)
    return [result.detach(), *found]


def lucky(found: Comparison, place: int, redraw: Callable[[int], Call]) -> bool:
    """Whether torch rounded these few numbers luckily: its worst error on others of their kind allows ours."""
    if not found.special or found.dtype == "float64":
        return False
    others = [found]
    for seed in range(1, REDRAWS + 1):
        call = redraw(seed)
        by_torch = differentiated(call, call.by_torch)[place]
        others.append(compare(by_torch, by_torch, differentiated(wide(call), wide(call).by_torch)[place]))
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
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


@pytest.mark.parametrize("name", NAMES)
def test_op_agrees_with_torch_on_torchs_samples(name: str, record_property: Callable[[str, object], None]) -> None:
    check(name, torch.float32, QUICK, record_property)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=["bfloat16", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_op_agrees_with_torch_in_other_dtypes(
    name: str, dtype: torch.dtype, record_property: Callable[[str, object], None]
) -> None:
    check(name, dtype, 2, record_property)


@pytest.mark.slow
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=lambda d: str(d)[6:]
)
@pytest.mark.parametrize("name", NAMES)
def test_op_agrees_with_torch_on_all_of_torchs_samples(
    name: str, dtype: torch.dtype, record_property: Callable[[str, object], None]
) -> None:
    check(name, dtype, None, record_property)


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
                    model = tn.compile(call.declared())
                model(**{f"t{i}": t.detach() for i, t in enumerate(call.tensors)})
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
    for name in (rule.op,) if rule.op else NAMES:
        for info in op_infos(name):
            samples = [*sample_inputs(info, torch.float32), *sample_inputs(info, torch.float64)]
            calls = [Call.of(info, s) for s in (*samples, *(e.sample_input for e in error_inputs(info)))]
            if any(call.out_of_scope() == rule.reason for call in calls):
                return
    raise AssertionError(f"{rule.op}: no sample of torch's is left out because {rule.reason}")
