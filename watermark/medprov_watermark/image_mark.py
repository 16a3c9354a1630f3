"""What the integrity mark's signature covers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class ImageMark:
    """The signed statement inside W2.

    Parameters
    ----------
    format : int
        Version of the W2 body.
    model : bytes
        32 bytes, SHA-256 of the weights that marked the picture.
    payload_commitment : bytes
        32 bytes, see :func:`medprov_watermark.payload.commitment`.
    marked_hash : bytes
        32 bytes, content hash of I1 (cover + W1).
    cover_hash : bytes
        32 bytes, SHA3-256 of salt and content hash of the cover.
    rest_hash : bytes
        32 bytes, SHA3-256 of all other bytes of W2.
    """

    format: int
    model: bytes
    payload_commitment: bytes
    marked_hash: bytes
    cover_hash: bytes
    rest_hash: bytes


class Signer(Protocol):
    """Signs an image mark with the hospital's chain key."""

    def __call__(self, mark: ImageMark) -> bytes:
        """65 bytes: r, s, v."""
        ...
