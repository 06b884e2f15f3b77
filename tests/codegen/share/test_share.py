"""Launches that do the same share one kernel: which do, by what names, and that each gets what is its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from counted_work import calls_made
from hypothesis import given, settings
from hypothesis import strategies as st
from program_style import wrong
from torch import Tensor

import tritonnotes as tn
from tritonnotes.cli.show import show
from tritonnotes.codegen import pipeline
from tritonnotes.codegen.analysis import units
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.lower.lower import GeneratedKernel
from tritonnotes.codegen.lower.tile_ir import Kernel
from tritonnotes.codegen.pipeline import make_plan, make_program
from tritonnotes.codegen.program import program as programs
from tritonnotes.codegen.program.program import Program
from tritonnotes.codegen.share.naming import common_name
from tritonnotes.codegen.support import repeats as lines_that_repeat
from tritonnotes.codegen.target.cache import KernelCache
from tritonnotes.codegen.target.load import load_source
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.native.ttir.meaning import meaning_of
from tritonnotes.runtime.executors.execution import Execution
from tritonnotes.runtime.executors.executor import Launch
from tritonnotes.runtime.runner import Runner
from tritonnotes.tensors.dtypes import torch_dtype

CPU, WIDTH, BATCH = torch.device("cpu"), 8, tn.Dim("batch")

Layer = Callable[[Value, str], Value]

LAYERS: dict[str, Layer] = {
    "linear": lambda h, n: tn.linear(h, WIDTH, name=f"fc{n}"),
    "norm": lambda h, n: tn.layer_norm(h, name=f"norm{n}"),
    "gelu": lambda h, n: tn.gelu(h, name=f"gelu{n}"),
    "softmax": lambda h, n: tn.softmax(h, -1, name=f"softmax{n}"),
    "total": lambda h, n: h - tn.sum(h, 0, keepdim=True),
}


def stack(kinds: Sequence[str], names: Sequence[str]) -> Graph:
    """Equal blocks, one for each name."""
    graph = tn.Graph("stack")
    h = graph.input("x", (BATCH, WIDTH))
    for name in names:
        before = h
        for kind in kinds:
            h = LAYERS[kind](h, name)
        h = h + before
    graph.output(y=h, loss=tn.mean(tn.square(h)))
    return graph


def mlp(layers: int) -> Graph:
    graph = tn.Graph("mlp")
    h, y = graph.input("x", (BATCH, WIDTH)), graph.input("y", (BATCH,), "int64")
    for _ in range(layers):
        h = tn.relu(tn.linear(h, WIDTH))
    graph.output(loss=tn.cross_entropy(tn.linear(h, 3), y))
    return graph


def step(graph: Graph, fusion: str | Fusion = "greedy") -> Program:
    return make_program(joint_graph(graph, "loss", tn.adam()), fusion, declared=graph)


@contextmanager
def nothing_shared() -> Iterator[None]:
    """Programs have a kernel for each launch, if they are written in here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "shared_kernels", lambda kernels, *_: {kernel.name: kernel for kernel in kernels})
        yield


def groups(program: Program) -> list[list[str]]:
    """The launches that share a kernel."""
    return [[k.name for k in kernels] for kernels in program.launches_of.values() if len(kernels) > 1]


def leaves_of(program: Program, batch: int = 5) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for buffer in (b for b in program.buffers if b.role == "leaf"):
        shape = [batch if isinstance(size, tn.Dim) else size for size in buffer.shape]
        dtype = torch_dtype(buffer.dtype)
        is_float = buffer.dtype.is_float
        made[buffer.name] = torch.rand(shape, generator=generator) if is_float else torch.zeros(shape, dtype=dtype)
    return made


STRICT = Execution(strict=True)


def run(program: Program, how: Execution = STRICT) -> dict[str, Tensor]:
    """All outputs, and the leaves after the run."""
    leaves = leaves_of(program)
    scalars = {v.name: 0.5 for v in program.graph.leaves("scalar")}
    return {**Runner(program, CPU, how).run(leaves, {"batch": 5}, scalars), **leaves}


def assert_same_bits(program: Program, how: Execution = STRICT) -> None:
    shared = run(program, how)
    with nothing_shared():
        apart = run(replace(program), how)
    assert shared.keys() == apart.keys()
    different = [name for name in shared if not torch.equal(shared[name], apart[name])]
    assert not different


# -- which kernels are shared ------------------------------------------------------------------------------------------


def test_equal_layers_of_a_step_share_their_kernels() -> None:
    few, many = step(mlp(16)), step(mlp(24))
    assert len(many.kernels) > len(few.kernels) > len(few.launches_of)
    assert len(many.launches_of) == len(few.launches_of), "eight more layers, and no more kernels"
    assert many.source.count("@triton.jit") == few.source.count("@triton.jit")


@settings(max_examples=6)
@given(
    kinds=st.lists(st.sampled_from(list(LAYERS)), min_size=1, max_size=2, unique=True),
    names=st.sampled_from([["1", "2"], ["_0", "_1", "_2"], ["a", "b"], ["one2", "2one", "three"]]),
    fusion=st.sampled_from(["off", "greedy"]),
    trains=st.booleans(),
)
def test_shared_kernels_give_the_bits_of_kernels_of_their_own(
    kinds: list[str], names: list[str], fusion: str, trains: bool
) -> None:
    graph = stack([*kinds, "linear"] if trains and "linear" not in kinds else kinds, names)
    program = step(graph, fusion) if trains else make_program(optimize(decompose(graph)), fusion)
    assert_same_bits(program)
    assert_what_is_shared_means_the_same(program)
    assert not wrong(program)


def assert_what_is_shared_means_the_same(program: Program) -> None:
    """By the syntax of the kernels as each launch would have its own, which knows nothing of how they are made. What
    functions call their arguments is told apart where kernels call them, so that only kernels count that call none."""
    with nothing_shared():
        module = load_source(replace(program).source, KernelCache())
    lowered = {kernel.name: kernel for kernel in program.kernels}
    for group in (g for g in groups(program) if not _calls(lowered[g[0]])):
        meanings = {meaning_of(getattr(module, name)) for name in group}
        assert len(meanings) == 1 and None not in meanings, group


def _calls(kernel: GeneratedKernel) -> bool:
    return not isinstance(kernel, Kernel) or bool(kernel.called)


@pytest.mark.parametrize("how", [Execution(), Execution(strict=True, split=True)], ids=["native", "split"])
def test_each_launch_of_a_shared_kernel_gets_tensors_of_its_own(how: Execution) -> None:
    program = step(mlp(5))
    assert groups(program)
    assert_same_bits(program, how)


@pytest.mark.parametrize("fusion", ["off", "greedy", "optimal"])
def test_a_stack_is_what_torch_makes_of_it(fusion: str) -> None:
    model = tn.compile(stack(["norm", "gelu"], ["1", "2", "3"]), fusion=fusion, device="cpu")
    model.load_state_dict({name: torch.randn_like(p) for name, p in model.state_dict().items()})
    want = x = torch.randn(5, WIDTH)
    for number in (1, 2, 3):
        norm = [model.state_dict()[f"norm{number}.{what}"] for what in ("weight", "bias")]
        want = want + torch.nn.functional.gelu(torch.nn.functional.layer_norm(want, (WIDTH,), *norm))
    torch.testing.assert_close(model(x=x)["y"], want)


DIFFERENT: dict[str, tuple[Callable[[Value], Value], Callable[[Value], Value]]] = {
    "a constant": (lambda h: h * 2.0, lambda h: h * 3.0),
    "a constant's sign": (lambda h: tn.maximum(h, 0.0), lambda h: tn.maximum(h, -0.0)),
    "an op": (tn.sin, tn.cos),
    "the order of operands": (lambda h: 1.0 - tn.exp(h), lambda h: tn.exp(h) - 1.0),
    "an axis": (lambda h: tn.sum(h, 0), lambda h: tn.sum(h, 1)),
    "a part": (lambda h: tn.narrow(h, 1, 0, 4) * 2.0, lambda h: tn.narrow(h, 1, 4, 4) * 2.0),
    "a size": (lambda h: tn.narrow(h, 1, 0, 4) * 2.0, lambda h: tn.narrow(h, 1, 0, 5) * 2.0),
    "a dtype": (lambda h: tn.cast(h, "float16"), lambda h: tn.cast(h, "bfloat16")),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_in_anything_but_names_is_not_shared(what: str) -> None:
    first, second = DIFFERENT[what]
    graph = tn.Graph("pair")
    x = graph.input("x", (6, WIDTH))
    graph.output(a=first(x), b=second(x))
    program = make_program(optimize(decompose(graph)), "off")
    assert len(program.kernels) > 1
    shared = {frozenset(group) for group in groups(program)}
    outputs = [
        next(k.name for k in program.plan.launches if buffer in {v.name for v in k.stores})
        for buffer, _ in program.outputs.values()
    ]
    assert not any(set(outputs) <= group for group in shared)
    assert_what_is_shared_means_the_same(program)


def test_each_dropout_draws_numbers_of_its_own() -> None:
    graph = tn.Graph("pair")
    x = graph.input("x", (6, WIDTH))
    graph.output(a=tn.dropout(x, 0.5), b=tn.dropout(x, 0.5))
    program = make_program(optimize(decompose(graph)), "off")
    assert groups(program) == [["a_kernel_2", "b_kernel_2"], ["a_kernel_3", "b_kernel_3"]]
    assert list(program.launches_of) == ["a_kernel", "a_kernel_2", "a_kernel_3", "b_kernel"]


def test_kernels_of_a_chunk_are_shared_with_none_outside_of_it() -> None:
    """A loop over chunks launches its kernels again and again: each call is told from the others all the same."""

    def compiled(budget: int) -> tn.TrainingStep:
        graph = tn.Graph("heads")
        h, y = graph.input("x", (BATCH, WIDTH)), graph.input("y", (BATCH,), "int64")
        losses = [tn.cross_entropy(tn.linear(h, 64, name=f"head{n}"), y, name=f"loss{n}") for n in (1, 2)]
        graph.output(loss=losses[0] + losses[1])
        options: dict[str, Any] = {"optimizer": tn.sgd(lr=0.1), "seed": 3, "strict": True, "fusion": "greedy"}
        return tn.compile_step(graph, logits_budget=budget, **options)

    whole, chunked = compiled(2**30), compiled(16 * 64 * 4)
    program = chunked.program
    assert len({loop.name for loop in program.loops.values()}) == 2
    for kernels in program.launches_of.values():
        assert len({program.loops.get(kernel.name) for kernel in kernels}) == 1
    x, y = torch.randn(50, WIDTH), torch.randint(64, (50,))
    torch.testing.assert_close(chunked(x=x, y=y)["loss"], whole(x=x, y=y)["loss"])


# -- what they are called ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names, common",
    [
        (["linear_1_relu", "linear_2_relu_1", "linear_3_relu_2"], "linear_relu"),
        (["relu", "relu_1"], "relu"),
        (["layers.0.weight", "layers.2.weight"], "layers.weight"),
        (["fc1", "fc2"], "fc"),
        (["norm2_block_1", "norm2_block_2"], "norm2_block"),
        (["linear_1_relu", "linear_2_relu_1", "linear_3_h"], "linear_relu"),
        (["q", "k", "v"], "q"),
        (["x", "x"], "x"),
        (["1", "2"], "1"),
    ],
)
def test_what_names_have_in_common_is_what_is_written(names: list[str], common: str) -> None:
    assert common_name(names) == common


def test_a_shared_kernel_says_what_it_stands_for() -> None:
    program = step(mlp(3))
    source = program.source
    for name, kernels in program.launches_of.items():
        (function,) = (text for text in source.split("@triton.jit") if text.startswith(f"\ndef {name}("))
        said = f"Written once for {', '.join(k.name for k in kernels[:2])}"
        assert (said in " ".join(function.split())) == (len(kernels) > 1)
        assert source.count(f"    run_{name}(") == len(kernels)
        listed = source[: source.index("import torch")]
        assert all(f"# {kernel.name}: " in listed or f"#     {kernel.name}: " in listed for kernel in kernels)


def test_a_fault_in_a_shared_kernel_names_the_launch() -> None:
    program = make_program(optimize(decompose(stack(["softmax"], ["1", "2"]))), "off")
    *_, (_, second) = groups(program)
    name = program.written[second].name
    tensors = leaves_of(program)
    runner = Runner(program, CPU, STRICT)
    calls: list[str] = []

    def around(launch: Launch) -> Launch:
        def with_a_slip(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
            calls.append(kernel.__name__)
            slips = calls.count(name) == 2
            launch(kernel, grid, *(a[:1] if slips and isinstance(a, Tensor) else a for a in arguments), **options)

        return with_a_slip

    runner.around = around
    with pytest.raises(tn.TritonNotesError, match=rf"launch {second}: kernel {name}, "):
        runner.run(tensors, {"batch": 5}, {})


def test_lines_of_a_shared_kernel_are_of_all_that_share_it() -> None:
    program = step(mlp(5))
    lines = program.source.splitlines()
    assert len(program.line_map) == len(lines)
    relu = next(n for n, line in enumerate(lines, 1) if line.strip().startswith("relu_value = tl.where("))
    found = program.line_map[relu]
    ops = dict.fromkeys(o.name for o in found.origins if o.op == "relu")
    assert list(ops) == ["relu", "relu_1", "relu_2", "relu_3", "h"]
    assert found.launch == program.launches_of[found.function][0].name
    written = {o.value for line in program.line_map if line.role == "step" for o in line.origins}
    assert not {u.value.name for k in program.plan.kernels for u in k.units} - written


# -- who asks for a kernel by the name of its launch -------------------------------------------------------------------


def test_reports_and_stages_know_each_launch() -> None:
    graph = mlp(3)
    program = step(graph, "optimal")
    (first, second, *_), *_ = groups(program)
    name = program.written[second].name
    arguments: dict[str, Any] = {"loss": "loss", "optimizer": tn.adam()}
    assert show(graph, "triton", kernel=second, **arguments).text.count(f"def {name}(") == 1
    assert show(graph, "triton", kernel=first, **arguments) == show(graph, "triton", kernel=second, **arguments)
    assert show(graph, "plan", kernel=first, **arguments) != show(graph, "plan", kernel=second, **arguments)
    whole = show(graph, "triton", **arguments)
    assert [kernel["name"] for kernel in whole.data["kernels"]] == list(program.launches_of)


def test_the_text_of_a_step_hardly_grows_with_the_number_of_its_layers() -> None:
    few, many = (step(mlp(layers)).source.count("\n") for layers in (16, 24))
    assert many - few < 6 * (24 - 16), "less than six lines for each further layer, in all of the file"


@pytest.mark.parametrize("what", ["plan", "source"])
def test_work_grows_with_the_number_of_layers_and_no_faster(what: str) -> None:
    """Counted in calls of functions: three times as many layers take at most 3¹·¹ times as many."""

    def work(layers: int) -> int:
        joint = joint_graph(stack(["linear", "norm", "gelu"], [f"_{n}" for n in range(layers)]), "loss", tn.adam())
        if what == "plan":
            return calls_made(lambda: make_plan(joint, "greedy"))
        program = make_program(joint, "greedy")
        return calls_made(lambda: program.source)

    assert work(18) <= 3**1.1 * work(6)


@pytest.mark.parametrize("what", ["label_axes", "fuse_matmul_epilogues"])
def test_what_looks_at_neighbours_alone_grows_with_the_number_of_layers(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes that could walk over the whole graph for each value or product; at a share of planning this small, the
    work as a whole would not tell."""
    found: list[int] = []
    place: ModuleType = {"label_axes": units, "fuse_matmul_epilogues": pipeline}[what]
    real: Callable[..., Any] = getattr(place, what)

    def counted(*arguments: Any) -> Any:
        results: list[Any] = []
        found.append(calls_made(lambda: results.append(real(*arguments))))
        return results[0]

    monkeypatch.setattr(place, what, counted)
    for layers in (20, 60):
        make_plan(joint_graph(stack(["linear", "norm"], [f"_{n}" for n in range(layers)]), "loss", tn.adam()), "greedy")
    few, many = found[0], found[len(found) // 2]
    assert few < many <= 3.05 * few, f"{many} calls for three times as many layers, {few} before"


@pytest.mark.parametrize("how", [Execution(), STRICT], ids=["native", "strict"])
def test_loops_launch_what_their_lines_would(how: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launches of layers, the tensors that updates find in a table, and temporaries."""
    graph = stack(["norm", "linear"], [f"_{n}" for n in range(8)])
    program = step(graph, Fusion("greedy", products=False))
    source = program.source
    assert "for n in range(" in source and "*(row for n in range(" in source and "lives[f" in source
    looped = run(program, how)
    monkeypatch.setattr(lines_that_repeat, "LEAST", 10**6)
    plain = replace(program)
    assert "for n in range(" not in plain.source
    found = run(plain, how)
    assert looped.keys() == found.keys() and all(torch.equal(looped[name], found[name]) for name in found)
