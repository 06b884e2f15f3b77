"""Finds the graph that a command names: `path/file.py:function` or `package.module:function`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType

from ..ir.core.errors import TritonNotesError
from ..ir.core.graph import Graph
from .choices import FORM


class TargetError(TritonNotesError):
    """What a command names is no function that returns a graph; the message says where it goes wrong."""


def load_target(target: str) -> Graph:
    """The declared graph that `target`'s function returns, called without arguments.

    The function must say that it declares a graph, by the annotation `-> tn.Graph` or by its name: `graph`, or one with
    that word such as `small_graph`. Another, such as a script's `main`, may train for an hour, so it is not called.
    Modules beside the file, or in the current folder, can be imported meanwhile, and what the target prints goes to
    stderr. Raises `TargetError` for a target that cannot be found, is none by these rules, fails, or returns something
    else.
    """
    place, _, function = target.rpartition(":")
    if not place or not function:
        raise TargetError(f"{target!r} names no graph; write {FORM}")
    is_file = place.endswith(".py") or "/" in place
    if is_file and not Path(place).is_file():
        raise TargetError(f"no file {place!r}; TARGET is {FORM}")
    folder = str(Path(place).resolve().parent) if is_file else str(Path.cwd())
    with _importing_from(folder), redirect_stdout(sys.stderr), _telling_where(target):
        module = _load_file(Path(place)) if is_file else _import(place)
        graph = _function(module, function, place)()
    if not isinstance(graph, Graph):
        raise TargetError(f"{target} returned {type(graph).__name__}; a target returns a tn.Graph")
    if graph.level != "declared":
        raise TargetError(f"{target} returned a graph of primitives; a target returns a declared tn.Graph")
    return graph


def _load_file(path: Path) -> ModuleType:
    # A name of its own: a file called json.py must not become everybody's json.
    name = f"tritonnotes_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise TargetError(f"{str(path)!r} is no Python file; TARGET is {FORM}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that the target itself misses is the target's own failure.
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise TargetError(f"no module {name!r}; TARGET is {FORM}") from None
        raise
    except (TypeError, ValueError):
        raise TargetError(f"{name!r} is no name of a module; TARGET is {FORM}") from None


def _function(module: ModuleType, function: str, place: str) -> Callable[[], object]:
    found = getattr(module, function, None)
    if found is None:
        own = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__]
        raise TargetError(f"{place} has no function {function!r}; it has {', '.join(own) or 'none'}")
    if not callable(found):
        raise TargetError(
            f"{place}:{function} is {type(found).__name__}; a target is a function that returns a tn.Graph"
        )
    try:
        signature = inspect.signature(found)
    except ValueError:
        signature = inspect.Signature()  # builtins hide theirs; the call will tell
    _refuse_others(f"{place}:{function}", function, signature.return_annotation)
    try:
        signature.bind()
    except TypeError as error:
        raise TargetError(f"{place}:{function} cannot be called without arguments: {error}") from None
    return found


def _refuse_others(target: str, function: str, annotation: object) -> None:
    """Refuses a function that neither its annotation nor its name says to declare a graph."""
    if annotation is inspect.Signature.empty:
        if "graph" not in function.lower():
            raise TargetError(
                f"{target} is not called: it may train, or do anything else. Where it declares a graph, annotate it "
                f"with -> tn.Graph, or name it graph or {function}_graph"
            )
        return
    if isinstance(annotation, str):
        is_graph = annotation.strip("'\" ").rpartition(".")[2] == Graph.__name__
    else:
        is_graph = isinstance(annotation, type) and issubclass(annotation, Graph)
    if not is_graph:
        said = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        raise TargetError(
            f"{target} is not called: by its annotation it returns {said}; a target returns a tn.Graph, and says so "
            f"by the annotation -> tn.Graph"
        )


@contextmanager
def _importing_from(folder: str) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def _telling_where(target: str) -> Iterator[None]:
    """Turns what a target raises into one line with the target's own file and line."""
    try:
        yield
    except TargetError:
        raise
    except SyntaxError as error:
        raise TargetError(f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        kind = "" if isinstance(error, TritonNotesError) else f"{type(error).__name__}: "
        raise TargetError(f"{_place(error) or target}: {kind}{error}") from error


def _place(error: BaseException) -> str | None:
    """`file:line` of the innermost frame that is neither ours, nor Python's, nor an installed package's."""
    package = Path(__file__).resolve().parents[1]
    others = {
        Path(p).resolve()
        for n, p in sysconfig.get_paths().items()
        if n in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    others |= {package, (package / "ir").resolve(), (package / "codegen").resolve()}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_file() and not any(file.resolve().is_relative_to(other) for other in others):
            return f"{frame.filename}:{frame.lineno}"
    return None
