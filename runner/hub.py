"""The Hugging Face Hub: uploads a policy's folder, and downloads the files that `oatmill.load` reads (no torch)."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oatmill.errors import UserError, one_line

PREFIX = "hf://"
LOADED = ("config.yaml", "manifest.json", "model.safetensors")
"""All that is downloaded: settings and weights, never code."""
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
STATUS = {
    401: "the Hub rejected this token: it is not valid, or lacks a permission; run `hf auth login`, or set HF_TOKEN",
    403: "this token has no permission to write to this namespace",
    404: "the repository does not exist, or this token has no access to it; check the name, and `hf auth login`",
}


def check_repository(name: str) -> None:
    """Raise a UserError unless a name is NAMESPACE/NAME."""
    if not REPOSITORY.fullmatch(name):
        raise UserError(f"expected NAMESPACE/NAME of a repository on the Hub, such as ann/cartpole, got {name!r}")


def upload(folder: Path, repository: str, *, private: bool) -> str:
    """Upload a folder's files in one commit. The repository is created if there is none.

    Args:
        folder: the files.
        repository: NAMESPACE/NAME.
        private: whether a new repository is private.

    Returns:
        The repository's address.

    Raises:
        UserError: if the Hub cannot be reached, or refuses.
    """
    with talking(f"{repository} cannot be uploaded"):
        client = api()
        address = client.create_repo(repository, private=private, exist_ok=True)
        if private and not client.repo_info(repository).private:
            raise UserError(
                f"{repository} exists and is public, but --private was given; make it private, or choose another name"
            )
        client.upload_folder(repo_id=repository, folder_path=folder, commit_message="A policy trained with oatmill")
    return str(address)


def check_upload() -> None:
    """Raise a UserError if the package or a token is missing."""
    import_client()
    import huggingface_hub  # noqa: PLC0415

    if huggingface_hub.get_token() is None:
        raise UserError("there is no token for the Hub: run `hf auth login`, or set HF_TOKEN; --dry-run DIR needs none")


def download(address: str) -> Path:
    """Download what `oatmill.load` reads of a policy, to the cache of `huggingface_hub`.

    Args:
        address: `hf://NAMESPACE/NAME`.

    Returns:
        A folder, which is a checkpoint.

    Raises:
        UserError: if there is no such repository, or the Hub cannot be reached.
    """
    repository = address.removeprefix(PREFIX)
    check_repository(repository)
    with talking(f"{address} cannot be downloaded"):
        return Path(api().snapshot_download(repository, allow_patterns=list(LOADED)))


def api() -> Any:
    """The client of the Hub that HF_ENDPOINT names, or of huggingface.co."""
    import_client()
    from huggingface_hub import HfApi  # noqa: PLC0415

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="oatmill")


def import_client() -> None:
    """Raise a UserError if the package is missing."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError("the Hub needs huggingface_hub, which is not installed; pip install 'oatmill[hub]'")


@contextmanager
def talking(what: str) -> Iterator[None]:
    """Turn every error of the client into a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        way = STATUS.get(status) if status is not None else "check the network and HF_ENDPOINT"
        raise UserError(f"{what}: {way or one_line(error)}{'' if status is not None else f' ({one_line(error)})'}") from error
