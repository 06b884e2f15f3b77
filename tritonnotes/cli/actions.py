"""What each command of the command line does with its arguments."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import face
from ..codegen.fusion.constraints import Fusion
from ..codegen.pipeline import make_program
from ..codegen.support.sizes import NOMINAL
from ..codegen.target.targets import CPU, GPU
from ..ir.core.errors import TritonNotesError
from ..ir.core.graph import Graph
from ..ir.core.optimizer import Optimizer
from ..ir.core.types import dims_in
from ..notes import UnknownNameError, entries, find
from ..runtime.executors.listed import explored
from ..runtime.kernel_reports import gradient_programs, program_reports
from .choices import COMPILED_STAGES, CPU_STAGE, DEFAULT_LOSS, KERNEL_STAGES
from .demo import digits, plain, run_demo
from .failing import fail
from .notes import page
from .plots import Picture, plot_note
from .rich_tables import note_table, ops_table
from .show import explain, explain_data, is_trainable, joint_or_forward, show
from .target import load_target


def act(arguments: argparse.Namespace) -> int:
    """Do what the command line asks; the result is the exit code."""
    try:
        return ACTIONS[arguments.command](arguments)
    except UnknownNameError as error:
        return fail(str(error), 2)
    except TritonNotesError as error:
        return fail(str(error))


def _demo(arguments: argparse.Namespace) -> int:
    console = Console(stderr=arguments.json)
    result = run_demo(
        digits(),
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        strict=arguments.strict,
        out=arguments.out,
        console=console,
    )
    if arguments.json:
        _print_json(result.to_dict())
    return 0 if result.ok else 1


def _show(arguments: argparse.Namespace) -> int:
    stage = arguments.emit
    if arguments.kernel is not None and stage not in KERNEL_STAGES:
        return fail(f"--kernel goes with --emit {', '.join(KERNEL_STAGES)}; {stage} has no kernels yet", 2)
    if arguments.arch is not None and stage not in COMPILED_STAGES:
        whose = "the code of this CPU, for no GPU" if stage == CPU_STAGE else "the same for every GPU"
        return fail(f"--arch goes with --emit {' or '.join(COMPILED_STAGES)}; {stage} is {whose}", 2)
    graph = load_target(arguments.target)
    loss, optimizer = (None, face.adam()) if stage in ("graph", "prims") else _step(arguments, graph)
    planned_for = arguments.planned_for or (CPU if stage == CPU_STAGE else GPU)
    which = {"arch": arguments.arch or 90, "kernel": arguments.kernel, "target": planned_for}
    shown = show(graph, stage, loss=loss, optimizer=optimizer, **which)
    if arguments.json:
        _print_json({"target": arguments.target, "stage": stage, "loss": loss, **shown.data})
    else:
        print(shown.text.rstrip("\n"))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    graph = load_target(arguments.target)
    if arguments.gradient:
        titles = (f"forward run of {graph.name}", f"backward run of {graph.name}")
        programs = list(zip(gradient_programs(graph), titles, strict=True))
    else:
        loss, optimizer = _step(arguments, graph)
        title = f"forward run of {graph.name}" if loss is None else f"training step of {graph.name}"
        programs = [(make_program(joint_or_forward(graph, loss, optimizer), declared=graph), title)]
    batch = NOMINAL if arguments.batch is None else arguments.batch
    archs = list(dict.fromkeys(arguments.arch or [90]))
    made = [program_reports(program, title, archs=archs, batch=batch) for program, title in programs]
    if arguments.json:
        _print_json({"target": arguments.target, "programs": [reports.to_dict() for reports in made]})
    else:
        print("\n\n".join(map(str, made)))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    graph = load_target(arguments.target)
    optimizer = _optimizer(arguments.optimizer) if arguments.optimizer else None
    names = {dim.name for value in graph.values for dim in dims_in(value.shape)}
    sizes = None if arguments.batch is None else dict.fromkeys(sorted(names), arguments.batch)
    certificate = face.check(graph, sizes=sizes, optimizer=optimizer, strict=arguments.strict)
    if arguments.json:
        _print_json({"target": arguments.target, **certificate.to_dict()})
    else:
        print(certificate)
    return 0 if certificate.ok else 1


def _explain(arguments: argparse.Namespace) -> int:
    graph = load_target(arguments.target)
    loss, optimizer = _step(arguments, graph)
    if arguments.json:
        data = explain_data(graph, loss=loss, optimizer=optimizer, target=arguments.planned_for)
        _print_json({"target": arguments.target, "loss": loss, **data})
    else:
        print(explain(graph, loss=loss, optimizer=optimizer, target=arguments.planned_for))
    return 0


def _explore(arguments: argparse.Namespace) -> int:
    graph = load_target(arguments.target)
    loss, optimizer = _step(arguments, graph)
    joint = joint_or_forward(graph, loss, optimizer)
    program = make_program(joint, Fusion(target=arguments.planned_for), declared=graph)
    title = f"forward run of {graph.name}" if loss is None else f"training step of {graph.name}"
    certificate = face.check(graph) if arguments.check else None
    arch: int | str = arguments.arch or (CPU if arguments.planned_for == CPU else 90)
    page = explored(arguments.out, program, title, arch, certificate, arguments.machine_code, progress=True)
    size = page.stat().st_size
    if arguments.json:
        _print_json({"target": arguments.target, "loss": loss, "page": str(page), "bytes": size})
    else:
        print(f"tritonnotes: wrote {page}, {size:,} bytes", file=sys.stderr)
    return 0


def _ops(arguments: argparse.Namespace) -> int:
    if arguments.write is not None:
        if arguments.family is not None or arguments.json:
            return fail("--write goes without --family and --json: the page holds every op", 2)
        Path(arguments.write).write_text(page(), encoding="utf-8")
        print(f"tritonnotes: wrote {arguments.write}", file=sys.stderr)
        return 0
    listed = entries(arguments.family)
    if arguments.json:
        _print_json({"ops": [entry.to_dict() for entry in listed]})
    else:
        Console().print(ops_table(listed))
    return 0


def _note(arguments: argparse.Namespace) -> int:
    entry = find(arguments.name)
    drawn = None if arguments.plot is None else plot_note(entry.name, arguments.plot)
    if arguments.json:
        _print_json(entry.to_dict() | ({"plot": _plotted(drawn, arguments.plot)} if drawn else {}))
        return 0
    Console().print(note_table(entry))
    if drawn:
        held = f", with {drawn.fixed}" if drawn.fixed else ""
        print(f"tritonnotes: drew {entry.name} over {drawn.over}{held} to {arguments.plot}", file=sys.stderr)
    return 0


def _plotted(drawn: Picture, file: str) -> dict[str, Any]:
    return {"file": file, "over": drawn.over, "fixed": drawn.fixed, "curves": [c.label for c in drawn.curves]}


def _step(arguments: argparse.Namespace, graph: Graph) -> tuple[str | None, Optimizer]:
    """The loss and the optimizer of the step to show; no loss where nothing can be trained and none was named."""
    optimizer = _optimizer(arguments.optimizer)
    if arguments.loss is not None or is_trainable(graph, DEFAULT_LOSS):
        return arguments.loss or DEFAULT_LOSS, optimizer
    why = (
        "no parameters"
        if not graph.parameters
        else f"no output {DEFAULT_LOSS!r} that is one float (name one with --loss)"
    )
    print(f"tritonnotes: graph {graph.name} has {why}, so this is its forward run", file=sys.stderr)
    return None, optimizer


def _optimizer(name: str) -> Optimizer:
    made: Optimizer = getattr(face, name)()
    return made


def _print_json(data: dict[str, Any]) -> None:
    print(json.dumps(plain(data), indent=2, allow_nan=False))


ACTIONS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "demo": _demo,
    "show": _show,
    "report": _report,
    "check": _check,
    "explain": _explain,
    "explore": _explore,
    "ops": _ops,
    "note": _note,
}
