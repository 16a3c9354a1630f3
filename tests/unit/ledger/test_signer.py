"""medprov_ledger.signer, with a signing service in a process of its own, honest and not"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from medprov_ledger import eip712
from medprov_ledger.chain import Chain
from medprov_ledger.errors import (
    SignerAwayError,
    SignerError,
    SignerRefusedError,
    TamperedError,
    WrongSignerError,
)
from medprov_ledger.registry import BatchOrder, Registry
from medprov_ledger.signer import LocalSigner, RemoteSigner, as_signer

KEY = "0x" + "21" * 32
ACCOUNT = Account.from_key(KEY)
TO = Account.from_key(b"\x02" * 32).address
DOMAIN = eip712.domain(31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3")
DYNAMIC = {
    "chainId": 31337,
    "nonce": 7,
    "gas": 90_000,
    "to": TO,
    "value": 5,
    "data": "0x0102",
    "maxFeePerGas": 3 * 10**9,
    "maxPriorityFeePerGas": 10**9,
}
LEGACY = {name: value for name, value in DYNAMIC.items() if not name.startswith("max")} | {"gasPrice": 10**9}
CREATION = {name: value for name, value in DYNAMIC.items() if name != "to"}
ORDER = (ACCOUNT.address, b"\7" * 32, 3, "bafy", 1 << 60)
MESSAGE = eip712.TypedMessage(eip712.BATCH_TYPE, ORDER, DOMAIN)


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    script = Path(__file__).with_name("signing_service.py")
    process = subprocess.Popen([sys.executable, str(script), KEY], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    process.kill()
    process.communicate()


@pytest.mark.parametrize("kind", ["web3signer", "clef"])
@pytest.mark.parametrize("fields", [DYNAMIC, LEGACY, CREATION], ids=["dynamic", "legacy", "creation"])
def test_a_remote_transaction_is_the_local_one(service: str, kind: str, fields: dict[str, Any]) -> None:
    remote = RemoteSigner(f"{service}/{kind}", ACCOUNT.address.lower())
    assert remote.address == ACCOUNT.address
    assert remote.sign_transaction(fields) == LocalSigner(ACCOUNT).sign_transaction(fields)


@pytest.mark.parametrize("kind", ["web3signer", "clef"])
def test_a_remote_message_is_the_local_one(service: str, kind: str) -> None:
    remote = RemoteSigner(f"{service}/{kind}", ACCOUNT.address)
    assert remote.sign_typed(MESSAGE) == LocalSigner(ACCOUNT).sign_typed(MESSAGE)
    assert eip712.sign_batch(*ORDER[1:], DOMAIN, remote) == eip712.sign_batch(*ORDER[1:], DOMAIN, ACCOUNT)


@pytest.mark.parametrize(
    "how",
    ["nonce", "recipient", "value", "data", "gas", "fee", "tip", "chain"],
)
def test_another_transaction_than_asked_for(service: str, how: str) -> None:
    with pytest.raises(TamperedError, match="has signed another transaction than it was asked to"):
        RemoteSigner(f"{service}/other-{how}", ACCOUNT.address).sign_transaction(DYNAMIC)


@pytest.mark.parametrize("how", ["nonce", "recipient", "value", "data", "gas", "price", "chain"])
def test_another_legacy_transaction_than_asked_for(service: str, how: str) -> None:
    with pytest.raises(TamperedError, match="has signed another transaction than it was asked to"):
        RemoteSigner(f"{service}/other-{how}", ACCOUNT.address).sign_transaction(LEGACY)


def test_another_kind_of_transaction(service: str) -> None:
    with pytest.raises(TamperedError):
        RemoteSigner(f"{service}/another-kind", ACCOUNT.address).sign_transaction(DYNAMIC)


def test_another_account(service: str) -> None:
    remote = RemoteSigner(f"{service}/other-account", ACCOUNT.address)
    with pytest.raises(WrongSignerError, match=rf"asked to sign for {ACCOUNT.address}, but the signature is by 0x"):
        remote.sign_transaction(DYNAMIC)
    with pytest.raises(WrongSignerError):
        remote.sign_typed(MESSAGE)


def test_another_message(service: str) -> None:
    with pytest.raises(WrongSignerError, match="or over something else"):
        RemoteSigner(f"{service}/other-message", ACCOUNT.address).sign_typed(MESSAGE)


@pytest.mark.parametrize("how", ["garbage", "no-signature", "upper-half", "page", "list", "flood"])
def test_no_signature_at_all(service: str, how: str) -> None:
    with pytest.raises(TamperedError) as caught:
        RemoteSigner(f"{service}/{how}", ACCOUNT.address).sign_typed(MESSAGE)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("how", ["page", "list", "deep", "flood"])
def test_no_json_rpc(service: str, how: str) -> None:
    with pytest.raises(TamperedError, match="does not speak JSON-RPC"):
        RemoteSigner(f"{service}/{how}", ACCOUNT.address).sign_typed(MESSAGE)


@pytest.mark.parametrize("how", ["garbage", "no-signature"])
def test_no_transaction_at_all(service: str, how: str) -> None:
    with pytest.raises(TamperedError):
        RemoteSigner(f"{service}/{how}", ACCOUNT.address).sign_transaction(DYNAMIC)


def test_it_refuses(service: str) -> None:
    with pytest.raises(SignerRefusedError, match=rf"does not sign for {ACCOUNT.address} \(Request denied\)"):
        RemoteSigner(f"{service}/refuses", ACCOUNT.address).sign_typed(MESSAGE)
    with pytest.raises(SignerRefusedError, match="does not let this hospital in"):
        RemoteSigner(f"{service}/closed", ACCOUNT.address).sign_typed(MESSAGE)


def test_it_is_busy_for_a_moment(service: str) -> None:
    assert RemoteSigner(f"{service}/busy", ACCOUNT.address).sign_typed(MESSAGE)


def test_it_is_away(service: str) -> None:
    with pytest.raises(SignerAwayError, match="HTTP status 503"):
        RemoteSigner(f"{service}/down", ACCOUNT.address).sign_typed(MESSAGE)
    with pytest.raises(SignerAwayError, match=r"did not answer within 0\.1 s"):
        RemoteSigner(f"{service}/hangs", ACCOUNT.address, timeout=0.1).sign_typed(MESSAGE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(SignerAwayError, match="nobody answers there"):
        RemoteSigner(f"http://127.0.0.1:{port}", ACCOUNT.address).sign_typed(MESSAGE)


def test_its_password_is_not_said(service: str) -> None:
    url = service.replace("//", "//me:secret@") + "/refuses?key=covered"
    with pytest.raises(SignerError) as caught:
        RemoteSigner(url, ACCOUNT.address).sign_typed(MESSAGE)
    assert not any(word in str(caught.value) for word in ("me:", "secret", "covered"))


def test_a_member_with_a_remote_key(chain: Chain, people: Any, make_chain: Any) -> None:
    """The contract takes what a service has signed: a transaction, and leave that another one pays for."""
    member = people.members[0]
    script = Path(__file__).with_name("signing_service.py")
    process = subprocess.Popen(
        [sys.executable, str(script), "0x" + bytes(member.key).hex()], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        remote = RemoteSigner(f"http://127.0.0.1:{process.stdout.readline().strip()}/web3signer", member.address)
        registry = Registry(chain)
        root = b"\x31" * 32
        receipt = registry.anchor_batch(root, 1, "bafy", remote)
        assert registry.anchor(member.address, root).tx_hash == receipt.tx_hash
        domain = eip712.domain(chain.config.chain_id, registry.address)
        other, late = b"\x32" * 32, 2_000_000_000
        signature = eip712.sign_batch(other, 2, "bafy", late, domain, remote)
        registry.anchor_batch_for(BatchOrder(member.address, other, 2, "bafy", late, signature), people.stranger)
        assert registry.anchor(member.address, other).count == 2
    finally:
        process.kill()
        process.communicate()


def test_a_local_account_is_a_signer() -> None:
    assert as_signer(ACCOUNT).address == ACCOUNT.address
    remote = RemoteSigner("http://127.0.0.1:1", ACCOUNT.address)
    assert as_signer(remote) is remote
