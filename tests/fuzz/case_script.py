"""A case as a script that runs by itself: the graph, the same in torch, the numbers, and what both give."""

from __future__ import annotations

import inspect
import textwrap
import zlib
from collections.abc import Mapping

import plain_torch
import trials
from graph_cases import OPTIMIZERS, Case, declaration, declare, feeds_of, state_of
from torch import Tensor

HELPERS = ("batch_norm", "accuracy", "clipped")
FEW = 12
IMPORTS = (
    "from __future__ import annotations\n", "import torch", "from torch.nn import functional as F\n",
    "import tritonnotes as tn\n",
)  # fmt: skip


def script(case: Case, complaints: tuple[str, ...] = ()) -> str:
    """Source that shows the case: it imports torch and tritonnotes alone."""
    graph, _ = declare(case)
    body = plain_torch.lines(case)
    trained = bool(case.loss) and (not complaints or complaints[0].startswith("step"))
    used = "\n".join([*body, OPTIMIZERS[case.optimizer][1] if trained else ""])
    parts = [_head(case, complaints)]
    parts += [inspect.getsource(getattr(plain_torch, name)) for name in HELPERS if f"{name}(" in used]
    if "to(" in used:
        parts.append("def to(x, dtype):\n    return x.to(dtype)\n")
    parts.append("def graph():\n" + _indented([*declaration(case), "return g"]))
    parts.append(_plain(case, body))
    state = state_of(case, graph)
    names = {leaf.name: leaf.domain for leaf in case.leaves}
    feeds = [_tensors(f"feeds{i}", feeds_of(case, i), case.seed + 7919 * i, names) for i in range(2 if trained else 1)]
    parts += ["\n".join([*feeds, _tensors("state", state, case.seed, names)]) + "\n"]
    if case.small_tiles:
        parts.append(SMALL_TILES)
    parts.append(_trained(case) if trained else _modelled(case))
    return "\n\n".join(parts)


def _head(case: Case, complaints: tuple[str, ...]) -> str:
    said = "\n".join(textwrap.shorten(c, 300) for c in complaints[:3])
    lines = [f'"""Random graph {case.seed}.\n\n{said}\n"""\n' if said else f'"""Random graph {case.seed}."""\n']
    return "\n".join([*lines, *IMPORTS])


def _indented(lines: list[str]) -> str:
    return textwrap.indent("\n".join(lines), "    ") + "\n"


def _plain(case: Case, body: list[str]) -> str:
    leaves = [f'{x.name} = T["{x.name}"]' for x in case.leaves if x.kind != "constant"]
    sizes = [f"{name} = {size}" for name, size in case.sizes[0]]
    outputs = ", ".join(f"{n}={v}" for n, v in case.named_outputs().items())
    return "def plain(T, training):\n" + _indented([*leaves, *sizes, *body, f"return dict({outputs})"])


def _tensors(name: str, tensors: Mapping[str, Tensor], seed: int, domains: Mapping[str, str]) -> str:
    lines = [f'    "{n}": {_tensor(n, t, seed, domains.get(n, ""))},' for n, t in tensors.items()]
    return "\n".join([f"{name} = {{", *lines, "}"])


def _tensor(name: str, tensor: Tensor, seed: int, domain: str) -> str:
    if domain == "normal" and tensor.numel() > FEW:
        shape = ", ".join(map(str, tensor.shape))
        drawn = f"torch.Generator().manual_seed({zlib.crc32(f'{seed} {name}'.encode())})"
        return f"torch.randn({shape}, dtype=torch.float64, generator={drawn}).to({tensor.dtype})"
    return f"torch.tensor({tensor.tolist()}, dtype={tensor.dtype})"


SMALL_TILES = f"""from tritonnotes.runtime.executors import interpreted
from tritonnotes.runtime.runner import Runner

Runner.__init__.__kwdefaults__["tile"], interpreted.PROGRAMS = {trials.SMALL_TILE}, {trials.PARTS}
"""


def _modelled(case: Case) -> str:
    return f"""model = tn.compile(graph(), training={case.training}, fusion="{case.fusion}", strict={not case.native})
model.load_state_dict(state)
feeds = {{n: t.requires_grad_(t.is_floating_point()) for n, t in feeds0.items()}}
weights = {{n: t.clone().requires_grad_(t.is_floating_point()) for n, t in state.items()}}
for title, outputs, leaves in (
    ("compiled", model(**feeds), {{**feeds, **dict(model.named_parameters())}}),
    ("torch", plain({{**feeds, **weights}}, {case.training}), {{**feeds, **weights}}),
):
    print(title, outputs)
    total = sum(y.sum() for y in outputs.values() if y.requires_grad)
    watched = {{n: t for n, t in leaves.items() if t.requires_grad}}
    if watched and torch.is_tensor(total):
        grads = torch.autograd.grad(total, list(watched.values()), allow_unused=True)
        print(title, "gradients", dict(zip(watched, grads)))
"""


def _trained(case: Case) -> str:
    fused, plain = OPTIMIZERS[case.optimizer]
    options = "".join(f", {name}={value}" for name, value in (("strict", not case.native), *case.options))
    accumulate = dict(case.options).get("accumulate", 1)
    return f"""step = tn.compile_step(graph(), optimizer={fused}, fusion="{case.fusion}"{options})
step.model.load_state_dict(state)
held = {{n: t.clone().requires_grad_(t.is_floating_point() and "running" not in n) for n, t in state.items()}}
weights = [t for t in held.values() if t.requires_grad]
optimizer = {plain}
for number, feeds in enumerate((feeds0, feeds1), 1):
    print("compiled", step(**feeds), step.model.state_dict())
    outputs = plain({{**feeds, **held}}, True)
    (outputs["loss"] / {accumulate}).backward()
    if number % {accumulate} == 0:
        optimizer.step()
        optimizer.zero_grad()
    print("torch", outputs, held)
"""
