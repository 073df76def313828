"""Every setting has a default, bounds and a meaning that people can look up."""

from __future__ import annotations

import pytest

from deploy.cli.entry import run_command
from runner.settings_reference import all_settings, find_settings

ENTRIES = all_settings()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.path}-{entry.kind}")
def test_every_setting_has_a_meaning_that_is_a_sentence(entry) -> None:  # type: ignore[no-untyped-def]
    assert entry.meaning[:1].isupper() or entry.meaning[:1] == "`", f"{entry.path} needs a docstring"
    assert entry.meaning.endswith((".", ")."))


def test_a_setting_is_listed_with_its_default_and_its_bounds() -> None:
    (entry,) = [entry for entry in ENTRIES if entry.path == "trainer.losses.cmpo.advantage_clip"]
    assert (entry.default, entry.takes, entry.kind) == ("1.0", "a finite number above 0", "")


def test_settings_of_one_kind_of_environment_name_it() -> None:
    kinds = {entry.kind for entry in ENTRIES if entry.path == "env.id"}
    assert kinds == {"envpool", "gymnasium", "minigrid"}


def test_a_search_finds_paths_first_and_then_meanings() -> None:
    paths = [entry.path for entry in find_settings("GAE")]
    assert paths == ["trainer.losses.ppo_critic.gae_lambda", "trainer.returns"]
    assert find_settings("no such word") == []


def test_several_words_are_searched_as_they_follow_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["settings", "learning", "rate"]) == 0
    assert capsys.readouterr().out.startswith("trainer.optimizer.learning_rate\n")
    assert run_command(["settings", "gamma", "nonsense"]) == 2
