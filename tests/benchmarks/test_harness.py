"""How benchmarks are measured, told and compared."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.__main__ import EXTRA, NAMES, main
from benchmarks.baseline import compared, read_baseline
from benchmarks.harness import Arm, Effort, Figure, Rounds, measure, timed
from benchmarks.tables import comparison_table, figures_table

ROOT = Path(__file__).resolve().parents[2]


class Noted:
    """A benchmark of two arms that only note that they ran."""

    WARM_UP = True

    def __init__(self) -> None:
        self.ran: list[str] = []

    def arms(self, effort: Effort, stack: ExitStack) -> Mapping[str, Arm]:
        assert effort.rounds == 3
        stack.callback(self.ran.append, "closed")
        return {name: self.arm(name) for name in ("a", "b")}

    def arm(self, name: str) -> Arm:
        def run() -> dict[str, float]:
            self.ran.append(name)
            return {"order": float(len(self.ran))}

        return run

    def figures(self, rounds: Rounds) -> Mapping[str, Figure]:
        return {"last": Figure(rounds.median("a", "order"), "")}


def test_arms_are_interleaved_each_round_beginning_with_another_and_the_warm_up_is_thrown_away() -> None:
    noted = Noted()
    rounds = measure(noted, Effort(3, 1.0))
    assert noted.ran == ["a", "b", "a", "b", "b", "a", "a", "b", "closed"]
    assert rounds.values["a"]["order"] == [3.0, 6.0, 7.0]
    assert set(rounds.values["b"]) == {"order", "wall_s", "cpu_s"}


def test_ratios_are_taken_within_rounds() -> None:
    # By hand: the second round was twice as slow for both. Ratios 2, 2, 4: their median is 2; that of medians would be 4 / 2.
    rounds = Rounds({"a": {"s": [2.0, 4.0, 4.0]}, "b": {"s": [1.0, 2.0, 1.0]}})
    assert rounds.ratio("a", "b", "s") == 2.0
    assert rounds.median("a", "s") == 4.0


def test_children_count_as_own_cpu_time() -> None:
    def busy() -> dict[str, float]:
        subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
        return {}

    assert timed(busy)["cpu_s"] >= 0.3


def test_a_goal_is_reached_from_its_better_side() -> None:
    assert Figure(2.0, "x", "higher", 2.0).met
    assert not Figure(1.9, "x", "higher", 2.0).met
    assert Figure(1.9, "x", "lower", 2.0).met
    assert Figure(1.9, "x").met is None
    assert "MISSED" in figures_table("n", {"f": Figure(1.9, "x", "higher", 2.0)})


def result(value: float, better: str = "higher") -> dict[str, object]:
    return {"figures": {"f": {"value": value, "unit": "x", "better": better}}}


def test_a_comparison_says_what_became_better_whichever_way_is_better() -> None:
    before = {"benchmarks": {"up": result(2.0), "down": result(2.0, "lower")}}
    changes = compared(before, {"up": result(3.0), "down": result(4.0, "lower"), "new": result(1.0)})
    assert [(change.name, change.better) for change in changes] == [("up: f", 1.5), ("down: f", 0.5)]
    better, worse = comparison_table(changes)
    assert "1.50x better" in better
    assert "0.50x WORSE" in worse


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 0}'])
def test_a_baseline_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "before.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=str(path)):
        read_baseline(path)


@pytest.mark.parametrize("arguments", [["lerner_step"], ["--rounds", "0"], ["--baseline", "/nowhere.json"]])
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(arguments)
    except SystemExit as ended:
        code = ended.code
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("benchmarks: error: ")
    assert error.count("\n") == 1


def test_the_kept_baseline_is_compared_with_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.__main__.import_module", lambda _name: Noted())
    monkeypatch.setattr("benchmarks.__main__.KEPT", tmp_path / "kept.json")
    command = ["stream", "--rounds", "3", "--json"]
    assert main([*command, str(tmp_path / "other.json")]) == 0
    assert "since the baseline" not in capsys.readouterr().out
    assert main([*command, str(tmp_path / "kept.json")]) == 0
    assert "since the baseline" not in capsys.readouterr().out
    assert main([*command, str(tmp_path / "now.json")]) == 0
    assert f"since the baseline {tmp_path / 'kept.json'} of 20" in capsys.readouterr().out
    assert main([*command, str(tmp_path / "now.json"), "--baseline", str(tmp_path / "other.json")]) == 0
    assert f"since the baseline {tmp_path / 'other.json'} of 20" in capsys.readouterr().out


def test_a_run_that_breaks_off_leaves_what_it_has_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_streams(name: str) -> Noted:
        if name.endswith("stream"):
            return Noted()
        raise SystemExit("broken off")

    monkeypatch.setattr("benchmarks.__main__.import_module", only_streams)
    with pytest.raises(SystemExit, match="broken off"):
        main(["stream", "weights", "--rounds", "3", "--json", str(tmp_path / "now.json")])
    assert list(json.loads((tmp_path / "now.json").read_text())["benchmarks"]) == ["stream"]


def test_a_kept_baseline_can_be_read() -> None:
    for path in (ROOT / "benchmarks/baselines").glob("*.json"):
        assert set(read_baseline(path)["benchmarks"]) <= set(NAMES)


def test_every_benchmark_is_listed() -> None:
    assert sorted((*NAMES, *EXTRA)) == sorted(path.stem for path in (ROOT / "benchmarks/suite").glob("[a-z]*.py"))


def test_a_quick_run_measures_writes_and_compares(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "inference", "--quick", "--json", str(tmp_path / "now.json")]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    written = json.loads((tmp_path / "now.json").read_text())
    assert written["benchmarks"]["inference"]["figures"]["cartpole: act"]["value"] > 0
    assert written["machine"]["cores"] >= 1
    again = subprocess.run(
        [*command, "--baseline", str(tmp_path / "now.json")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "since the baseline" in again.stdout
    assert "inference: cartpole: act / bare network" in again.stdout


def test_a_benchmark_without_a_device_says_so_and_ends_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["gpu", "--json", str(tmp_path / "gpu.json")]) == 0
    assert "no CUDA device here, so nothing was measured" in capsys.readouterr().err
    assert json.loads((tmp_path / "gpu.json").read_text())["benchmarks"]["gpu"]["figures"] == {}
