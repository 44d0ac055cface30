"""The small text files that lie beside the images of a data set: lists of frames, colours, descriptions."""

from __future__ import annotations

import stat
from pathlib import Path

MAX_BYTES = 2**24  # a list of a million frames is smaller


def read_text(path: Path) -> str:
    """The text of a file in UTF-8.

    Raises FileNotFoundError, or ValueError with the path for what is no file, no text or too large.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            raise ValueError(f"{path}: not a file")
        if found.st_size > MAX_BYTES:
            raise ValueError(f"{path}: {found.st_size} bytes; at most {MAX_BYTES} are read")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
