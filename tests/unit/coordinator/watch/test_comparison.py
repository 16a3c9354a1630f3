"""The audit: what agrees, and each way in which log, records and chain can say different things."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct

from medprov_coordinator import cli
from medprov_coordinator.audit_log import FILE, AuditLog, read
from medprov_coordinator.errors import AuditError
from medprov_coordinator.watch.chain_view import ChainState
from medprov_coordinator.watch.comparison import compare
from medprov_coordinator.watch.records import parse_record
from medprov_coordinator.watch.run_folder import Run, RunFolder
from medprov_ledger.federation import Round
from medprov_ledger.merkle import root
from medprov_watermark.training import exchange as ex

FEDERATION = bytes(range(32))
KEYS = {101: b"\x01" * 32, 102: b"\x02" * 32}


def place(run: Path, number: int) -> Path:
    return run / "rounds" / f"{number:06d}.json"


def change(run: Path, number: int, edit: Callable[[dict[str, Any]], object]) -> None:
    body = json.loads(place(run, number).read_text())
    edit(body)
    place(run, number).write_text(json.dumps(body, sort_keys=True, separators=(",", ":")))


def sign(body: dict[str, Any], keys: dict[int, bytes] = KEYS, **fields: Any) -> None:
    """Change fields, and make digests, signatures, leaves and root as members and coordinator do."""
    body.update(fields)
    for row in body["updates"]:
        account = Account.from_key(keys[row["node"]])
        update = hashlib.sha256(keys[row["node"]]).digest()
        digest = ex.update_digest(FEDERATION, body["round"], bytes.fromhex(body["base"]), update, row["examples"])
        signature = bytes(account.sign_message(encode_defunct(primitive=digest)).signature)
        leaf = ex.update_leaf(digest, signature).hex()
        row.update(update=update.hex(), digest=digest.hex(), signature=signature.hex(), leaf=leaf)
        row["signer"] = account.address
    body["root"] = root([bytes.fromhex(row["leaf"]) for row in body["updates"]]).hex()


@pytest.fixture
def run(folder: Path) -> Path:
    """Three rounds that are signed, and whose records name the line of the log before them."""
    heads = {entry.body["number"] + 1: entry.hash.hex() for entry in read(folder / FILE) if entry.kind == "screened"}
    for number in (1, 2, 3):
        change(folder, number, lambda body: sign(body, audit=heads[body["round"]], cid="bafy"))
    return folder


@pytest.fixture
def chain(run: Path) -> ChainState:
    """A chain that has all three rounds."""
    rounds = {}
    for number in (1, 2, 3):
        found = parse_record(place(run, number).read_bytes())
        hashes = [bytes.fromhex(text) for text in (found.model, found.root, found.hash)]
        rounds[number] = Round(number, hashes[0], found.cid, hashes[1], hashes[2], "0x", 10 + number, 0)
    return ChainState(True, rounds, federation=FEDERATION)


def differences(run: Path, chain: ChainState | None = None) -> tuple[str, ...]:
    return compare(RunFolder(run), chain).differences


def test_everything_agrees(run: Path, chain: ChainState) -> None:
    found = compare(RunFolder(run), chain)
    assert (found.differences, found.notes, found.waiting) == ((), (), ())
    assert (found.entries, found.rounds, found.anchored, found.crashes) == (8, 3, 3, 0)
    assert found.head == AuditLog(run / FILE).head.hex()
    assert json.loads(json.dumps(found.to_json()))["differences"] == []


def test_without_a_chain_that_is_noted(run: Path) -> None:
    found = compare(RunFolder(run), None)
    assert found.differences == () and found.notes == ("no chain was compared: name --config",)


def test_an_empty_run_has_nothing_that_differs(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    found = compare(RunFolder(tmp_path), ChainState(True, federation=FEDERATION))
    assert (found.entries, found.rounds, found.head, found.differences, found.notes) == (0, 0, "00" * 32, (), ())


def test_records_without_any_log_cannot_be_compared(run: Path) -> None:
    (run / FILE).unlink()
    with pytest.raises(AuditError, match="no audit log there"):
        compare(RunFolder(run), None)


def test_a_chain_that_is_away_is_said_and_steers_no_terminal(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away:
        def refresh(self) -> ChainState:
            return ChainState(True, trouble="no chain at \x1b]0;title\x07\u202ehttp")

    monkeypatch.setattr("medprov_coordinator.watch.chain_view.ChainView.load", lambda path: Away())
    assert cli.main(["audit", "--dir", str(run), "--config", "medprov.toml"]) == 1
    out, err = capsys.readouterr()
    assert "the chain cannot be asked: no chain at \\x1b]0;title\\x07\\u202ehttp" in err and out == ""


def test_lines_that_are_gone_from_the_end_are_missed_by_the_record_that_names_them(run: Path) -> None:
    lines = (run / FILE).read_bytes().splitlines(keepends=True)
    (run / FILE).write_bytes(b"".join(lines[:5]))
    (found,) = differences(run)
    assert found.startswith("rounds/000003.json: names line ") and "lines were removed from its end" in found


def test_a_log_that_was_written_anew_is_missed_by_every_record(run: Path) -> None:
    entries = list(read(run / FILE))
    (run / FILE).unlink()
    log = AuditLog(run / FILE)
    for entry in entries:
        log.append(entry.kind, {**entry.body, "text": "as it should have been"})
    assert [one[:25] for one in differences(run)] == [f"rounds/00000{n}.json: names" for n in (1, 2, 3)]


def test_an_unfinished_last_line_is_a_note(run: Path) -> None:
    whole = (run / FILE).read_bytes()
    (run / FILE).write_bytes(whole + b'{"body":')
    found = compare(RunFolder(run), None)
    assert found.differences == () and found.entries == 8
    assert found.notes[0] == f"{FILE}: 8 bytes of an unfinished last line"
    # the coordinator cuts it off and says so
    AuditLog(run / FILE)
    found = compare(RunFolder(run), None)
    assert (found.differences, found.crashes, found.entries) == ((), 1, 9)


def test_a_corrupted_line_comes_first_and_explains_what_follows(run: Path) -> None:
    file = run / FILE
    file.write_text(file.read_text().replace("round 1", "round 9", 1))
    found = compare(RunFolder(run), None)
    assert found.entries == 2 and found.differences[0].startswith(f"{FILE}: line 3 is not what its hash")
    assert [one[:18] for one in found.differences[1:]] == ["rounds/000002.json", "rounds/000003.json"]
    assert all("lies after the line named above" in one for one in found.differences[1:])


def test_a_corrupted_first_line_is_a_difference_like_any_other(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / FILE
    file.write_bytes(b"?" + file.read_bytes())
    assert cli.main(["audit", "--dir", str(run), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["entries"] == 0 and found["differences"][0] == f"{FILE}: line 1 is not JSON"
    assert len(found["differences"]) == 4


def test_a_round_that_only_the_log_knows(run: Path) -> None:
    place(run, 3).unlink()
    assert differences(run) == (f"rounds/000003.json: is not there, but {FILE} says that round 3 was accepted",)


def test_a_record_that_starts_from_another_model(run: Path) -> None:
    change(run, 2, lambda body: sign(body, base="11" * 32))
    assert differences(run) == ("rounds/000002.json: starts from another model than round 1 ended with",)


def test_a_changed_update_a_foreign_signature_and_none(run: Path) -> None:
    def foreign(body: dict[str, Any]) -> None:
        signer = body["updates"][1]["signer"]
        sign(body, {**KEYS, 102: b"\x03" * 32})
        body["updates"][1]["signer"] = signer

    def unsigned(body: dict[str, Any]) -> None:
        row = body["updates"][0]
        row.update(signature="", leaf=ex.update_leaf(bytes.fromhex(row["digest"]), b"").hex())
        body["root"] = root([bytes.fromhex(row["leaf"]) for row in body["updates"]]).hex()

    change(run, 1, lambda body: body["updates"][0].update(leaf="11" * 32))
    # their leaves fit what stands there: only the signer tells
    change(run, 2, foreign)
    change(run, 3, unsigned)
    people = {node: Account.from_key(key).address for node, key in KEYS.items()}
    assert differences(run) == (
        "rounds/000001.json: the leaf of node 101 is not that of its digest and signature",
        f"rounds/000002.json: the signature of node 102 is not that of {people[102]}",
        f"rounds/000003.json: the signature of node 101 is not that of {people[101]}",
    )


def test_a_damaged_record_is_a_difference(run: Path) -> None:
    place(run, 2).write_text('{"round":2,"version":1,"probe":{"score":NaN}}')
    assert differences(run) == (
        "rounds/000002.json: damaged: is not JSON; restore it from a backup",
        f"rounds/000002.json: is not there, but {FILE} says that round 2 was accepted",
    )


def test_records_of_older_releases_are_noted(folder: Path) -> None:
    found = compare(RunFolder(folder), None)
    assert found.differences == () and found.notes[0].startswith("3 records name no line of audit.jsonl")


@pytest.mark.parametrize(
    ("field", "what"),
    [("metrics_hash", "record"), ("model_hash", "model"), ("updates_root", "root"), ("cid", "CID")],
)
def test_a_chain_that_holds_something_else(run: Path, chain: ChainState, field: str, what: str) -> None:
    other = "\x1b[2J" if field == "cid" else b"\x11" * 32
    changed = replace(chain.rounds[2], **{field: other})  # type: ignore[arg-type]
    (found,) = differences(run, replace(chain, rounds={**chain.rounds, 2: changed}))
    assert found.startswith(f"rounds/000002.json: its {what} is ") and "the chain holds" in found


def test_what_a_chain_holds_is_printed_without_what_steers_a_terminal(
    run: Path, chain: ChainState, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = replace(chain, rounds={**chain.rounds, 2: replace(chain.rounds[2], cid="\x1b]0;title\x07\u202e")})

    class View:
        def refresh(self) -> ChainState:
            return hostile

    monkeypatch.setattr("medprov_coordinator.watch.chain_view.ChainView.load", lambda path: View())
    assert cli.main(["audit", "--dir", str(run), "--config", "medprov.toml"]) == 1
    out, err = capsys.readouterr()
    for text in (out, err):
        assert "its CID is bafy, the chain holds \\x1b]0;title\\x07\\u202e" in text
        assert not any(sign in text for sign in "\x1b\x07\u202e")


def test_rounds_at_the_end_wait_and_one_in_between_is_missed(run: Path, chain: ChainState) -> None:
    found = compare(RunFolder(run), replace(chain, rounds={1: chain.rounds[1], 2: chain.rounds[2]}))
    assert (found.differences, found.waiting, found.anchored) == ((), (3,), 2)
    found = compare(RunFolder(run), replace(chain, rounds={1: chain.rounds[1], 3: chain.rounds[3]}))
    assert found.differences == ("rounds/000002.json: the chain has no round 2",)


def test_rounds_that_only_the_chain_has(run: Path, chain: ChainState) -> None:
    later = {**chain.rounds, 4: chain.rounds[3]}
    assert differences(run, replace(chain, rounds=later)) == (
        "rounds/000004.json: is not there, the chain has this round",
    )
    # a coordinator that went on from the chain in an empty folder has no records of the rounds before
    for number in (1, 2):
        place(run, number).unlink()
    (run / FILE).unlink()
    head = AuditLog(run / FILE).append("resumed", {"number": 2, "attempt": 2, "text": "", "figures": {}})
    change(run, 3, lambda body: body.update(audit=head.hex()))
    hashed = replace(chain.rounds[3], metrics_hash=hashlib.sha256(place(run, 3).read_bytes()).digest())
    found = compare(RunFolder(run), replace(chain, rounds={**chain.rounds, 3: hashed}))
    assert found.differences == ()
    assert found.notes == ("rounds 1 to 2 are anchored and have no record in this folder",)


def test_updates_of_another_federation(run: Path, chain: ChainState) -> None:
    found = differences(run, replace(chain, federation=bytes(32)))
    assert [one.partition(": ")[2] for one in found] == [
        "node 101 signed another round, base, update or number of examples"
    ] * 3


def test_a_round_that_is_accepted_meanwhile_is_no_difference(run: Path) -> None:
    """A coordinator that is at work writes the line first and the record that names it then."""

    class Working(RunFolder):
        def refresh(self) -> Run:
            log = AuditLog(run / FILE)
            head = log.append("screened", {"number": 3, "attempt": 5, "text": "", "figures": {}})
            body = json.loads(place(run, 3).read_text())
            sign(body, round=4, audit=head.hex(), base=body["model"], model="44" * 32)
            place(run, 4).write_text(json.dumps(body))
            return super().refresh()

    found = compare(Working(run), None)
    assert (found.rounds, found.differences) == (4, ())
