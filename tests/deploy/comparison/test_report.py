"""The comparison's report, from run folders as runs leave them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from deploy.comparison.arms import find_arms
from deploy.comparison.report import write_report
from deploy.comparison.results import Results, collect
from deploy.comparison.runs import Cell, Comparison, make_comparison
from deploy.comparison.statistics import Estimate
from deploy.comparison.verdict import listed, verdicts
from recipes.registry import find_recipe


def write_run(cell: Cell, final: float, *, pushes: float = 0.1, flags: Sequence[Mapping[str, str]] = ()) -> None:
    """A run that came to `final` on a straight line over 1,000 env steps; an arm's step takes twice a baseline's time."""
    cell.folder.mkdir(parents=True)
    rate = 1000.0 if cell.arm == "baseline" else 500.0
    losses = {
        "ppo_critic": {"coef": 0.5, "raw": 2.0, "weighted": 1.0, "share": 0.5, "gradient_norm": 1.0, "gradient_share": 0.5},
        "muesli_model": {
            "coef": 1.0,
            "raw": 5.0,
            "weighted": -5.0,
            "share": 0.5,
            "gradient_norm": None,
            "gradient_share": pushes,
        },
    }
    lines: list[dict[str, Any]] = [{"learner_step": 1, "env_steps": 50, "episode_return": None, "losses": losses}]
    for step in range(1, 11):
        lines.append({"learner_step": step + 1, "env_steps": 100 * step, "seconds": 100 * step / rate})
        lines[-1] |= {"episode_return": {"mean": final * step / 10}, "losses": losses}
    (cell.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = {
        "outcome": "done",
        "episode_return": {"mean": final, "std": 1.0, "n": 100},
        "env_steps_per_second": rate,
        "entropy": {"nats": 1.0, "fraction": 0.5},
        "explained_variance": None,
        "red_flags": list(flags),
    }
    (cell.folder / "summary.json").write_text(json.dumps(summary))


def compared(out: Path, finals: Mapping[str, Sequence[float]], **options: Any) -> Results:
    arms, seeds = find_arms(",".join(finals), ()), max(map(len, finals.values()))
    # Settings are compared with those of folders that hold a config.yaml only where a run is run again; here none is.
    comparison = Comparison(
        "cartpole", arms, make_comparison(find_recipe("cartpole"), arms, seeds=seeds, common=[], out=out).cells, out
    )
    for cell in comparison.cells:
        if cell.seed < len(finals[cell.arm]):
            write_run(cell, finals[cell.arm][cell.seed], **options)
    return collect(comparison)


def test_seeds_that_do_not_separate_the_arms_are_said_not_to(tmp_path: Path) -> None:
    text = verdicts(compared(tmp_path, {"baseline": [10, 20, 30, 40], "muesli": [15, 25, 35, 20]}))
    assert text[0] == "**With these seeds, no arm differs clearly from baseline.**"
    assert "**muesli** does not differ clearly from baseline: final return 22.5 against 25" in text[-1]


def test_arms_that_lie_apart_in_four_seeds_are_told_apart(tmp_path: Path) -> None:
    text = verdicts(compared(tmp_path, {"baseline": [10, 20, 30, 40], "muesli": [50, 60, 70, 80]}))
    assert text[0] == "**By final return, muesli is better than baseline.**"
    assert len(text) == 2, "four seeds need no warning"
    assert "**muesli** is better than baseline: final return 65 against 25" in text[1]
    # Baseline's middle line comes to 25 at its end, the line to 65 at 25 / 65 = 0.38 of the run (and to the next grid point).
    assert re.search(r"It reaches baseline's final return with 0\.3[89] times the env steps", text[1])
    assert "an env step took 2.00 times as long" in text[1]


def test_the_headline_names_every_arm(tmp_path: Path) -> None:
    finals = {"baseline": [10, 20, 30, 40], "muesli": [50, 60, 70, 80], "muesli_cmpo": [1, 2, 3, 4], "full": [5, 45, 6, 44]}
    comparison = compared(tmp_path, finals)
    assert verdicts(comparison)[0] == (
        "**By final return, muesli is better than baseline; muesli_cmpo is worse than baseline; full does not differ clearly.**"
    )


def test_arms_that_end_alike_but_differ_over_the_whole_run_are_told_apart(tmp_path: Path) -> None:
    results = compared(tmp_path, {"baseline": [10, 20, 30, 40], "muesli": [11, 21, 29, 39]})
    won = replace(results.against["muesli"], average=Estimate(1, 1, 1), average_p=0.008)
    text = verdicts(replace(results, against={"muesli": won}))[0]
    assert text == (
        "**By final return, no arm differs clearly from baseline. Averaged over the run, muesli is better than baseline.**"
    )


def test_returns_between_0_and_1_are_shown_with_three_digits_after_the_point(tmp_path: Path) -> None:
    results = compared(tmp_path, {"baseline": [0.9391, 0.9391], "muesli": [285.44, 285.44]})
    write_report(results, ["oatmill"])
    text = (tmp_path / "report.md").read_text()
    assert "| baseline | 0.939 [0.939, 0.939] |" in text
    assert "| muesli | 285.4 [285.4, 285.4] |" in text


def test_names_are_listed_as_in_a_sentence() -> None:
    assert [listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


def test_three_seeds_that_lie_apart_are_a_hint_and_no_more(tmp_path: Path) -> None:
    text = verdicts(compared(tmp_path, {"baseline": [10, 20, 30], "muesli": [1, 2, 3]}))
    assert text[0] == "**With these seeds, no arm differs clearly from baseline.**"
    assert "an exact p of 0.10. So nothing here is significant" in text[1]
    assert "Use at least `--seeds 4`" in text[1]
    assert "looks worse than baseline, but there are too few runs to be sure" in text[2]
    assert "It does not reach baseline's final return" in text[2]


def test_a_loss_that_pushes_nothing_is_called_switched_off(tmp_path: Path) -> None:
    text = verdicts(compared(tmp_path, {"baseline": [1, 2], "muesli": [1, 2]}, pushes=0.0004))
    assert "muesli_model 0.04%. With this coefficient the loss has almost no effect on training" in text[-1]


def test_the_report_says_what_is_missing(tmp_path: Path) -> None:
    results = compared(tmp_path, {"baseline": [1, 2], "muesli": [1]})
    assert results.missing == ["muesli seed 1 has not finished"]
    nothing = compared(tmp_path / "none", {"baseline": [], "muesli": [1.0]})
    assert verdicts(nothing) == ["There is no finished run of baseline, so nothing can be compared with it."]
    write_report(nothing, ["oatmill"])


class Sources(HTMLParser):
    """Every address that a page would load."""

    found: list[str]

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in {"src", "href"}]


def test_the_html_is_one_file_and_both_reports_hold_the_same(tmp_path: Path) -> None:
    flag = {"flag": "muesli_ratio", "why": "0.001 by gradient & <expected> 1 to 10"}
    results = compared(tmp_path, {"baseline": [10, 20], "muesli": [30, 40]}, flags=[flag])
    content = write_report(results, ["oatmill", "compare", "cartpole", "--arm", "a=b.c=[1, 2]"])
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    sources = Sources()
    sources.found = []
    sources.feed(page)
    assert len(sources.found) == 3
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in sources.found)
    assert "&amp; &lt;expected&gt;" in page
    assert "oatmill compare cartpole --arm 'a=b.c=[1, 2]'" in text
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(pictures) == 3
    assert all((tmp_path / picture).is_file() for picture in pictures)
    assert content == json.loads((tmp_path / "report.json").read_text())
    assert content["arms"]["muesli"]["final"] == [30, 40]
    assert content["arms"]["muesli"]["losses"]["muesli_model"]["weighted"] == 5
    assert content["arms"]["muesli"]["losses"]["muesli_model"]["gradient_norm"] is None
    assert content["against"]["muesli"]["final"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert content["arms"]["baseline"]["red_flags"] == {"muesli_ratio": {"runs": 2, "why": flag["why"]}}


def test_half_the_env_steps_in_as_many_seconds_are_reported_as_such(tmp_path: Path) -> None:
    results = compared(tmp_path, {"baseline": [20, 20, 20, 20], "muesli": [40, 40, 40, 40]})
    content = write_report(results, ["oatmill"])
    first, *_ = content["against"]["muesli"]["milestones"]
    # A quarter of the way from 2 (at 100 env steps) to 20 is 6.5.
    assert first["return"] == pytest.approx(6.5)
    assert first["env_steps"]["taken"] == pytest.approx([162.5] * 4, rel=0.02)
    assert first["seconds"]["taken"] == pytest.approx([0.325] * 4, rel=0.02)
    assert first["env_steps"]["ratio"]["value"] == pytest.approx(0.5, rel=0.02)
    assert first["seconds"]["ratio"]["value"] == pytest.approx(1, rel=0.02)
    steps, seconds = (tmp_path / "report.md").read_text().split("## Seconds to a return")
    assert "325 env steps" in steps
    assert "| 0.3 seconds |" in seconds


@pytest.mark.parametrize("name", ["final", "average"])
def test_the_average_return_is_the_area_under_the_curve(tmp_path: Path, name: str) -> None:
    arm = compared(tmp_path, {"baseline": [10, 20], "muesli": [30, 40]}).arms["baseline"]
    # A straight line from 1 (at 100 env steps) to 10 has the mean 5.5.
    assert getattr(arm, name).tolist() == pytest.approx({"final": [10, 20], "average": [5.5, 11]}[name])
