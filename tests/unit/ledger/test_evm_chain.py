"""medprov_ledger.evm_chain"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from medprov_ledger.evm_chain import EvmChain, ExecutionError, JournalError, RefusedError

CHAIN_ID = 31337
RICH = Account.from_key(b"\x01" * 32)
POOR = Account.from_key(b"\x02" * 32)
BALANCES = {RICH.address: 10**21}

Opener = Callable[..., EvmChain]


def transfer(nonce: int, **changes: Any) -> bytes:
    account = changes.pop("account", RICH)
    fields = {
        "nonce": nonce,
        "to": POOR.address,
        "value": 7,
        "gas": 21000,
        "maxFeePerGas": 10**10,
        "maxPriorityFeePerGas": 1,
        "chainId": CHAIN_ID,
    }
    return bytes(account.sign_transaction(fields | changes).raw_transaction)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def opened(journal: Path) -> Iterator[Opener]:
    chains: list[EvmChain] = []

    def opener(chain_id: int = CHAIN_ID) -> EvmChain:
        if chains:
            chains[-1].close()
        chains.append(EvmChain(journal, chain_id, BALANCES))
        return chains[-1]

    yield opener
    for chain in chains:
        chain.close()


def balance(chain: EvmChain) -> int:
    return chain.account(bytes.fromhex(POOR.address[2:]), chain.head)[1]


def test_everything_is_there_after_opening_again(opened: Opener) -> None:
    chain = opened()
    hashes = [chain.send(transfer(nonce)) for nonce in range(3)]
    before = [chain.header(number).hash for number in range(4)]  # type: ignore[union-attr]
    chain = opened()
    assert chain.head == 3
    assert balance(chain) == 21
    assert list(chain.by_hash) == hashes
    assert [chain.header(number).hash for number in range(4)] == before  # type: ignore[union-attr]
    chain.send(transfer(3))
    assert balance(opened()) == 28


def test_times_ascend(opened: Opener) -> None:
    chain = opened()
    for nonce in range(3):
        chain.send(transfer(nonce))
    times = [chain.header(number).timestamp for number in range(4)]  # type: ignore[union-attr]
    assert times == sorted(set(times))


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (transfer(5), "nonce too high"),
        (transfer(0, chainId=1), "transaction is for chain 1"),
        (transfer(0, account=POOR), None),
        (transfer(0, gas=20000), None),
        (transfer(0, maxFeePerGas=1, maxPriorityFeePerGas=0), None),
        (b"", None),
        (b"\x02", None),
        (b"\xc0", None),
        (b"\x7f" * 40, None),
        (transfer(0)[:-9], None),
        (transfer(0) + b"\0", None),
    ],
    ids=["nonce", "chain", "broke", "gas", "fee", "empty", "type", "list", "unknown", "short", "long"],
)
def test_a_refused_transaction_changes_nothing(opened: Opener, raw: bytes, why: str | None) -> None:
    chain = opened()
    with pytest.raises(RefusedError, match=why):
        chain.send(raw)
    assert chain.head == 0
    chain.send(transfer(0))
    with pytest.raises(RefusedError, match="already known"):
        chain.send(transfer(0))
    with pytest.raises(RefusedError, match="nonce too low"):
        chain.send(transfer(0, value=8))
    assert opened().head == 1


def test_a_line_that_was_never_finished_is_dropped(opened: Opener, journal: Path) -> None:
    chain = opened()
    chain.send(transfer(0))
    whole = journal.read_bytes()
    chain.send(transfer(1))
    journal.write_bytes(journal.read_bytes()[:-5])
    assert opened().head == 1
    assert journal.read_bytes() == whole


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_damaged_line_is_refused_and_named(opened: Opener, journal: Path, line: int) -> None:
    chain = opened()
    for nonce in range(2):
        chain.send(transfer(nonce))
    lines = journal.read_bytes().splitlines(keepends=True)
    for damaged in (b"{}\n", b"\n", b"[]\n", b"null\n", b"\xff\n", lines[line][: len(lines[line]) // 2] + b"\n"):
        journal.write_bytes(b"".join([*lines[:line], damaged, *lines[line + 1 :]]))
        with pytest.raises(JournalError, match=f"line {line + 1} is") as caught:
            opened()
        assert str(journal) in str(caught.value)


def test_a_changed_block_is_noticed(opened: Opener, journal: Path) -> None:
    opened().send(transfer(0))
    first, second = journal.read_text().splitlines()
    entry = json.loads(second)
    entry["time"] += 1
    journal.write_text(f"{first}\n{json.dumps(entry)}\n")
    with pytest.raises(JournalError, match="line 2 is damaged"):
        opened()


def test_a_missing_block_is_noticed(opened: Opener, journal: Path) -> None:
    chain = opened()
    for nonce in range(3):
        chain.send(transfer(nonce))
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2] + lines[3:]))
    with pytest.raises(JournalError, match="line 3 is damaged"):
        opened()


def test_another_chain(opened: Opener) -> None:
    opened()
    with pytest.raises(JournalError, match="is of chain 31337, not of chain 5"):
        opened(5)


def test_only_one_may_write(opened: Opener, journal: Path) -> None:
    opened()
    with pytest.raises(JournalError, match="another process has this journal open"):
        EvmChain(journal, CHAIN_ID, BALANCES)


def test_journal_in_no_folder(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot be opened"):
        EvmChain(tmp_path / "none" / "journal", CHAIN_ID, BALANCES)


def test_a_full_disk_is_not_answered_with_success(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = opened()

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(chain, "_append", full)
    with pytest.raises(JournalError, match="No space left"):
        chain.send(transfer(0))


def test_questions_change_nothing(opened: Opener) -> None:
    chain = opened()
    nobody, target = bytes(20), b"\x05" * 20
    # PUSH1 1, PUSH1 0, MSTORE, PUSH1 32, PUSH1 0, RETURN
    assert chain.call(nobody, b"", bytes.fromhex("600160005260206000f3"), 0, 10**6, 0).output[-1] == 1
    with pytest.raises(ExecutionError, match="reverted") as caught:
        chain.call(nobody, b"", bytes.fromhex("63aabbccdd60e01b60005260046000fd"), 0, 10**6, 0)
    assert caught.value.data == bytes.fromhex("aabbccdd")
    with pytest.raises(ExecutionError):
        chain.call(nobody, b"", b"\xfe", 0, 10**6, 0)
    assert chain.estimate(nobody, target, b"", 5) == 21000
    with pytest.raises(RefusedError, match="no block 3"):
        chain.call(nobody, target, b"", 0, 10**6, 3)
    with pytest.raises(RefusedError):
        chain.call(nobody, target, b"", 0, 10, 0)
    assert chain.account(nobody, 0)[:2] == (0, 0)
    assert chain.head == 0
