"""Writes the dashboards' JSON files into the folder `dashboards`: `python -m deploy.grafana.generate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from deploy.grafana.content import DASHBOARDS
from deploy.grafana.panels import dashboard_json

FOLDER = Path(__file__).parent / "dashboards"


def rendered() -> dict[str, str]:
    """The content of each dashboard's file, by file name."""
    return {f"{found.name}.json": json.dumps(dashboard_json(found), indent=1) + "\n" for found in DASHBOARDS}


def main() -> None:
    """Write all files, and remove the files of dashboards that no longer exist."""
    contents = rendered()
    for path in FOLDER.glob("*.json"):
        if path.name not in contents:
            path.unlink()
    for name, text in contents.items():
        (FOLDER / name).write_text(text)
    sys.stdout.write(f"{len(contents)} dashboards in {FOLDER}\n")


if __name__ == "__main__":
    main()
