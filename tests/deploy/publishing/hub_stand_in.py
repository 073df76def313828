"""A small stand-in of the Hugging Face Hub's API: repositories in memory, for the real client."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

TOKEN = "hf_right"


@dataclass
class StandIn:
    """What the Hub has: files and visibility by repository, and the requests that came."""

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def sha(self, name: str) -> str:
        return hashlib.sha1(repr(sorted(self.files[name].items())).encode()).hexdigest()

    def info(self, name: str) -> dict[str, object]:
        siblings = [{"rfilename": path} for path in self.files[name]]
        return {"_id": "1", "id": name, "sha": self.sha(name), "private": self.private[name], "siblings": siblings, "tags": []}

    def tree(self, name: str) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in self.files[name].items()
        ]

    def commit(self, name: str, lines: bytes) -> None:
        for line in map(json.loads, lines.splitlines()):
            if line["key"] == "file":
                self.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])


class Handler(BaseHTTPRequestHandler):
    hub: StandIn

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def answer(self, status: int, content: object = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        hub, body = self.hub, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        hub.asked.append(path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid user token."})
        if path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}"
            known = name in hub.files
            if not known:
                hub.files[name] = {}
                hub.private[name] = given.get("visibility") == "private" or bool(given.get("private"))
            return self.answer(409 if known else 200, {"url": f"{hub.address}/{name}"})
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        name, what = "/".join(path.split("/")[3:5]), path.split("/")[5]
        if what == "preupload":
            asked = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in asked]
            return self.answer(200, {"files": modes})
        hub.commit(name, body)
        return self.answer(200, {"success": True, "commitOid": hub.sha(name), "commitUrl": f"{hub.address}/{name}/commit/1"})

    def do_GET(self) -> None:
        hub, parts = self.hub, urlsplit(self.path).path.split("/")
        api = parts[1:3] == ["api", "models"]
        name = "/".join(parts[3:5] if api else parts[1:3])
        if name not in hub.files:
            return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if api:
            return self.answer(200, hub.tree(name) if parts[5:6] == ["tree"] else hub.info(name))
        content = hub.files[name].get("/".join(parts[5:]))
        if content is None:
            return self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        hub.asked.append(parts[-1])
        return self.answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=hub.sha(name))

    do_HEAD = do_GET


@contextmanager
def hub_stand_in() -> Iterator[StandIn]:
    """Serve until the end of the `with` block."""
    hub = StandIn()
    handler = type("Here", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
