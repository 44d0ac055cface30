"""What is in a folder, as a person sees it."""

from __future__ import annotations

import os
from pathlib import Path

# Folders that systems make beside what people put there: macOS in archives, Synology's thumbnails and bin, Windows'
# bin and index, Linux' rescued files.
_OF_SYSTEMS = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no part of what a person has put into its folder: `.ipynb_checkpoints`,
    `._0001.png` and other names with a dot first, and what systems keep for themselves."""
    return name.startswith(".") or name in _OF_SYSTEMS


def visible(folder: Path) -> list[Path]:
    """The files and folders directly in a folder, without hidden ones, in no order.

    Raises OSError as `Path.iterdir`.
    """
    return [path for path in folder.iterdir() if not is_hidden(path.name)]


def leads_nowhere(path: Path) -> bool:
    """Whether this is a link to a file or folder that is not there."""
    return path.is_symlink() and not path.exists()


def not_there(path: Path) -> str:
    """What to say of a file that cannot be opened because it is not there."""
    try:
        return f"{path}: a link to {os.readlink(path)}, which is not there"
    except (OSError, ValueError):  # no link, or no name that a file can have
        return f"{path}: no such file"
