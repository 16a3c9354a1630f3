"""Reads what :mod:`.switch` has recorded."""

from __future__ import annotations

import struct
from pathlib import Path


def payloads(recording: Path, port: int) -> bytes:
    """All TCP payload from or to a port, in the order in which it passed; lost and repeated bytes included.

    Parameters
    ----------
    recording : Path
        pcap file of Ethernet frames.
    port : int
    """
    data, at, found = recording.read_bytes(), 24, []
    while at + 16 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 8)
        frame, at = data[at + 16 : at + 16 + length], at + 16 + length
        # IPv4 that carries TCP (RFC 791, RFC 9293)
        if frame[12:14] != b"\x08\x00" or frame[23] != 6:
            continue
        tcp = 14 + (frame[14] & 15) * 4
        if port in struct.unpack_from(">HH", frame, tcp):
            (total,) = struct.unpack_from(">H", frame, 16)
            found.append(frame[tcp + (frame[tcp + 12] >> 4) * 4 : 14 + total])
    return b"".join(found)
