"""A run with half an hour of all faults of `oatmill chaos`. OATMILL_SOAK_SECONDS=60 makes it a short check.

`OATMILL_SOAK_REPORT=FILE` writes the report and the records of the witness to a file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.system import witness
from tests.system.real_runs import environment
from tests.system.witness import lives, witnessed

SOAK_S = 1800.0
SECONDS = float(os.environ.get("OATMILL_SOAK_SECONDS", SOAK_S))
ENDS_WITHIN_S = 400.0
GAP_S = 60.0
"""The longest time without a learner step. Time in which the learner is stopped or the disk is full does not count. Most of
it is the time that a new process needs to import torch while other work uses the cores."""
FEW = 100
"""The number of faults in a run that is long enough to have all kinds of them."""
KINDS = {
    *("actor killed", "learner killed", "replay killed", "actor stopped", "learner stopped", "replay stopped"),
    *("supervisor stopped", "actor slowed", "disk full", "connections flooded", "log bit flipped", "clocks set"),
}
SETTINGS = [
    *("env.kind=factory", "env.factory=tests.system.witness:Numbered"),
    *("trainer.extra_losses=[tests.system.witness:choose]", "trainer.optimizer.schedule=constant"),
]


def soak(folder: Path) -> dict[str, Any]:
    """The report of a long run with faults, with the records of the witness."""
    seen = folder / "seen"
    seen.mkdir()
    options = ["--fault", "all", "--seconds", f"{SECONDS:g}", "--seed", "3", "--json"]
    ended = subprocess.run(
        [sys.executable, "-m", "deploy", "chaos", "cartpole", *SETTINGS, *options],
        capture_output=True,
        text=True,
        timeout=SECONDS + ENDS_WITHIN_S,
        check=False,
        env=environment() | {witness.FOLDER: str(seen)},
    )
    if "--fault disk must mount" in ended.stderr:
        pytest.skip(ended.stderr.strip())
    assert ended.stdout, ended.stderr
    report: dict[str, Any] = json.loads(ended.stdout)
    report["witness"] = dict(witnessed(lives(seen)))
    text = json.dumps(report, indent=1)
    sys.stdout.write(f"{text}\n")  # shown by pytest -s
    if kept := os.environ.get("OATMILL_SOAK_REPORT"):
        Path(kept).write_text(f"{text}\n")
    return report


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + ENDS_WITHIN_S + 60)
def test_half_an_hour_of_all_faults_loses_nothing_silently_and_trains_on_nothing_twice(tmp_path: Path) -> None:
    report = soak(tmp_path)
    assert report["exit_code"] == 0, report
    assert report["lost_in_silence"] == 0, report
    assert report["accounted"] == report["produced"] > 0, report
    assert report["good"], report
    assert (report["witness"]["twice"], report["witness"]["out_of_order"]) == (0, 0), report
    assert report["witness"]["trained"] > 0, report
    assert report["longest_gap_seconds"] < GAP_S, report
    if report["faults_survived"] >= FEW:
        assert set(report["faults"]) == KINDS, report


def test_the_witness_finds_trajectories_that_come_twice_or_out_of_order() -> None:
    first = [[(1, 0), (2, 0)], [(1, 64), (2, 64)], [(1, 128), (2, 128)], [(1, 192), (2, 192)], [(1, 256)]]
    nothing = {"twice": 0, "out_of_order": 0, "again_after_a_death": 0}
    assert witnessed([first]) == nothing | {"trained": 9}
    assert witnessed([first, [[(1, 256), (2, 256)]]]) == nothing | {"trained": 11, "again_after_a_death": 1}
    short = witnessed([first, [], [[(1, 256), (2, 256)]]])
    assert short == nothing | {"trained": 11, "again_after_a_death": 1}, "a life without batches changes nothing"
    assert witnessed([first, [[(1, 0)]]]) == nothing | {"trained": 10, "twice": 1}
    assert witnessed([[*first, [(1, 256)]]]) == nothing | {"trained": 10, "twice": 1}
    assert witnessed([[[(1, 64)], [(1, 0)]]]) == nothing | {"trained": 2, "out_of_order": 1}
    assert witnessed([first, [[(1, 256)], [(1, 192)]]])["out_of_order"] == 1, "repeated trajectories must be in order, too"
    assert witnessed([first, [[(1, 320)], [(1, 256)]]])["out_of_order"] == 1
    assert witnessed([first, [[(1, 256)], [(1, 256)]]])["twice"] == 1
