"""Lines that repeat but for numbers: as a loop they say the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tritonnotes.codegen.support.repeats import BREAK, LEAST, repeats, with_loops

NAMES = st.sampled_from(["x", "relu_{}", "fc{}.weight", "layers.{}.0.bias", "linear_{}.d_linear_{}", "a'{}", "b[{}]"])
LOOPS = st.tuples(
    st.lists(st.lists(NAMES, min_size=1, max_size=2), min_size=1, max_size=3),
    st.integers(0, 12),
    st.integers(-3, 3),
    st.integers(1, 9),
)


def statements(loops: list[tuple[list[list[str]], int, int, int]]) -> list[str]:
    """Calls as a module launches kernels, with the numbers of layers in their names and beside them."""
    made = []
    for block, first, step, count in loops:
        for turn in range(count):
            number = abs(first + step * turn)
            for names in block:
                said = [f't["{name.format(number, number + 1)}"]' for name in names]
                made.append(BREAK.join(["call(", *said, "batch", ")"]))
                made.append(f't["{names[0].format(number, number)}"] = ((batch, 64), float, {number}, 40)')
    return made


def done(lines: list[str]) -> list[object]:
    """What statements do when they are run, in order."""
    seen: list[object] = []

    class Tensors(dict[str, object]):
        def __getitem__(self, name: str) -> object:
            return name

        def __setitem__(self, name: str, value: object) -> None:
            seen.append((name, value))

    exec("\n".join(lines), {"t": Tensors(), "call": lambda *given: seen.append(given), "batch": 7})
    return seen


@given(st.lists(LOOPS, min_size=1, max_size=3))
def test_a_loop_does_what_its_statements_do(loops: list[tuple[list[list[str]], int, int, int]]) -> None:
    texts = statements(loops)
    plain = [text.replace(BREAK, ", ").replace("call(, ", "call(").replace(", )", ")") for text in texts]
    found = list(with_loops(texts, "n"))
    assert done([line for line, _ in found]) == done(plain)
    assert [place for _, place in found] == sorted(place for _, place in found)
    assert all(len(line) <= 118 for line, _ in found)


def lines(texts: list[str], prose: bool = False) -> list[str]:
    return [line for line, _ in with_loops(texts, "n", prose)]


def test_layers_are_counted_by_one_of_their_numbers() -> None:
    texts = [f't["relu_{n - 1}"] = f(t["linear_{n}.weight"], {40 - n})' for n in range(2, 9)]
    assert lines(texts) == [
        "for n in range(1, 8):",
        '    t[f"relu_{n}"] = f(t[f"linear_{n + 1}.weight"], 39 - n)',
    ]


def test_layers_may_be_counted_down_and_in_strides() -> None:
    texts = [f'f(t["layers.{2 * n}.weight"], t["relu_{n}"])' for n in range(9, 3, -1)]
    assert lines(texts) == ["for n in range(9, 3, -1):", '    f(t[f"layers.{2 * n}.weight"], t[f"relu_{n}"])']


def test_what_repeats_seldom_or_in_nothing_is_as_it_is() -> None:
    few = [f'f(t["x_{n}"])' for n in range(LEAST - 1)]
    same = ['f(t["x"])'] * 9
    uneven = [f'f(t["x_{n}"])' for n in (1, 2, 4, 8, 16, 32)]
    named = [f"f_{n}(x)" for n in range(9)]
    for texts in (few, same, uneven, named):
        assert lines(texts) == texts


def test_parts_of_longer_statements_stay_where_they_are() -> None:
    texts = [line for n in range(9) for line in (f'f(t["x_{n}"],', f'    t["y_{n}"],', ")")]
    assert lines(texts) == texts


def test_several_lines_repeat_together() -> None:
    texts = [text for n in range(5) for text in (f'f(t["x_{n}"])', f'g(t["x_{n}"], t["y_{n + 1}"])')]
    (found,) = repeats(texts, "n")
    assert found.count == 5 and found.lines == ('f(t[f"x_{n}"])', 'g(t[f"x_{n}"], t[f"y_{n + 1}"])')


def test_prose_says_numbers_in_braces() -> None:
    texts = ["graph: 1", *(f"fc{n}: f(relu_{n - 1}, init='x', a=2.5)" for n in range(2, 8)), "output y = y"]
    assert lines(texts, prose=True) == [
        "graph: 1",
        "for n in range(2, 8):",
        "    fc{n}: f(relu_{n - 1}, init='x', a=2.5)",
        "output y = y",
    ]
    braces = [f"x_{n}: {{1}}" for n in range(9)]
    assert lines(braces, prose=True) == braces
