"""Audit log, records of rounds and chain: does every part say the same?

Nothing is changed. A round that waits for its anchor is no difference; one that ought to be there and is not, or says
something else, is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eth_account import Account
from eth_account.messages import encode_defunct

from medprov_coordinator.audit_log import FILE, read, verify
from medprov_coordinator.errors import AuditError
from medprov_coordinator.watch.chain_view import ChainState
from medprov_coordinator.watch.records import RoundRecord
from medprov_coordinator.watch.run_folder import RunFolder
from medprov_coordinator.watch.words import clean


@dataclass(frozen=True)
class Comparison:
    """What was compared.

    Parameters
    ----------
    entries, rounds, anchored : int
        Lines of the log that are good, records of rounds, and those of them that the chain holds.
    waiting : tuple of int
        Rounds with a record and without an anchor; empty without a chain.
    head : str
        Hash of the last good line, hexadecimal.
    crashes : int
        Unfinished lines that a crash left behind; they were cut off, kept aside and noted.
    notes : tuple of str
        What could not be compared, and why.
    differences : tuple of str
        The first one is the earliest.
    """

    entries: int
    rounds: int
    anchored: int
    waiting: tuple[int, ...]
    head: str
    crashes: int
    notes: tuple[str, ...]
    differences: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the same names."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def compare(folder: RunFolder, chain: ChainState | None) -> Comparison:
    """Compare all parts of a run.

    Parameters
    ----------
    folder : RunFolder
    chain : ChainState or None
        None where no chain is configured.

    Raises
    ------
    AuditError
        There is no log, or the chain does not answer: then nothing can be said.
    """
    if chain is not None and chain.trouble:
        raise AuditError(f"the chain cannot be asked: {clean(chain.trouble)}")
    # the log after the records: a record names a line that was written before it
    run = folder.refresh()
    checked = verify(folder.path / FILE)
    differences = [f"{FILE}: line {checked.line} {checked.why}"] if checked.line else []
    notes = [f"{FILE}: {checked.torn} bytes of an unfinished last line"] if checked.torn else []
    # the reader of the folder has found the log's first bad line as well
    differences += [problem for problem in run.problems if not problem.startswith(f"{FILE}: ")]
    heads = _heads(folder, checked.entries)
    differences += _records(run.rounds, heads, bool(checked.line), notes)
    held = {record.number: record for record in run.rounds}
    differences += [
        f"rounds/{number:06d}.json: is not there, but {FILE} says that round {number} was accepted"
        for number in sorted(run.history.accepted_at)
        if number not in held
    ]
    if chain is None:
        notes.append("no chain was compared: name --config")
    else:
        differences += _chain(held, chain, notes)
    anchored = sum(number in chain.rounds for number in held) if chain else 0
    return Comparison(
        entries=checked.entries,
        rounds=len(held),
        anchored=anchored,
        waiting=tuple(sorted(set(held) - set(chain.rounds))) if chain else (),
        head=checked.head.hex(),
        crashes=run.history.crashes,
        notes=tuple(notes),
        differences=tuple(differences),
    )


def _heads(folder: RunFolder, good: int) -> set[str]:
    found: set[str] = set()
    if not good:
        return found
    for entry in read(folder.path / FILE):
        found.add(entry.hash.hex())
        if entry.seq == good:
            break
    return found


def _records(rounds: tuple[RoundRecord, ...], heads: set[str], cut: bool, notes: list[str]) -> list[str]:
    found: list[str] = []
    silent = []
    former: RoundRecord | None = None
    for record in rounds:
        name = f"rounds/{record.number:06d}.json"
        if complaint := record.complaint() or _signatures(record):
            found.append(f"{name}: {complaint}")
        if former is not None and former.number == record.number - 1 and former.model != record.base:
            found.append(f"{name}: starts from another model than round {former.number} ended with")
        if not record.audit:
            silent.append(record.number)
        elif record.audit not in heads:
            why = "it lies after the line named above" if cut else "lines were removed from its end or written anew"
            found.append(f"{name}: names line {record.audit[:16]}, which {FILE} does not hold: {why}")
        former = record
    if silent:
        notes.append(f"{len(silent)} records name no line of {FILE}, as older releases write them")
    return found


def _signatures(record: RoundRecord) -> str:
    for row in record.updates:
        if not row.signer:
            continue
        try:
            message = encode_defunct(primitive=bytes.fromhex(row.digest))
            signer = Account.recover_message(message, signature=bytes.fromhex(row.signature))
        except Exception:  # whatever the bytes are, they are no signature
            signer = ""
        if signer != row.signer:
            return f"the signature of node {row.node} is not that of {row.signer[:60]}"
    return ""


def _chain(held: dict[int, RoundRecord], chain: ChainState, notes: list[str]) -> list[str]:
    found: list[str] = []
    last = max(chain.rounds, default=0)
    for number in sorted(held):
        record, name = held[number], f"rounds/{number:06d}.json"
        if misfit := record.misfit(chain.federation):
            found.append(f"{name}: {misfit}")
        anchor = chain.rounds.get(number)
        if anchor is None:
            if number <= last:
                found.append(f"{name}: the chain has no round {number}")
            continue
        for what, here, there in (
            ("record", record.hash, anchor.metrics_hash.hex()),
            ("model", record.model, anchor.model_hash.hex()),
            ("root", record.root, anchor.updates_root.hex()),
            ("CID", record.cid, anchor.cid),
        ):
            if here != there:
                found.append(f"{name}: its {what} is {here[:64]}, the chain holds {there[:64]}")
    if absent := sorted(set(chain.rounds) - set(held)):
        earliest = min(held, default=last + 1)
        # a run that went on from the chain in an empty folder has no records of the rounds before
        before = [number for number in absent if number < earliest]
        if before:
            notes.append(f"rounds {before[0]} to {before[-1]} are anchored and have no record in this folder")
        found += [
            f"rounds/{number:06d}.json: is not there, the chain has this round"
            for number in absent
            if number > earliest
        ]
    return found
