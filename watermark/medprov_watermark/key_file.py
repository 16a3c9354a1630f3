"""A consortium's key (:func:`medprov_watermark.carriers.derive`) from a file: its bytes as they are."""

from __future__ import annotations

import os
from pathlib import Path

from medprov_watermark import carriers
from medprov_watermark.errors import KeyFileError

LARGEST = 2**16
"""A longer file is no key but something else."""


def read_key(path: str | os.PathLike[str]) -> bytes:
    """Read a key.

    Parameters
    ----------
    path : path
        Every byte counts, a line break at the end too.

    Returns
    -------
    bytes
        At least ``carriers.MIN_KEY``. Never to be shown or logged.

    Raises
    ------
    KeyFileError
        The file is missing, cannot be read, or is too short or too long for a key.
    """
    try:
        with Path(path).open("rb") as stream:
            key = stream.read(LARGEST + 1)
    except FileNotFoundError:
        raise KeyFileError(f"{path}: no such key file; ask the consortium for its key") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise KeyFileError(f"{path}: the key cannot be read ({reason})") from None
    if len(key) < carriers.MIN_KEY:
        raise KeyFileError(f"{path}: {len(key)} bytes are too few for a key, which has at least {carriers.MIN_KEY}")
    if len(key) > LARGEST:
        raise KeyFileError(f"{path}: more than {LARGEST} bytes are no key; is it another file?")
    return key
