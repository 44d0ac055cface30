"""Check the archive of `torch.save` before `torch.load` trusts it."""

from __future__ import annotations

import zipfile
from pathlib import Path


def check_archive(path: str | Path) -> None:
    """Refuse an archive that could grow while it is read, or that has the older form, a bare pickle.

    `torch.load(weights_only=True)` runs no code. This function makes sure that the result is not larger than the file.

    Raises FileNotFoundError. Raises ValueError, without the path, unless the file is an intact ZIP archive with
    uncompressed entries.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise ValueError(f"not an intact archive: {error}") from None
    size = Path(path).stat().st_size
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("compressed entries; expected them stored as they are")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError(f"its entries are larger than the file ({size} bytes)")
