"""List a folder as a person sees it."""

from __future__ import annotations

import os
from pathlib import Path

# Folders that systems make beside what people put there: macOS in archives, Synology's thumbnails and bin, Windows'
# bin and index, Linux' rescued files.
_OF_SYSTEMS = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


def is_hidden(name: str) -> bool:
    """Return whether a file or folder with this name is hidden, so that it does not belong to a user's data.

    These are names that begin with a dot, such as `.ipynb_checkpoints` and `._0001.png`, and folders of the system.
    """
    return name.startswith(".") or name in _OF_SYSTEMS


def visible(folder: Path) -> list[Path]:
    """Return the files and folders directly in a folder, without hidden ones, in no order.

    Raises OSError as `Path.iterdir`.
    """
    return [path for path in folder.iterdir() if not is_hidden(path.name)]


def leads_nowhere(path: Path) -> bool:
    """Return whether this is a link to a missing file or folder."""
    return path.is_symlink() and not path.exists()


def not_there(path: Path) -> str:
    """Return the message about a file that cannot be opened because it does not exist."""
    try:
        return f"{path}: a link to {os.readlink(path)}, which is not there"
    except (OSError, ValueError):  # no link, or no name that a file can have
        return f"{path}: no such file"
