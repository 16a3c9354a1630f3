"""Chain and store of a configuration, checked before any picture is touched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medprov_ledger import eip712
from medprov_ledger.chain import Chain
from medprov_ledger.config import Config, HospitalConfig
from medprov_ledger.federation import Federation
from medprov_ledger.registry import Registry
from medprov_ledger.store import Store, open_store
from medprov_node.errors import NotAllowedError

PROBE = b"medprov store check 1\n"
"""A constant object: putting it is the only sure sign that a store takes what it is given."""


@dataclass(frozen=True)
class Ledger:
    """One connection; make it with :func:`connect`.

    Parameters
    ----------
    chain : Chain
    store : Store
    """

    chain: Chain
    store: Store

    @property
    def federation(self) -> Federation:
        """The federation's contract."""
        return Federation(self.chain)

    @property
    def registry(self) -> Registry:
        """The registry's contract."""
        return Registry(self.chain)

    @property
    def domain(self) -> eip712.Domain:
        """What signatures are bound to."""
        return eip712.domain(self.chain.config.chain_id, self.registry.address)


def connect(config: Config) -> Ledger:
    """Connect to chain and store.

    Raises
    ------
    ChainError
        The node does not answer, serves another chain, or the contracts are not there.
    StoreError
        The store's address is malformed.
    """
    return Ledger(Chain.connect(config), open_store(config))


def check_store(ledger: Ledger) -> None:
    """See that the store takes objects.

    Raises
    ------
    StoreError
    """
    ledger.store.put(PROBE)


def check(ledger: Ledger, hospital: HospitalConfig, model: bytes) -> None:
    """See that marking can be finished: the store takes objects, the hospital is a member, the model is released.

    Parameters
    ----------
    ledger : Ledger
    hospital : HospitalConfig
    model : bytes
        32 bytes, SHA-256 of the weights.

    Raises
    ------
    StoreError, ChainError, NotAllowedError
    """
    check_store(ledger)
    federation, config = ledger.federation, ledger.chain.config
    if not federation.is_member(hospital.address):
        raise NotAllowedError(
            f"{config.path}: {hospital.name} ({hospital.address}) is no member of the federation at "
            f"{federation.address}; ask its members to vote it in"
        )
    if not federation.is_released(model):
        folder = config.path.parent
        where = "" if folder == Path(".medprov") else f" --dir {folder}"
        raise NotAllowedError(
            f"model {model.hex()}: not released by the federation at {federation.address}; ask its members to approve "
            f"it, on a development chain run 'medprov-ledger up{where} --model {model.hex()}'"
        )
    if not federation.is_usable(model):
        active = federation.active_model()
        other = f"'--weights $(medprov-ledger model fetch {active.model_hash.hex()})'" if active else "no other yet"
        raise NotAllowedError(
            f"model {model.hex()}: the members have withdrawn it, it marks no more; mark with {other}"
        )
