"""Lines of source as LLVM's debug metadata, so that they stay with instructions until these are machine code."""

from __future__ import annotations

from collections.abc import Callable


class DebugLines:
    """The lines that the functions of one module come of. `number_of` gives what LLVM is to note as the line of what a
    line of IR became, 0 where nothing is known."""

    def __init__(self, number_of: Callable[[int | None], int]) -> None:
        self.number_of = number_of
        self._nodes = [
            "distinct !DICompileUnit(language: DW_LANG_C99, file: !1, emissionKind: LineTablesOnly)",
            '!DIFile(filename: "kernel.py", directory: "")',
            '!{i32 2, !"Debug Info Version", i32 3}',
            "!DISubroutineType(types: !4)",
            "!{}",
        ]

    def function(self, name: str) -> Scope:
        """What the locations of one function belong to."""
        written = f'name: "{name.removeprefix("@")}", file: !1, type: !3, unit: !0, spFlags: DISPFlagDefinition'
        return Scope(self, self.node(f"distinct !DISubprogram({written})"))

    def node(self, text: str) -> str:
        """A reference to one more node."""
        self._nodes.append(text)
        return f"!{len(self._nodes) - 1}"

    @property
    def text(self) -> str:
        """What the references stand for."""
        nodes = [f"!{number} = {text}" for number, text in enumerate(self._nodes)]
        return "\n".join(["!llvm.dbg.cu = !{!0}", "!llvm.module.flags = !{!2}", *nodes])


class Scope:
    """One function. `reference` stands behind its head."""

    def __init__(self, lines: DebugLines, node: str) -> None:
        self.reference = f" !dbg {node}"
        self._lines, self._node = lines, node
        self._known: dict[int, str] = {}

    def location(self, line: int | None) -> str:
        """What stands behind an instruction that comes of a line of IR."""
        number = self._lines.number_of(line)
        if number not in self._known:
            self._known[number] = self._lines.node(f"!DILocation(line: {number}, scope: {self._node})")
        return f", !dbg {self._known[number]}"
