"""From a `triton.jit` function to a Python function that means the same on interpreter tensors.

Plain Python differs from the JIT in five places, and each is one case of `_Rewriter`:

- `x = 3` makes a tensor, so that `x.to(...)` and type promotion work
- `for i in range(n)` counts with an int32 or int64 tensor
- `a and b`, `a or b`, `not a` act on every lane
- `lo <= x < hi` is refused by the JIT
- annotations of local names other than `constexpr` are assignments like any other
"""

from __future__ import annotations

import ast
import types
from collections.abc import Callable, Mapping
from typing import Any

from triton.runtime.jit import JITFunction

from tritonnotes.ir.core.errors import KernelError

# Free variables of the rewritten code. No identifier can hold these characters, so no name of a kernel can
# collide.
ASSIGN, RANGE, AND, OR, NOT = "<assign>", "<range>", "<and>", "<or>", "<not>"


class _Rewriter(ast.NodeTransformer):
    def __init__(self, name: str, range_is_builtin: bool) -> None:
        self.name = name
        self.range_is_builtin = range_is_builtin

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        node.value = _call(ASSIGN, node.value)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        if node.value is not None and ast.unparse(node.annotation).split(".")[-1] != "constexpr":
            node.value = _call(ASSIGN, node.value)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        operands = [_thunk(value) for value in node.values]
        return _call(AND if isinstance(node.op, ast.And) else OR, *operands)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return _call(NOT, node.operand) if isinstance(node.op, ast.Not) else node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) > 1:
            raise KernelError(
                f"in {self.name}, {ast.unparse(node)} chains comparisons, which the JIT "
                "refuses; write them as two comparisons joined by &"
            )
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if self.range_is_builtin and isinstance(node.func, ast.Name) and node.func.id == "range":
            node.func = ast.Name(RANGE, ast.Load())
        return node


def _call(name: str, *arguments: ast.expr) -> ast.expr:
    return ast.Call(func=ast.Name(name, ast.Load()), args=list(arguments), keywords=[])


def _thunk(value: ast.expr) -> ast.expr:
    nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
    return ast.Lambda(args=nothing, body=value)


def rewrite(kernel: JITFunction, operations: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The Python function for `kernel`, with `operations` bound to the five free names above.

    Globals and closure cells are those of the original function, seen live; nothing is added to either.
    Raises KernelError for source that the JIT would refuse.
    """
    fn = kernel.fn
    module = ast.parse("\n" * (_line_of_def(kernel) - 1) + kernel.src)  # so errors name the lines of the file
    definition = module.body[0]
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    definition.returns = None
    # Defaults were evaluated when the original was defined; annotations have done their work in the
    # signature.
    definition.args.defaults = []
    definition.args.kw_defaults = [None] * len(definition.args.kwonlyargs)
    for parameter in [*definition.args.posonlyargs, *definition.args.args, *definition.args.kwonlyargs]:
        parameter.annotation = None
    body = _Rewriter(kernel.__name__, "range" not in fn.__globals__)
    definition.body = [body.visit(statement) for statement in definition.body]

    # A factory around the definition turns the operations and the original's closure into free variables. It
    # is never called: the inner code object is taken out of it and given its cells directly.
    free = [*operations, *fn.__code__.co_freevars]
    parameters = ast.arguments(
        posonlyargs=[], args=[ast.arg(name) for name in free], kwonlyargs=[], kw_defaults=[], defaults=[]
    )
    factory = ast.FunctionDef(name="factory", args=parameters, body=[definition], decorator_list=[])
    if "type_params" in ast.FunctionDef._fields:
        factory.type_params = []  # type: ignore[attr-defined]
    module.body = [factory]
    ast.fix_missing_locations(module)
    outer = _code_in(compile(module, fn.__code__.co_filename, "exec"))
    code = _code_in(outer, definition.name)

    cells = dict(zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True))
    cells.update((name, types.CellType(operation)) for name, operation in operations.items())
    closure = tuple(cells[name] for name in code.co_freevars)
    rewritten = types.FunctionType(code, fn.__globals__, fn.__name__, fn.__defaults__, closure)
    rewritten.__kwdefaults__ = fn.__kwdefaults__
    return rewritten


def _line_of_def(kernel: JITFunction) -> int:
    """Line of the `def` in its file: decorators stand above it."""
    for offset, line in enumerate(kernel.raw_src):
        if line.lstrip().startswith("def "):
            return kernel.starting_line_number + offset
    return kernel.starting_line_number


def _code_in(code: types.CodeType, name: str = "factory") -> types.CodeType:
    return next(c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name == name)
