"""A DICOM full of names goes through the hospital; then every byte of chain and store is searched for them.

Searched are the transactions and logs of the chain, the stored objects as they lie, and what those can be opened to
who are not named readers: the evidence (with the payload) and the directory (with the members' key).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from hexbytes import HexBytes
from web3 import Web3

from medprov_ledger import bundle, cid, evidence, manifest, sealing
from medprov_ledger.keys import load_reader_key
from medprov_node import readers
from medprov_node.mark import mark_files

TEXTS = ("AE", "LO", "LT", "PN", "SH", "ST", "UC", "UT", "CS")
NEEDED = {"PhotometricInterpretation", "SpecificCharacterSet", "Modality", "ImageType"}
"""Without these no pixel can be read; what they may hold is a closed list."""
MOST = {"AE": 16, "CS": 16, "SH": 16}


class Named:
    """A DICOM data set whose every text is a name that nobody else has."""

    def __init__(self) -> None:
        self.dataset = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
        self.names: list[str] = []
        self._fill(self.dataset)
        group = self.dataset.private_block(0x0019, "MEDPROV TESTS", create=True)
        for number, vr in enumerate(("LO", "PN", "UT", "ST", "SH")):
            group.add_new(number, vr, self.name(vr))
        item = pydicom.Dataset()
        item.CodeMeaning, item.InstitutionName = self.name("LO"), self.name("LO")
        self.dataset.RequestAttributesSequence = [item]
        self.dataset.PatientComments = "Größe " + self.name("LT")
        self.dataset.OtherPatientNames = self.name("PN")
        self.dataset.PatientAddress = self.name("LO")
        for keyword in ("PatientID", "AccessionNumber", "ReferringPhysicianName", "OperatorsName", "StudyDescription"):
            setattr(self.dataset, keyword, self.name("SH"))
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            uid = f"1.2.826.0.1.3680043.2.1143.{90_001_000_777 + len(self.names)}"
            self.names.append(uid)
            setattr(self.dataset, keyword, uid)
        self.dataset.file_meta.MediaStorageSOPInstanceUID = self.dataset.SOPInstanceUID
        self.dataset.SpecificCharacterSet = "ISO_IR 192"
        # some were put in the place of others
        text = self.dataset.to_json()
        self.names = [name for name in self.names if name in text]

    def name(self, vr: str) -> str:
        """A new name; capitals and digits where the representation takes nothing else."""
        number = len(self.names)
        text = f"QUENBAXTER{number:03d}" if vr in MOST else f"Quenbaxter{number:03d}"
        self.names.append(text)
        return f"{text}^Zofiqua{number:03d}" if vr == "PN" else text

    def _fill(self, dataset: pydicom.Dataset) -> None:
        for element in list(dataset):
            if element.VR == "SQ":
                for item in element.value:
                    self._fill(item)
            elif element.VR in TEXTS and element.keyword not in NEEDED and not element.tag.is_private_creator:
                element.value = self.name(element.VR)


def needles(name: str) -> Iterator[tuple[str, bytes]]:
    """The ways in which a name may stand among other bytes."""
    for text in {name, name.upper(), name.lower(), name.title()}:
        for coding in ("utf-8", "latin-1", "utf-16-le", "utf-16-be"):
            raw = text.encode(coding)
            yield coding, raw
            yield f"{coding}, hexadecimal", raw.hex().encode()
            yield f"{coding}, hexadecimal", raw.hex().upper().encode()
            for offset in range(3):
                whole = base64.b64encode(bytes(offset) + raw + bytes(3))
                # the digits that the bytes around the name have no part in
                first, last = -(-8 * offset // 6), 8 * (offset + len(raw)) // 6
                digits = whole[first:last]
                yield f"{coding}, base64 at {offset}", digits
                yield f"{coding}, base64 at {offset}", digits.replace(b"+", b"-").replace(b"/", b"_")


def found(names: list[str], places: dict[str, bytes]) -> list[str]:
    """Where a name stands, and how it is written there."""
    wanted = {(form, needle): name for name in names for form, needle in needles(name)}
    return [
        f"{name} in {place} ({form})"
        for (form, needle), name in wanted.items()
        for place, data in places.items()
        if needle in data
    ]


def chain_bytes(w3: Web3, since: int) -> dict[str, bytes]:
    """Every transaction's input and every log since a block."""
    places = {}
    for number in range(since, w3.eth.block_number + 1):
        for tx in w3.eth.get_block(number, full_transactions=True)["transactions"]:
            # eth-tester calls it by its former name
            places[f"input of {tx['hash'].hex()}"] = bytes(HexBytes(tx.get("input") or tx.get("data") or b""))
            for log in w3.eth.get_transaction_receipt(tx["hash"])["logs"]:
                places[f"log of {tx['hash'].hex()}"] = b"".join(map(bytes, log["topics"])) + bytes(log["data"])
    return places


def store_bytes(folder: Path) -> dict[str, bytes]:
    return {f"block {file.name}": file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def opened_bytes(house, result) -> dict[str, bytes]:
    """What the picture's holder and the members can open."""
    store = house.ledger.store
    payload = bytes.fromhex(result.payload)
    keys = sealing.payload_keys(payload, house.config.federation_id)
    batch = manifest.parse(store.get(result.manifest_cid))
    directory = manifest.open_directory(batch, *house.config.directory_keys)
    assert directory == (payload,)
    proof = evidence.open(store.get(result.evidence_cid), keys)
    return {"evidence": proof.to_bytes(), "directory": b"".join(directory)}


@pytest.fixture(scope="module")
def named() -> Named:
    return Named()


def marked(make_house, named: Named, folder: Path, watermarker, **more):
    """A hospital of its own with one marked picture; the house and the result."""
    house = make_house()
    source = folder / "named.dcm"
    named.dataset.save_as(source)
    result, *_ = mark_files(
        [(source, folder / "out.dcm")], "hospital-a", house.config, watermarker=watermarker, ledger=house.ledger, **more
    )
    return house, result


def everything(house, result) -> dict[str, bytes]:
    chain = chain_bytes(house.ledger.chain.w3, house.since)
    stored = store_bytes(house.ledger.store.path)
    assert len(stored) >= 3 and sum(map(len, chain.values())) > 1000
    return chain | stored | opened_bytes(house, result)


@pytest.fixture(scope="module")
def clean(make_house, named, watermarker, tmp_path_factory):
    """The picture marked with the weights that ship."""
    return marked(make_house, named, tmp_path_factory.mktemp("clean"), watermarker, quick=True)


def test_no_name_is_on_the_chain_or_in_the_store(named: Named, clean) -> None:
    house, result = clean
    assert len(named.names) > 40
    assert found(named.names, everything(house, result)) == []


def test_the_names_are_where_they_belong(named: Named, clean) -> None:
    """In the bundle, for named readers alone: so the search above looked for what really went in."""
    house, result = clean
    hospital = house.config.hospital("hospital-a")
    private = bundle.open(
        house.ledger.store.get(result.bundle_cid),
        readers.wrap_folder(hospital).load(result.bundle_cid),
        load_reader_key(hospital),
    ).to_bytes()
    missing = [name for name in named.names if not found([name], {"bundle": private})]
    assert missing == []


def test_a_name_in_the_policy_is_found(make_house, named, quick, tmp_path) -> None:
    house, result = marked(make_house, named, tmp_path, quick, policy={"contact": named.names[3]})
    assert any("in evidence" in place for place in found(named.names, everything(house, result)))


def test_a_name_among_the_evidence_s_attributes_is_found(make_house, named, quick, tmp_path, monkeypatch) -> None:
    def in_clear(key, values):
        return {f"{name} {values[name]}"[:200]: "0" * 64 for name in values}

    monkeypatch.setattr(evidence, "attribute_macs", in_clear)
    house, result = marked(make_house, named, tmp_path, quick)
    assert any("in evidence" in place for place in found(named.names, everything(house, result)))


def test_a_bundle_that_is_not_sealed_is_found(make_house, named, quick, tmp_path, monkeypatch) -> None:
    real = bundle.seal

    def careless(private, record_key, keys, nonce=None):
        return private.to_bytes(), real(private, record_key, keys, nonce)[1]

    monkeypatch.setattr(bundle, "seal", careless)
    house, result = marked(make_house, named, tmp_path, quick)
    where = found(named.names, everything(house, result))
    assert any(f"in block {cid.parse(result.bundle_cid)}" in place for place in where)


@pytest.mark.parametrize("form", ["utf-8", "latin-1", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("dressed", ["plain", "hex", "HEX", "base64", "urlsafe"])
@pytest.mark.parametrize("before", [b"", b"x", b"xy"])
@pytest.mark.parametrize("case", [str, str.upper, str.lower])
def test_the_search_sees_a_name_in_every_dress(form: str, dressed: str, before: bytes, case) -> None:
    raw = before + case("Müller^Jörg").encode(form) + b"\x9d"
    dress = {
        "plain": bytes,
        "hex": lambda data: data.hex().encode(),
        "HEX": lambda data: data.hex().upper().encode(),
        "base64": base64.b64encode,
        "urlsafe": base64.urlsafe_b64encode,
    }[dressed]
    assert found(["Müller"], {"here": b"\x00\xff" + dress(raw)})
    assert not found(["Müller"], {"here": np.random.default_rng(0).bytes(5000)})
