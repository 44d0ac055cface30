"""Read small text files that people and other programs write: lists of frames, classes and colours, descriptions."""

from __future__ import annotations

import codecs
import stat
from pathlib import Path

from accel.files.listing import not_there

MAX_BYTES = 2**24  # a list of a million frames is smaller


def read_text(path: Path) -> str:
    """Return the text of a file, as decoded by `decode`.

    Raises FileNotFoundError. Raises ValueError, with the path, if it is not a file, not text or too large.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            raise ValueError(f"{path}: not a file")
        if found.st_size > MAX_BYTES:
            raise ValueError(f"{path}: {found.st_size} bytes; at most {MAX_BYTES} are read")
        return decode(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(not_there(path)) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error


def decode(data: bytes) -> str:
    """Decode text in UTF-8, or in UTF-16 if it has that byte-order mark. The mark is removed, and all line ends become
    newlines.

    This covers what editors on Windows and `>` in its PowerShell write. Raises UnicodeDecodeError.
    """
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")
