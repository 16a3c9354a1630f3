"""A hospital's state, chain and store made by hand: three records in one confirmed batch, one still on its way."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pytest

from medprov_ledger import bundle, cid, eip712, manifest
from medprov_ledger.audit import Audit, audit
from medprov_ledger.block_store import BlockStore
from medprov_ledger.chain import Chain
from medprov_ledger.config import HospitalConfig
from medprov_ledger.errors import ConfigError
from medprov_ledger.federation import Federation
from medprov_ledger.keys import create_account, load_reader_key, reader_public
from medprov_ledger.manifest import SignedRecord
from medprov_ledger.outbox import FILE, Outbox
from medprov_ledger.record import Record
from medprov_ledger.registry import Registry


@dataclass
class Hospital:
    """What the tests damage."""

    chain: Chain
    store: BlockStore
    config: HospitalConfig
    records: list[Record]
    manifest_cid: str

    def audit(self) -> Audit:
        return audit(Registry(self.chain), Federation(self.chain), self.store, [self.config])

    def sql(self, statement: str, *values: object) -> None:
        with sqlite3.connect(self.config.state / FILE) as db:
            db.execute(statement, values)
        db.close()


@pytest.fixture
def hospital(make_chain, people, tmp_path: Path) -> Hospital:
    chain, member = make_chain(), people.members[0]
    folder = tmp_path / "keys"
    create_account(folder, kdf_iterations=2**10)
    config = HospitalConfig(
        name="a",
        address=member.address,
        keystore=folder / "keystore.json",
        password_file=folder / "password",
        reader_key=folder / "reader.pem",
        state=tmp_path / "state",
    )
    config.state.mkdir()
    store = BlockStore(tmp_path / "blocks")
    wraps = bundle.WrapFolder(config.state / bundle.FOLDER)
    reader = reader_public(load_reader_key(config))
    domain = eip712.domain(chain.config.chain_id, Registry(chain).address)
    outbox = Outbox(config.state / FILE)
    signed = []
    for number in range(4):
        job = f"job-{number}"
        item = outbox.draw(job)
        payload = os.urandom(8) + item.serial
        outbox.set_marked(job, payload, os.urandom(32), hashed := os.urandom(32))
        sealed, keys = bundle.seal(bundle.Bundle(os.urandom(16)), os.urandom(32), [reader])
        wraps.save(cid.of(sealed), keys)
        proof = os.urandom(50)
        record = Record(
            key=keys.record_key,
            cover_hash=os.urandom(32),
            marked_hash=os.urandom(32),
            released_hash=hashed,
            evidence_cid=cid.of(proof),
            bundle_cid=cid.of(sealed),
            owner=member.address,
            model=bytes(range(32)),
            time=item.time,
        )
        signed.append(SignedRecord(record, eip712.sign_record(record, domain, member)))
        outbox.set_bundled(job, signed[-1], proof, sealed)
        store.put(proof)
        store.put(sealed)
        outbox.set_stored(job)
    built = manifest.build(signed[:3], domain)
    data = built.to_bytes()
    outbox.add_batch(built.root, data, cid.of(data), ["job-0", "job-1", "job-2"])
    sent = Registry(chain).anchor_batch(built.root, 3, cid.of(data), member)
    outbox.set_anchored(built.root, sent.tx_hash, sent.block)
    store.put(data)
    outbox.set_confirmed(built.root)
    outbox.close()
    return Hospital(chain, store, config, [one.record for one in signed], cid.of(data))


def places(found: Audit) -> list[str]:
    return [one.where for one in found.differences]


def test_where_all_agree_there_is_no_difference_and_what_is_on_its_way_is_none(hospital) -> None:
    found = hospital.audit()
    assert found == Audit(anchors=1, records=3, confirmed=3, waiting=1, opened=3, erased=0, differences=())


def test_an_audit_changes_nothing(hospital) -> None:
    before = {file: file.read_bytes() for file in hospital.config.state.rglob("*") if file.is_file()}
    hospital.audit()
    assert {file: file.read_bytes() for file in before} == before


def test_a_confirmed_batch_that_is_not_on_the_chain(hospital) -> None:
    hospital.sql("UPDATE batches SET root = ?", bytes(32))
    found = hospital.audit()
    assert places(found) == ["chain", "outbox"] and "not on the chain" in found.differences[0].what


def test_a_batch_of_another_registry_is_left_alone(hospital, make_chain) -> None:
    hospital.chain = make_chain()
    assert not any("batch" in one.what for one in hospital.audit().differences)


@pytest.mark.parametrize("column", ["block = block + 1", "tx_hash = 'x'", "cid = 'other'", "count = 4"])
def test_an_anchor_that_is_not_what_the_outbox_says(hospital, column) -> None:
    hospital.sql(f"UPDATE batches SET {column}")
    assert places(hospital.audit()) == ["chain"]


def test_an_anchor_of_which_the_outbox_knows_nothing(hospital, people) -> None:
    Registry(hospital.chain).anchor_batch(os.urandom(32), 1, cid.of(b"x"), people.members[0])
    found = hospital.audit()
    assert "outbox" in places(found) and "somebody else its key" in str(found.differences)


def test_an_outbox_that_is_gone(hospital) -> None:
    (hospital.config.state / FILE).unlink()
    assert places(hospital.audit()) == ["outbox"]


def test_a_manifest_that_is_gone(hospital) -> None:
    hospital.store._file(cid.parse(hospital.manifest_cid)).unlink()
    assert places(hospital.audit()) == ["manifest", *["chain"] * 3]


@pytest.mark.parametrize("name", ["evidence_cid", "bundle_cid"])
@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"x")])
def test_an_object_that_is_gone_or_damaged(hospital, name, damage) -> None:
    damage(hospital.store._file(cid.parse(getattr(hospital.records[1], name))))
    found = hospital.audit()
    assert places(found) == ["store"] and "job-1" in found.differences[0].what


def test_a_wrapped_key_that_was_erased_is_counted_and_no_difference(hospital) -> None:
    bundle.WrapFolder(hospital.config.state / bundle.FOLDER).erase(hospital.records[0].bundle_cid)
    found = hospital.audit()
    assert (found.opened, found.erased, found.differences) == (2, 1, ())


def test_a_wrapped_key_that_does_not_open_its_bundle(hospital) -> None:
    wraps = bundle.WrapFolder(hospital.config.state / bundle.FOLDER)
    wraps.save(hospital.records[0].bundle_cid, wraps.load(hospital.records[1].bundle_cid))
    assert places(hospital.audit()) == ["bundle"]


def test_wraps_that_cannot_be_read(hospital) -> None:
    file = hospital.config.state / bundle.FOLDER / f"{hospital.records[0].bundle_cid}.json"
    file.write_bytes(b"{")
    assert places(hospital.audit()) == ["bundle"]


def test_a_record_with_another_signature_than_the_manifest_s(hospital) -> None:
    hospital.sql("UPDATE items SET signature = ? WHERE job = 'job-0'", bytes(65))
    assert places(hospital.audit()) == ["manifest"]


def test_two_records_of_one_released_picture(hospital) -> None:
    hospital.sql(
        "UPDATE items SET released_hash = (SELECT released_hash FROM items WHERE job = 'job-0') WHERE job = 'job-1'"
    )
    assert places(hospital.audit()) == ["outbox"]


def test_a_picture_that_is_confirmed_without_a_record(hospital) -> None:
    hospital.sql("UPDATE items SET record = NULL WHERE job = 'job-0'")
    assert places(hospital.audit()) == ["outbox"]


def test_a_reader_key_that_is_gone_is_an_error(hospital) -> None:
    hospital.config.reader_key.unlink()
    with pytest.raises(ConfigError, match=r"reader\.pem"):
        hospital.audit()
