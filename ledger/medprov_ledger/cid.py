"""Content identifiers, equal to those of ``ipfs add --cid-version=1 --raw-leaves``.

A file is cut into chunks of 262144 bytes (raw blocks); where there is more than one, a balanced tree of dag-pb nodes
with at most 174 links each holds them together (UnixFS 1.5; CID version 1, SHA-256, base32). One file, one CID.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .errors import ObjectError, RecordError, StoreError

CHUNK = 262_144
WIDTH = 174
RAW, DAG_PB = 0x55, 0x70
MAX_SIZE = 1 << 30
"""Largest object that is stored or fetched, bytes."""
MAX_OBJECT = 1 << 28
"""Largest object that a store fetches unless told otherwise, bytes."""
_HEADERS = {bytes([1, codec, 0x12, 0x20]): codec for codec in (RAW, DAG_PB)}


@dataclass(frozen=True)
class Cid:
    """A parsed identifier.

    Parameters
    ----------
    codec : int
        :data:`RAW` or :data:`DAG_PB`.
    digest : bytes
        32 bytes, SHA-256 of the block.
    """

    codec: int
    digest: bytes

    @property
    def binary(self) -> bytes:
        """36 bytes."""
        return bytes([1, self.codec, 0x12, 0x20]) + self.digest

    def __str__(self) -> str:
        return "b" + base64.b32encode(self.binary).decode("ascii").lower().rstrip("=")


@dataclass(frozen=True)
class Block:
    """One block of a file.

    Parameters
    ----------
    cid : Cid
    data : bytes
    """

    cid: Cid
    data: bytes


def parse(text: str) -> Cid:
    """Read a CID: version 1, base32, raw or dag-pb, SHA-256; 59 characters. No other spelling is accepted.

    Raises
    ------
    RecordError
    """
    if isinstance(text, str) and len(text) == 59 and text[0] == "b" and text.islower() and text.isascii():
        try:
            binary = base64.b32decode(text[1:].upper() + "=" * 6)
        except (ValueError, binascii.Error):
            binary = b""
        cid = _from_binary(binary)
        # 58 base32 digits hold 290 bits for 288: the two spare ones must be zero
        if cid is not None and str(cid) == text:
            return cid
    raise RecordError(f"{str(text)[:80]!r}: not a CID of this format (version 1, base32, raw or dag-pb, SHA-256)")


def of(data: bytes) -> str:
    """The CID of a file with these bytes."""
    *_, root = blocks(data)
    return str(root.cid)


def blocks(data: bytes) -> Iterator[Block]:
    """All blocks of a file, children before parents, the root last."""
    level: list[tuple[Cid, int, int]] = []  # cid, bytes of the whole subtree's blocks, bytes of the file in it
    for start in range(0, max(len(data), 1), CHUNK):
        block = _block(RAW, data[start : start + CHUNK])
        level.append((block.cid, len(block.data), len(block.data)))
        yield block
    while len(level) > 1:
        parents = []
        for start in range(0, len(level), WIDTH):
            children = level[start : start + WIDTH]
            block = _block(DAG_PB, _node(children))
            total = len(block.data) + sum(child[1] for child in children)
            parents.append((block.cid, total, sum(child[2] for child in children)))
            yield block
        level = parents


def assemble(cid: str, fetch: Callable[[Cid], bytes], limit: int = MAX_SIZE) -> bytes:
    """Bring a file together from its blocks and check every one of them.

    Parameters
    ----------
    cid : str
    fetch : callable
        Gives a block's bytes; they need not be trusted.
    limit : int
        Refuse files larger than this, bytes.

    Returns
    -------
    bytes
        Exactly the file that `cid` names in this package's import settings.

    Raises
    ------
    RecordError
        Malformed CID.
    ObjectError
        The blocks are those that the CIDs name, but malformed, cut in another way, or the file exceeds `limit`.
    StoreError
        A block does not match its CID; what `fetch` raises.
    """
    pieces: list[bytes] = []
    size = count = 0
    pending = [parse(cid)]
    while pending:
        part = pending.pop()
        count += 1
        # a node may name one child many times: without this a few small blocks could unfold without end
        if count > limit // CHUNK + WIDTH:
            raise ObjectError(f"{cid}: has more blocks than a file of {limit} bytes; not an object of this format")
        data = fetch(part)
        check(part, data)
        if part.codec == RAW:
            pieces.append(data)
            size += len(data)
            if size > limit:
                raise ObjectError(f"{cid}: larger than {limit} bytes; not an object of this format")
        else:
            pending.extend(reversed(children(part, data)))
    whole = b"".join(pieces)
    if of(whole) != cid:
        raise ObjectError(
            f"{cid}: its blocks are cut in another way than this format's; add it again with --raw-leaves"
        )
    return whole


def check(cid: Cid, data: bytes) -> None:
    """Refuse a block whose bytes are not those that `cid` names.

    Raises
    ------
    StoreError
    """
    if hashlib.sha256(data).digest() != cid.digest:
        raise StoreError(f"{cid}: the block's bytes do not match its CID; the copy is damaged, fetch or add it again")


def children(cid: Cid, data: bytes) -> list[Cid]:
    """The links of a node, in order. Only what this module writes is read; :func:`assemble` compares the whole.

    Parameters
    ----------
    cid : Cid
        Of the node, for messages.
    data : bytes
        The node.

    Raises
    ------
    ObjectError
    """
    found: list[Cid] = []
    place = 0
    while place < len(data) and data[place] == 0x12:
        # a link is shorter than 128 bytes, so its length is one byte
        length = data[place + 1] if place + 1 < len(data) else 0
        link = data[place + 2 : place + 2 + length]
        child = _from_binary(link[2:38]) if link[:2] == b"\x0a\x24" else None
        if child is None or len(found) == WIDTH:
            raise ObjectError(f"{cid}: not a file node of this format; add the file with --cid-version=1 --raw-leaves")
        found.append(child)
        place += 2 + length
    if not found:
        raise ObjectError(f"{cid}: a node without links; add the file with --cid-version=1 --raw-leaves")
    return found


def _block(codec: int, data: bytes) -> Block:
    return Block(Cid(codec, hashlib.sha256(data).digest()), data)


def _from_binary(binary: bytes) -> Cid | None:
    codec = _HEADERS.get(binary[:4])
    return Cid(codec, binary[4:]) if codec is not None and len(binary) == 36 else None


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(tag: int, data: bytes) -> bytes:
    return bytes([tag]) + _varint(len(data)) + data


def _node(children: list[tuple[Cid, int, int]]) -> bytes:
    """A dag-pb node (links: Hash, empty Name, Tsize) around UnixFS data (type file, filesize, blocksizes)."""
    links = b"".join(
        _field(0x12, _field(0x0A, child.binary) + b"\x12\x00\x18" + _varint(total)) for child, total, _ in children
    )
    sizes = b"".join(b"\x20" + _varint(size) for *_, size in children)
    return links + _field(0x0A, b"\x08\x02\x18" + _varint(sum(size for *_, size in children)) + sizes)
