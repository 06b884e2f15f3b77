"""The command line: `tritonnotes demo`, `show`, `report`, `check`, `explain`, `ops` and `note`.

Results go to stdout, and with --json nothing else does; remarks, progress and errors go to stderr. Exit codes: 0, 1 for
a failure or a check that does not hold, 2 for a command that makes no sense, 130 and 141 when interrupted.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

import tritonnotes as tn
from tritonnotes.ir.core.types import dims_in

from ..codegen.pipeline import make_program
from ..codegen.support.sizes import NOMINAL
from ..codegen.target.gpus import GPUS
from ..codegen.target.targets import GPU, TARGETS
from ..ir.core.graph import Graph
from ..ir.core.optimizer import Optimizer
from ..runtime.kernel_reports import gradient_programs, program_reports
from .demo import digits, plain, run_demo
from .notes import UnknownNameError, entries, find, page
from .plots import Picture, plot_note
from .rich_tables import note_table, ops_table
from .show import (
    COMPILED_STAGES,
    KERNEL_STAGES,
    STAGES,
    explain,
    explain_data,
    is_trainable,
    joint_or_forward,
    show,
)
from .target import FORM, load_target

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": tn.adam,
    "sgd": tn.sgd,
    "momentum": tn.momentum,
    "nesterov": tn.nesterov,
    "adagrad": tn.adagrad,
    "adadelta": tn.adadelta,
    "rmsprop": tn.rmsprop,
    "adamw": tn.adamw,
    "nadam": tn.nadam,
    "radam": tn.radam,
    "adamax": tn.adamax,
    "lion": tn.lion,
}
DEFAULT_LOSS = "loss"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the result is the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Formulas are written with ×, √ and σ; where the terminal cannot show them they come out escaped.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        arguments = _parser().parse_args(argv)
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except UnknownNameError as error:
        return _fail(str(error), 2)
    except tn.TritonNotesError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # The reader of our output has gone. Python flushes stdout once more at exit, so that goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        print("tritonnotes: interrupted", file=sys.stderr)
        return 130
    except SystemExit as stop:
        # argparse leaves this way, after --help or a wrong argument; so does rich, where a pipe breaks.
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {_one_line(message)} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="tritonnotes", description=tn.__doc__)
    parser.add_argument("--version", action="version", version=f"tritonnotes {tn.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="train a small model on real data beside eager PyTorch, and show the plan and the numerics",
        description="Compile a classifier's training step, train it on scikit-learn's digits beside eager PyTorch from "
        "the same weights and batches, show the fusion plan, and check the kernels against float64.",
    )
    demo.add_argument("--epochs", type=_positive, default=10, metavar="N", help="default 10")
    demo.add_argument("--batch-size", type=_positive, default=128, metavar="N", help="default 128")
    demo.add_argument("--seed", type=_natural, default=0, metavar="N", help="of weights, split and batches; default 0")
    demo.add_argument(
        "--out", default="tritonnotes-demo", metavar="DIR", help="where files go; default tritonnotes-demo"
    )
    _add_strict(demo)
    demo.set_defaults(run=_demo)

    shown = commands.add_parser("show", help="print one stage of a graph on its way to kernels")
    _add_target(shown)
    shown.add_argument("--emit", choices=STAGES, required=True, help="the stage to print")
    shown.add_argument("--arch", type=int, choices=(80, 90, 100), help="what ptx and sass are for; default 90")
    _add_planned_for(shown)
    shown.add_argument("--kernel", metavar="NAME", help="one launch alone, from the plan on")
    shown.set_defaults(run=_show)

    reported = commands.add_parser(
        "report",
        help="say what each kernel costs on a GPU that need not be there",
        description="Compile every generated kernel ahead of time and print its report: registers, spills, occupancy, "
        "the width of each access and why a narrow one is, instructions, bytes, and the time that a roofline predicts.",
    )
    _add_target(reported)
    reported.add_argument(
        "--arch", type=_arch, action="append", metavar="ARCH", help="sm_80, sm_90 or sm_100, several times for several"
    )
    reported.add_argument("--gradient", action="store_true", help="the two runs of autograd instead of a training step")
    reported.add_argument("--batch", type=_natural, metavar="N", help="the size of every Dim; default 256")
    reported.set_defaults(run=_report)

    checked = commands.add_parser("check", help="compare the kernels with eager PyTorch and with float64")
    _add_target(checked, step=False)
    checked.add_argument("--batch", type=_natural, metavar="N", help="the size of every Dim; default 33")
    checked.add_argument("--optimizer", choices=tuple(OPTIMIZERS), help="check three of its updates too")
    _add_strict(checked)
    checked.set_defaults(run=_check)

    explained = commands.add_parser("explain", help="say what each launch does, and why what is apart is apart")
    _add_target(explained)
    _add_planned_for(explained)
    explained.set_defaults(run=_explain)

    listed = commands.add_parser("ops", help="list the ops, losses, metrics and update rules there are")
    listed.add_argument("--family", metavar="F", help="those of one family alone, such as activations or losses")
    listed.add_argument("--write", metavar="FILE", help="write the page of all notes, docs/ops.md, to FILE instead")
    listed.set_defaults(run=_ops)

    noted = commands.add_parser("note", help="print the note of one of them: formula, derivative, when to use it")
    noted.add_argument("name", metavar="NAME", help="a name that `tritonnotes ops` lists, such as gelu")
    noted.add_argument("--plot", metavar="FILE", help="draw function and derivative to FILE, a .png, .svg or .pdf")
    noted.set_defaults(run=_note)

    for command in (demo, shown, reported, checked, explained, listed, noted):
        command.add_argument("--json", action="store_true", help="print JSON, and nothing else, to stdout")
    return parser


def _add_target(command: argparse.ArgumentParser, step: bool = True) -> None:
    command.add_argument("target", metavar="TARGET", help=f"{FORM}, which returns a tn.Graph", type=_target)
    if step:
        command.add_argument("--loss", metavar="NAME", help="the output that training minimises; default loss")
        command.add_argument("--optimizer", choices=tuple(OPTIMIZERS), default="adam", help="default adam")


# -- commands ----------------------------------------------------------------------------------------------------------


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
        return _fail(f"--kernel goes with --emit {', '.join(KERNEL_STAGES)}; {stage} has no kernels yet", 2)
    if arguments.arch is not None and stage not in COMPILED_STAGES:
        return _fail(f"--arch goes with --emit {' or '.join(COMPILED_STAGES)}; {stage} is the same for every GPU", 2)
    graph = load_target(arguments.target)
    loss, optimizer = (None, tn.adam()) if stage in ("graph", "prims") else _step(arguments, graph)
    which = {"arch": arguments.arch or 90, "kernel": arguments.kernel, "target": arguments.planned_for}
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
    optimizer = OPTIMIZERS[arguments.optimizer]() if arguments.optimizer else None
    names = {dim.name for value in graph.values for dim in dims_in(value.shape)}
    sizes = None if arguments.batch is None else dict.fromkeys(sorted(names), arguments.batch)
    certificate = tn.check(graph, sizes=sizes, optimizer=optimizer, strict=arguments.strict)
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


def _ops(arguments: argparse.Namespace) -> int:
    if arguments.write is not None:
        if arguments.family is not None or arguments.json:
            return _fail("--write goes without --family and --json: the page holds every op", 2)
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
    optimizer = OPTIMIZERS[arguments.optimizer]()
    if arguments.loss is not None or is_trainable(graph, DEFAULT_LOSS):
        return arguments.loss or DEFAULT_LOSS, optimizer
    why = (
        "no parameters"
        if not graph.parameters
        else f"no output {DEFAULT_LOSS!r} that is one float (name one with --loss)"
    )
    print(f"tritonnotes: graph {graph.name} has {why}, so this is its forward run", file=sys.stderr)
    return None, optimizer


# -- arguments and output ----------------------------------------------------------------------------------------------


def _add_planned_for(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target", dest="planned_for", choices=tuple(TARGETS), default=GPU, help="what the plan is for; default gpu"
    )


def _add_strict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--strict",
        action="store_const",
        const=True,
        help="run the kernels under the strict interpreter on the CPU, not as machine code",
    )


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def _positive(text: str) -> int:
    if not _natural(text):
        raise argparse.ArgumentTypeError("0 is too few, give 1 or more")
    return int(text)


def _arch(text: str) -> int:
    known = {name: arch for arch in GPUS for name in (f"sm_{arch}", str(arch))}
    if text not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(f'sm_{arch}' for arch in GPUS)}")
    return known[text]


def _target(text: str) -> str:
    place, _, function = text.rpartition(":")
    if not place or not function.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} names no graph; write {FORM}")
    return text


def _print_json(data: dict[str, Any]) -> None:
    print(json.dumps(plain(data), indent=2, allow_nan=False))


def _fail(message: str, code: int = 1) -> int:
    print(f"tritonnotes: error: {_one_line(message)}", file=sys.stderr)
    return code


def _one_line(message: str) -> str:
    return " ".join(message.split())
