"""Text files as text."""

from __future__ import annotations

from pathlib import Path

from calib_data.errors import DataNotFoundError
from calib_data.sources.rows import refuse


def read_text(file: Path) -> str:
    """Read UTF-8, with or without a byte order mark.

    Raises:
        DataNotFoundError: The file cannot be opened.
        DataFormatError: It is not UTF-8; the message has the line.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataNotFoundError(f"{file}: {error.strerror}", "check where the data lies") from error
    try:
        return content.decode("utf-8-sig")  # MRPC's files start with a byte order mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        refuse(f"{file}:{line}: not UTF-8 (byte 0x{content[error.start]:02x})")
