"""Asking a Prometheus server over its HTTP API."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oatmill.errors import UserError

ANSWER_WITHIN_S = 30.0
EXPECTED = "expected the address of the server itself, such as http://localhost:9090"


@dataclass(frozen=True)
class Series:
    """One series: its labels, `__name__` among them, and its values by time in seconds since the epoch."""

    labels: Mapping[str, str]
    values: Mapping[float, float]

    @property
    def name(self) -> str:
        """Of the metric."""
        return self.labels.get("__name__", "")

    @property
    def last(self) -> float:
        """The newest value."""
        return self.values[max(self.values)]


class Prometheus:
    """A server.

    Args:
        url: its address, such as `http://localhost:9090`.

    Raises:
        UserError: if that is no such address.
    """

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UserError(f"--prometheus must be an address such as http://localhost:9090, got {url!r}")
        self.url = url.rstrip("/")

    def now(self, expression: str) -> list[Series]:
        """What an expression gives now.

        Raises:
            UserError: if the server cannot be asked, or does not take the expression.
        """
        return [series(found["metric"], [found["value"]]) for found in self._ask("query", query=expression)]

    def between(self, expression: str, start: float, end: float, step: float) -> list[Series]:
        """What an expression gives from a time to another, every `step` seconds. Errors as `now`."""
        span = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        return [series(found["metric"], found["values"]) for found in self._ask("query_range", query=expression, **span)]

    def _ask(self, path: str, **parameters: str) -> list[Any]:
        request = f"{self.url}/api/v1/{path}"
        try:
            with urllib.request.urlopen(request, urllib.parse.urlencode(parameters).encode(), ANSWER_WITHIN_S) as answer:
                found: list[Any] = json.load(answer)["data"]["result"]
                return found
        except urllib.error.HTTPError as error:
            raise UserError(f"{self.url} answered {error.code} {_words(error)}; {EXPECTED}") from None
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "reason", None) or error
            raise UserError(f"no Prometheus answers at {self.url} ({why}); {EXPECTED}") from None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{self.url} is not a Prometheus server; {EXPECTED}") from None


def series(labels: Mapping[str, str], points: Sequence[tuple[float, str]]) -> Series:
    """A series as the API gives it; its numbers are text, `NaN` and `+Inf` among them."""
    return Series(labels, {float(time): float(value) for time, value in points})


def _words(error: urllib.error.HTTPError) -> str:
    """What the server says of a request that it does not take: its own words in JSON, or the status's."""
    try:
        return str(json.load(error)["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return str(error.reason)
