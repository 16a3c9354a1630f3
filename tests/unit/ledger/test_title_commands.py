"""medprov_ledger.title_commands: the whole command line on the in-process chain."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from eth_account.signers.local import LocalAccount
from web3 import Web3

from medprov_ledger import cid, eip712, manifest
from medprov_ledger.chain import Chain, transact
from medprov_ledger.cli import main
from medprov_ledger.config import Config
from medprov_ledger.deploy import Founder, deploy
from medprov_ledger.federation import Federation
from medprov_ledger.keys import create_account
from medprov_ledger.record import Record
from medprov_ledger.registry import Registry
from medprov_ledger.store import BlockStore
from medprov_ledger.titles import Reason, Titles

NAMES = ("north", "south", "west")
FAR = "2099-12-31"
FAR_SECONDS = int(datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())


@dataclass(frozen=True)
class Town:
    """Three hospitals whose keys lie in one configuration, and their chain."""

    file: Path
    chain: Chain
    accounts: dict[str, LocalAccount]

    @property
    def domain(self) -> eip712.Domain:
        return eip712.domain(self.chain.config.chain_id, self.chain.config.registry_address)

    def record(self, name: str, **changes: Any) -> Record:
        values = {field: os.urandom(32) for field in ("key", "cover_hash", "marked_hash", "released_hash", "model")}
        values |= {"evidence_cid": cid.of(b"e"), "bundle_cid": "", "owner": self.accounts[name].address, "time": 5}
        return Record(**(values | changes))

    def anchor(self, name: str, *records: Record) -> list[str]:
        """Anchor a batch; gives the records' ids."""
        account = self.accounts[name]
        signed = [manifest.SignedRecord(one, eip712.sign_record(one, self.domain, account)) for one in records]
        batch = manifest.build(signed, self.domain)
        where = BlockStore(self.file.parent / "blocks").put(batch.to_bytes())
        Registry(self.chain).anchor_batch(batch.root, len(records), where, account)
        return ["0x" + leaf.hex() for leaf in batch.leaves]

    def title(self, record_id: str, name: str) -> Any:
        return Titles(self.chain).title(bytes.fromhex(record_id[2:]), self.accounts[name].address)


@pytest.fixture(scope="module")
def town(tester: Web3, people: Any, tmp_path_factory: pytest.TempPathFactory) -> Town:
    folder = tmp_path_factory.mktemp("town")
    made = {name: create_account(folder / name, kdf_iterations=2) for name in NAMES}
    for keys in made.values():
        transact(tester, {"to": keys.account.address, "value": Web3.to_wei(10, "ether")}, people.deployer)
    federation_id = os.urandom(32)
    founders = [Founder(keys.account.address, name, keys.reader) for name, keys in made.items()]
    deployment = deploy(tester, people.deployer, federation_id, founders, 2)
    lines = ["[federation]", f'id = "0x{federation_id.hex()}"', 'name = "town"', "[chain]"]
    lines += ['rpc = "http://127.0.0.1:8545"', f"chain_id = {tester.eth.chain_id}"]
    lines += [f'federation = "{deployment.federation}"', f'registry = "{deployment.registry}"']
    lines += ["[store]", 'kind = "blocks"', 'path = "blocks"']
    (folder / "verifier.toml").write_text("\n".join(lines))
    for name, keys in made.items():
        lines += [f"[hospitals.{name}]", f'address = "{keys.account.address}"', f'keystore = "{name}/keystore.json"']
        lines += [f'password_file = "{name}/password"', f'reader_key = "{name}/reader.pem"', f'state = "{name}/state"']
        (folder / name / "state").mkdir()
    file = folder / "medprov.toml"
    file.write_text("\n".join(lines))
    (folder / "blocks").mkdir()
    return Town(file, Chain(Config.load(file), tester), {name: keys.account for name, keys in made.items()})


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(town: Town, tester: Web3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; gives exit status, standard output and standard error."""
    monkeypatch.setattr(Chain, "connect", lambda config: Chain(config, tester))

    def call(*arguments: str, config: Path = town.file) -> tuple[int, str, str]:
        status = main(["title", arguments[0], "--config", str(config), *arguments[1:]])
        out, err = capsys.readouterr()
        assert status == 0 or (
            status == 1 and out == "" and err.startswith("medprov-ledger: ") and err.count("\n") == 1
        )
        return status, out, err

    return call


def refused(answer: tuple[int, str, str], *why: str) -> None:
    status, _, err = answer
    assert status == 1
    for part in why:
        assert part in err


def test_a_record_changes_hands(town: Town, run: Run) -> None:
    record = town.record("north")
    (record_id, _) = town.anchor("north", record, town.record("north"))
    south = town.accounts["south"].address
    status, out, _ = run("transfer", record_id, "south")
    assert status == 0
    assert f"offered to {south} (south)" in out
    assert "by north, the first of north, south, west: --hospital names another" in out
    assert town.title(record_id, "north").offered == south
    refused(run("accept", record_id), f"offered to {south} (south), not to north")
    refused(run("accept", record_id, "--hospital", "west"), "not to west")
    status, out, _ = run("accept", record.key.hex(), "--hospital", "south")
    assert status == 0
    assert "taken over from" in out
    assert town.title(record_id, "north").owner == south
    refused(run("accept", record_id, "--hospital", "south"), "offered to nobody")
    refused(run("transfer", record_id, "west"), f"belongs to {south} (south), not to north")
    assert run("transfer", record_id, town.accounts["west"].address.lower(), "--hospital", "south")[0] == 0
    assert run("transfer", record_id, "--withdraw", "--hospital", "south")[0] == 0
    assert town.title(record_id, "north").offered is None
    refused(run("transfer", record_id, "--withdraw", "--hospital", "south"), "nothing to take back")


def test_show(town: Town, run: Run) -> None:
    record = town.record("west")
    (record_id,) = town.anchor("west", record)
    for config in (town.file, town.file.with_name("verifier.toml")):
        status, out, _ = run("show", record_id, config=config)
        assert status == 0
        for line in ("standing       stands", "offered to     nobody", "contested by   nobody", "anchored in batch 0x"):
            assert line in out
    assert f"owner          {record.owner} (west)" in run("show", record.key.hex())[1]
    found = json.loads(run("show", record_id, "--json")[1])
    assert found["record"] == record.to_json()
    assert (found["record_id"], found["owner"], found["revoked"], found["licence"]) == (
        record_id,
        record.owner,
        None,
        None,
    )
    Registry(town.chain).register(single := town.record("west"), town.accounts["west"])
    assert "proved         registered by itself" in run("show", single.key.hex())[1]


def test_licences(town: Town, run: Run, tmp_path: Path) -> None:
    (record_id,) = town.anchor("south", town.record("south"))
    someone, terms = "0x" + "ab" * 20, tmp_path / "terms.txt"
    terms.write_bytes(b"for teaching")
    act = ("license", record_id, someone, "--hospital", "south")
    status, out, _ = run(*act, "--until", FAR, "--terms", str(terms))
    assert status == 0
    assert "until 2099-12-31 23:59:59 UTC" in out
    licence = Titles(town.chain).licence(bytes.fromhex(record_id[2:]), someone)
    assert licence is not None
    assert (licence.expires, licence.terms) == (FAR_SECONDS, hashlib.sha256(b"for teaching").digest())
    assert "valid until 2099-12-31 23:59:59 UTC" in run("show", record_id, "--licensee", someone)[1]
    assert json.loads(run("show", record_id, "--licensee", someone, "--json")[1])["licence"]["expires"] == FAR_SECONDS
    assert "(north): none" in run("show", record_id, "--licensee", "north")[1]
    refused(run(*act, "--until", "2001-01-01"), "2001-01-01 23:59:59 UTC is over")
    refused(run(*act), "give --until, or --withdraw")
    refused(run(*act, "--until", FAR, "--withdraw"), "give --until, or --withdraw")
    refused(run(*act, "--until", FAR, "--terms", str(tmp_path / "none")), "none: cannot be read")
    refused(run("license", record_id, someone, "--until", FAR), "not to north")
    assert run(*act, "--withdraw")[0] == 0
    assert Titles(town.chain).licence(bytes.fromhex(record_id[2:]), someone) is None
    refused(run(*act, "--withdraw"), "has no licence to take back")
    assert run(*act, "--until", "2099-06-01T12:00:00+02:00")[0] == 0
    assert "2099-06-01 10:00:00 UTC" in run("show", record_id, "--licensee", someone)[1]


def test_revocation(town: Town, run: Run, tmp_path: Path) -> None:
    (record_id,) = town.anchor("north", town.record("north"))
    note = tmp_path / "note.txt"
    note.write_bytes(b"the patient asked for it")
    refused(run("revoke", record_id, "other", "--hospital", "west"), "not to west")
    status, out, _ = run("revoke", record_id, "consent-withdrawn", "--note", str(note))
    assert status == 0
    assert "revoked: consent withdrawn" in out
    assert town.title(record_id, "north").reason is Reason.CONSENT_WITHDRAWN
    (log,) = town.chain.events(town.chain.registry.events.RecordRevoked, 0, town.chain.head(), {"recordId": record_id})
    assert bytes(log["args"]["note"]) == hashlib.sha256(b"the patient asked for it").digest()
    assert "was revoked on 20" in run("show", record_id)[1]
    assert json.loads(run("show", record_id, "--json")[1])["reason"] == "consent withdrawn"
    for act in (
        ("revoke", record_id, "other"),
        ("transfer", record_id, "south"),
        ("license", record_id, "south", "--until", FAR),
        ("accept", record_id, "--hospital", "south"),
    ):
        refused(run(*act), "consent withdrawn, which nobody can undo")


def test_every_reason_of_the_contract_can_be_given() -> None:
    from medprov_ledger.title_commands import REASONS

    assert [name.upper().replace("-", "_") for name in REASONS] == [one.name for one in Reason if one]


def test_disputes(town: Town, run: Run) -> None:
    first = town.record("north")
    (earlier,) = town.anchor("north", first)
    (later,) = town.anchor("south", town.record("south", marked_hash=first.marked_hash))
    (other,) = town.anchor("west", town.record("west"))
    refused(run("dispute", later, earlier, "--hospital", "south"), "only the earlier one can contest")
    refused(run("dispute", earlier, other), "shares neither mark nor image")
    refused(run("dispute", earlier, earlier), "one and the same record")
    refused(run("dispute", earlier, later, "--hospital", "west"), "not to west")
    status, out, _ = run("dispute", earlier, later)
    assert status == 0
    assert f"{later}: contested by {earlier}" in out
    assert town.title(later, "south").contested_by == bytes.fromhex(earlier[2:])
    assert f"contested by   {earlier}" in run("show", later)[1]
    refused(run("dispute", earlier, later), "already")


def test_what_cannot_be(town: Town, run: Run, tmp_path: Path) -> None:
    (record_id,) = town.anchor("north", town.record("north"))
    refused(run("show", "ab" * 32), "no confirmed record has this id or record key")
    refused(run("show", "north"), "64 hexadecimal digits")
    refused(run("transfer", record_id), "or give --withdraw")
    refused(run("transfer", record_id, "south", "--withdraw"), "or give --withdraw")
    refused(run("transfer", record_id, "north"), "belongs to north already")
    refused(run("transfer", record_id, "east"), "nor a hospital here (north, south, west)")
    refused(run("transfer", record_id, "0x" + "ab" * 20), "no active member")
    wrong = town.accounts["south"].address.swapcase().replace("0X", "0x")
    refused(run("transfer", record_id, wrong), "copy it again")
    refused(run("transfer", record_id, "south", "--hospital", "east"), "no hospital 'east' here")
    refused(run("revoke", record_id, "other", config=town.file.with_name("verifier.toml")), "holds no hospital's keys")
    refused(run("show", record_id, config=tmp_path / "none.toml"), "none.toml")
    assert town.title(record_id, "north").owner == town.accounts["north"].address


@pytest.mark.parametrize("text", ["tomorrow", "", "2099-13-01", "99999-01-01"])
def test_a_date_that_is_none(run: Run, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("license", "ab" * 32, "south", "--until", text)
    assert caught.value.code == 2
    assert "is no date" in capsys.readouterr().err


def test_the_index_may_be_kept(town: Town, run: Run, tmp_path: Path) -> None:
    (record_id,) = town.anchor("north", town.record("north"))
    file = tmp_path / "index.sqlite"
    assert run("show", record_id, "--index", str(file))[0] == 0
    assert file.is_file()
    assert run("show", record_id, "--index", str(file))[0] == 0
    refused(run("show", record_id, "--index", str(tmp_path / "no folder" / "index")), "index")


def test_a_contract_that_refuses_all_the_same_is_one_line(town: Town, run: Run) -> None:
    (record_id,) = town.anchor("west", town.record("west"))
    federation, (north, south, _) = Federation(town.chain), town.accounts.values()
    federation.pause(north)
    federation.pause(south)
    refused(run("revoke", record_id, "other", "--hospital", "west"), "Paused")
    federation.unpause(north)
    federation.unpause(south)
