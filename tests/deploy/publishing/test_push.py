"""`oatmill push`: what is in the folder, what is not, and what the Hub gets."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oatmill
from actors.settings import FactoryEnv
from deploy.cli.entry import run_command
from deploy.publishing.policy_folder import Wanted, write_policy_folder
from oatmill.errors import RunError, UserError
from oatmill.settings import yaml_format
from recipes import cartpole
from runner.settings import RunSettings
from tests.deploy.publishing.hub_stand_in import TOKEN, StandIn, hub_stand_in
from tests.deploy.publishing.trained_run import trained_run

FILES = ["README.md", "config.yaml", "manifest.json", "model.safetensors", "policy.onnx"]
SECRET = "sesame-open-the-door"
FACTORY = "tests.actors.environments.rude_environments:make"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = cartpole.settings()
    settings.trainer.gamma = 0.98
    return trained_run(tmp_path_factory.mktemp("runs") / "ann-smith", settings)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    pytest.importorskip("huggingface_hub")
    with hub_stand_in() as serving:
        monkeypatch.setenv("HF_ENDPOINT", serving.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
        yield serving


def played(given: Mapping[str, Any]) -> dict[str, Any]:
    deterministic = given["deterministic"]
    if given["record"]:
        Path(given["record"]).write_bytes(b"a film")
    mean = 500.0 if deterministic else 321.5
    episode_return = {"mean": mean, "std": 1.5, "n": given["episodes"]}
    return {
        "episode_return": episode_return, "episode_length": 99.0, "random_return": 22.0, "seed": given["seed"],
        "deterministic": deterministic,
    }  # fmt: skip


def written(folder: Path, run: Path, play: Any = played, **changes: Any) -> list[str]:
    folder.mkdir()
    wanted: dict[str, Any] = {"episodes": 5, "seed": 7, "publish": (), "trust": False}
    return write_policy_folder(folder, Wanted(run, "ann/pole", **wanted | changes), play)


def test_the_card_tells_settings_returns_and_how_the_policy_is_loaded(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    assert written(folder, run) == []
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "replay.mp4"])
    text = (folder / "README.md").read_text()
    head = yaml_format.load(text.split("---")[1])
    assert head["library_name"] == "oatmill"
    assert "CartPole-v1" in head["tags"]
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == "500.00 +/- 1.50"
    for line in (
        "| most likely | 5 | 500.00 ± 1.50 | 99.0 |",
        "| sampled | 5 | 321.50 ± 1.50 | 99.0 |",
        "Played with seed 7 after training. The random policy gets 22.",
        "| `trainer.gamma` | `0.98` | `0.99` |",
        'policy = oatmill.load("hf://ann/pole")',
        "| input | `observation` | float32 | `[N, 4]` |",
        '<video controls autoplay loop src="./replay.mp4"></video>',
    ):
        assert f"\n{line}\n" in text
    assert "the recipe `cartpole`: 1,234 env steps in 3 learner steps. Losses: `ppo_critic`, `ppo_actor`." in text
    shown = re.findall(r"^\| `[\w.]+` \| `[^|]*` \| `[^|]*` \|$", text, re.MULTILINE)
    assert len(shown) == 1, "only what differs from the recipe"


def test_the_files_of_the_card_give_the_policys_actions(run: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = tmp_path / "policy"
    written(folder, run, episodes=0)
    seen = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    expected = oatmill.load(run).act(seen, deterministic=True)
    np.testing.assert_array_equal(oatmill.load(folder).act(seen, deterministic=True), expected)
    policy = onnxruntime.InferenceSession(folder / "policy.onnx")
    (action,) = policy.run(["action"], {"observation": seen})
    np.testing.assert_array_equal(action, expected)


TOYS = "tests.deploy.publishing.toy_environments"


@pytest.mark.parametrize(
    ("env", "agent"),
    [
        ({"kind": "gymnasium", "id": "CartPole-v1", "kwargs": {"sutton_barto_reward": True}}, {}),
        ({"kind": "gymnasium", "id": "Pendulum-v1"}, {"core": "gru", "core_size": 16}),
        ({"kind": "factory", "factory": f"{TOYS}:Robot"}, {}),
        ({"kind": "factory", "factory": f"{TOYS}:Masked"}, {}),
        ({"kind": "factory", "factory": f"{TOYS}:Masked", "kwargs": {"in_info": True}}, {"core": "lstm", "core_size": 16}),
    ],
)
def test_the_code_of_the_card_plays_an_episode_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, Any], agent: dict[str, Any]
) -> None:
    pytest.importorskip("onnxruntime")
    hub = pytest.importorskip("huggingface_hub")
    folder = tmp_path / "policy"
    allowed = tuple(f"env.kwargs.{name}" for name in env.get("kwargs", {}))
    run = trained_run(tmp_path / "run", RunSettings.of({"env": env, "agent": agent}))
    written(folder, run, episodes=0, publish=allowed)
    section = (folder / "README.md").read_text().partition("## Use it with onnxruntime")[2]
    monkeypatch.setattr(hub, "hf_hub_download", lambda repository, name: str(folder / name) if repository == "ann/pole" else "")
    names: dict[str, Any] = {}
    exec(section.split("```")[1].removeprefix("python"), names)
    assert names["over"]
    assert names["env"].action_space.contains(names["env"].unwrapped.last_action if "factory" in env else names["action"][0])


def secretive() -> RunSettings:
    settings = cartpole.settings()
    kwargs = {"how": "nothing", "server": SECRET, "api_key": 1234567, "wind": 0.5}
    settings.env = FactoryEnv(factory=FACTORY, kwargs=kwargs)
    settings.trainer.init_from = "/home/ann-smith/runs/old"
    return settings


def test_secrets_and_paths_are_in_no_file(tmp_path: Path) -> None:
    spaces = cartpole.settings()
    spaces.env = FactoryEnv(factory=FACTORY, kwargs={"how": "nothing"})
    run = trained_run(tmp_path / "ann-smith", spaces, stored=secretive())
    folder = tmp_path / "policy"
    notes = written(folder, run, episodes=0)
    names = ["env.kwargs.api_key", "env.kwargs.how", "env.kwargs.server"]
    assert sorted(notes) == [f"{name} is not uploaded; --publish {name} allows it" for name in names]
    for path in folder.iterdir():
        content = path.read_bytes()
        for text in (SECRET, "1234567", "ann-smith", str(tmp_path), "/home/"):
            assert text.encode() not in content, f"{text} in {path.name}"
    config = yaml_format.load((folder / "config.yaml").read_text())
    assert config["env"]["kwargs"] == {"wind": 0.5}
    assert config["trainer"]["init_from"] is None
    assert "metrics" not in config
    assert "`env.kwargs.server`" in (folder / "README.md").read_text(), "it is said that something is missing"
    written(tmp_path / "allowed", run, episodes=0, publish=("env.kwargs.how",))
    config = yaml_format.load((tmp_path / "allowed" / "config.yaml").read_text())
    assert config["env"]["kwargs"] == {"wind": 0.5, "how": "nothing"}
    with pytest.raises(UserError, match=r"it has no env\.kwargs\.who$"):
        written(tmp_path / "unknown", run, episodes=0, publish=("env.kwargs.who",))


def test_a_secret_that_reached_a_file_stops_the_upload(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.publishing.policy_folder.card", lambda _: f"see {run / 'checkpoints'}")
    with pytest.raises(UserError, match=r"^README\.md would show a value that is not to be uploaded"):
        written(tmp_path / "policy", run, episodes=0)


def test_an_environment_without_pictures_is_played_without_a_video(run: Path, tmp_path: Path) -> None:
    def blind(given: Mapping[str, Any]) -> dict[str, Any]:
        if given["record"]:
            raise RunError("it cannot be rendered")
        return played(given)

    assert written(tmp_path / "policy", run, blind) == ["without a video: it cannot be rendered"]
    assert sorted(path.name for path in (tmp_path / "policy").iterdir()) == sorted(FILES)
    assert "| most likely | 5 |" in (tmp_path / "policy" / "README.md").read_text()


def test_the_hub_gets_the_folder_and_oatmill_loads_it_from_there(
    run: Path, hub: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["push", str(run), "ann/pole", "--episodes", "0", "--private"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.address}/ann/pole"
    assert sorted(set(hub.files["ann/pole"]) - {".gitattributes"}) == sorted(FILES)
    assert hub.private["ann/pole"]
    assert run_command(["push", str(run), "ann/pole", "--episodes", "0"]) == 0, "a second time"
    hub.files["ann/pole"]["evil.py"] = b"raise SystemExit"
    hub.asked.clear()
    seen = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    loaded = oatmill.load("hf://ann/pole")
    np.testing.assert_array_equal(loaded.act(seen, deterministic=True), oatmill.load(run).act(seen, deterministic=True))
    assert set(hub.asked) == {"config.yaml", "manifest.json", "model.safetensors"}, "no code is downloaded"
    with pytest.raises(UserError, match="a policy from the Hub never runs code"):
        oatmill.load("hf://ann/pole", trust=True)
    with pytest.raises(UserError, match="the repository does not exist, or this token has no access to it"):
        oatmill.load("hf://ann/nobody")


def test_a_public_repository_does_not_get_what_is_to_be_private(
    run: Path, hub: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files["ann/pole"], hub.private["ann/pole"] = {}, False
    assert run_command(["push", str(run), "ann/pole", "--episodes", "0", "--private"]) == 2
    assert "ann/pole exists and is public" in capsys.readouterr().err
    assert hub.files["ann/pole"] == {}


def refused(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["push", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" or "MB" in shown.out
    errors = [line for line in shown.err.splitlines() if line.startswith("oatmill: error: ")]
    assert len(errors) == 1
    assert says in errors[0]
    assert shown.err.splitlines()[-1] == errors[0]


def test_bad_input_is_one_line(
    run: Path, hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused([str(tmp_path / "nothing"), "ann/pole"], "nothing is not a checkpoint: expected a folder", capsys)
    refused([str(run), "pole"], "expected NAMESPACE/NAME of a repository on the Hub, such as ann/cartpole, got 'pole'", capsys)
    refused([str(run), "ann/pole", "--dry-run", str(run)], "must be a new or empty folder, but it has files", capsys)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused([str(run), "ann/pole", "--episodes", "0"], "cannot be uploaded: the Hub rejected this token", capsys)
    monkeypatch.delenv("HF_TOKEN")
    refused([str(run), "ann/pole"], "there is no token for the Hub: run `hf auth login`, or set HF_TOKEN", capsys)
    assert hub.files == {}


def test_a_hub_that_cannot_be_reached_is_one_line(
    run: Path, hub: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        refused(
            [str(run), "ann/pole", "--episodes", "0"], "ann/pole cannot be uploaded: check the network and HF_ENDPOINT", capsys
        )
    assert hub.asked == []


def test_without_the_package_the_way_out_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("runner.hub.importlib.util.find_spec", lambda _: None)
    refused([str(run), "ann/pole"], "the Hub needs huggingface_hub, which is not installed; pip install 'oatmill[hub]'", capsys)


def test_a_dry_run_plays_films_and_writes_without_a_token(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    folder = tmp_path / "policy"
    assert run_command(["push", str(run), "ann/pole", "--episodes", "2", "--dry-run", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"written to {folder}"
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "replay.mp4"])
    assert re.search(r"^\| most likely \| 2 \| [\d.]+ ± [\d.]+ \|", (folder / "README.md").read_text(), re.MULTILINE)
