"""Weights on the hub: downloaded once, before they are loaded, and each refusal of the hub said with its remedy.

A model that is in the hub's cache on this machine is loaded from there, and nobody is asked. One that is not is
downloaded, unless the user forbade it (`HF_HUB_OFFLINE=1`). The hub's own lock files keep two processes of a machine
from downloading one file twice.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Files that configurations, processors and weights are read from; not those for other frameworks, nor pickles.
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
#: The same weights once more, as their authors' own code reads them.
TWICE = ["original/*", "consolidated*"]
#: Of each, a model and its processor need one.
_NEEDED = (
    ("config.json",),
    ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model"),
    ("processor_config.json", "preprocessor_config.json"),
)
_INDEX, _WEIGHTS = "model.safetensors.index.json", "model.safetensors"


def from_pretrained(factory: Any, location: str, revision: str, **options: Any) -> Any:
    """What `factory.from_pretrained` makes of a folder, or of a model that `fetch` has.

    By its folder in the cache: by its name, transformers asks the network even for what is there.

    Raises:
        ValueError: there is no such folder and no such model, or it cannot be had; the message says what to do.
    """
    folder = fetch(location, revision)
    try:
        return factory.from_pretrained(str(folder), **options)
    except OSError as error:
        raise _refusal(error, location, revision) from error


def read_config(location: str, revision: str) -> Any:
    """The configuration alone, for a model that is counted and not loaded.

    Raises:
        ValueError: see `from_pretrained`.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(location, **({} if Path(location).is_dir() else {"revision": revision}))
    except OSError as error:
        raise _refusal(error, location, revision) from error


def fetch(location: str, revision: str) -> Path:
    """The folder with the model's files: as named, in the hub's cache on this machine, or downloaded to there.

    Raises:
        ValueError: see `from_pretrained`.
    """
    return _here(location, revision) or _download(location, revision)


def _download(location: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(location, revision=revision, allow_patterns=FILES, ignore_patterns=TWICE)
    except Exception as error:
        raise _refusal(error, location, revision) from error
    folder = Path(found)
    if not _has_weights(folder):
        raise ValueError(
            f"'{location}' on the hub ({revision}) has no {_WEIGHTS}, whole or in parts: name a model with "
            "safetensors, or put a converted copy in a folder and give that as `location`"
        )
    return folder


def is_here(location: str, revision: str) -> bool:
    """Whether the weights are in a folder, or in the hub's cache on this machine; asks no network."""
    return _here(location, revision) is not None


def _here(location: str, revision: str) -> Path | None:
    if Path(location).is_dir():
        return Path(location)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            location, revision=revision, allow_patterns=FILES, ignore_patterns=TWICE, local_files_only=True
        )
    except (LocalEntryNotFoundError, HFValidationError) as error:
        # Another program may have had a part downloaded, and what it left out may be of no use here.
        found = getattr(error, "snapshot_path", "")
    return Path(found) if found and _is_whole(Path(found)) else None


def _is_whole(folder: Path) -> bool:
    """Whether model and processor can be made of it: a cache may hold any part."""
    return _has_weights(folder) and all(any((folder / name).is_file() for name in names) for names in _NEEDED)


def _has_weights(folder: Path) -> bool:
    if not (folder / _INDEX).is_file():
        return (folder / _WEIGHTS).is_file()
    parts = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()
    return all((folder / part).is_file() for part in set(parts))


def _refusal(error: BaseException, location: str, revision: str) -> ValueError:
    """Why a model cannot be had, and the remedy; transformers wraps what the hub raised."""
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    usual = "give `location` a folder with config.json and model.safetensors, or a name on the hub and a network"
    generic = f"no backbone to be had at '{location}' ({_first_line(error)}): {usual}"
    if Path(location).is_dir():
        return ValueError(generic)
    chain = list(_causes(error))
    page = f"{constants.ENDPOINT}/{location}"
    login = "log in with `hf auth login`, or set HF_TOKEN, on each machine that loads it"

    def is_a(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in chain)

    if is_a(hub.GatedRepoError):
        return ValueError(
            f"'{location}' is gated: its owner asks for a licence to be accepted. Accept it at {page}, then {login}"
        )
    if is_a(hub.RevisionNotFoundError):
        return ValueError(f"'{location}' has no revision '{revision}' on the hub: see {page}")
    if is_a(hub.RepositoryNotFoundError):
        return ValueError(f"no model '{location}' on the hub, or it is private: check its name; if it is so, {login}")
    if {getattr(getattr(one, "response", None), "status_code", None) for one in chain} & {401, 403}:
        return ValueError(
            f"the hub does not let this user read '{location}': check the name, ask for access at {page} if it is "
            f"private or gated, then {login} with a token that may read it ({_first_line(error)})"
        )
    if full := next((one for one in chain if getattr(one, "errno", None) in (errno.ENOSPC, errno.EDQUOT)), None):
        return ValueError(
            f"no room for '{location}' in the hub's cache {constants.HF_HUB_CACHE} ({full}): free some space, or set "
            "HF_HOME to a folder on another disk"
        )
    if denied := next((one for one in chain if getattr(one, "errno", None) in (errno.EACCES, errno.EROFS)), None):
        return ValueError(
            f"'{location}' cannot be put into the hub's cache {constants.HF_HUB_CACHE} ({denied}): set HF_HOME to a "
            "folder that this user can write"
        )
    if constants.HF_HUB_OFFLINE:
        generic += (
            f". HF_HUB_OFFLINE is set, so only the cache {constants.HF_HUB_CACHE} was asked: unset it to have the "
            "model downloaded"
        )
    return ValueError(generic)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
