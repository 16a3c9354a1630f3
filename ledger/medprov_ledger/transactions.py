"""Sending: each transaction is signed once, kept, sent, watched until it is deep enough, and repaired where needed.

What is sent again is the same bytes, so it can count only once. A transaction that is stuck is replaced by one of the
same nonce that offers more: whichever of them is mined counts, and only one can be. Where another transaction of the
account has taken the nonce for good, that is said and nothing more is sent: who asked must look before asking again.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from web3 import Web3
from web3.contract.contract import ContractConstructor, ContractFunction
from web3.exceptions import BlockNotFound
from web3.types import BlockData, TxParams

from . import fees, json_rpc, rpc_address
from .config import GWEI, MAX_FEE_GWEI
from .errors import (
    ChainAwayError,
    ChainError,
    FeeLimitError,
    NoFundsError,
    NonceTakenError,
    RevertedError,
    SignerError,
    SyncingError,
    WrongChainError,
)
from .journal import Entry, Journal, Variant
from .json_rpc import Mined, chain_errors
from .merkle import keccak256
from .signer import Account, Signer, as_signer

GAS_MARGIN = 1.2
NONCE_RETRIES = 5
SEND_ATTEMPTS = 3
SETTLED = 256
"""Blocks after which a transaction is no longer watched: no chain reorganises that deep."""
CLOCK = 900
"""Seconds that this machine's clock and the blocks may differ."""
_NONCE_WORDS = (
    "nonce too low",
    "nonce too high",
    "replacement transaction",
    "correct nonce",
    "transaction nonce",
    "invalid nonce",
    "expected nonce",
)
_log = logging.getLogger(__name__)

Call = ContractFunction | ContractConstructor | TxParams
"""What can be sent: with its arguments; a dict holds plain fields (to, value, data)."""


@dataclass(frozen=True)
class Receipt:
    """A confirmed transaction.

    Parameters
    ----------
    tx_hash : str
        0x and 64 hexadecimal digits.
    block : int
    time : int
        Time of the block, seconds since 1970 (UTC).
    gas : int
        Gas used.
    contract : str or None
        Address of the contract it created, if any.
    """

    tx_hash: str
    block: int
    time: int
    gas: int
    contract: str | None = None


@dataclass(frozen=True)
class Terms:
    """How to send.

    Parameters
    ----------
    confirmations : int
        Blocks a transaction must be deep before it counts; 1 is the block it stands in.
    timeout : float
        Seconds to wait for that.
    bump_after : float
        Seconds after which a transaction that is not mined is replaced by one that offers more.
    max_fee : int
        The most that may be offered per unit of gas, in wei.
    """

    confirmations: int = 1
    timeout: float = 120.0
    bump_after: float = 60.0
    max_fee: int = MAX_FEE_GWEI * GWEI


@dataclass(frozen=True)
class Pending:
    """A transaction that is on its way; give it to :meth:`Sender.wait`.

    Parameters
    ----------
    entry : Entry
        As it was when it was sent.
    call : ContractFunction, ContractConstructor or dict
    """

    entry: Entry
    call: Call


@dataclass(frozen=True)
class _Plain:
    """What a call does, whoever sends it when."""

    to: str | None
    value: int
    data: str

    @property
    def purpose(self) -> bytes:
        where = bytes.fromhex(self.to[2:]) if self.to else b""
        return keccak256(len(where).to_bytes(1, "big") + where + self.value.to_bytes(32, "big") + self.data.encode())

    @property
    def fields(self) -> dict[str, Any]:
        known = {"value": self.value, "data": self.data}
        return {**known, "to": self.to} if self.to else known


class Sender:
    """Sends for one account on one chain.

    Parameters
    ----------
    w3 : Web3
        The node.
    account : LocalAccount or Signer
        Signs and pays.
    journal : Journal
        Of this account on this chain.
    terms : Terms
    chain_id : int
    """

    def __init__(self, w3: Web3, account: Account, journal: Journal, terms: Terms, chain_id: int) -> None:
        self.w3, self.journal, self.terms, self.chain_id = w3, journal, terms, chain_id
        self.signer: Signer = as_signer(account)
        self.address = Web3.to_checksum_address(self.signer.address)
        self.rpc = json_rpc.address_of(w3)
        self._clock_was_wrong = False

    def send(self, call: Call) -> Receipt:
        """Send one transaction and wait for it; see :meth:`send_many`.

        Raises
        ------
        RevertedError
            The contract refuses; ``error`` holds the custom error's name.
        ChainError, SignerError
        """
        result = self.send_many([call])[0]
        if isinstance(result, ChainError):
            raise result
        return result

    def send_many(self, calls: Sequence[Call]) -> list[Receipt | ChainError]:
        """Send transactions together and wait for all.

        Returns
        -------
        list of Receipt or ChainError
            In the order of `calls`; one that is refused has its error and does not stop the others.

        Raises
        ------
        ChainError, SignerError
            Nothing can be sent now, or it is not known what was.
        """
        return self.wait(self.submit(calls))

    def submit(self, calls: Sequence[Call]) -> list[Pending | ChainError]:
        """Sign and send transactions, and do not wait; equal calls are one transaction.

        A call that was sent before, here or by another process, and whose result nobody was told yet, is not sent
        anew: its transaction is adopted, unless it was mined and the account has gone on since.
        """
        with chain_errors(self.rpc):
            self._check_node()
        plain = [self._plain(call) for call in calls]
        found: dict[bytes, Entry | ChainError] = {}
        with self.journal.turn():
            self._tend()
            fresh: dict[bytes, _Plain] = {}
            for one in plain:
                entry = self.journal.find(one.purpose)
                if entry is None or self._is_past(entry):
                    fresh[one.purpose] = one
                else:
                    found[one.purpose] = entry
            for attempt in range(NONCE_RETRIES):
                if fresh:
                    if attempt:
                        time.sleep(0.1 * attempt)
                    found |= self._send_fresh(fresh, last=attempt == NONCE_RETRIES - 1)
                    fresh = {purpose: one for purpose, one in fresh.items() if purpose not in found}
        results = [found[one.purpose] for one in plain]
        return [
            result if isinstance(result, ChainError) else Pending(result, call)
            for result, call in zip(results, calls, strict=True)
        ]

    def wait(self, pending: Sequence[Pending | ChainError]) -> list[Receipt | ChainError]:
        """Wait until transactions are deep enough; errors in the list stay where they are.

        A reorganisation is noticed until then, however deep: what it throws out is sent again.
        """
        results: dict[int, Receipt | ChainError] = {}
        waiting = {one.entry.number: one for one in pending if isinstance(one, Pending)}
        deadline, pause = time.monotonic() + self.terms.timeout, 0.02
        while waiting:
            with chain_errors(self.rpc):
                found = self._look(list(waiting.values()))
            results |= found
            waiting = {number: one for number, one in waiting.items() if number not in found}
            if waiting and time.monotonic() > deadline:
                results |= {number: self._late(one) for number, one in waiting.items()}
                break
            if waiting:
                time.sleep(pause)
                pause = min(1.0, pause * 1.5)
        return [one if isinstance(one, ChainError) else results[one.entry.number] for one in pending]

    def settle(self) -> int:
        """Send again what is lost: what a node has forgotten, or a reorganisation has thrown out, however deep.

        Returns
        -------
        int
            Number of transactions sent again.
        """
        with self.journal.turn():
            return self._tend()

    # --- before sending ---------------------------------------------------------------------------------------------

    def _check_node(self) -> None:
        found = self.w3.eth.chain_id
        if found != self.chain_id:
            raise WrongChainError(
                f"{rpc_address.shown(self.rpc)}: serves chain {found} now, and not {self.chain_id}; correct chain.rpc"
            )
        progress = self.w3.eth.syncing
        if not isinstance(progress, bool):
            raise SyncingError(
                f"{rpc_address.shown(self.rpc)}: the node is still catching up with its chain (block "
                f"{progress['currentBlock']}); wait until it has, then run the same command again"
            )

    def _is_past(self, entry: Entry) -> bool:
        """Whether nobody can be waiting for this result any more: what is asked for now is asked for again."""
        if entry.state != "open" or not self.journal.has_done_after(entry.nonce):
            return False
        with chain_errors(self.rpc):
            return entry.number in self._mined([entry])

    def _plain(self, call: Call) -> _Plain:
        if isinstance(call, dict):
            to, value, data = call.get("to"), call.get("value", 0), call.get("data", "0x")
        else:
            # gas, fees and nonce are given so that web3 does not ask the node for them
            made = call.build_transaction(
                {
                    "from": self.address,
                    "chainId": self.chain_id,
                    "nonce": cast(Any, 0),
                    "gas": 1,
                    "maxFeePerGas": cast(Any, 1),
                    "maxPriorityFeePerGas": cast(Any, 1),
                }
            )
            to, value, data = made.get("to"), made.get("value", 0), made["data"]
        where = Web3.to_checksum_address(cast(str, to)) if to else None
        return _Plain(where, int(value), data if isinstance(data, str) else "0x" + bytes(data).hex())

    def _send_fresh(self, fresh: dict[bytes, _Plain], *, last: bool) -> dict[bytes, Entry | ChainError]:
        """Sign, keep and send; what is missing in the answer met a nonce that is taken and must be tried again."""
        found: dict[bytes, Entry | ChainError] = {}
        with chain_errors(self.rpc):
            block = self.w3.eth.get_block("latest")
            self._check_clock(block)
            offer = fees.quote(self.w3, block.get("baseFeePerGas"), self.terms.max_fee)
            calls = [{"from": self.address, **one.fields} for one in fresh.values()]
            estimates = dict(zip(fresh, json_rpc.estimate_gas(self.w3, calls), strict=True))
            nonces = self._free_nonces()
        signed = []
        for purpose, one in fresh.items():
            gas = estimates[purpose]
            if isinstance(gas, ChainError):
                found[purpose] = gas
                continue
            limit = min(int(gas * GAS_MARGIN), int(block["gasLimit"]))
            fields = {**one.fields, **offer, "chainId": self.chain_id, "nonce": next(nonces), "gas": limit}
            signed.append((purpose, fields, self.signer.sign_transaction(fields)))
        entries = self.journal.add(signed)
        answers = self._deliver([entry.newest for entry in entries])
        accepted = [entry.nonce for entry, answer in zip(entries, answers, strict=True) if answer is None]
        for entry, answer in zip(entries, answers, strict=True):
            if answer is None:
                found[entry.purpose] = entry
                continue
            taken = any(words in str(answer).lower() for words in _NONCE_WORDS)
            if taken or not accepted or entry.nonce > max(accepted):
                # no node has it, and nothing waits for it
                self.journal.remove(entry.number)
            if not taken or last:
                found[entry.purpose] = self._poor(entry) if isinstance(answer, NoFundsError) else answer
        return found

    def _free_nonces(self) -> Iterator[int]:
        """Nonces from the first that neither the node nor the journal has in use."""
        first = int(self.w3.eth.get_transaction_count(self.address, "pending"))
        used = self.journal.nonces_from(first)
        return (nonce for nonce in itertools.count(first) if nonce not in used)

    def _deliver(self, variants: Sequence[Variant]) -> list[ChainError | None]:
        """Send transactions; where no answer comes, the same bytes again.

        Returns
        -------
        list of ChainError or None
            None for those that the node has now.
        """
        if not variants:
            return []
        for attempt in range(SEND_ATTEMPTS):
            try:
                answers = json_rpc.send_raw(self.w3, [variant.raw for variant in variants])
                break
            except ChainAwayError:
                if attempt == SEND_ATTEMPTS - 1:
                    raise
                time.sleep(0.1 * 4**attempt)
        refused = [number for number, answer in enumerate(answers) if answer is not None]
        if refused:
            # "nonce too low" is also what a node says of a transaction that it has mined before its answer was lost
            there = json_rpc.known(self.w3, [variants[number].tx_hash for number in refused])
            for number, is_there in zip(refused, there, strict=True):
                answers[number] = None if is_there else answers[number]
        return answers

    def _poor(self, entry: Entry) -> ChainError:
        fields = entry.newest.fields
        cost = fields["gas"] * fields.get(fees.PRICE, fields.get(fees.MOST, 0)) + fields.get("value", 0)
        with chain_errors(self.rpc):
            balance = int(self.w3.eth.get_balance(self.address))
        return NoFundsError(
            f"{rpc_address.shown(self.rpc)}: {self.address} has {balance / 1e18:g} of the chain's money and the "
            f"transaction may cost {cost / 1e18:g}; send it money and run the same command again"
        )

    # --- after sending ----------------------------------------------------------------------------------------------

    def _look(self, waiting: Sequence[Pending]) -> dict[int, Receipt | ChainError]:
        """What has come of transactions: a receipt or an error for those whose fate is sealed."""
        head = int(self.w3.eth.block_number)
        current = {entry.number: entry for entry in self.journal.entries("open", "lost")}
        entries: dict[int, Entry] = {}
        for one in waiting:
            number = one.entry.number
            # another process may have told its result, or removed it
            entries[number] = current.get(number) or self.journal.entry(number) or one.entry
        mined = self._mined(entries.values())
        results: dict[int, Receipt | ChainError] = {}
        deep = {number: place for number, place in mined.items() if place.block + self.terms.confirmations - 1 <= head}
        blocks = {height: self._block(height) for height in {place.block for place in deep.values()}}
        sure: dict[int, BlockData] = {}
        for number, place in deep.items():
            block = blocks[place.block]
            # asked after the receipts: they may tell of a block that is no longer there
            if block is not None and place.tx_hash in {bytes(cast(Any, one)) for one in block["transactions"]}:
                sure[number] = block
        self.journal.set_done({number: (block["number"], bytes(block["hash"])) for number, block in sure.items()})
        for one in waiting:
            number = one.entry.number
            if number in sure:
                results[number] = self._result(one, entries[number], mined[number], sure[number])
        lost = {number: entry for number, entry in entries.items() if number not in mined}
        if lost:
            with self.journal.turn(wait=False) as held:
                if held:
                    self._tend()
            results |= self._replaced(lost, head)
        return results

    def _mined(self, entries: Iterable[Entry]) -> dict[int, Mined]:
        """Where transactions stand, whichever of their variants it is."""
        pairs = [(entry.number, variant.tx_hash) for entry in entries for variant in entry.variants]
        places = json_rpc.receipts(self.w3, [tx_hash for _, tx_hash in pairs])
        found = [(number, place) for (number, _), place in zip(pairs, places, strict=True) if place is not None]
        # one that succeeded comes last and counts: Ganache mines all variants of an account's first transaction
        return dict(sorted(found, key=lambda item: item[1].ok))

    def _result(self, one: Pending, entry: Entry, place: Mined, block: BlockData) -> Receipt | ChainError:
        self._check_clock(block, since=entry.variants[0].time)
        if not place.ok:
            return self._why_failed(one.call, place)
        return Receipt(Web3.to_hex(place.tx_hash), place.block, int(block["timestamp"]), place.gas, place.contract)

    def _replaced(self, lost: dict[int, Entry], head: int) -> dict[int, Receipt | ChainError]:
        """Errors for those whose nonce another transaction has taken for good."""
        deep = head - self.terms.confirmations + 1
        if deep < 0:
            return {}
        count = self.w3.eth.get_transaction_count(self.address, deep)
        gone = {number: entry for number, entry in lost.items() if entry.nonce < count}
        # asked again: it may have been mined between the two questions
        mined = self._mined(gone.values())
        return {number: self._nonce_taken(entry) for number, entry in gone.items() if number not in mined}

    def _nonce_taken(self, entry: Entry) -> ChainError:
        return NonceTakenError(
            f"{rpc_address.shown(self.rpc)}: transaction {Web3.to_hex(entry.newest.tx_hash)} can never be mined: "
            f"another one of {self.address} has its nonce {entry.nonce}; find out who else uses this key, then run "
            "the same command again"
        )

    def _late(self, one: Pending) -> ChainError:
        entry = self.journal.entry(one.entry.number) or one.entry
        with chain_errors(self.rpc):
            place = self._mined([entry]).get(entry.number)
            missing = int(self.w3.eth.get_transaction_count(self.address))
        why = ""
        if place is None and missing < entry.nonce:
            why = f", and waits for the account's transaction {missing}"
        elif place is None:
            offered = entry.newest.fields.get(fees.MOST, entry.newest.fields.get(fees.PRICE, 0))
            why = f", and is not mined at {offered / 1e9:g} gwei"
        return ChainError(
            f"{rpc_address.shown(self.rpc)}: transaction {Web3.to_hex(entry.newest.tx_hash)} is not "
            f"{self.terms.confirmations} block(s) deep after {self.terms.timeout:g} s{why}; it may still come: look "
            "again before repeating it"
        )

    def _why_failed(self, call: Call, place: Mined) -> ChainError:
        """The reason of a transaction that was mined and failed: ask again on the state it met."""
        if isinstance(call, ContractFunction):
            try:
                with chain_errors(self.rpc):
                    call.call({"from": self.address}, block_identifier=cast(Any, place.block))
            except ChainError as error:
                return error
        tx_hash = Web3.to_hex(place.tx_hash)
        return RevertedError(f"{rpc_address.shown(self.rpc)}: transaction {tx_hash} failed in block {place.block}")

    # --- keeping what was sent alive --------------------------------------------------------------------------------

    def _tend(self) -> int:
        """Look after all of the account's transactions; to be called in :meth:`Journal.turn`."""
        with chain_errors(self.rpc):
            watched = self.journal.entries("open", "lost") + self._displaced()
            if not watched:
                return 0
            head = int(self.w3.eth.block_number)
            mined = self._mined(watched)
            told = {entry.number for entry in watched if entry.state != "open"}
            blocks = {height: self._block(height) for height in {mined[number].block for number in told & set(mined)}}
            standing = {number: blocks[mined[number].block] for number in told & set(mined)}
            self.journal.set_done({n: (b["number"], bytes(b["hash"])) for n, b in standing.items() if b is not None})
            # nobody has come back for the result of these
            old = [number for number, at in mined.items() if number not in told and at.block < head - SETTLED]
            self.journal.remove(*old)
            lost = [entry for entry in watched if entry.number not in mined]
            if not lost:
                return 0
            # who asks for them again is to wait for them, not to send anew
            self.journal.set_lost([entry.number for entry in lost if entry.state == "done"])
            lost = self._without_replaced(lost, head)
            next_nonce = int(self.w3.eth.get_transaction_count(self.address))
            waiting = [entry for entry in sorted(lost, key=lambda entry: entry.nonce) if entry.nonce >= next_nonce]
            sent = self._send_unknown(waiting)
            self._bump(waiting, next_nonce)
        return sent

    def _displaced(self) -> list[Entry]:
        """What was done and may have been thrown out since."""
        newest = self.journal.newest_done() if self.journal.lasting else None
        if newest is None:
            return []
        number, block_hash = newest
        block = self._block(number)
        if _is(block, block_hash):
            # where the newest block stands, all before it do
            self.journal.forget_before(number - SETTLED)
            return []
        return self.journal.entries("done")

    def _without_replaced(self, lost: Sequence[Entry], head: int) -> list[Entry]:
        gone = self._replaced({entry.number: entry for entry in lost}, head)
        for error in gone.values():
            _log.warning("%s", error)
        self.journal.remove(*gone)
        return [entry for entry in lost if entry.number not in gone]

    def _send_unknown(self, waiting: Sequence[Entry]) -> int:
        there = json_rpc.known(self.w3, [variant.tx_hash for entry in waiting for variant in entry.variants])
        flags = iter(there)
        unknown = [entry for entry in waiting if not any([next(flags) for _ in entry.variants])]
        answers = self._deliver([entry.newest for entry in unknown])
        for entry, answer in zip(unknown, answers, strict=True):
            if answer is None:
                _log.info("transaction %s was lost and is sent again", Web3.to_hex(entry.newest.tx_hash))
            else:
                _log.warning("transaction %s is lost: %s", Web3.to_hex(entry.newest.tx_hash), answer)
        return sum(answer is None for answer in answers)

    def _bump(self, waiting: Sequence[Entry], next_nonce: int) -> None:
        """Offer more for what has waited too long: the next in turn, and whatever offers less than is asked now."""
        now = time.time()
        stuck = [entry for entry in waiting if now - entry.newest.time >= self.terms.bump_after]
        if not stuck:
            return
        try:
            wanted = fees.quote(self.w3, self.w3.eth.get_block("latest").get("baseFeePerGas"), self.terms.max_fee)
        except FeeLimitError as error:
            _log.warning("%s waits: %s", self.address, error)
            wanted = {}
        for entry in stuck:
            old = entry.newest.fields
            if entry.nonce != next_nonce and fees.enough(old, wanted):
                continue
            more = fees.raised(old, wanted, self.terms.max_fee)
            if more is None:
                _log.warning(
                    "transaction %s is stuck, and chain.max_fee_gwei allows no more", Web3.to_hex(entry.newest.tx_hash)
                )
                continue
            fields = {**old, **more}
            try:
                raw = self.signer.sign_transaction(fields)
            except SignerError as error:
                _log.warning("transaction %s is stuck: %s", Web3.to_hex(entry.newest.tx_hash), error)
                continue
            self.journal.add_variant(entry.number, fields, raw)
            answer = json_rpc.send_raw(self.w3, [raw])[0]
            _log.info("transaction of nonce %d is stuck; it offers more now (%s)", entry.nonce, answer or "taken")

    def _block(self, number: int) -> BlockData | None:
        try:
            return self.w3.eth.get_block(cast(Any, number))
        except BlockNotFound:
            return None

    def _check_clock(self, block: BlockData, since: float | None = None) -> None:
        """Warn, once, where this machine's clock and the chain's differ.

        Parameters
        ----------
        since : float or None
            The block was made after this; None where nothing is known: an idle chain's newest block may be old.
        """
        at, now = int(block["timestamp"]), time.time()
        ahead = at - now if at > now else 0.0 if since is None else min(0.0, at - since)
        if abs(ahead) > CLOCK and not self._clock_was_wrong:
            self._clock_was_wrong = True
            _log.warning(
                "%s: the chain's time is %d minutes %s this machine's; set the clock, or records bear a wrong time",
                rpc_address.shown(self.rpc),
                round(abs(ahead) / 60),
                "ahead of" if ahead > 0 else "behind",
            )


def _is(block: BlockData | None, block_hash: bytes) -> bool:
    return block is not None and bytes(block["hash"]) == block_hash


def transact(w3: Web3, function: Call, account: Account, *, confirmations: int = 1, timeout: float = 120.0) -> Receipt:
    """Sign, send and wait until `confirmations` blocks deep, for an account that keeps no journal.

    Parameters
    ----------
    w3 : Web3
        The node.
    function : ContractFunction or ContractConstructor or dict
        With its arguments; a dict holds plain transaction fields.
    account : LocalAccount or Signer
        Signs and pays.
    confirmations : int
        1 is the block it stands in.
    timeout : float
        Seconds until giving up; the transaction may still be mined later.

    Raises
    ------
    RevertedError
        The contract refuses; ``error`` holds the custom error's name.
    ChainError
        The node does not answer, refuses, or the time is over.
    """
    with chain_errors(json_rpc.address_of(w3)):
        chain_id = int(w3.eth.chain_id)
    journal = Journal(None, str(chain_id), as_signer(account).address)
    try:
        return Sender(w3, account, journal, Terms(confirmations, timeout), chain_id).send(function)
    finally:
        journal.close()
