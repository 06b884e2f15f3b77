"""From the plan to tile programs: how a kernel cuts its axes, what it loads and stores, and how it computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from types import MappingProxyType
from typing import Any

from tritonnotes.ir.graph import Value
from tritonnotes.ir.types import Dim, DType, Shape, bool_, float32, float64, host, int32, int64

from ..analysis.axes import Labels, Space
from ..analysis.idioms import largest_of, selected_of
from ..analysis.matmul import Operand, is_ragged, operands, summed, summed_with
from ..analysis.units import FINALIZE, OPERAND, PARTIAL, PRODUCT, Unit, destinations_of
from ..analysis.views import (
    Place,
    base_of,
    cone_of,
    is_drawn,
    is_free,
    is_host,
    is_view,
    memory_of,
    needs_kernel,
    operand_cone,
    place_of,
)
from ..cost.traffic import compute_dtype
from ..plan.launches import FusionPlan, KernelPlan
from ..support.expressions import ZERO, number
from ..support.facets import Axis, identity_of
from ..support.names import Names, describe, identifier, uncounted
from ..support.sizes import next_power_of_2, static_size
from .index_math import Indexing
from .inline import with_last_block, with_operands, with_replicated_sums
from .tile_ir import COL, ROW, SCALAR, TILE, Address, Kernel, Layout, Parameter, Step, verify_kernel


def lower_kernel(
    plan: FusionPlan, kernel_plan: KernelPlan, called: Mapping[Value, str] = MappingProxyType({})
) -> Kernel:
    """The tile program of one kernel, verified. Its memories bear their own names, or what they are `called`."""
    kernel = _lowered(plan, kernel_plan, destinations_of(plan.units), called)
    verify_kernel(kernel)
    return kernel


def lower_grouped_member(plan: FusionPlan, kernel_plan: KernelPlan) -> Kernel:
    """The tile program of one of several kernels in one launch, verified: a function of the tile."""
    kernel = _Lowering(plan, kernel_plan, destinations_of(plan.units), inside="side").kernel()
    verify_kernel(kernel)
    return kernel


def _lowered(
    plan: FusionPlan, kernel_plan: KernelPlan, destinations: Mapping[Value, Value], called: Mapping[Value, str]
) -> Kernel:
    if not kernel_plan.parts:
        return _Lowering(plan, kernel_plan, destinations, called).kernel()
    first, *sums = kernel_plan.parts
    last_block = [_Lowering(plan, part, destinations, inside="last").kernel() for part in sums]
    return with_last_block(_Lowering(plan, first, destinations, called).kernel(), last_block, kernel_plan)


MAX_BLOCK = 1024


LOOPED_BLOCK = 2048
"""Columns of a step along a row that is too long to be held: 16 bytes for each thread of 4 warps, four times. Twice as
many make ptxas spill a register of cross entropy on sm_80 and sm_100."""


class _Lowering:
    """Builds one kernel."""

    def __init__(
        self,
        plan: FusionPlan,
        kernel_plan: KernelPlan,
        destinations: Mapping[Value, Value],
        called: Mapping[Value, str] = MappingProxyType({}),
        inside: str = "",
    ) -> None:
        self.plan = plan
        self.inside_of = inside
        self.replicated_sums: list[Kernel] = []
        self.kp = kernel_plan
        self.called = called
        self.axes = plan.units.axes
        self.destinations = destinations
        self.names = Names()
        self.names.taken.add(kernel_plan.name)
        self.parameters: dict[tuple[str, Value | str], Parameter] = {}
        self.steps: dict[Value, Step] = {}
        self.ordered: list[Step] = []
        self.memory_names: dict[Value, str] = {}
        self.inside = {u.value for u in kernel_plan.units if u.part != PARTIAL} | set(kernel_plan.recomputed)
        self.inner = ""
        self.operands: dict[tuple[Value, Address], Step] = {}
        self.prologue: list[Kernel] = []
        self.layout = self._layout()
        self.places = self._places() if self.layout.row_per_program else {}

    def kernel(self) -> Kernel:
        self._claim_memory_names()
        parts = {u.value: u.part for u in self.kp.units}
        for value in self._computed():
            if parts.get(value) == PARTIAL:
                self._accumulate(value)
            elif parts.get(value) == FINALIZE:
                self._finalize(value)
            elif parts.get(value) == PRODUCT:
                self._multiply(value)
            elif value in self.plan.units.replicated and self.inside_of != "own":
                self._replicate(value)
            elif value.op.kind == "gather":
                self._gather(value)
            elif value not in self.steps:
                self._compute(value)
        for value in self.kp.stores:
            self._store(value)
        if self.layout.row_per_program:
            self.ordered = _needed(self.ordered)
        made = Kernel(self.kp, self.layout, tuple(self._ordered_parameters()), tuple(self.ordered), self.axes)
        used = Indexing(made).names() | {s.name for s in self.ordered if s.op == "argument"}
        kept = tuple(p for p in made.parameters if p.role != "size" or p.name in used)
        return with_operands(with_replicated_sums(replace(made, parameters=kept), self.replicated_sums), self.prologue)

    def _computed(self) -> tuple[Value, ...]:
        """The values that are computed of a whole tile, in order: not those that only operands are made of."""
        if self.inside_of == "operand" or not self.kp.products:
            return self.kp.values
        needed: set[Value] = set()
        todo = [u.value for u in self.kp.units if u.part != OPERAND]
        while todo:
            value = todo.pop()
            if value not in needed:
                needed.add(value)
                is_product = any(value is p for p in self.kp.products)
                todo += () if is_product else [s for s in map(base_of, value.inputs) if s in self.inside]
        return tuple(v for v in self.kp.values if v in needed)

    # -- layout --

    def _layout(self) -> Layout:
        space = self.kp.space
        rows, cols = space.rows, space.cols
        has_product = bool(self.kp.products)
        is_split = space.reduces_rows or space.accumulates or space.finalizes or has_product
        if not is_split and self.inside_of != "operand":
            rows, cols = self._split_of(rows)
        col_shape = self.axes.shape(cols)
        length = static_size(col_shape)
        # A sum over rows and columns, or over row numbers alone, has one writer only if a program holds whole rows.
        whole_rows = space.reduces_rows or any(not self.axes.of(v) for v in self.kp.partials)
        loops_cols = self.kp.loop_reads is not None
        if not cols:
            block = 0
        elif has_product:
            block = self.kp.tile[1]
        elif loops_cols:
            block = LOOPED_BLOCK
        elif length is None:
            block = MAX_BLOCK
        else:
            block = next_power_of_2(length) if whole_rows else min(next_power_of_2(length), MAX_BLOCK)
        tiles_cols = bool(cols) and not whole_rows and (length is None or length > block)
        masks_cols = bool(cols) and (length is None or length % block != 0 or length == 0)
        total = static_size(self.axes.shape(rows)) or 0
        exact = total & -total
        tile = prod(self.kp.tile) if has_product else self._tile(block)
        if has_product:
            exact = exact if exact >= tile // block else 0
        masks_rows = bool(rows) and exact < (min(128, next_power_of_2(total)) if not cols else max(1, tile // block))
        masks_rows |= bool(rows) and not exact
        row_per_program = self.kp.row_per_program is not None
        if row_per_program:
            # A launch of no rows has one program all the same, where sums are to be finished.
            masks_rows = space.accumulates and not total
        return Layout(
            rows, cols, self.axes.shape(rows), col_shape, block, masks_cols, tiles_cols, loops_cols, space.accumulates,
            space.finalizes,
            exact, masks_rows, tile, self.inside_of,
            self.kp.split_k, row_per_program,
        )  # fmt: skip

    def _tile(self, block: int) -> int:
        """Elements of a tile. Flat kernels take 8 elements a thread, 16 bytes or more of each operand: of 16-bit
        numbers twice as many make ptxas spill a register here and there, to fit more programs. Tiles with columns keep
        several values alive, so they are smaller than registers would allow at first sight."""
        sizes = [self.kp.storage[memory_of(v)].itemsize for v in (*self.kp.loads, *self.kp.stores) if v.dtype.is_float]
        widest = max(sizes, default=4)
        if not block:
            return 1024 if widest <= 4 else 512
        if widest == 8:
            return 512
        # Short rows reduce across few lanes and keep many numbers for each row: half a tile stays clear of spilling.
        return 1024 if block < 64 else 2048

    def _split_of(self, axes: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Where to cut an elementwise kernel into rows and columns so that most operands are walked without
        division.
        """
        operands = [tuple(a for a in self.axes.labels[v] if a is not None) for v in (*self.kp.loads, *self.kp.stores)]
        operands = [o for o in operands if o]
        if not axes:
            return (), ()

        def is_plain(operand: tuple[int, ...], rows: tuple[int, ...], cols: tuple[int, ...]) -> bool:
            front, back = operand[: len(operand) - len(cols)], operand[len(operand) - len(cols) :]
            return operand in (rows, cols) or (front == rows and back == cols)

        def plain(cut: int) -> int:
            return sum(is_plain(o, axes[:cut], axes[cut:]) for o in operands)

        # Uncut is best where it serves all; of equal cuts the one with the shortest rows wins.
        cut = max(range(len(axes), 0, -1), key=lambda c: (plain(c), c == len(axes), c))
        return axes[:cut], axes[cut:]

    # -- names --

    def _claim_memory_names(self) -> None:
        """Arguments first: their names are the users' own."""
        memories = [memory_of(v) for v in self.kp.loads] + [self.destinations.get(v, v) for v in self.kp.stores]
        for memory in memories:
            if memory not in self.memory_names:
                self.memory_names[memory] = self._claim(memory)

    def _claim(self, value: Value, described: str = "") -> str:
        hint = value.hint or ""
        scope = identifier(value.scope.name)
        whole = uncounted(value)
        if value.is_leaf or value in self.called:
            return self.names.claim(self.called.get(value, ""), whole)
        scoped = f"{scope}_{hint}" if hint and scope and scope != hint else ""
        return self.names.claim(hint, scoped, described, whole)

    # -- steps --

    def _add(self, step: Step) -> Step:
        self.ordered.append(step)
        return step

    def _compute(self, value: Value) -> None:
        if self.layout.row_per_program and (self._selects(value) or self._exponentiates_anew(value)):
            return
        args = [self._resolve(a) for a in value.inputs]
        attrs: dict[str, Any] = {}
        form = _join(a.form for a in args)
        if value.op.kind == "reduction":
            (arg,) = args
            wanted = TILE if self.layout.rows and self.layout.cols else COL
            if arg.form != wanted:
                arg = self._broadcast(arg, wanted)
                args = [arg]
            form = ROW if self.layout.rows else SCALAR
            attrs["axis"] = Axis(0) if self.layout.is_flat else Axis(1, keeps=True)
            self._mask_reduction(attrs, value.op.name, arg, rows=False)
        dtype = self._dtype_of(value, args)
        if value.op.name == "cast":
            attrs["dtype"] = dtype
        place = self.places.get(value)
        if place is not None:
            attrs["place"] = self._claim(place, "place")
        step = Step("", value.op.name, tuple(a.name for a in args), form, dtype, attrs, scope=value.scope)
        made = self._assign(value, step)
        if place is not None:
            found = Step(attrs["place"], "place", (made.name,), ROW, int32, {}, True, place.scope)
            self.steps[place] = self._add(found)

    def _places(self) -> dict[Value, Value]:
        """For each maximum whose place is asked for, that place: both come of one reduction."""
        wide = frozenset(self.layout.cols)
        found = {v: largest_of(self.axes, wide, v) for v in self.kp.values}
        return {largest: place for place, largest in found.items() if largest in self.inside}

    def _exponentiates_anew(self, value: Value) -> bool:
        """eˣ / Σ eˣ as eˣ⁻ˡ, where l = ln Σ eˣ is known: the exponentials of the sum need not be kept for it."""
        if value.op.name != "div":
            return False
        exponential, total = map(base_of, value.inputs)
        if exponential.op.name != "exp" or total.op.name != "sum" or base_of(total.inputs[0]) is not exponential:
            return False
        log = next((v for v in self.steps if v.op.name == "log" and base_of(v.inputs[0]) is total), None)
        if log is None or exponential not in self.inside:
            return False
        args = self._resolve(exponential.inputs[0]).name, self.steps[log].name
        name = self.names.claim(f"{args[0]}_less_{args[1]}")
        less = self._add(Step(name, "sub", args, TILE, self.steps[exponential].dtype, {}, False, value.scope))
        self._assign(value, Step("", "exp", (less.name,), TILE, less.dtype, {}, scope=value.scope))
        return True

    def _selects(self, value: Value) -> bool:
        """Where a maximum is that over a single column of a row in memory, load that element: alone, or less a number
        of the row."""
        wide = frozenset(self.layout.cols)
        found = selected_of(self.axes, wide, value)
        if found is None:
            return False
        x, number = found
        less = None
        if x in self.inside and x.op.name == "sub" and not self.axes.of(x.inputs[1]) & wide:
            x, less = base_of(x.inputs[0]), x.inputs[1]
        load = self._resolve(x) if x not in self.inside else None
        if load is None or load.op != "load" or load.form != TILE or self.axes.labels[x][-1:] != self.layout.cols:
            return False
        address = load.attrs["address"]
        rows = Address(tuple(d for d in address.dims if d[0] not in wide), address.extent)
        attrs = MappingProxyType({**load.attrs, "address": rows})
        row = self._resolve(number)
        step = Step("", "pick", (row.name,), ROW, load.dtype, attrs, scope=value.scope)
        if less is None:
            self._assign(value, step)
            return True
        name = self.names.claim(f"{load.name}_at_{row.name}")
        selected = self._add(replace(step, name=name, is_named=False))
        taken = Step("", "sub", (selected.name, self._resolve(less).name), ROW, load.dtype, {}, scope=value.scope)
        self._assign(value, taken)
        return True

    def _assign(self, value: Value, step: Step) -> Step:
        described = describe(step.op, [self._text(a) for a in step.args])
        if value in self.memory_names:
            name = self.memory_names[value]
        else:
            name = self._claim(value, described) if value.hint else self.names.claim(described, uncounted(value))
        named = Step(
            name,
            step.op,
            step.args,
            step.form,
            step.dtype,
            MappingProxyType(dict(step.attrs)),
            value.hint is not None,
            value.scope,
        )
        self.steps[value] = self._add(named)
        return named

    def _text(self, name: str) -> str:
        step = next(s for s in self.ordered if s.name == name)
        return str(step.attrs["number"]) if step.op == "number" else name

    def _mask_reduction(self, attrs: dict[str, Any], op: str, arg: Step, rows: bool) -> None:
        """Lanes outside the tensor must not reach a reduction: they take its identity."""
        lanes_outside = self.layout.masks_rows if rows else self.layout.masks_cols
        if lanes_outside:
            attrs["masked"] = True
            attrs["identity"] = identity_of(op, arg.dtype)
            attrs["mask"] = "row" if rows else "col"

    def _accumulate(self, value: Value) -> None:
        (source,) = value.inputs
        arg = self._resolve(source)
        have_cols = bool(self.axes.of(source) & frozenset(self.layout.cols))
        keeps_cols = bool(self.axes.of(value))
        wanted = (TILE if have_cols else ROW) if self.layout.cols else ROW
        if arg.form != wanted:
            arg = self._broadcast(arg, wanted)
        if self.layout.is_flat:
            axis = Axis(0)
        elif keeps_cols:
            axis = Axis(0, keeps=True)
        else:
            axis = Axis(None)
        attrs: dict[str, Any] = {"axis": axis, "reduction": value.op.name, "both": have_cols and not keeps_cols}
        # A sum of whole tiles must leave out what lies behind the columns too, where no row is missing.
        over_cols_alone = attrs["both"] and not self.layout.masks_rows
        self._mask_reduction(attrs, value.op.name, arg, rows=not over_cols_alone)
        attrs["identity"] = identity_of(value.op.name, arg.dtype)
        stem = uncounted(value)
        memory = self.names.claim(f"{value.hint or stem}_partial", f"{stem}_partial")
        pointer = self._parameter(("partial", value), f"{memory}_ptr", "partial out", value, arg.dtype)
        attrs["pointer"] = pointer.name
        attrs["columns"] = keeps_cols
        attrs["address"] = self._address(value, place_of(value))
        name = self._claim(value, describe(value.op.name, [self._text(arg.name)]))
        self._add(
            Step(
                name,
                "carry",
                (arg.name,),
                COL if keeps_cols else SCALAR,
                arg.dtype,
                MappingProxyType(attrs),
                True,
                value.scope,
            )
        )

    def _finalize(self, value: Value) -> None:
        dtype = compute_dtype(value.dtype)
        stem = uncounted(value)
        memory = self.names.claim(f"{value.hint or stem}_partial", f"{stem}_partial")
        pointer = self._parameter(("partial", value), f"{memory}_ptr", "partial in", value, dtype)
        form = ROW if self.layout.rows else SCALAR
        attrs = {
            "reduction": value.op.name,
            "pointer": pointer.name,
            "identity": identity_of(value.op.name, dtype),
            "address": self._address(value, place_of(value)),
        }
        name = self.memory_names.get(value) or self._claim(value)
        self.steps[value] = self._add(
            Step(name, "combine", (), form, dtype, MappingProxyType(attrs), True, value.scope)
        )

    def _multiply(self, value: Value) -> None:
        """A matrix product, tile by tile: its operands are read from memory along the axis that is summed over."""
        others = (v for v in self._computed() if v.op.kind != "contraction")
        plainly = {memory_of(a) for v in others for a in v.inputs}
        args = []
        for operand in operands(self.axes, value):
            memory = memory_of(operand.value)
            if memory in self.inside:
                args.append(self._fuse_prologue(operand))
                continue
            address = Address(tuple((axis, behind, 0) for axis, behind in operand.dims), operand.extent)
            known = self.operands.get((memory, address))
            if known is not None:
                args.append(known)
                continue
            storage = self.kp.storage[memory]
            name = self.memory_names[memory]
            parameter = self._parameter(("memory", memory), f"{name}_ptr", "in", memory, storage)
            attrs = {"pointer": parameter.name, "address": address, "storage": storage, "behind": operand.behind}
            form = self._form(frozenset(axis for axis, _ in operand.dims))
            if memory in plainly or any(m is memory for m, _ in self.operands):
                name = self.names.claim(f"{name}_{'rows' if form == ROW else 'columns'}")
            step = self._add(Step(name, "operand", (), form, storage, MappingProxyType(attrs), True))
            self.operands[memory, address] = step
            args.append(step)
        self.inner = self.inner or self.names.claim("inner")
        attrs = {"summed": summed(value), "inner": self.inner}
        if self.layout.split_k:
            stem = f"{value.hint or uncounted(value)}_shares"
            key = ("partial", value)
            attrs["pointer"] = self._parameter(key, f"{self.names.claim(stem)}_ptr", "partial out", value, float32).name
            attrs["arrivals"] = "arrivals_ptr"
            attrs["address"] = self._address(value, place_of(value))
            self.parameters["arrivals", value] = Parameter("arrivals_ptr", "arrivals", None, int32)
        for size in summed(value):
            if isinstance(size, Dim):
                self._size_parameter(size)
        args.sort(key=lambda step: step.form != ROW)
        self._assign(value, Step("", "product", tuple(a.name for a in args), TILE, float32, attrs, scope=value.scope))

    def _fuse_prologue(self, operand: Operand) -> Step:
        """An operand that is computed here, block by block: a function of the rows and columns of a block."""
        value = operand.value
        rows, cols = (tuple(a for a in some if a is not None) for some in _ends(self.axes.labels[value]))
        members = operand_cone(value, self.inside)
        loads = dict.fromkeys(
            s for v in members for s in map(base_of, v.inputs)
            if s not in set(members) and not is_free(s) and not is_host(s)
        )  # fmt: skip
        name = f"tile_{uncounted(value)}_{self.kp.name}"
        plan = replace(
            self.kp, name=name, kind="elementwise", units=tuple(Unit(v, OPERAND) for v in members), recomputed=(),
            space=Space(rows, cols), loads=tuple(loads), stores=(), partials=(), finalizes=(),
            loop_reads=None, split_k=0,
        )  # fmt: skip
        form = self._form(frozenset(axis for axis, _ in operand.dims))
        mine = self.layout.masks_rows if form == ROW else self.layout.masks_cols
        along = is_ragged(summed_with(operand, self.kp.products))
        lowering = _Lowering(self.plan, plan, {}, inside="operand")
        masks = (mine, along) if not operand.behind else (along, mine)
        lowering.layout = replace(lowering.layout, masks_rows=masks[0], masks_cols=masks[1])
        self.prologue.append(lowering.kernel())
        taken = self.memory_names.get(value) or self._claim(value)
        attrs = MappingProxyType({"function": name, "leading": bool(operand.behind)})
        return self._add(Step(taken, "operand", (), form, value.dtype, attrs, True, value.scope))

    def _replicate(self, value: Value) -> None:
        """A sum that each program takes for itself: a kernel of one program that leaves no partial sums."""
        members, leaves = cone_of(value)
        units = (*(Unit(m) for m in members if needs_kernel(m)), Unit(value, PARTIAL))
        space = Space(tuple(a for a in self.axes.labels[value.inputs[0]] if a is not None), (), accumulates=True)
        storage = {leaf: leaf.dtype for leaf in leaves}
        name = f"own_{uncounted(value)}"
        plan = KernelPlan(name, "column", units, (), space, leaves, (), (value,), (), None, storage)
        kernel = _Lowering(self.plan, plan, {}, inside="own").kernel()
        self.replicated_sums.append(
            replace(kernel, parameters=tuple(p for p in kernel.parameters if p.role != "partial out"))
        )
        step = next(s for s in kernel.steps if s.op == "carry")
        name = self.memory_names.get(value) or self._claim(value)
        attrs = MappingProxyType({"function": kernel.name})
        self.steps[value] = self._add(Step(name, "own", (), SCALAR, step.dtype, attrs, True, value.scope))

    def _resolve(self, value: Value) -> Step:
        """The step that holds a value: computed here, a number, an index, an argument, or loaded."""
        if value in self.steps:
            return self.steps[value]
        if value.op.name == "constant":
            return self._number(value)
        if value.op.name == "iota":
            return self._index(value)
        if is_drawn(value):
            return self._draw(value)
        if value.dtype is host:
            return self._argument(value)
        if is_view(value):
            self.steps[value] = found = self._resolve(value.inputs[0])
            return found
        return self._load(value)

    def _number(self, value: Value) -> Step:
        dtype = value.dtype if value.dtype is not host else float32
        written = number(value.attrs["value"])
        attrs = MappingProxyType({"number": written})
        name = f"number {written} {dtype}"
        found = next((s for s in self.ordered if s.name == name), None)
        return found or self._add(Step(name, "number", (), SCALAR, compute_dtype(dtype), attrs, False))

    def _index(self, value: Value) -> Step:
        (axis,) = self.axes.of(value) or (None,)
        if axis is None:
            return self._add(Step(self.names.claim("zero_index"), "number", (), SCALAR, int32, {"number": ZERO}, False))
        form = ROW if axis in self.layout.rows else COL
        attrs = MappingProxyType({"of_axis": axis})
        name = f"index {axis}"
        found = next((s for s in self.ordered if s.name == name), None)
        self.steps[value] = found = found or self._add(Step(name, "index", (), form, int32, attrs, False))
        return found

    def _draw(self, value: Value) -> Step:
        """Random numbers are made where they are needed, from the place of each element."""
        drawn = memory_of(value)
        (seed,) = drawn.inputs
        key = ("scalar", seed)
        if key not in self.parameters:
            name = self.names.claim(seed.name.rpartition(".")[2], identifier(seed.name))
            self.parameters[key] = Parameter(name, "scalar", seed, int64)
        attrs = {
            "address": self._address(value, place_of(value)),
            "seed": self.parameters[key].name,
            "stream": drawn.attrs["stream"],
        }
        name = self.names.claim(value.hint or "", identifier(value.name))
        form = self._form(self.axes.of(value))
        step = Step(name, "uniform", (), form, float32, MappingProxyType(attrs), value.hint is not None, value.scope)
        self.steps[value] = self._add(step)
        return step

    def _argument(self, value: Value) -> Step:
        """A number that the host knows: a size goes in as an int, everything else as a float."""
        if value.op.name == "constant":
            return self._number(value)
        if value.op.name == "dim_size":
            parameter = self._size_parameter(Dim(value.attrs["dim"]))
            dtype = float32
        else:
            dtype = self._scalar_dtype()
            stem = identifier(value.hint or (value.name.rpartition(".")[2] if value.is_leaf else ""))
            described = describe(value.op.name, [self._host_text(a) for a in value.inputs])
            key = ("scalar", value)
            if key not in self.parameters:
                name = self.names.claim(stem, described, uncounted(value))
                self.parameters[key] = Parameter(f"{name}_ptr" if dtype is float64 else name, "scalar", value, dtype)
            parameter = self.parameters[key]
        name = parameter.name.removesuffix("_ptr") if parameter.dtype is float64 else parameter.name
        attrs = MappingProxyType({"pointer": parameter.name} if parameter.is_pointer else {})
        self.steps[value] = step = self._add(Step(name, "argument", (), SCALAR, dtype, attrs, parameter.is_pointer))
        return step

    def _scalar_dtype(self) -> DType:
        """Arguments arrive as float32; a kernel on float64 reads them from memory instead."""
        return float64 if any(v.dtype is float64 for v in (*self.kp.values, *self.kp.loads)) else float32

    def _host_text(self, value: Value) -> str:
        if value.op.name == "constant":
            return str(number(value.attrs["value"]))
        return identifier(value.hint or value.name.rpartition(".")[2])

    def _load(self, value: Value) -> Step:
        memory = memory_of(value)
        storage = self.kp.storage[memory]
        name = self.memory_names.get(memory) or self._claim(memory)
        parameter = self._parameter(("memory", memory), f"{name}_ptr", "in", memory, storage)
        if value is not memory:
            part = value.hint if value.op.name == "narrow" and value.hint else ""
            name = self.names.claim(part, f"{name}_{identifier(value.hint or 'view')}")
        form = self._form(self.axes.of(value))
        attrs = MappingProxyType(
            {"pointer": parameter.name, "address": self._address(value, place_of(value)), "storage": storage}
        )
        self.steps[value] = step = self._add(Step(name, "load", (), form, compute_dtype(storage), attrs, True))
        return step

    def _gather(self, value: Value) -> None:
        """Rows taken by number: a load whose rows another step names."""
        table, index = value.inputs
        memory = memory_of(table)
        storage = self.kp.storage[memory]
        name = self.memory_names.get(memory) or self._claim(memory)
        parameter = self._parameter(("memory", memory), f"{name}_ptr", "in", memory, storage)
        leading = len(index.shape)
        labels = self.axes.labels[value][leading:]
        dims = [(a, _behind(table.shape, i), 0) for i, a in enumerate(labels, 1) if a is not None]
        address = Address(tuple(dims), table.shape)
        attrs = {"pointer": parameter.name, "address": address, "storage": storage}
        row = self._resolve(index)
        form = self._form(self.axes.of(value))
        self._assign(value, Step("", "take_rows", (row.name,), form, compute_dtype(storage), attrs, scope=value.scope))

    def _store(self, value: Value) -> None:
        step = self.steps[value]
        memory = self.destinations.get(value, value)
        storage = memory.dtype if memory is not value else self.kp.storage[value]
        name = self.memory_names[memory]
        parameter = self._parameter(("memory", memory), f"{name}_ptr", "out", memory, storage)
        joined = self.plan.units.joined.get(value)
        # A leaf takes its new value in that value's order, whoever else walks over the leaf, or nobody.
        address = self._address(value, joined[1] if joined else place_of(value))
        attrs = MappingProxyType({"pointer": parameter.name, "address": address, "storage": storage})
        self._add(
            Step(f"store {parameter.name}", "store", (step.name,), self._form(self.axes.of(value)), storage, attrs)
        )

    def _parameter(self, key: tuple[str, Value | str], name: str, role: str, value: Value, dtype: DType) -> Parameter:
        have = self.parameters.get(key)
        if have is None:
            self.parameters[key] = have = Parameter(name, role, value, dtype)
        elif {have.role, role} == {"in", "out"}:
            self.parameters[key] = have = Parameter(have.name, "inout", value, dtype)
        return have

    def _size_parameter(self, dim: Dim) -> Parameter:
        key = ("size", dim.name)
        if key not in self.parameters:
            name = self.names.claim(dim.name)
            self.parameters[key] = Parameter(name, "size", None, int64, (dim,))
        return self.parameters[key]

    def _broadcast(self, step: Step, form: str) -> Step:
        """A step repeated to the form that a reduction runs over."""
        name = self.names.claim(f"{step.name}_repeated" if step.name.isidentifier() else "repeated")
        return self._add(Step(name, "repeat", (step.name,), form, step.dtype, {}, True, step.scope))

    def _address(self, value: Value, place: Place) -> Address:
        """The address of a value's elements in the memory where it lies."""
        labels = self.axes.labels[value]
        dims = [(axis, _behind(place.shape, i), place.starts[i]) for i, axis in enumerate(labels) if axis is not None]
        # An axis of which one element is left is not walked, but counts from where that element lies.
        fixed = [
            (-1, _behind(place.shape, i), place.starts[i])
            for i, axis in enumerate(labels)
            if axis is None and place.starts[i]
        ]
        return Address((*dims, *fixed), place.shape)

    def _form(self, axes: frozenset[int]) -> str:
        has_rows = bool(axes & frozenset(self.layout.rows))
        has_cols = bool(axes & frozenset(self.layout.cols))
        return {(True, True): TILE, (True, False): ROW, (False, True): COL, (False, False): SCALAR}[has_rows, has_cols]

    def _dtype_of(self, value: Value, args: list[Step]) -> DType:
        dtype = compute_dtype(value.dtype)
        if dtype is int64 and value.op.name in (
            "where",
            "min",
            "max",
            "add",
            "sub",
            "mul",
            "maximum",
            "minimum",
            "copy",
        ):
            strong = [a.dtype for a in args if (a.op != "number" or a.dtype is int32) and a.dtype is not bool_]
            # Indices are int32 in a kernel, and so is what is chosen among them.
            return int32 if strong and all(d is int32 for d in strong) else int64
        return dtype

    def _ordered_parameters(self) -> Iterable[Parameter]:
        """Memory read, memory written, partials, then sizes and numbers."""
        self._needed_sizes()
        return sorted(self.parameters.values(), key=Parameter.place)

    def _needed_sizes(self) -> None:
        """The sizes that grid, masks and offsets are made of."""
        for shape in (self.layout.row_shape, self.layout.col_shape):
            for size in shape:
                if isinstance(size, Dim):
                    self._size_parameter(size)
        for step in self.ordered:
            address = step.attrs.get("address")
            if address is not None:
                for size in address.extent[0 if step.op in ("take_rows", "operand") else 1 :]:
                    if isinstance(size, Dim):
                        self._size_parameter(size)


def _ends(labels: Labels) -> tuple[Labels, Labels]:
    """The axes of a matrix's rows, and of its columns."""
    return labels[:-1], labels[-1:]


def _needed(steps: list[Step]) -> list[Step]:
    """The steps that what leaves the kernel is made of."""
    found: set[str] = set()
    for step in reversed(steps):
        if step.op in ("store", "carry") or step.name in found:
            found |= {step.name, *step.args}
    return [s for s in steps if s.name in found]


def _behind(shape: Shape, axis: int) -> Shape:
    """The sizes behind an axis in memory; those of 1 move nothing."""
    return tuple(size for size in shape[axis + 1 :] if size != 1)


def _join(strategies: Iterable[str]) -> str:
    known = set(strategies)
    if TILE in known or {ROW, COL} <= known:
        return TILE
    return ROW if ROW in known else COL if COL in known else SCALAR
