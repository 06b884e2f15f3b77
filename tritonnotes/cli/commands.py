"""The command line: its arguments. `actions.py` holds what the commands do, and is imported when one runs: `--help` and
a wrong argument are answered at once.

Results go to stdout, and with --json nothing else does; remarks, progress and errors go to stderr. Exit codes: 0, 1 for
a failure or a check that does not hold, 2 for a command that makes no sense, 130 and 141 when interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import tritonnotes as tn

from ..codegen.target.targets import GPU, TARGETS
from .arguments import arch, natural, positive, target
from .choices import DEFAULT_LOSS, FORM, OPTIMIZERS, STAGES
from .failing import fail, one_line


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the result is the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Formulas are written with ×, √ and σ; where the terminal cannot show them they come out escaped.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        arguments = _parser().parse_args(argv)
        # With what it does come torch and triton.
        from .actions import act

        code = act(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader of our output has gone. Python flushes stdout once more at exit, so that goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return fail(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        print("tritonnotes: interrupted", file=sys.stderr)
        return 130
    except SystemExit as stop:
        # argparse leaves this way, after --help or a wrong argument; so does rich, where a pipe breaks.
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n")


class _Version(argparse.Action):
    """Prints the version, which is looked up only where it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from ..ir.version import VERSION

        print(f"tritonnotes {VERSION}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="tritonnotes", description=tn.__doc__)
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="train a small model on real data, compare it with eager PyTorch, show the plan and the errors",
        description="Compile the training step of a classifier and train it on scikit-learn's digits. Train the same "
        "model with eager PyTorch, from the same weights and on the same batches. Show the fusion plan, and compare "
        "the kernels with float64.",
    )
    demo.add_argument("--epochs", type=positive, default=10, metavar="N", help="default 10")
    demo.add_argument("--batch-size", type=positive, default=128, metavar="N", help="default 128")
    demo.add_argument("--seed", type=natural, default=0, metavar="N", help="seed of all random numbers; default 0")
    demo.add_argument(
        "--out", default="tritonnotes-demo", metavar="DIR", help="output folder; default tritonnotes-demo"
    )
    _add_strict(demo)

    shown = commands.add_parser("show", help="print a graph at one stage of compilation")
    _add_target(shown)
    shown.add_argument("--emit", choices=STAGES, required=True, help="the stage to print")
    shown.add_argument(
        "--arch", type=arch, metavar="ARCH", help="GPU of ptx and sass: sm_80, sm_90 (the default) or sm_100"
    )
    _add_planned_for(shown, None, "default gpu, for asm cpu")
    shown.add_argument("--kernel", metavar="NAME", help="print only this launch; for the stages from plan on")

    reported = commands.add_parser(
        "report",
        help="estimate the cost of each kernel for a GPU you don't have",
        description="Compile every generated kernel ahead of time and print its report: registers, spills, occupancy, "
        "the width of each memory access with the reason for a narrow one, instructions, bytes, and the time predicted "
        "by a roofline model.",
    )
    _add_target(reported)
    reported.add_argument(
        "--arch",
        type=arch,
        action="append",
        metavar="ARCH",
        help="sm_80, sm_90 (the default) or sm_100; may be repeated",
    )
    reported.add_argument(
        "--gradient", action="store_true", help="report autograd's forward and backward run, not a training step"
    )
    reported.add_argument("--batch", type=natural, metavar="N", help="size of every Dim; default 256")

    checked = commands.add_parser("check", help="compare the kernels with eager PyTorch and with float64")
    _add_target(checked, step=False)
    checked.add_argument("--batch", type=natural, metavar="N", help="size of every Dim; default 33")
    checked.add_argument("--optimizer", choices=OPTIMIZERS, help="also check three updates with this optimizer")
    _add_strict(checked)

    explained = commands.add_parser("explain", help="print what each launch does, and why the rest is not fused")
    _add_target(explained)
    _add_planned_for(explained)

    explored = commands.add_parser(
        "explore",
        help="write an HTML page with linked formulas, graphs, plan, Triton and machine code",
        description="Write one self-contained HTML file: formulas, the graph at each level, the plan with the reason "
        "for each edge, Triton, machine code and memory. Pointing at an item highlights all that belongs to it.",
    )
    _add_target(explored)
    explored.add_argument("-o", "--out", metavar="FILE", required=True, help="output file, such as page.html")
    explored.add_argument("--check", action="store_true", help="also show the errors of outputs and gradients")
    explored.add_argument(
        "--arch", type=arch, metavar="ARCH", help="GPU of the machine code; default sm_90, with --target cpu the CPU"
    )
    explored.add_argument(
        "--no-machine-code",
        dest="machine_code",
        action="store_false",
        help="leave machine code out; disassembling takes up to two seconds per kernel",
    )
    _add_planned_for(explored)

    listed = commands.add_parser("ops", help="list all ops, losses, metrics and update rules")
    listed.add_argument("--family", metavar="F", help="list only one family, such as activations or losses")
    listed.add_argument("--write", metavar="FILE", help="write the page of all notes (docs/ops.md) to FILE instead")

    noted = commands.add_parser("note", help="print the note of one op or update rule: formula, derivative, use")
    noted.add_argument("name", metavar="NAME", help="a name from `tritonnotes ops`, such as gelu")
    noted.add_argument("--plot", metavar="FILE", help="plot function and derivative to FILE (.png, .svg or .pdf)")

    for command in (demo, shown, reported, checked, explained, explored, listed, noted):
        command.add_argument("--json", action="store_true", help="print only JSON to stdout")
    return parser


def _add_target(command: argparse.ArgumentParser, step: bool = True) -> None:
    command.add_argument("target", metavar="TARGET", help=f"{FORM}; the function returns a tn.Graph", type=target)
    if step:
        command.add_argument("--loss", metavar="NAME", help=f"output to minimise; default {DEFAULT_LOSS}")
        command.add_argument("--optimizer", choices=OPTIMIZERS, default="adam", help="default adam")


def _add_planned_for(parser: argparse.ArgumentParser, default: str | None = GPU, said: str = f"default {GPU}") -> None:
    parser.add_argument(
        "--target",
        dest="planned_for",
        choices=tuple(TARGETS),
        default=default,
        help=f"hardware that the plan is made for; {said}",
    )


def _add_strict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--strict",
        action="store_const",
        const=True,
        help="run the kernels in the strict interpreter on the CPU, not as machine code",
    )
