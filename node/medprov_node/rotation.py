"""Go on with another chain key: a new account is made, offered by the former, accepted, and named in the configuration.

The chain is the memory: whatever a crash leaves, the same command finds out there how far it came and goes on. The
former keystore stays where it is. The reader key does not change, so all bundles open as before, and records that the
former key has signed stay valid: it was a member's when they were anchored.
"""

from __future__ import annotations

import json
import secrets
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.signers.local import LocalAccount
from web3 import Web3
from web3.types import TxParams

from medprov_ledger.chain import Chain
from medprov_ledger.config import Config, HospitalConfig
from medprov_ledger.errors import ChainError
from medprov_ledger.federation import Federation, Member, Status
from medprov_ledger.keys import load_account
from medprov_ledger.outbox import FILE, Outbox
from medprov_node import config_file
from medprov_node.errors import RotationError
from medprov_node.held import ANCHORING, MARKING, exclusive
from medprov_node.preparing import HELD

ACCEPT_GAS = 500_000
"""More than accepting takes: what the new account must be able to pay."""
_OTHER_GAS = 100_000
"""More than the offer, or moving the money, takes."""
_BUSY = 5.0
"""Seconds to wait for another command that marks or anchors."""


@dataclass(frozen=True)
class Rotation:
    """What :func:`rotate` did.

    Parameters
    ----------
    hospital : str
    former, following : str
        Addresses.
    former_keystore, keystore : Path
    transaction : str or None
        That of the acceptance; None where an interrupted call had done it.
    """

    hospital: str
    former: str
    following: str
    former_keystore: Path
    keystore: Path
    transaction: str | None

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}


def rotate(hospital: HospitalConfig, config: Config, chain: Chain | None = None) -> Rotation:
    """Give a hospital a new chain account.

    Parameters
    ----------
    hospital : HospitalConfig
    config : Config
        Its file is changed at the end: the hospital's `address` and `keystore`, nothing else.
    chain : Chain or None
        None connects to what `config` names.

    Raises
    ------
    RotationError
        Pictures wait to be anchored with the present key, the account is no active member's, or the new keystore is
        missing.
    ConfigFileError
        The configuration must be changed by hand; the message has the lines.
    ChainError, ConfigError, StateError
    """
    account = load_account(hospital)
    former_keystore = hospital.keystore
    assert former_keystore is not None  # otherwise there is no account
    chain = chain or Chain.connect(config)
    federation = Federation(chain)
    with (
        exclusive(hospital.state, _BUSY, name=MARKING),
        exclusive(hospital.state, _BUSY, name=ANCHORING),
    ):
        current = federation.current_of(account.address)
        transaction = None
        if current == account.address:
            joined = _check_ready(hospital, federation, account).joined_block
            keystore, following = _next_account(hospital, former_keystore, federation)
            must_move = _needs_money(chain, account, following)
            if not _is_offered(federation, account, following, joined):
                federation.offer_key(following.address, account)
            if must_move:
                _move(chain, account, following)
            transaction = federation.accept_key(account.address, following).tx_hash
            current = federation.current_of(account.address)
            if current != following.address:
                raise RotationError(
                    f"{account.address}: goes on as {current} and not as {following.address}; who else has its key?"
                )
        else:
            keystore = _keystore_of(hospital, former_keystore.parent, current)
        named = _as_written(config, hospital).with_name(keystore.name)
        config_file.change(config.path, ("hospitals", hospital.name), {"address": current, "keystore": str(named)})
    return Rotation(hospital.name, account.address, current, former_keystore, keystore, transaction)


def _check_ready(hospital: HospitalConfig, federation: Federation, account: LocalAccount) -> Member:
    member = federation.member(account.address)
    if member is None or member.status is not Status.ACTIVE:
        standing = "unknown to it" if member is None else member.status.name.lower()
        raise RotationError(
            f"{hospital.name} ({account.address}): is {standing} at the federation {federation.address}; only an "
            "active member can go on with another key"
        )
    waiting = len(list((hospital.state / HELD).glob("*.npz")))
    file = hospital.state / FILE
    if file.exists():
        outbox = Outbox(file)
        try:
            waiting += sum(batch.count for batch in outbox.batches("built", "anchored"))
        finally:
            outbox.close()
    if waiting:
        raise RotationError(
            f"{hospital.state}: {waiting} picture(s) wait to be anchored with the present key; end their marking first"
        )
    return member


def _next_account(hospital: HospitalConfig, keystore: Path, federation: Federation) -> tuple[Path, LocalAccount]:
    """The account of a keystore that an interrupted call left, otherwise a new one, kept before it is used."""
    password = hospital.password_file.read_text(encoding="utf-8").strip()
    for file, address in _keystores(keystore.parent):
        if federation.member(address) is None:
            following: LocalAccount = Account.from_key(Account.decrypt(json.loads(file.read_text()), password))
            return file, following
    following = Account.create(secrets.token_hex(32))
    document = Account.encrypt(following.key, password, kdf="scrypt", iterations=_kdf_cost(keystore))
    file = keystore.with_name(f"keystore-{following.address}.json")
    config_file.write(file, json.dumps(document) + "\n", 0o600)
    return file, following


def _keystores(folder: Path) -> Iterator[tuple[Path, str]]:
    """Keystores that this module has made beside the hospital's, with their addresses."""
    for file in sorted(folder.glob("keystore-0x*.json")):
        try:
            yield file, Web3.to_checksum_address(json.loads(file.read_text(encoding="utf-8"))["address"])
        except (OSError, ValueError, KeyError, TypeError):
            continue


def _keystore_of(hospital: HospitalConfig, folder: Path, address: str) -> Path:
    for file, found in _keystores(folder):
        if found == address:
            return file
    raise RotationError(
        f"{hospital.name} ({hospital.address}): goes on as {address}, whose keystore is not in "
        f"{folder}; restore it from the backup as keystore-{address}.json, or have the members vote "
        "for a key that you have"
    )


def _kdf_cost(keystore: Path) -> int | None:
    """The scrypt cost of the present keystore, for the next one; None takes eth-account's."""
    try:
        parameters = json.loads(keystore.read_text(encoding="utf-8"))["crypto"]["kdfparams"]
        return int(parameters["n"])
    except (ValueError, KeyError, TypeError):
        return None


def _is_offered(federation: Federation, account: LocalAccount, following: LocalAccount, since: int) -> bool:
    """Whether an interrupted call has made the offer already: once the money has moved, nobody could make it again."""
    chain = federation.chain
    event = federation.contract.events.KeyOffered
    offers = list(chain.events(event, since, chain.head(), {"account": account.address}))
    return bool(offers) and str(offers[-1]["args"]["next"]) == following.address


def _needs_money(chain: Chain, account: LocalAccount, following: LocalAccount) -> bool:
    """Whether the new account needs the former one's money to accept and go on.

    Asked before the offer, so that a rotation is not begun that cannot be ended.
    """
    price = _price(chain)
    with chain.errors():
        if int(chain.w3.eth.get_balance(following.address)) >= ACCEPT_GAS * price:
            return False
        spare = int(chain.w3.eth.get_balance(account.address)) - 2 * _OTHER_GAS * price
    if spare < ACCEPT_GAS * price:
        raise ChainError(
            f"{chain.config.rpc_shown}: {account.address} has too little money to go on as {following.address}; send "
            f"it {ACCEPT_GAS * price - spare} wei and run the same command again"
        )
    return True


def _move(chain: Chain, account: LocalAccount, following: LocalAccount) -> None:
    """Give the new account what the former one has; its owner may be about to give the former key up."""
    with chain.errors():
        amount = int(chain.w3.eth.get_balance(account.address)) - _OTHER_GAS * _price(chain)
    call: TxParams = {"to": Web3.to_checksum_address(following.address), "value": Web3.to_wei(amount, "wei")}
    chain.sender(account).send(call)


def _price(chain: Chain) -> int:
    """The most that a unit of gas may cost now, in wei."""
    with chain.errors():
        base = chain.w3.eth.get_block("latest").get("baseFeePerGas")
        if base is None:
            return int(chain.w3.eth.gas_price)
        return 2 * int(base) + int(chain.w3.eth.max_priority_fee)


def _as_written(config: Config, hospital: HospitalConfig) -> Path:
    """The former keystore's path as the configuration has it, which may be relative to the file."""
    text = config.path.read_text(encoding="utf-8-sig")
    return Path(tomllib.loads(text)["hospitals"][hospital.name]["keystore"])
