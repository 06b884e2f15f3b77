"""Functions that a generated module may define above its kernels."""

from __future__ import annotations

GIVEN_LAUNCH = "launch=launch"
"""The last argument of whatever launches: who runs a module may launch in another way."""

LAUNCH = '''\
def launch(kernel, grid, *arguments, **options):
    """Launch a kernel on the current device; an empty grid launches nothing."""
    if all(grid):
        kernel[grid](*arguments, enable_fp_fusion=True, **options)
'''


ALL_REDUCE = '''\
def all_reduce(x, total):
    """Add up what processes have. With several, torch.distributed takes its place; one process has the whole sum."""
    total.copy_(x)
'''


CALLED = '''\
def flat(given):
    """The results of a call, counted through tuples and lists."""
    return [part for inner in given for part in flat(inner)] if isinstance(given, (tuple, list)) else [given]


def called(call, tensors, wanted=()):
    """Call torch. Of the tensors that are `wanted` it may be asked for `gradients` later. The modes of torch that
    surround the run, such as autocast, change nothing of it."""
    with torch.inference_mode(False), torch._C._DisableAutocast(), torch.set_grad_enabled(len(wanted) > 0):
        own = [tensor.clone() if wanted and tensor.is_inference() else tensor.data for tensor in tensors]
        inputs = [tensor.requires_grad_(number in wanted) for number, tensor in enumerate(own)]
        return inputs, flat(call(inputs))
'''


KEPT = '''\
def kept(made, number, shape, dtype):
    """Result `number` of what torch made. It is copied only where it lies in another's memory, or not in order."""
    given, results = made
    result = results[number].detach()
    if result.shape != shape:
        raise RuntimeError(f"torch gives {tuple(result.shape)} where {shape} is declared")
    memory = result.untyped_storage()
    is_own = memory.nbytes() == result.numel() * result.element_size()
    is_own = is_own and all(memory.data_ptr() != tensor.untyped_storage().data_ptr() for tensor in given)
    if is_own and result.dtype == dtype and result.is_contiguous() and result.data_ptr() % 16 == 0:
        return result
    return torch.empty(shape, dtype=dtype, device=result.device).copy_(result)
'''


GRADIENTS = '''\
def gradients(made, number, d, wanted, again=False):
    """torch's own gradient of result `number` of a call, for the tensors that are `wanted`. `again`: more follow."""
    inputs, results = made
    asked = [inputs[place] for place in wanted]
    found = [None] * len(asked)
    if results[number].requires_grad:
        with torch.inference_mode(False), torch._C._DisableAutocast():
            found = torch.autograd.grad(results[number], asked, d, retain_graph=again, allow_unused=True)
    return [*inputs, d], [torch.zeros_like(x) if g is None else g for x, g in zip(asked, found)]
'''

MAKES = "kept"
"""The one whose result is a buffer."""

CALLS_OF_TORCH = {"called": CALLED, MAKES: KEPT, "gradients": GRADIENTS}
"""What makes the calls of torch that a graph names. `run` takes these as arguments, so that who runs a module may note
them."""


PRECISION = '''\
def float32_precision():
    """How tensor cores may take float32: not at all, unless torch is told that tf32 will do, by its old name or new."""
    asked = torch.backends.cuda.matmul
    will_do = asked.fp32_precision == "tf32" if hasattr(asked, "fp32_precision") else asked.allow_tf32
    return "tf32" if will_do else "ieee"
'''


GIVEN_TABLES = "tables=None"
"""Who runs a module may keep the tables of its launches: a copy to the GPU for each would wait, and end a capture."""

TABLE_OF = '''\
def table_of(segments, tables):
    """What a kernel finds the tensors of each segment by, a row each: elements, whether all addresses are multiples of
    16, the addresses. Where `tables` are kept, one is made once for tensors that stay where they are."""
    device = segments[0][0].device
    places = [[tensor.data_ptr() for tensor in tensors] for tensors in segments]
    key = tuple(place for row in places for place in row)
    tables = {} if tables is None else tables
    if key not in tables:
        width = max(len(row) for row in places)
        rows = []
        for tensors, row in zip(segments, places):
            is_aligned = int(all(place % 16 == 0 for place in row))
            rows.append([tensors[0].numel(), is_aligned, *row, *[0] * (width - len(row))])
        tables[key] = torch.tensor(rows, device=device)
    return tables[key]
'''


LAUNCHER_HELPERS = {"float32_precision": PRECISION, "table_of": TABLE_OF}
"""What launchers call, by name, in the order in which a module defines it."""


IN_ARENA = '''\
def in_arena(lives, device):
    """Tensors in one arena for (shape, dtype, first launch, last launch) by name; all begin as zeros."""
    spans = {n: (math.prod(shape) * dtype.itemsize, *span) for n, (shape, dtype, *span) in lives.items()}
    offsets, total = place(spans)
    arena = torch.zeros(total, dtype=torch.uint8, device=device)
    held = {n: arena[offsets[n] : offsets[n] + spans[n][0]] for n in lives}
    return {n: held[n].view(dtype).view(shape) for n, (shape, dtype, *_) in lives.items()}
'''
