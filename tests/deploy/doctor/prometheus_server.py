"""A real Prometheus (Debian's `prometheus`) with the configuration that is shipped, on a free port."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ports import free_ports

SHIPPED = Path(str(files("deploy") / "prometheus"))


def need(program: str) -> str:
    """The path of a program; without it the test is skipped and says why."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed; Debian has it in the package prometheus")
    return found


def local_config(folder: Path, targets: Mapping[str, str]) -> Path:
    """The shipped configuration with other addresses.

    Args:
        folder: where it is written.
        targets: `HOST:PORT` by job; jobs that are not named and Alertmanager are left out.
    """
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    del config["alerting"]
    config["rule_files"] = [str(SHIPPED / path) for path in config["rule_files"]]
    config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] in targets]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


class PrometheusServer:
    """Asks a running server.

    Args:
        url: its address, without a slash at the end.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of the HTTP API; ValueError with the server's words where it refuses."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples that an expression gives now; one that is not a number counts as well."""
        found = self.get("query", query=expression)
        result: list[dict[str, Any]] = found["result"] if found["resultType"] == "vector" else [{"value": found["result"]}]
        return result


@contextmanager
def prometheus(folder: Path, config: Path) -> Iterator[PrometheusServer]:
    """A server that is ended with the block."""
    program = need("prometheus")
    address = f"127.0.0.1:{free_ports(1)}"
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"],
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            try:
                with urllib.request.urlopen(f"http://{address}/-/ready", timeout=5):
                    break
            except OSError:
                assert time.monotonic() < deadline, (folder / "prometheus.log").read_text()
                time.sleep(0.1)
        yield PrometheusServer(f"http://{address}")
    finally:
        process.terminate()
        process.wait(60)
