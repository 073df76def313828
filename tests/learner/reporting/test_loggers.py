"""TensorBoard and Weights & Biases: what is written is read back, by TensorBoard's reader and by the file format's rules."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from learner.reporting.loggers import TARGETS, BackgroundWriters, Target, numbers_of, wanted_targets
from oatmill.errors import UserError
from oatmill.settings.base import MetricsSettings

TENSORBOARD, WANDB, MLFLOW = TARGETS


def line(step: int, **more: Any) -> dict[str, Any]:
    """As metrics.jsonl has it, cut short."""
    return {
        "learner_step": step,
        "env_steps": 100 * step,
        "losses": {"ppo_actor": {"raw": -0.5 * step, "share": 1.0, "gradient_norm": None, "terms": {"policy": {"coef": 1.0}}}},
        "entropy": {"nats": 0.25, "fraction": None},
        "episode_return": None,
        "red_flags": ["loss_spike"] if step == 2 else [],
        **more,
    }


def written(targets: list[Target], folder: Path, *lines: Mapping[str, Any]) -> None:
    background = BackgroundWriters(targets, folder, {"trainer": {"gamma": 0.99}})
    for entry in lines:
        background.write(entry)
    background.close()


def test_a_lines_numbers_are_named_by_their_paths_and_flags_are_0_or_1() -> None:
    numbers = dict(numbers_of(line(2)))
    assert {name: value for name, value in numbers.items() if not name.startswith("red_flags/")} == {
        "learner_step": 2,
        "losses/ppo_actor/raw": -1.0,
        "losses/ppo_actor/share": 1.0,
        "losses/ppo_actor/terms/policy/coef": 1.0,
        "entropy/nats": 0.25,
    }
    flags = {name for name, value in numbers.items() if name.startswith("red_flags/") and value == 1}
    assert flags == {"red_flags/loss_spike"}
    assert numbers["red_flags/non_finite"] == 0


# TensorBoard's generated code is older than the protobuf that reads it.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:google.protobuf", "ignore::DeprecationWarning:tensorboard")
def test_tensorboard_reads_every_number_over_env_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr("learner.reporting.loggers.git_commit", lambda _folder: "abc")
    written([TENSORBOARD], tmp_path, line(1), line(2))
    (file,) = tmp_path.glob("events.out.tfevents.*")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    raw = [(event.step, event.value) for event in events.Scalars("losses/ppo_actor/raw")]
    assert raw == [(100, -0.5), (200, -1.0)]
    assert [event.value for event in events.Scalars("red_flags/loss_spike")] == [0, 1]
    assert set(events.Tags()["scalars"]) == set(dict(numbers_of(line(1))))
    (gamma,) = events.Tensors("trainer.gamma/text_summary")
    assert gamma.tensor_proto.string_val[0] == b"0.99"
    assert "git_commit/text_summary" in events.Tags()["tensors"]
    assert file.stat().st_size > 0


def gif(folder: Path) -> Path:
    """A video of three pictures, 6 wide and 4 high."""
    from PIL import Image

    pictures = [Image.new("RGB", (6, 4), (80 * number, 0, 0)) for number in range(3)]
    (folder / "videos").mkdir()
    path = folder / "videos" / "step-1.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    return path


FILMED = {"drawn": {"mean": 3.0}, "video": "videos/step-1.gif"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:google.protobuf", "ignore::DeprecationWarning:tensorboard")
def test_tensorboard_reads_a_video_as_the_gif_that_it_is(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = gif(tmp_path)
    written([TENSORBOARD], tmp_path, line(1), line(2, eval_return=FILMED), line(3))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (video,) = events.Images("eval_video")
    assert (video.step, video.width, video.height, video.encoded_image_string) == (200, 6, 4, path.read_bytes())
    assert len(events.Scalars("losses/ppo_actor/raw")) == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning:google.protobuf", "ignore::DeprecationWarning:tensorboard")
def test_a_video_that_is_gone_costs_no_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written([TENSORBOARD], tmp_path, line(1, eval_return=FILMED), line(2))
    assert "TensorBoard: the video videos/step-1.gif was not written" in caplog.text
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert len(events.Scalars("losses/ppo_actor/raw")) == 2


def test_tensorboard_does_not_create_a_deleted_run_folder_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gone = tmp_path / "run"
    written([TENSORBOARD], gone, line(1), line(2))
    assert "TensorBoard is not written: FileNotFoundError" in caplog.text
    assert not gone.exists()


def test_points_after_the_checkpoint_from_which_a_run_resumes_are_hidden(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written([TENSORBOARD], tmp_path, line(1), line(2), line(3))
    # The file's name has the second in which it was made; the reader takes files in the order of their names.
    (first,) = tmp_path.glob("events.out.tfevents.*")
    first.rename(tmp_path / "events.out.tfevents.0000000001.earlier")
    written([TENSORBOARD], tmp_path, line(2, seconds=7.0))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("losses/ppo_actor/raw")] == [(100, -0.5), (200, -1.0)]


def records_of(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: seven bytes of header, then LevelDB's log format in blocks of 32 KiB."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in {1, 4}:  # a whole record, or the last part of one
            yield parts
            parts = b""


def test_an_offline_weights_and_biases_run_holds_every_row_and_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr("learner.reporting.loggers.git_commit", lambda _folder: "abc")
    from wandb.proto import wandb_internal_pb2

    written([WANDB], tmp_path, line(1), line(2))
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    rows: list[dict[str, Any]] = []
    config: dict[str, Any] = {}
    deadline = time.monotonic() + 60
    while len(rows) < 2 and time.monotonic() < deadline:  # wandb's own process writes, and may do so after `finish`
        rows.clear()
        for content in records_of(file.read_bytes()):
            record: Any = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            if record.WhichOneof("record_type") == "history":
                rows.append({(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item})
            if record.WhichOneof("record_type") == "run":
                config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
        time.sleep(0.05)
    assert [(row["env_steps"], row["losses/ppo_actor/raw"]) for row in rows] == [(100, -0.5), (200, -1.0)]
    assert config["trainer"] == {"gamma": 0.99}
    assert config["git_commit"] == "abc"


def test_an_offline_weights_and_biases_run_holds_the_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    path = gif(tmp_path)
    written([WANDB], tmp_path, line(1, eval_return=FILMED), line(2))
    deadline = time.monotonic() + 60
    while not (found := [*tmp_path.glob("wandb/offline-run-*/files/media/videos/*.gif")]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [video.read_bytes() for video in found] == [path.read_bytes()]
    assert found[0].name.startswith("eval_video_")


# MLflow's own code is older than the libraries that it uses.
@pytest.mark.filterwarnings("ignore")
def test_an_mlflow_run_holds_every_number_the_settings_and_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs oatmill[mlflow]")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("learner.reporting.loggers.git_commit", lambda _folder: "abc-dirty")
    written([MLFLOW], tmp_path, line(1), line(2))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("oatmill").experiment_id])
    history = client.get_metric_history(run.info.run_id, "losses/ppo_actor/raw")
    assert [(point.step, point.value) for point in history] == [(100, -0.5), (200, -1.0)]
    assert run.data.params == {"trainer.gamma": "0.99"}
    assert run.data.tags["mlflow.source.git.commit"] == "abc-dirty"
    assert run.info.run_name == tmp_path.name
    assert run.info.status == "FINISHED"


def test_only_what_is_asked_for_is_written_and_tensorboard_if_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted_targets(MetricsSettings()) == [TENSORBOARD]
    assert wanted_targets(MetricsSettings(tensorboard=False)) == []
    assert wanted_targets(MetricsSettings(tensorboard=True, wandb=True)) == [TENSORBOARD, WANDB]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert wanted_targets(MetricsSettings()) == []


@pytest.mark.parametrize("package", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_raises_an_error_with_the_install_command(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(UserError, match=rf"^metrics\.{package}=true needs .* pip install 'oatmill\[{package}\]'$"):
        wanted_targets(MetricsSettings.model_validate({package: True}))


class WithoutVideos:
    """The part of a tool that has no videos."""

    def video(self, env_steps: int, path: Path) -> None:
        raise NotImplementedError


class Broken(WithoutVideos):
    """Fails at its second line."""

    def __init__(self) -> None:
        self.lines = 0

    def write(self, env_steps: int, numbers: Mapping[str, float]) -> None:  # noqa: ARG002  (a Writer's)
        self.lines += 1
        if self.lines == 2:
            raise OSError(28, "No space left on device")

    def close(self) -> None:
        raise AssertionError("it was given up")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:google.protobuf", "ignore::DeprecationWarning:tensorboard")
def test_a_tool_that_fails_causes_one_warning_and_the_others_continue(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = Broken()
    with caplog.at_level(logging.WARNING, "oatmill.learner"):
        written([Target("Broken", "broken", lambda *_: broken), TENSORBOARD], tmp_path, line(1), line(2), line(3))
    assert broken.lines == 2
    (record,) = caplog.records
    # The place is the user's own code, which the fake of this file stands for.
    place = r"tests/learner/reporting/\w+\.py:\d+, in write"
    says = rf"Broken is no longer written: OSError: \[Errno 28\] No space left on device \({place}\)"
    assert re.fullmatch(says, record.getMessage())
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_a_slow_tool_does_not_block_and_its_missed_lines_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("learner.reporting.loggers.WAITING_LINES", 2)
    go_on, seen = threading.Event(), []

    class Slow(WithoutVideos):
        def write(self, env_steps: int, numbers: Mapping[str, float]) -> None:  # noqa: ARG002  (a Writer's)
            assert go_on.wait(60)
            seen.append(env_steps)

        def close(self) -> None:
            pass

    background = BackgroundWriters([Target("Slow", "slow", lambda *_: Slow())], tmp_path, {})
    with caplog.at_level(logging.WARNING, "oatmill.learner"):
        for step in range(1, 11):
            background.write(line(step))
        assert seen == []
        go_on.set()
        background.close()
    assert len(seen) + background.left_out == 10
    assert background.left_out >= 7
    assert f"{background.left_out} lines were not written to Slow" in caplog.text
