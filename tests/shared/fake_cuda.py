"""GPUs that are not there: `torch.cuda` and Triton's driver as recording fakes, which refuse what CUDA would refuse.

Tensors lie in the host's memory and say that they lie on a GPU; torch computes them on the CPU. A kernel of Triton is
compiled for an H100 as on one, and only recorded. `torch.cuda.graph`, `stream` and `device` are torch's own code: what
stands below them is replaced. Refused are: tensors of several devices in one operation, a kernel on another device than
its tensors or its stream, whatever waits for the host or copies from it during a capture, a memory call of any thread
that the mode of a capture forbids, and a replay over memory that was freed since.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

CPU = torch.device("cpu")

NOT_PERMITTED = "CUDA error: operation not permitted when stream is capturing"


class CudaError(RuntimeError):
    """What torch raises for a refusal of CUDA."""


@dataclass(frozen=True)
class Stream:
    """A stream of one device; number 0 is its default one."""

    device_index: int
    number: int
    cuda: FakeCuda = field(compare=False, repr=False)

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.device_index)

    @property
    def cuda_stream(self) -> int:
        """The handle that the driver takes."""
        return 1000 * self.device_index + self.number

    def wait_stream(self, other: Stream) -> None:
        """Work is done as it comes here, so nothing is left to wait for."""

    def synchronize(self) -> None:
        self.cuda.check_not_capturing(self)


@dataclass(frozen=True)
class Work:
    """A kernel or copy: what it is called, the stream that it was given to, and the memory that it was given."""

    name: str
    stream: Stream
    memory: frozenset[StorageWeakRef]


class Graph:
    """A CUDA graph. It keeps addresses, and the memory that was made in its capture; no other memory."""

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda
        self.works: list[Work] = []
        self.own: list[Any] = []
        self.mode, self.thread = "", 0
        self.stream: Stream | None = None
        self.is_broken = False

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global", **_: Any) -> None:
        self.stream = self._cuda.current_stream()
        if self.stream.number == 0:
            raise RuntimeError("CUDA graphs must be captured on a non-default stream.")
        self.mode, self.thread = capture_error_mode, threading.get_ident()
        self._cuda.capturing[self.stream] = self

    def capture_end(self) -> None:
        assert self.stream is not None
        if self._cuda.current_stream() != self.stream:
            raise RuntimeError("Capture must end on the same stream it began on.")
        del self._cuda.capturing[self.stream]
        if self.is_broken:
            raise CudaError("CUDA error: operation failed due to a previous error during capture")

    def replay(self) -> None:
        assert self.stream is not None and self.stream not in self._cuda.capturing
        own = {StorageWeakRef(storage) for storage in self.own}
        stream = self._cuda.current_stream(self.stream.device_index)
        for work in self.works:
            if any(memory.expired() for memory in work.memory - own):
                raise CudaError(f"CUDA error: an illegal memory access was encountered: {work.name} of a graph")
            self._cuda.ran.append(Work(work.name, stream, work.memory))


class FakeCuda:
    """`ran` is all that was launched or replayed, in order; `capturing` are the captures under way. A `fault` is what
    every call raises from then on."""

    def __init__(self, devices: int) -> None:
        self.devices = devices
        self.ran: list[Work] = []
        self.capturing: dict[Stream, Graph] = {}
        self.fault: CudaError | None = None
        self._device = 0
        self._made = 0
        self._current: dict[int, Stream] = {}
        self._pinned: set[StorageWeakRef] = set()
        self._places: dict[int, tuple[StorageWeakRef, torch.device]] = {}

    # -- what torch.cuda has ------------------------------------------------------------------------------------------

    def current_device(self) -> int:
        return self._device

    def exchange_device(self, index: int) -> int:
        before = self._device
        if index >= 0:
            self._device = index
        return before

    def index_of(self, device: Any) -> int:
        """The number of a device; None and `cuda` are the current one."""
        if isinstance(device, int):
            return device
        named = None if device is None else torch.device(device).index
        return self._device if named is None else named

    def new_stream(self, device: Any = None, priority: int = 0) -> Stream:
        self._made += 1
        return Stream(self.index_of(device), self._made, self)

    def current_stream(self, device: Any = None) -> Stream:
        index = self.index_of(device)
        return self._current.get(index, Stream(index, 0, self))

    def set_stream(self, stream: Stream | None) -> None:
        """As torch: the device of the stream becomes the current one."""
        if stream is not None:
            self._device = stream.device_index
            self._current[stream.device_index] = stream

    def synchronize(self, device: Any = None) -> None:
        self._check_no_fault()
        for stream in self.capturing:
            self.check_not_capturing(stream)

    def get_device_properties(self, device: Any = None) -> SimpleNamespace:
        return SimpleNamespace(multi_processor_count=132, L2_cache_size=50 * 2**20)

    # -- what CUDA refuses --------------------------------------------------------------------------------------------

    def check_not_capturing(self, stream: Stream) -> None:
        """Waiting for a stream, or copying pageable memory, breaks the capture of that stream."""
        graph = self.capturing.get(stream)
        if graph is not None:
            graph.is_broken = True
            raise CudaError(NOT_PERMITTED)

    def allocate_on_host(self) -> None:
        """`cudaHostAlloc`, as a thread that pins memory calls it."""
        for graph in self.capturing.values():
            is_own = graph.thread == threading.get_ident()
            if graph.mode == "global" or (graph.mode == "thread_local" and is_own):
                graph.is_broken = True
                raise CudaError(NOT_PERMITTED)

    # -- tensors and work ---------------------------------------------------------------------------------------------

    def device_of(self, tensor: Tensor) -> torch.device:
        found = self._places.get(tensor.untyped_storage()._cdata)
        return CPU if found is None else found[1]

    def place(self, tensor: Tensor, device: torch.device) -> None:
        """Say where a tensor lies that was just made. What a capture makes, its graph keeps."""
        storage = tensor.untyped_storage()
        known = storage._cdata in self._places
        self._places[storage._cdata] = StorageWeakRef(storage), device
        graph = None if device == CPU else self.capturing.get(self.current_stream(device))
        if graph is not None and not known:
            graph.own.append(storage)

    def pinned(self, tensor: Tensor) -> Tensor:
        """Say of a tensor that the host's memory does not move."""
        self._pinned.add(StorageWeakRef(tensor.untyped_storage()))
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        return StorageWeakRef(tensor.untyped_storage()) in self._pinned

    def copy_with_host(self, device: torch.device) -> None:
        """A copy between a device and the host's pageable memory, which waits for the stream."""
        self.check_not_capturing(self.current_stream(device))

    def _check_no_fault(self) -> None:
        if self.fault is not None:
            raise self.fault

    def work(self, name: str, device: torch.device, tensors: Iterable[Tensor]) -> None:
        """Give work to the current stream of a device."""
        self._check_no_fault()
        stream = self.current_stream(device)
        memory = frozenset(StorageWeakRef(t.untyped_storage()) for t in tensors)
        graph = self.capturing.get(stream)
        (self.ran if graph is None else graph.works).append(Work(name, stream, memory))

    def launch(self, name: str, handle: int, arguments: Sequence[Any]) -> None:
        """A kernel of Triton on the current device."""
        device = torch.device("cuda", self._device)
        stream = self.current_stream(device)
        if handle != stream.cuda_stream:
            raise CudaError(f"Triton Error [CUDA]: invalid resource handle: {name} on stream {handle} of {device}")
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        for tensor in tensors:
            if self.device_of(tensor) != device:
                lies = self.device_of(tensor)
                raise CudaError(f"CUDA error: an illegal memory access was encountered: {name} on {device}, not {lies}")
        self.work(name, device, tensors)


class _Named(TorchFunctionMode):
    """Calls that name a device make tensors that lie there; tensors say where they lie."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self._cuda = cuda

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, name = kwargs or {}, func.__name__
        if name == "__get__":  # of an attribute
            return self._read(func, args, given)
        if name == "pin_memory":
            self._cuda.allocate_on_host()
            return self._cuda.pinned(args[0].clone())
        if name == "to":  # perhaps as another tensor is
            like = {i: (self._cuda.device_of(a), a.dtype) for i, a in enumerate(args) if i and isinstance(a, Tensor)}
            args = [part for i, a in enumerate(args) for part in like.get(i, (a,))]
        named = [a for a in (*args, given.get("device")) if isinstance(a, torch.device | str)]
        wanted = self._wanted(named or [name] * (name in ("cpu", "cuda")))
        if wanted is None or name in ("device", "_parse_to"):
            return func(*args, **given)
        if name in ("to", "cuda", "cpu"):
            return self._moved(args[0], wanted, args[1:], given)
        args = [CPU if isinstance(a, torch.device | str) else a for a in args]
        made = func(*args, **({**given, "device": CPU} if "device" in given else given))
        if wanted != CPU:
            if name in ("tensor", "as_tensor"):
                self._cuda.copy_with_host(wanted)
            self._cuda.place(made, wanted)
            self._cuda.work(name, wanted, [made])
        return made

    def _read(self, func: Any, args: Any, given: Any) -> Any:
        """An attribute of a tensor."""
        match getattr(func.__self__, "__name__", ""):
            case "device":
                return self._cuda.device_of(args[0])
            case "is_cuda":
                return self._cuda.device_of(args[0]) != CPU
        return func(*args, **given)

    def _wanted(self, named: Sequence[Any]) -> torch.device | None:
        for device in named:
            try:
                found = torch.device(device)
            except RuntimeError:
                continue
            return torch.device("cuda", self._cuda.index_of(found)) if found.type == "cuda" else found
        return None

    def _moved(self, tensor: Tensor, wanted: torch.device, args: Any, given: Any) -> Tensor:
        source = self._cuda.device_of(tensor)
        kept = [a for a in args if not isinstance(a, torch.device | str)]
        others = {n: v for n, v in given.items() if n != "device"}
        made: Tensor = Tensor.to(tensor, CPU, *kept, **others)
        if wanted == source:
            return made
        if not (others.get("non_blocking") and self._cuda.is_pinned(tensor)):
            self._cuda.copy_with_host(source if wanted == CPU else wanted)
        if made.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
            made = made.detach().clone()
        self._cuda.place(made, wanted)
        if wanted != CPU:
            self._cuda.work("copy", wanted, [made])
        return made


_WAITS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)


class _Run(TorchDispatchMode):
    """Operations of torch, those of backward runs too: each is work for the current stream of its tensors' device."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self._cuda = cuda

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cuda = self._cuda
        given = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)]
        devices = {cuda.device_of(t) for t in given if t.dim() or cuda.device_of(t) != CPU}
        on_gpu = sorted(devices - {CPU}, key=str)
        if not on_gpu:
            return func(*args, **(kwargs or {}))
        if func is torch.ops.aten.copy_.default:
            target, source, *others = args
            if CPU in devices and not (others == [True] and cuda.is_pinned(source)):
                cuda.copy_with_host(on_gpu[0])
        elif len(devices) > 1:
            found = ", ".join(sorted(map(str, devices)))
            raise RuntimeError(f"Expected all tensors to be on the same device, but found {found}: {func}")
        if func in _WAITS:
            cuda.check_not_capturing(cuda.current_stream(on_gpu[0]))
        result = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        for tensor in made:
            if cuda.device_of(tensor) == CPU:
                cuda.place(tensor, on_gpu[0])
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not is_view:
            cuda.work(str(func), on_gpu[0], [t for t in (*given, *made) if cuda.device_of(t) != CPU])
        return result


class Driver:
    """Triton's driver of an H100 that launches nothing: `calls` are what compiled kernels were called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.utils = self
        self.cuda: FakeCuda | None = None

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        def run(x: int, y: int, z: int, stream: int, function: int, packed: Any, told: Any, *rest: Any) -> None:
            _, _, *arguments = rest
            self.calls.append((source.fn.__name__, (x, y, z), stream, function, packed, *arguments))
            if self.cuda is not None:
                self.cuda.launch(source.fn.__name__, stream, arguments)

        return run

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        return 1, hash(kernel), 32, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448, "multiprocessor_count": 132}

    def get_current_device(self) -> int:
        return 0 if self.cuda is None else self.cuda.current_device()

    def get_current_stream(self, device: int) -> int:
        return 7 if self.cuda is None else self.cuda.current_stream(device).cuda_stream

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


DRIVER = Driver()
"""One for all tests: compiled kernels keep the launcher that they got first."""


@contextmanager
def fake_cuda(devices: int = 2) -> Iterator[FakeCuda]:
    """So many GPUs, for as long as this is entered."""
    cuda = FakeCuda(devices)
    replaced = {
        "is_available": lambda: True,
        "device_count": lambda: devices,
        "get_device_name": lambda device=None: "fake",
        "_exchange_device": cuda.exchange_device,
        "_maybe_exchange_device": cuda.exchange_device,
        "empty_cache": lambda: None,
        "Stream": cuda.new_stream,
        "CUDAGraph": lambda: Graph(cuda),
    }
    same = ("current_device", "current_stream", "set_stream", "synchronize", "get_device_properties")
    replaced |= {name: getattr(cuda, name) for name in same}
    with ExitStack() as stack:
        for name, fake in replaced.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, fake))
        stack.enter_context(mock.patch.object(torch.cuda.graph, "default_capture_stream", None))
        stack.enter_context(mock.patch.object(torch._C, "_host_emptyCache", lambda: None, create=True))
        stack.enter_context(mock.patch.object(driver, "_active", DRIVER))
        stack.enter_context(mock.patch.object(DRIVER, "cuda", cuda))
        DRIVER.calls.clear()
        run_backward = torch.autograd._engine_run_backward

        def named(*given: Any, **options: Any) -> Any:
            with _Named(cuda):  # torch.autograd.grad leaves the mode
                return run_backward(*given, **options)

        stack.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", named))
        stack.enter_context(_Run(cuda))
        stack.enter_context(_Named(cuda))
        yield cuda
