"""How the arguments of the command line and of the examples are read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..codegen.target.gpus import GPUS
from .choices import FORM


def epochs_of(description: str | None, default: int, argv: Sequence[str] | None = None) -> int:
    """What an example is asked for: `--epochs N`; `--help` shows the example's own `description`, and exits."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=positive, default=default, metavar="N", help=f"default {default}")
    epochs: int = parser.parse_args(argv).epochs
    return epochs


def natural(text: str) -> int:
    """A whole number from 0 on."""
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not natural(text):
        raise argparse.ArgumentTypeError("0 is too few, give 1 or more")
    return int(text)


def arch(text: str) -> int:
    """A GPU's architecture, written 90 or sm_90."""
    known = {name: arch for arch in GPUS for name in (f"sm_{arch}", str(arch))}
    if text not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(f'sm_{arch}' for arch in GPUS)}")
    return known[text]


def target(text: str) -> str:
    """A target by its form alone; `load_target` looks for it."""
    place, _, function = text.rpartition(":")
    if not place or not function.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} names no graph; write {FORM}")
    return text
