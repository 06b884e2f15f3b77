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
    """Add up what processes have. Whoever runs several puts torch.distributed here; one alone has all there is."""
    total.copy_(x)
'''


PRECISION = '''\
def float32_precision():
    """How tensor cores may take float32: not at all, unless torch is told that tf32 will do, by its old name or new."""
    asked = torch.backends.cuda.matmul
    will_do = asked.fp32_precision == "tf32" if hasattr(asked, "fp32_precision") else asked.allow_tf32
    return "tf32" if will_do else "ieee"
'''


TABLE_OF = '''\
TABLES = {}


def table_of(segments):
    """What a kernel finds the tensors of each segment by, a row each: elements, whether all addresses are multiples of
    16, the addresses. A table is made once for tensors that stay where they are."""
    device = segments[0][0].device
    places = [[tensor.data_ptr() for tensor in tensors] for tensors in segments]
    key = (device, *(place for row in places for place in row))
    if key not in TABLES:
        if len(TABLES) >= 32:
            TABLES.clear()
        width = max(len(row) for row in places)
        rows = []
        for tensors, row in zip(segments, places):
            is_aligned = int(all(place % 16 == 0 for place in row))
            rows.append([tensors[0].numel(), is_aligned, *row, *[0] * (width - len(row))])
        TABLES[key] = torch.tensor(rows, device=device)
    return TABLES[key]
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
