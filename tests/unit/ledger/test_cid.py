"""CIDs, against those of ipfs-unixfs-importer (the importer of js-ipfs, as ``--cid-version=1 --raw-leaves``)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprov_ledger import cid
from medprov_ledger.cid import CHUNK, WIDTH, Cid
from medprov_ledger.errors import ObjectError, RecordError, StoreError

# length of a file whose byte i is i % 251
IMPORTED = {
    0: "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
    1: "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu",
    CHUNK: "bafkreibruh455iawsviqslif5c7uurdcfdemh22mtnytyzvnzn75kpejxy",
    CHUNK + 1: "bafybeiexg2oqkfnj56l7fcmawswqbijt5shq4b5rg6a546uwpkqqzwjioi",
    WIDTH * CHUNK: "bafybeihpe5snhzneq7xs53nivmsopto5lrogo3wjynauqylqeym5a3irbm",
    WIDTH * CHUNK + 1: "bafybeib4y7ghw2rq7bracc4xwtxrbzo7cfvagdpte2tmrkgwl6dyard3cm",
}


def content(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def fetcher(data: bytes) -> tuple[dict[Cid, bytes], Callable[[Cid], bytes]]:
    held = {block.cid: block.data for block in cid.blocks(data)}
    return held, held.__getitem__


@pytest.mark.parametrize("size", IMPORTED)
def test_same_cid_as_ipfs_and_back(size: int) -> None:
    data = content(size)
    assert cid.of(data) == IMPORTED[size]
    assert cid.assemble(IMPORTED[size], fetcher(data)[1]) == data


@given(st.binary(max_size=200))
def test_text_form_round_trip(data: bytes) -> None:
    name = cid.of(data)
    assert str(cid.parse(name)) == name
    assert cid.parse(name) == Cid(cid.RAW, hashlib.sha256(data).digest())


@given(st.text(max_size=70) | st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=58, max_size=58).map("b{}".format))
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(RecordError, match="not a CID"):
        cid.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",
        IMPORTED[0].upper(),
        IMPORTED[0][:-1],
        IMPORTED[0] + "a",
        IMPORTED[0] + "/../x",
        IMPORTED[0][:-1] + "v",  # the same bytes with a spare bit set
        "ſ" + IMPORTED[0][1:],
        "bafyrei" + IMPORTED[0][7:],  # dag-cbor
    ],
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(RecordError, match="not a CID"):
        cid.parse(text)


@pytest.mark.parametrize("value", [None, 7, b"bafkrei"])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(RecordError, match="not a CID"):
        cid.parse(value)  # type: ignore[arg-type]


@given(st.integers(0, 2), st.integers(0, 200))
def test_a_changed_block_is_noticed(which: int, place: int) -> None:
    data = content(CHUNK + 300)
    held, fetch = fetcher(data)
    name = list(held)[which]
    spoiled = bytearray(held[name])
    spoiled[place % len(spoiled)] ^= 1
    held[name] = bytes(spoiled)
    with pytest.raises(StoreError, match="do not match"):
        cid.assemble(cid.of(data), fetch)


def node(*children: Cid) -> tuple[Cid, bytes]:
    links = b"".join(b"\x12\x2a\x0a\x24" + child.binary + b"\x12\x00\x18\x01" for child in children)
    data = links + b"\x0a\x02\x08\x02"
    return Cid(cid.DAG_PB, hashlib.sha256(data).digest()), data


def test_a_bomb_of_nodes_that_name_one_child_is_refused() -> None:
    empty = Cid(cid.RAW, hashlib.sha256(b"").digest())
    held = {empty: b""}
    top = empty
    for _ in range(6):  # 170 ** 6 leaves
        top, data = node(*[top] * 170)
        held[top] = data
    fetched = 0

    def fetch(name: Cid) -> bytes:
        nonlocal fetched
        fetched += 1
        return held[name]

    with pytest.raises(ObjectError, match="more blocks"):
        cid.assemble(str(top), fetch)
    assert fetched < 10_000


def test_another_cut_of_the_same_bytes_is_refused() -> None:
    parts = [b"one", b"two"]
    leaves = [Cid(cid.RAW, hashlib.sha256(part).digest()) for part in parts]
    top, data = node(*leaves)
    held = dict(zip([*leaves, top], [*parts, data], strict=True))
    with pytest.raises(ObjectError, match="cut in another way"):
        cid.assemble(str(top), held.__getitem__)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x12", b"\x12\x7f", b"\x12\x00", b"\x0a\x02\x08\x01", b"\x12\x2a\x0a\x24" + b"\0" * 38, b"\xff" * 50],
)
def test_malformed_nodes_are_refused(data: bytes) -> None:
    name = str(Cid(cid.DAG_PB, hashlib.sha256(data).digest()))
    with pytest.raises(ObjectError, match="raw-leaves"):
        cid.assemble(name, lambda _: data)


def test_a_node_with_too_many_links_is_refused() -> None:
    leaf = Cid(cid.RAW, hashlib.sha256(b"").digest())
    top, data = node(*[leaf] * (WIDTH + 1))
    with pytest.raises(ObjectError, match="not a file node"):
        cid.assemble(str(top), lambda _: data)


def test_files_over_the_limit_are_refused() -> None:
    data = content(CHUNK + 1)
    _, fetch = fetcher(data)
    with pytest.raises(ObjectError, match="larger than 1000 bytes"):
        cid.assemble(cid.of(data), fetch, limit=1000)
