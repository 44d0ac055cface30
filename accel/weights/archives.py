"""The archive that `torch.save` writes, looked at before `torch.load` believes it."""

from __future__ import annotations

import zipfile
from pathlib import Path


def check_archive(path: str | Path) -> None:
    """Refuse what could grow while it is read, or is of the older form, which is a bare pickle.

    `torch.load(weights_only=True)` runs no code; that what it builds is no larger than the file is for this to see.

    Raises FileNotFoundError, or ValueError without the path, for what is no whole ZIP archive with its entries stored
    as they are.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise ValueError(f"no whole archive: {error}") from None
    size = Path(path).stat().st_size
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("compressed entries; expected them stored as they are")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError(f"entries of more bytes than the {size} of the file")
