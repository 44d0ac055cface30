"""Share and download weights: a folder in the layout of Hugging Face's hub, with a model card and checksums."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from accel.files.whole_files import write_whole
from accel.weights.cards import Subject, card_page
from accel.weights.checkpoints import PRETRAINED, Description, reason, save_weights
from accel.weights.checksums import SUMS, check_sum, write_sums

if TYPE_CHECKING:
    from accel.models import VideoModel

ADDRESS = "hf://"
PAGE, CONFIG = "README.md", "config.json"


@dataclass(frozen=True)
class About:
    """The description that `load_model` stores on a model (`VideoModel.about`), so that the model can be saved
    again."""

    description: Description

    def save_pretrained(self, model: VideoModel, folder: str | Path, half: bool = False) -> Path:
        return save_pretrained(model, self.description, folder, half)

    def push_to_hub(self, model: VideoModel, repository: str, half: bool = False, private: bool = False) -> str:
        return push_to_hub(model, self.description, repository, half, private)


def save_pretrained(
    model: VideoModel, description: Description, folder: str | Path, half: bool = False, name: str = ""
) -> Path:
    """Write a model with its card to a folder, which `load_model` and a hub accept. Return the folder.

    half: whether to write float16, which takes half the space. Measurements made with other weights may then be
        slightly wrong.
    name: the name on the card. The default is the folder's name.

    Raises FileExistsError if the folder holds other files than an earlier model of this kind.
    """
    folder = Path(folder)
    _refuse_others(folder)
    if half:
        description = replace(description, precision="float16")
    digests = {PRETRAINED: save_weights(folder / PRETRAINED, model, description, torch.float16 if half else None)}
    subject = Subject(
        name or folder.resolve().name,
        description.model.name,
        description.class_names,
        sum(p.numel() for p in model.parameters()),
    )
    config = {"library_name": "accel", "model": description.model.model_dump(mode="json")}
    for file, text in (
        (PAGE, card_page(description.card, subject)),
        (CONFIG, json.dumps(config, indent=1) + "\n"),
    ):
        digests[file] = write_whole(folder / file, text.encode())
    write_sums(folder, digests)
    return folder


def push_to_hub(
    model: VideoModel, description: Description, repository: str, half: bool = False, private: bool = False
) -> str:
    """Upload a model with its card to a repository, OWNER/NAME, which is made if necessary. Return its address.

    Raises ValueError for an invalid name, and with the hub's message if the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    repository = repository.removeprefix(ADDRESS)
    api = HfApi(library_name="accel")
    with tempfile.TemporaryDirectory(prefix="accel-") as made:
        folder = save_pretrained(model, description, made, half, name=repository.rpartition("/")[2])
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Weights and model card")
        except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
            raise ValueError(f"{ADDRESS}{repository}: not uploaded ({reason(error)})") from None
    return f"{ADDRESS}{repository}"


def fetch(address: str) -> Path:
    """Return the weights file at hf://OWNER/NAME or hf://OWNER/NAME@REVISION. If the hub cannot be reached, the cache
    is used.

    Raises ValueError for an invalid address. Raises FileNotFoundError, in one line, if the file is not available: no
    such repository, no network, or a wrong checksum.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    repository, _, revision = address.removeprefix(ADDRESS).partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ValueError(f"{address}: expected hf://OWNER/NAME, or hf://OWNER/NAME@REVISION")

    def get(file: str) -> Path:
        return Path(hf_hub_download(repository, file, revision=revision or None, library_name="accel"))

    try:
        weights = get(PRETRAINED)
    except HFValidationError as error:
        raise ValueError(f"{address}: {reason(error)}") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise FileNotFoundError(f"{address}: not in the cache, and the hub cannot be reached (offline?)") from None
    except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(f"{address}: cannot be fetched ({reason(error)})") from None
    try:
        sums = get(SUMS)
    except (EntryNotFoundError, HfHubHTTPError, OSError):
        return weights  # a repository made by hand: the hub's own checksum has to do
    check_sum(weights, sums)
    return weights


def cached(name: str) -> list[Path]:
    """Return the downloaded weights files of repositories with this name, of any owner. Of each repository, return the
    newest."""
    from huggingface_hub.constants import HF_HUB_CACHE

    found = []
    for repository in sorted(Path(HF_HUB_CACHE).glob(f"models--*--{name}")):
        files = list(repository.glob(f"snapshots/*/{PRETRAINED}"))
        if files:
            found.append(max(files, key=lambda file: file.stat().st_mtime))
    return found


def _refuse_others(folder: Path) -> None:
    """Raise FileExistsError if a folder holds anything that `save_pretrained` did not write."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder}: is a file; expected a folder to write a model to")
    others = sorted(path.name for path in folder.iterdir() if path.name not in (PRETRAINED, PAGE, CONFIG, SUMS))
    if others or (any(folder.iterdir()) and not (folder / PRETRAINED).is_file()):
        what = others[0] if others else next(folder.iterdir()).name
        raise FileExistsError(f"{folder}: holds {what}; expected a new or an empty folder, or an earlier model")
