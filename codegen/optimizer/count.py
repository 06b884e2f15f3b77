"""The kernel that counts steps on the device, so that a captured launch can be replayed and nothing waits for the host.

It works out the numbers that else the host works out, in float64, a row for each parameter.
"""

from __future__ import annotations

from ..emit.host import HostNumbers, cell, setting_or_key, triton_number
from ..emit.ops import helpers_called
from ..emit.prelude import GIVEN_LAUNCH
from ..support.names import Names
from ..support.text import INDENT, call_lines, python_function, wrapped
from .kinds import MultiTensorUpdate

COUNTING_KERNEL = "count_steps"


BLOCK = 128


def counted_numbers(update: MultiTensorUpdate) -> tuple[str, ...]:
    """What each parameter has a tensor of its own for: its step, and the rule's numbers."""
    return ("step", *update.optimizer.numbers)


def device_settings(update: MultiTensorUpdate) -> tuple[str, ...]:
    """What a tensor of float64 holds for all parameters: the hyperparameters."""
    return tuple(s for s in update.settings if s not in counted_numbers(update))


def counting_signature(update: MultiTensorUpdate) -> dict[str, str]:
    """A Triton type for each runtime argument."""
    tables = {"counts_ptr": "*i64", "settings_ptr": "*fp64", "numbers_ptr": "*fp64"}
    return tables | ({"found_inf_ptr": "*fp32"} if update.extras.skips else {}) | {"parameters": "i32"}


def counting_kernel(update: MultiTensorUpdate) -> tuple[str, frozenset[str]]:
    """The kernel and its launcher, and the helpers that it calls."""
    names = Names()
    counted = counted_numbers(update)
    known = {setting: names.claim(setting) for setting in dict.fromkeys((*counted, *update.settings))}
    host = HostNumbers(triton_number, setting_or_key, names, dict(known))
    loads, stores = [], []
    for i, name in enumerate(counted):
        pointer = f"{known[name]}_ptr"
        first = f"counts_ptr + {len(counted)} * parameter" if len(counted) > 1 else "counts_ptr + parameter"
        loads.append(f"{pointer} = tl.load({cell(first, i)}, mask=mask).to(tl.pointer_type(tl.float32))")
        more = " + 1.0" if name == "step" else ""
        loads.append(f"{known[name]} = tl.load({pointer}, mask=mask).to(tl.float64){more}")
        # The rule's own numbers are assigned, so that they have names.
        result = known[name] if name == "step" else host.name(update.columns[name][1])
        stores.append(f"tl.store({pointer}, {result}.to(tl.float32), mask=mask)")
    loads += [f"{known[name]} = tl.load({cell('settings_ptr', i)})" for i, name in enumerate(device_settings(update))]
    for column, (_, value) in enumerate(update.columns.values()):
        stores.append(f"tl.store({cell('row_ptr', column)}, {host.name(value)}, mask=mask)")
    arguments = list(counting_signature(update))
    body = [
        "parameter = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)",
        "mask = parameter < parameters",
        f"row_ptr = numbers_ptr + {len(update.columns)} * parameter",
        *loads,
        *host.lines,
        *stores,
    ]
    if update.extras.skips:
        body = ["if tl.load(found_inf_ptr) == 0.0:", *(INDENT + line for line in body)]
    about = (
        "Count a step of each parameter and work out its row of `numbers`. A row of `counts` holds the addresses of "
        f"its {' and '.join(counted)}."
    )
    given = [a.removesuffix("_ptr") for a in arguments]
    kernel = [
        "@triton.jit",
        *call_lines(f"def {COUNTING_KERNEL}(", [*arguments, "BLOCK: tl.constexpr"], "):"),
        f'{INDENT}"""{wrapped(about)}"""',
        *(INDENT + line for line in body),
    ]
    launching = [
        "grid = (triton.cdiv(parameters, BLOCK),)",
        f"launch({', '.join([COUNTING_KERNEL, 'grid', *given, 'BLOCK=BLOCK', 'num_warps=4'])})",
    ]
    launched = "Launch once, before the update: a lane for each parameter."
    launcher = python_function(f"run_{COUNTING_KERNEL}", [*given, f"BLOCK={BLOCK}", GIVEN_LAUNCH], launched, launching)
    return "\n".join(kernel) + f"\n\n\n{launcher}", helpers_called(host.statements)
