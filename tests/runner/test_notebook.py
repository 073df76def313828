"""A run and its result in a notebook: HTML tables that show what is asked first, and that no text can break out of."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from recipes import cartpole
from recipes.resolve import resolve_run
from runner.notebook import result_html
from tests.runner.test_result import composed


class Tables(HTMLParser):
    """The rows of each table by its caption, and every tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.tags: list[str] = []
        self._open, self._caption = [""], ""
        self.feed(text)
        assert self._open == [""], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self._open.append(tag)
        self.tags.append(tag)
        if tag == "tr":
            self.rows[self._caption].append([])
        if tag in {"td", "th"}:
            self.rows[self._caption][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "caption" in self._open:
            self._caption = data
            self.rows[data] = []
        elif self._open[-1] in {"td", "th"}:
            self.rows[self._caption][-1][-1] += data


def test_a_run_shows_its_plan_and_what_differs_from_the_recipe() -> None:
    run = cartpole.train()
    assert "Settings that differ" not in Tables(run._repr_html_()).rows
    run.trainer.gamma = 0.98
    run.trainer.on_red_flag = "stop"
    tables = Tables(run._repr_html_()).rows
    assert tables["Settings that differ from the recipe"] == [
        ["setting", "this run", "recipe"],
        ["trainer.gamma", "0.98", "0.99"],
        ["trainer.on_red_flag", "stop", "warn"],
    ]
    assert ["environment", "CartPole-v1"] in tables["Plan"]
    assert ["budget", "300,000 env steps"] in tables["Plan"]


def test_what_a_command_has_changed_differs_from_the_recipe_too() -> None:
    run = resolve_run("cartpole", ["trainer.epochs=2"], preset=None, config=None, flags={"actors.count": 3})
    changed = [("actors.count", 3, 2), ("trainer.epochs", 2, cartpole.settings().trainer.epochs)]
    assert list(run.changed_settings()) == changed
    own = resolve_run(None, ["trainer.epochs=2"], env="CartPole-v1", preset=None, config=None, flags={})
    assert [path for path, _, _ in own.changed_settings()] == ["trainer.epochs"]


def test_a_result_shows_returns_flags_ledger_and_the_paths_that_exist(tmp_path: Path) -> None:
    (tmp_path / "summary.json").touch()
    status = {"fleet": {"episode_return": {"mean": 480.5, "std": 12.0, "n": 100}}, "ledger": {"produced": 7, "trained": 7}}
    line = {"learner_step": 5, "env_steps": 320, "losses": {"cmpo": {"weighted": 1.5}}, "red_flags": ["loss_spike"]}
    result = composed(tmp_path, status=status, last_line=line)
    tables = Tables(result._repr_html_()).rows
    assert ["actors' last episodes", "480.50", "12.00", "100"] in tables["Return"]
    assert tables["Red flags"] == [["loss_spike", ""]]
    assert tables["Ledger of trajectories"] == [["produced", "7"], ["trained", "7"]]
    assert tables["Paths"] == [["run folder", str(tmp_path)], ["summary.json", str(tmp_path / "summary.json")]]
    assert ["cmpo", "1.5", "-", "-"] in tables["Losses"]
    nothing = Tables(result_html(composed(tmp_path, outcome="failed", error="a node was lost"))).rows
    assert ["error", "a node was lost"] in nothing["Training"]
    assert nothing["Red flags"] == [["none", ""]]
    assert "Ledger of trajectories" not in nothing


def test_every_text_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>&"
    folder = tmp_path / "<b>"
    line = {"losses": {evil: {}}, "red_flags": [evil]}
    result = composed(folder, outcome=evil, error=evil, last_line=line, status={"ledger": {evil: 1}})
    run = cartpole.train()
    run.recipe = run.preset = evil
    run.settings.env.id = evil
    for text in (result._repr_html_(), run._repr_html_()):
        assert set(Tables(text).tags) <= {"div", "p", "b", "table", "caption", "i", "thead", "tbody", "tr", "th", "td"}
        assert "<script" not in text
        assert "alert(&#x27;x&#x27;)" in text
