"""What TorchInductor would launch on an H100, read on a machine without one: `plans.py` runs it, case by case.

Inductor writes its Triton for tensors on the CPU under a stand-in driver that says "H100", and nothing is ever run.
Counted are kernel launches, library calls, and the bytes that its own `count_bytes` says the schedule reads and writes,
library calls included.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import triton.runtime.driver as driver
from torch import Tensor, nn
from triton.backends.compiler import GPUTarget


class StandIn:
    """A driver of a GPU that is not there."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        return torch.cpu

    @staticmethod
    def is_active() -> bool:
        return True


class Kernel:
    """A kernel that does nothing, whatever is asked of it."""

    def run(self, *arguments: Any, **options: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Kernel:
        return self

    def __call__(self, *arguments: Any, **options: Any) -> Kernel:
        return self


driver.set_active(StandIn())
# Inductor asks for the driver as it is imported.
import torch._functorch.config as functorch_config  # noqa: E402
import torch._inductor.async_compile as async_compile  # noqa: E402
import torch._inductor.config as config  # noqa: E402
import torch._inductor.graph as inductor_graph  # noqa: E402

config.cpu_backend = "triton"
config.force_disable_caches = True
config.compile_threads = 1
functorch_config.enable_autograd_cache = False
async_compile.AsyncCompile.triton = lambda self, name, source, device_str="cuda": Kernel()
async_compile.AsyncCompile.wait = lambda self, scope: None
# What no kernel writes is 0, so that eager code behind it, which takes indices and offsets, does not stumble.
torch._C._dynamo.guards._empty_strided_cpu = lambda *given: torch.empty_strided(*given[:2], dtype=given[2]).zero_()


def count(run: Callable[[], None]) -> dict[str, int]:
    """Run something that compiles as it goes, and count what Inductor planned for it."""
    wrappers: list[str] = []
    moved: list[int] = []
    generate = inductor_graph.GraphLowering.codegen

    def watched(lowering: Any) -> Any:
        out = generate(lowering)
        wrappers.append(getattr(out[0], "value", str(out[0])))
        moved.append(lowering.count_bytes()[0])
        return out

    inductor_graph.GraphLowering.codegen = watched
    try:
        run()
    except (RuntimeError, IndexError) as error:
        # What no kernel wrote is 0, at which eager code behind the compiled part may stumble.
        print(f"stopped by {type(error).__name__}: {error}", file=sys.stderr)
    kernels = sum(len(re.findall(r"^\s+\w+\.run\(", w, re.M)) for w in wrappers)
    calls = r"^\s+(?:\w+ = )?(?:extern_kernels\.\w|torch\.ops\.aten\.\w)"
    library = sum(len(re.findall(calls, w, re.M)) for w in wrappers)
    return {"launches": kernels + library, "bytes": sum(moved)}


class Classifier(nn.Module):
    """Linear, batch norm, PReLU; linear, layer norm, ELU; linear, cross entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn1, self.act1 = nn.Linear(64, 128), nn.BatchNorm1d(128), nn.PReLU()
        self.fc2, self.ln2 = nn.Linear(128, 128), nn.LayerNorm(128)
        self.fc3 = nn.Linear(128, 10)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.act1(self.bn1(self.fc1(x)))
        h = F.elu(self.ln2(self.fc2(h)))
        return F.cross_entropy(self.fc3(h), y)


class ResidualNet(nn.Module):
    """`nets.residual_net` in torch."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 10)
        self.linears = nn.ModuleList(nn.Linear(64, 64) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(blocks))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.first(x)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            h = F.gelu(norm(linear(h))) + h
        return F.cross_entropy(self.last(h), y)


class Digits(nn.Module):
    """The model of `examples/digits.py` in torch; its loss and how many it got right."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.ln1 = nn.Linear(64, 128), nn.LayerNorm(128)
        self.fc2, self.ln2 = nn.Linear(128, 128), nn.LayerNorm(128)
        self.fc3 = nn.Linear(128, 10)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.ln1(self.fc1(x)))
        h = torch.tanh(self.ln2(self.fc2(h))) + h
        logits = self.fc3(h)
        return F.cross_entropy(logits, y), (logits.argmax(-1) == y).float().mean()


def train(model: nn.Module) -> None:
    """Compile a model's step: forward, backward, update by Adam."""
    optimizer = torch.optim.Adam(model.parameters(), foreach=True)
    result = torch.compile(model)(torch.randn(256, 64), torch.randint(0, 10, (256,)))
    (result[0] if isinstance(result, tuple) else result).backward()
    torch.compile(optimizer.step)()


def backward(build: Callable[..., Tensor], *inputs: Tensor) -> None:
    result = torch.compile(build)(*inputs)
    result.backward(torch.ones_like(result))


def step() -> None:
    train(Classifier())


def ln_gelu() -> None:
    norm = nn.LayerNorm(1024)
    backward(lambda x: F.gelu(norm(x)) + x, torch.randn(4096, 1024, requires_grad=True))


def cross_entropy() -> None:
    def build(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return F.cross_entropy(logits, y), (logits.argmax(-1) == y).float().mean()

    logits = torch.randn(4096, 32000, requires_grad=True)
    torch.compile(build)(logits, torch.randint(0, 32000, (4096,)))[0].backward()


def batch_norm() -> None:
    norm = nn.BatchNorm2d(64)
    backward(lambda x: F.relu(norm(x)), torch.randn(32, 64, 28, 28, requires_grad=True))


def softmax() -> None:
    norm = nn.RMSNorm(1024)
    x, residual = (torch.randn(4096, 1024, requires_grad=True) for _ in range(2))
    backward(lambda x, r: norm(F.dropout(torch.softmax(x, -1), 0.1) + r), x, residual)


def swiglu() -> None:
    def build(x: Tensor) -> Tensor:
        gate, value = x.chunk(2, -1)
        return F.silu(gate) * value

    backward(build, torch.randn(4096, 2 * 11008, requires_grad=True))


def adam() -> None:
    parameters = [nn.Parameter(torch.randn(64 + i, 64)) for i in range(64)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    torch.compile(torch.optim.Adam(parameters, foreach=True).step)()


CASES = {f.__name__: f for f in (step, ln_gelu, cross_entropy, batch_norm, softmax, swiglu, adam)}

if __name__ == "__main__":
    torch.manual_seed(0)
    print(json.dumps(count(CASES[sys.argv[1]])))
