"""An environment that does to its process what users' environments do; named by `env.factory` in tests."""
# ruff: noqa: ARG002, T201 -- the signatures are Gymnasium's

from __future__ import annotations

import asyncio
import atexit
import ctypes
import os
import subprocess
import sys
import threading
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Rude(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Does `how` when it is built, reset, stepped or closed."""

    observation_space = Box(-1.0, 1.0, (2,), np.float32)
    action_space = Discrete(2)

    def __init__(self, how: str, when: str = "build", *, note: str = "") -> None:
        self.how, self.when, self.note = how, when, note
        self.act("build")

    def act(self, now: str) -> None:
        if now == self.when:
            getattr(self, self.how)()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.act("reset")
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.act("step")
        return np.zeros(2, np.float32), 1.0, True, False, {}

    def close(self) -> None:
        self.act("close")

    def nothing(self) -> None:
        pass

    def leaves(self) -> None:
        sys.exit(0)

    def leaves_at_once(self) -> None:
        print("the licence server is\ngone", flush=True)
        os._exit(0)

    def forks(self) -> None:
        os.fork()

    def forks_and_raises(self) -> None:
        if os.fork() == 0:
            sys.exit(0)

    def forks_well(self) -> None:
        copy = os.fork()
        if copy == 0:
            os._exit(0)
        os.waitpid(copy, 0)

    def crashes(self) -> None:
        ctypes.string_at(0)

    def hangs(self) -> None:
        time.sleep(1000)

    def hangs_in_c(self) -> None:
        ctypes.PyDLL(None).sleep(1000)  # keeps the interpreter's lock

    def raises(self) -> None:
        raise KeyError("no such level")

    def cancels(self) -> None:
        raise asyncio.CancelledError("the game server is gone")

    def prints(self) -> None:
        print("hello")
        subprocess.run(["echo", "hello from another program"], check=True)
        sys.stdout.write("x" * 200_000)  # more than a pipe holds

    def moves(self) -> None:
        os.chdir("/")

    def leaves_a_thread(self) -> None:
        threading.Thread(target=time.sleep, args=(1000,)).start()

    def ends_slowly(self) -> None:
        atexit.register(time.sleep, 1000)

    def starts_a_game(self) -> None:
        from pathlib import Path

        game = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        Path(self.note).write_text(str(game.pid))


def make(**kwargs: Any) -> Rude:
    return Rude(**kwargs)
