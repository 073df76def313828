"""The dashboards' JSON under a strict check against the types of Grafana's own library, `@grafana/schema`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.grafana.generate import rendered

PACKAGES = ("@grafana/schema@12.4.11", "typescript@5.9.3")
OPTIONS = {"strict": True, "noEmit": True, "skipLibCheck": True, "module": "esnext", "moduleResolution": "bundler", "types": []}

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed"),
]


def test_dashboards_have_the_types_that_grafana_expects(tmp_path: Path) -> None:
    install = ["npm", "install", "--no-audit", "--no-fund", *PACKAGES]
    done = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        pytest.skip(f"{' and '.join(PACKAGES)} cannot be installed: {done.stderr.strip()[-300:]}")
    shutil.copy(Path(__file__).parent / "board.ts", tmp_path)
    boards = rendered()
    boards["misspelt.json"] = boards["health.json"].replace('"textMode": "value_and_name"', '"textMode": "value_and_nam"', 1)
    boards["unknown.json"] = boards["health.json"].replace('"lineWidth": 0', '"lineWidth": 0, "lineWdth": 0', 1)
    for name, text in boards.items():
        code = f"import type {{ Board }} from './board';\nexport const board: Board = {text}"
        (tmp_path / name.replace(".json", ".ts")).write_text(code)
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS, "include": ["*.ts"]}))
    compiler = ["npx", "--no-install", "tsc", "--project", "."]
    done = subprocess.run(compiler, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert set(re.findall(r"^(\w[\w-]*)\.ts", done.stdout, re.MULTILINE)) == {"misspelt", "unknown"}, done.stdout[:5000]
