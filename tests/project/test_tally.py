"""What the independent judges were not asked is told with its reason, whichever process asked."""

from __future__ import annotations

import pytest
from paths import JUDGES
from tally import Tally, lines, told

pytest_plugins = "pytester"


def recorded(judge: str, subject: str, ran: int, *left_out: str) -> list[tuple[str, object]]:
    properties: list[tuple[str, object]] = [("another", 1)]
    made = Tally(judge, subject, ran)
    for reason in left_out:
        made.leave_out(reason)
    made.record(lambda name, value: properties.append((name, value)))
    return properties


def test_a_tally_survives_as_text() -> None:
    (again,) = told(recorded("torch", "gelu", 3, "no", "no", "never"))
    assert (again.judge, again.subject, again.ran) == ("torch", "gelu", 3)
    assert again.left_out == {"no": 2, "never": 1}


def test_lines_count_by_judge_and_reason() -> None:
    tallies = told([*recorded("torch", "gelu", 3, "no", "no"), *recorded("torch", "relu", 4, "no"),
                    *recorded("onnx", "Relu", 1)])  # fmt: skip
    assert lines(tallies) == [
        "torch: 7 ran, 3 left out",
        "  3 left out, no: gelu × 2, relu",
        "onnx: 1 ran, 0 left out",
    ]


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["one process", "two"])
def test_what_is_left_out_is_told_at_the_end_of_a_run(pytester: pytest.Pytester, workers: list[str]) -> None:
    find_tally = f"import sys; sys.path.insert(0, {str(JUDGES)!r})\n"
    pytester.makeconftest(f"{find_tally}from tally import pytest_terminal_summary")
    pytester.makepyfile("""
        import pytest
        from tally import Tally

        @pytest.mark.parametrize("subject", ["gelu", "relu"])
        def test_judge(subject, record_property):
            tally = Tally("torch", subject, ran=2)
            tally.leave_out("it is none of ours")
            tally.record(record_property)
            assert subject == "gelu"
    """)
    done = pytester.runpytest_subprocess(*workers)
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(
        ["*independent judges*", "torch: 4 ran, 2 left out", "  2 left out, it is none of ours: gelu, relu"]
    )
