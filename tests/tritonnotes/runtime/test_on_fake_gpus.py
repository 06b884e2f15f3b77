"""Programs on GPUs that are not there: captures, streams, devices and threads, over a fake that refuses what CUDA does.

What kernels compute is judged elsewhere; here is judged where they run, over which memory, and what is replayed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from compiled import digits
from fake_cuda import CudaError, FakeCuda, Stream, Work, fake_cuda
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError, FeedError
from tritonnotes.ir.core.graph import Graph
from tritonnotes.judge.samples import draw_feeds
from tritonnotes.runtime import held
from tritonnotes.runtime.executors.executor import Launch
from tritonnotes.runtime.runner import Runner
from tritonnotes.torch_modules import device_of


@pytest.fixture(scope="module")
def convolved() -> Graph:
    """What torch.export makes of a module; it cannot run over a fake."""
    module = torch.nn.Sequential(torch.nn.Conv1d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(24, 5))
    return tn.from_torch(module, torch.rand(4, 3, 8), loss=torch.nn.functional.cross_entropy)


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with fake_cuda() as cuda:
        yield cuda


def make_step(device: str, products: str = "library") -> tn.TrainingStep:
    """A step. With products left to the library, one launch updates all weights by a table of addresses."""
    options: Any = {"optimizer": tn.adam(lr=1e-2), "seed": 3, "products": products, "device": device}
    return tn.compile_step(digits(), loss="loss", **options)


def feeds_on(device: str) -> dict[str, Tensor]:
    return {n: t.to(device) for n, t in draw_feeds(digits(), {"batch": 4}).items()}


def captured_step(device: str, products: str = "library") -> tuple[tn.TrainingStep, Callable[[], object]]:
    """A step that captures at its second batch, and what runs one batch."""
    step, feeds = make_step(device, products), feeds_on(device)
    step.capture()
    return step, lambda: step(**feeds)


def launched(cuda: FakeCuda, step: tn.TrainingStep, once: Callable[[], object]) -> list[tuple[str, Stream]]:
    """The kernels that ran meanwhile, by name, and on which stream."""
    names, before = {kernel.name for kernel in step.program.kernels}, len(cuda.ran)
    once()
    return [(work.name, work.stream) for work in cuda.ran[before:] if work.name in names]


def within(step: tn.TrainingStep, call: Callable[[], object], cuda: FakeCuda) -> list[bool]:
    """Call this before each launch of a capture. The list says whether that was so."""
    called: list[bool] = []

    def around(launch: Launch) -> Launch:
        def launch_within(*arguments: Any, **options: Any) -> None:
            if cuda.capturing:
                called.append(True)
                call()
            launch(*arguments, **options)

        return launch_within

    assert step._runner.captured is not None
    step._runner.captured.runner.around = around
    return called


# -- captures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("products", ["fastest", "library"])
def test_a_step_is_captured_on_each_device(cuda: FakeCuda, products: str) -> None:
    """The second device's capture follows the first's, and the current device is another one."""
    for index in (0, 1):
        step, once = captured_step(f"cuda:{index}", products)
        first, second, third = (launched(cuda, step, once) for _ in range(3))
        assert first == second == third and first
        assert {stream for _, stream in third} == {Stream(index, 0, cuda)}
        assert step.graph_reason is None
        assert torch.cuda.current_device() == 0


def test_a_failed_capture_leaves_the_caller_his_stream(cuda: FakeCuda) -> None:
    step, once = captured_step("cuda:1")
    within(step, lambda: torch.tensor([1.0], device="cuda:1"), cuda)
    torch.cuda.set_stream(mine := torch.cuda.Stream("cuda:1"))
    torch.cuda.set_stream(other := torch.cuda.Stream("cuda:0"))
    runs = [launched(cuda, step, once) for _ in range(3)]
    assert runs[0] == runs[1] == runs[2]
    assert {stream for run in runs for _, stream in run} == {mine}
    assert (torch.cuda.current_stream("cuda:1"), torch.cuda.current_stream()) == (mine, other)
    assert step.graph_reason is not None and "operation failed due to a previous error" in step.graph_reason


def test_a_thread_that_pins_memory_ends_no_capture(cuda: FakeCuda) -> None:
    failed: list[CudaError] = []

    def pin() -> None:
        try:
            cuda.allocate_on_host()
        except CudaError as error:
            failed.append(error)

    def pin_in_a_thread() -> None:
        thread = threading.Thread(target=pin)
        thread.start()
        thread.join()

    step, once = captured_step("cuda:0")
    pinned = within(step, pin_in_a_thread, cuda)
    runs = [launched(cuda, step, once) for _ in range(3)]
    assert step.graph_reason is None and pinned and not failed
    assert runs[0] == runs[2]


@pytest.mark.parametrize("others", [1, 40])
def test_tables_of_addresses_are_there_when_a_step_is_captured(cuda: FakeCuda, others: int) -> None:
    """A copy would end the capture. Between the first step and the second an equal program, which has the same module,
    makes tables of its own."""
    step, once = captured_step("cuda:0")
    assert "table_of(" in step.source
    other = captured_step("cuda:0")[0]
    once()
    for _ in range(others):
        for name, slot in other.slots.items():
            other.slots[name] = slot.clone()
        other(**feeds_on("cuda:0"))
    second, third = (launched(cuda, step, once) for _ in range(2))
    assert step.graph_reason is None and second == third


def test_a_step_is_captured_where_torch_makes_gradients_that_a_table_names(convolved: Graph, cuda: FakeCuda) -> None:
    """They lie elsewhere in each run, and in a capture, where no table can be copied to the GPU."""
    step = tn.compile_step(convolved, loss="loss", optimizer=tn.adam(), device="cuda:0")
    assert "table_of(" in step.source
    step.capture()
    feeds = {n: t.to("cuda:0") for n, t in draw_feeds(convolved, {"batch": 4}).items()}
    first, second, third = (launched(cuda, step, lambda: step(**feeds)) for _ in range(3))
    assert step.graph_reason is None and first == second == third


# -- streams and threads -----------------------------------------------------------------------------------------------


def memory_of(works: list[Work], names: set[str]) -> set[Any]:
    return {memory for work in works if work.name in names for memory in work.memory}


@pytest.mark.parametrize("is_captured", [False, True])
def test_streams_share_no_memory_but_the_leaves(cuda: FakeCuda, is_captured: bool) -> None:
    """Runs on two streams may overlap: each has its own temporaries, counts, tables and captures."""
    step, feeds = make_step("cuda:0"), feeds_on("cuda:0")
    if is_captured:
        step.capture()
    found: list[set[Any]] = []
    streams = [torch.cuda.Stream("cuda:0") for _ in range(2)]
    runner = step._runner.captured.runner if step._runner.captured is not None else step._runner.updating
    names = {kernel.name for kernel in runner.program.kernels}
    kept = []
    for stream in (*streams, *streams, *streams):
        before = len(cuda.ran)
        with torch.cuda.stream(stream):
            kept.append(step(**feeds))
        found.append(memory_of(cuda.ran[before:], names))
    leaves = {t.untyped_storage()._cdata for t in (*feeds.values(), *step.model.state_dict().values())}
    leaves |= {slot.untyped_storage()._cdata for slot in step.slots.values()}
    shared = {memory.cdata for memory in found[4] & found[5]}
    assert shared and shared <= leaves
    assert {memory.cdata for memory in found[0] & found[2]} - leaves, "one stream finds its own again"


def test_what_the_launches_of_a_program_go_through_those_of_an_equal_one_do_not() -> None:
    """Both have one module. The second one runs in a thread, while the first one is between two launches."""
    program = make_step("cpu").program
    first, second = (Runner(program, torch.device("cpu")) for _ in range(2))
    assert first.module is second.module
    seen: dict[str, list[str]] = {"first": [], "second": []}
    is_in_second, is_first_done = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: run(second))

    def run(runner: Runner) -> None:
        feeds = draw_feeds(program.graph, {"batch": 4})
        leaves = {v.name: torch.zeros(v.shape) for v in program.graph.leaves("parameter", "slot")}
        scalars = {v.name: 0.5 for v in program.graph.leaves("scalar")}
        runner.run({**leaves, **feeds}, {"batch": 4}, scalars)

    def of_first(launch: Launch) -> Launch:
        def watched(kernel: Any, *arguments: Any, **options: Any) -> None:
            seen["first"].append(kernel.__name__)
            if len(seen["first"]) == 1:
                thread.start()
                assert is_in_second.wait(20)

        return watched

    def of_second(launch: Launch) -> Launch:
        def watched(kernel: Any, *arguments: Any, **options: Any) -> None:
            seen["second"].append(kernel.__name__)
            is_in_second.set()
            if threading.current_thread() is thread:
                assert is_first_done.wait(20)

        return watched

    first.around, second.around = of_first, of_second
    run(first)
    is_first_done.set()
    thread.join()
    assert seen["first"] == seen["second"] and len(seen["first"]) > 1


# -- devices -----------------------------------------------------------------------------------------------------------


def test_a_tensor_of_another_gpu_is_refused(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a batch of the same shapes was taken. torch's own guards cannot see a fake's device: without them."""
    monkeypatch.setattr(held, "TensorGuards", None)
    step, _ = captured_step("cuda:0")
    feeds = feeds_on("cuda:0")
    for _ in range(2):
        with pytest.raises(FeedError, match=r"lies on cuda:1, the program on cuda:0"):
            step(**{**feeds, "x": feeds["x"].to("cuda:1")})
        step(**feeds)
    name = next(iter(step.slots))
    step.slots[name] = step.slots[name].to("cuda:1")
    with pytest.raises(FeedError, match=r"lies on cuda:1, the program on cuda:0"):
        step(**feeds)


@pytest.mark.parametrize(
    ("lies", "wanted", "fits"), [("cuda:1", "cuda:1", True), ("cuda:1", "cuda", True), ("cuda:1", "cuda:0", False)]
)
def test_a_module_is_compiled_for_the_gpu_that_it_lies_on(cuda: FakeCuda, lies: str, wanted: str, fits: bool) -> None:
    example: Tensor = torch.zeros(2, device=lies)
    if fits:
        assert device_of(torch.nn.Identity(), example, wanted) == torch.device(lies)
    else:
        with pytest.raises(DeclarationError, match=r"device is 'cuda:0', the module lies on 'cuda:1'"):
            device_of(torch.nn.Identity(), example, wanted)


def _gathered_step(device: str) -> None:
    step = tn.compile_step(digits(), loss="loss", optimizer=tn.clip(tn.adam(), 0.1), accumulate=2, device=device)
    for _ in range(2):
        step(**feeds_on(device))


def _model_with_backward(device: str) -> None:
    graph = Graph("norm")
    graph.output(y=tn.layer_norm(graph.input("x", (4, 16)), name="ln"))
    model = tn.compile(graph, training=True, device=device)
    model(x=torch.rand(4, 16, device=device))["y"].sum().backward()


def _module_and_optimizer(device: str) -> None:
    module = tn.nn.LayerNorm(16).to(device)
    optimizer = tn.optim.AdamW(module.parameters(), max_norm=1.0)
    module(torch.rand(4, 16, device=device)).sum().backward()
    optimizer.step()


def _function(device: str) -> None:
    tn.softmax(torch.rand(4, 16, device=device), -1)


@pytest.mark.parametrize("use", [_gathered_step, _model_with_backward, _module_and_optimizer, _function])
def test_all_work_goes_to_the_gpu_of_the_tensors(cuda: FakeCuda, use: Callable[[str], None]) -> None:
    """The current GPU is another one, and stays it."""
    use("cuda:1")
    assert {work.stream.device_index for work in cuda.ran} == {1}
    assert cuda.current_device() == 0
