"""`python -m deploy` is `oatmill`."""

from __future__ import annotations

from deploy.cli import main

main()
