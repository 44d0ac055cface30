"""Find weights by name: in the package, in `model/`, among earlier downloads, or on a hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from accel.weights.checkpoints import PRETRAINED, WEIGHTS, Description, describe_weights, weights_path
from accel.weights.checksums import SUMS, check_sum
from accel.weights.hub import ADDRESS, cached, fetch

SHIPPED = Path(__file__).parent / "shipped"
FOLDER = Path("model")  # of the current folder: where the published networks' owners have their files
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Known:
    """Weights that are available by name, without a network. where: "shipped", "model/" or "cache"."""

    name: str
    where: str
    path: Path
    description: Description

    @property
    def megabytes(self) -> float:
        return self.path.stat().st_size / 1e6


def find_weights(name: str | Path) -> Path:
    """Return the weights file for a name, a path or an address.

    The search order is: a file or folder with that path; weights in the package; `model/NAME`, including the published
    networks' own files; earlier downloads from a hub. `hf://OWNER/NAME` asks Hugging Face's hub.

    Raises FileNotFoundError, with a list of known weights, if nothing is found. Raises ValueError for a damaged file,
    and for a name that several downloaded repositories have.
    """
    text = str(name)
    if text.startswith(ADDRESS):
        return fetch(text)
    if isinstance(name, Path) or "/" in text or text.endswith(SUFFIX) or Path(text).exists():
        return weights_path(name)
    if (path := shipped(text)) is not None:
        return path
    if (found := _in_folder(text)) is not None:
        return found
    before = cached(text)
    if len(before) > 1:
        raise ValueError(f"{text}: was fetched from {len(before)} repositories; expected hf://OWNER/{text}")
    if before:
        return before[0]
    known = ", ".join(sorted({each.name for each in known_weights()})) or "none"
    raise FileNotFoundError(
        f"no weights called {text}: there are {known}; expected one of these, a run's folder, a {SUFFIX} file, or "
        f"{ADDRESS}OWNER/NAME"
    )


def shipped(name: str) -> Path | None:
    """The file of weights that came with the package; None if none of this name did. ValueError if it is damaged."""
    path = SHIPPED / f"{name}{SUFFIX}"
    if not path.is_file():
        return None
    check_sum(path, SHIPPED / SUMS)
    return path


def known_weights() -> Iterator[Known]:
    """Yield all weights that `find_weights` finds by name without a network. Unreadable ones are left out."""
    places = [("shipped", path.stem, path) for path in sorted(SHIPPED.glob(f"*{SUFFIX}"))]
    places += [("model/", path.stem, path) for path in sorted(FOLDER.glob(f"*{SUFFIX}"))]
    places += [("model/", path.parent.name, path) for path in sorted(FOLDER.glob(f"*/{PRETRAINED}"))]
    places += [("cache", path.parents[2].name.rpartition("--")[2], path) for path in cached("*")]
    for where, name, path in places:
        try:
            yield Known(name, where, path, describe_weights(path))
        except (ValueError, OSError):
            continue


def _in_folder(name: str) -> Path | None:
    for path in (FOLDER / f"{name}{SUFFIX}", FOLDER / name / PRETRAINED, FOLDER / name / WEIGHTS):
        if path.is_file():
            return path
    if not FOLDER.is_dir():
        return None
    from accel.weights.conversion import find_published  # it knows the published networks

    return find_published(name, FOLDER)
