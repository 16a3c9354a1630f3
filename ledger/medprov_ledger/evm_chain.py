"""A development chain on the Python EVM: one block per transaction, every transaction journalled before it is answered.

The journal is a text file. Its first line says how the chain began (chain id, time, balances); each further line is one
block: its time, its raw transaction and its hash. Opening the journal executes it again and compares every hash, so a
changed or shortened line is noticed. Only a last line without its line end is dropped: it was being written when the
process died, so nobody was told of it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rlp  # type: ignore[import-untyped]
from eth.abc import BlockHeaderAPI, ComputationAPI, SignedTransactionAPI
from eth.chains.base import MiningChain
from eth.constants import BLANK_ROOT_HASH, POST_MERGE_DIFFICULTY, POST_MERGE_MIX_HASH, POST_MERGE_NONCE
from eth.db.atomic import AtomicDB
from eth.exceptions import PyEVMError
from eth.vm.forks.shanghai import ShanghaiVM
from eth.vm.spoof import SpoofTransaction
from eth_utils.exceptions import ValidationError
from rlp.exceptions import RLPException  # type: ignore[import-untyped]

FORMAT = 1
GAS_LIMIT = 30_000_000
_RICH = 1 << 200
"""Balance lent to whoever asks a question: `eth_call` costs nothing."""


class JournalError(Exception):
    """The journal cannot be used; the message is one line and names file and line."""


class RefusedError(Exception):
    """The chain does not take this transaction; the message says why."""


class ExecutionError(Exception):
    """A call failed.

    Parameters
    ----------
    data : bytes
        What the contract returned with its revert; empty for other failures.
    reason : str
    """

    def __init__(self, data: bytes, reason: str) -> None:
        super().__init__(reason)
        self.data = data


@dataclass(frozen=True)
class Log:
    """An event.

    Parameters
    ----------
    address : bytes
        20 bytes.
    topics : tuple of bytes
        32 bytes each.
    data : bytes
    block, index : int
        `index` counts within the block.
    """

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes
    block: int
    index: int


@dataclass(frozen=True)
class Mined:
    """A block with its one transaction and what came of it.

    Parameters
    ----------
    header : BlockHeaderAPI
    transaction : SignedTransactionAPI
    type : int
        Transaction type (EIP-2718); 0 is the legacy one.
    ok : bool
    gas_used : int
    contract : bytes or None
        Address of the created contract.
    logs : tuple of Log
    size : int
        Bytes of the encoded block.
    """

    header: BlockHeaderAPI
    transaction: SignedTransactionAPI
    type: int
    ok: bool
    gas_used: int
    contract: bytes | None
    logs: tuple[Log, ...]
    size: int


class EvmChain:
    """The chain of one journal; not thread-safe, and only one process may have a journal open.

    Parameters
    ----------
    journal : Path
        Made if absent.
    chain_id : int
        Must be the journal's, where it exists.
    balances : dict of str to int
        Address (0x and hexadecimal digits) to wei at the beginning; used for a new journal only.

    Raises
    ------
    JournalError
        The journal is in use, damaged, or of another chain.
    """

    def __init__(self, journal: Path, chain_id: int, balances: dict[str, int]) -> None:
        self.path, self.chain_id = journal, chain_id
        self.by_hash: dict[bytes, Mined] = {}
        self.blocks: list[Mined] = []
        self.logs: list[Log] = []
        try:
            self._file = journal.open("a+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalError(f"{journal}: another process has this journal open; stop it first") from None
        except OSError as error:
            raise JournalError(f"{journal}: cannot be opened ({error.strerror})") from None
        lines = self._complete_lines()
        if lines:
            genesis = self._genesis(lines[0])
        else:
            genesis = {"format": FORMAT, "chain_id": chain_id, "time": int(time.time()), "balances": balances}
            self._append(genesis)
        self._chain = _new_chain(chain_id, genesis["time"], genesis["balances"])
        self.genesis: BlockHeaderAPI = self._chain.get_canonical_block_header_by_number(0)
        for number, line in enumerate(lines[1:], start=2):
            self._replay(number, line)

    def close(self) -> None:
        """Let go of the journal."""
        self._file.close()

    @property
    def head(self) -> int:
        """Number of the newest block."""
        return len(self.blocks)

    def header(self, number: int) -> BlockHeaderAPI | None:
        """The header of a block; None where there is none."""
        if number == 0:
            return self.genesis
        return self.blocks[number - 1].header if 0 < number <= self.head else None

    @property
    def base_fee(self) -> int:
        """Base fee of the next block in wei (EIP-1559)."""
        return int(self._chain.header.base_fee_per_gas or 0)

    def send(self, raw: bytes) -> bytes:
        """Execute a signed transaction in a block of its own and write it to the journal.

        Returns
        -------
        bytes
            32 bytes, the transaction's hash.

        Raises
        ------
        RefusedError
            Not a valid transaction now: signature, nonce, balance, fee or chain id. Nothing has changed.
        """
        now = max(int(time.time()), self._tip().timestamp + 1)
        mined = self._mine(raw, now)
        try:
            self._append({"time": now, "raw": raw.hex(), "hash": mined.header.hash.hex()})
        except OSError as error:
            # memory now holds what the disk does not: nobody may build on it
            raise JournalError(
                f"{self.path}: cannot be written ({error.strerror}); make room and start again"
            ) from None
        transaction_hash: bytes = mined.transaction.hash
        return transaction_hash

    def call(self, sender: bytes, to: bytes, data: bytes, value: int, gas: int, number: int) -> ComputationAPI:
        """Execute a message on the state after block `number`; changes nothing.

        Parameters
        ----------
        sender, to : bytes
            20 bytes; an empty `to` creates a contract.
        data : bytes
            Call data, or creation code.
        value : int
            Wei sent along.
        gas : int
            Limit.
        number : int
            Block whose state is used.

        Raises
        ------
        ExecutionError
            The execution failed.
        RefusedError
            The message cannot be executed at all.
        """
        header = self.header(number)
        if header is None:
            raise RefusedError(f"no block {number}")
        state = self._chain.get_vm(header).state
        state.set_balance(sender, _RICH + value)
        unsigned = self._chain.create_unsigned_transaction(
            nonce=state.get_nonce(sender),
            gas_price=header.base_fee_per_gas or 0,
            gas=gas,
            to=to,
            value=value,
            data=data,
        )
        spoofed = SpoofTransaction(unsigned, from_=sender)
        try:
            computation: ComputationAPI = state.apply_transaction(spoofed)
        except (PyEVMError, ValidationError) as error:
            raise RefusedError(_line(error)) from None
        if computation.is_error:
            failure = computation.error
            data = failure.args[0] if type(failure).__name__ == "Revert" and failure.args else b""
            reason = "execution reverted" if type(failure).__name__ == "Revert" else _line(failure)
            raise ExecutionError(data if isinstance(data, bytes) else b"", reason)
        return computation

    def estimate(self, sender: bytes, to: bytes, data: bytes, value: int) -> int:
        """Gas that a transaction needs now; errors as for :meth:`call`."""
        computation = self.call(sender, to, data, value, GAS_LIMIT, self.head)
        gas = GAS_LIMIT - int(computation.get_gas_remaining())
        while gas < GAS_LIMIT:
            try:
                self.call(sender, to, data, value, gas, self.head)
            except (ExecutionError, RefusedError):
                # inner calls get 63/64 of what is left (EIP-150), so a little more than was used may be needed
                gas += gas // 16 + 1000
            else:
                return gas
        return GAS_LIMIT

    def account(self, address: bytes, number: int) -> tuple[int, int, bytes]:
        """Nonce, balance in wei and code of an address after block `number`."""
        header = self.header(number)
        if header is None:
            raise RefusedError(f"no block {number}")
        state = self._chain.get_vm(header).state
        return state.get_nonce(address), state.get_balance(address), state.get_code(address)

    def _tip(self) -> BlockHeaderAPI:
        return self.blocks[-1].header if self.blocks else self.genesis

    def _mine(self, raw: bytes, at: int) -> Mined:
        before = self._chain.header
        self._chain.set_header_timestamp(at)
        try:
            transaction = self._chain.get_vm().get_transaction_builder().decode(raw)
            self._check(transaction)
            _, receipt, computation = self._chain.apply_transaction(transaction)
        except (PyEVMError, ValidationError, RLPException, ValueError, TypeError, IndexError) as error:
            self._chain.header = before
            raise RefusedError(_line(error)) from None
        block = self._chain.mine_block()
        number = block.number
        logs = tuple(
            Log(log.address, tuple(topic.to_bytes(32, "big") for topic in log.topics), log.data, number, index)
            for index, log in enumerate(receipt.logs)
        )
        created = computation.msg.is_create and not computation.is_error
        mined = Mined(
            header=block.header,
            transaction=transaction,
            type=raw[0] if raw[0] < 0x80 else 0,
            ok=not computation.is_error,
            gas_used=receipt.gas_used,
            contract=computation.msg.storage_address if created else None,
            logs=logs,
            size=len(rlp.encode(block)),
        )
        self.blocks.append(mined)
        self.by_hash[transaction.hash] = mined
        self.logs += logs
        return mined

    def _check(self, transaction: SignedTransactionAPI) -> None:
        """What py-evm does not look at, or says in words that clients do not know."""
        chain_id = transaction.chain_id
        if chain_id is not None and chain_id != self.chain_id:
            raise RefusedError(f"transaction is for chain {chain_id}, this is chain {self.chain_id}")
        if transaction.hash in self.by_hash:
            raise RefusedError("already known")
        transaction.check_signature_validity()
        nonce, expected = transaction.nonce, self.account(transaction.sender, self.head)[0]
        if nonce != expected:
            word = "low" if nonce < expected else "high"
            raise RefusedError(f"nonce too {word}: is {nonce}, must be {expected}")

    def _complete_lines(self) -> list[bytes]:
        """The journal's lines; cuts off a last one that was never finished."""
        self._file.seek(0)
        content = self._file.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.ftruncate(self._file.fileno(), end)
        return content[:end].splitlines()

    def _append(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _genesis(self, line: bytes) -> dict[str, Any]:
        try:
            genesis: dict[str, Any] = json.loads(line)
            known = genesis["format"] == FORMAT and isinstance(genesis["time"], int)
            balances = {str(address): int(wei) for address, wei in genesis["balances"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            known, genesis, balances = False, {}, {}
        if not known:
            raise JournalError(f"{self.path}: line 1 is not the beginning of a journal; restore the file from a backup")
        if genesis["chain_id"] != self.chain_id:
            raise JournalError(f"{self.path}: is of chain {genesis['chain_id']}, not of chain {self.chain_id}")
        return genesis | {"balances": balances}

    def _replay(self, number: int, line: bytes) -> None:
        try:
            entry = json.loads(line)
            mined = self._mine(bytes.fromhex(entry["raw"]), int(entry["time"]))
            same = mined.header.hash == bytes.fromhex(entry["hash"])
        except (ValueError, KeyError, TypeError, RefusedError):
            same = False
        if not same:
            raise JournalError(f"{self.path}: line {number} is damaged; restore the file from a backup")


def _new_chain(chain_id: int, at: int, balances: dict[str, int]) -> MiningChain:
    # py-evm takes its parameters as class attributes
    attributes = {
        "chain_id": chain_id,
        "vm_configuration": ((0, ShanghaiVM),),
        "create_header_from_parent": _next_header,
    }
    chain_class: Any = type("JournalChain", (MiningChain,), attributes)
    state = {
        bytes.fromhex(address[2:]): {"balance": wei, "nonce": 0, "code": b"", "storage": {}}
        for address, wei in balances.items()
    }
    parameters = {
        "coinbase": bytes(20),
        "difficulty": POST_MERGE_DIFFICULTY,
        "extra_data": b"",
        "gas_limit": GAS_LIMIT,
        "mix_hash": POST_MERGE_MIX_HASH,
        "nonce": POST_MERGE_NONCE,
        "receipt_root": BLANK_ROOT_HASH,
        "timestamp": at,
        "transaction_root": BLANK_ROOT_HASH,
    }
    chain: MiningChain = chain_class.from_genesis(AtomicDB(), parameters, state)
    return chain


def _next_header(chain: MiningChain, parent: BlockHeaderAPI, **parameters: Any) -> BlockHeaderAPI:
    # the gas limit stays: py-evm would let it drift towards the usage
    return MiningChain.create_header_from_parent(chain, parent, **(parameters | {"gas_limit": parent.gas_limit}))


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
