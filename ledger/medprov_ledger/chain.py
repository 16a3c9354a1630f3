"""The chain client: one checked connection to the configured chain, its two contracts, and sending for accounts."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from web3 import Web3
from web3.contract import Contract
from web3.contract.contract import ContractFunction
from web3.types import EventData

from .config import Config
from .contracts import artifact
from .errors import ChainAwayError, ChainError, ContractAbsentError, WrongChainError
from .journal import NAME, Journal
from .json_rpc import chain_errors, connect_http
from .runtime_code import is_compiled_from
from .signer import Account, as_signer
from .transactions import Call, Pending, Receipt, Sender, Terms, transact

__all__ = ["Account", "Chain", "Pending", "Receipt", "chain_errors", "connect_http", "transact"]


class Chain:
    """A connection to the configured chain and its two contracts; make it with :meth:`connect`.

    Parameters
    ----------
    config : Config
    w3 : Web3
        A connection to the node at ``config.rpc``.

    Raises
    ------
    ChainAwayError
        The node does not answer.
    WrongChainError
        The node serves another chain id, or the contracts belong to another federation.
    ContractAbsentError
        No code, or other code than ours, at a configured address.
    """

    def __init__(self, config: Config, w3: Web3) -> None:
        self.config, self.w3 = config, w3
        self._codes: dict[str, bytes] = {}
        self._senders: dict[str, Sender] = {}
        self._lock = threading.Lock()
        with self.errors():
            found = w3.eth.chain_id
        if found != config.chain_id:
            raise WrongChainError(
                f"{config.rpc_shown}: serves chain {found}, but {config.path} says {config.chain_id}; "
                "correct chain.rpc or chain.chain_id"
            )
        self.federation = self._contract("Federation", config.federation_address)
        self.registry = self._contract("ProvenanceRegistry", config.registry_address)
        identity = self._identify("Federation", self.federation.functions.federationId())
        linked = self._identify("ProvenanceRegistry", self.registry.functions.FEDERATION())
        if identity != config.federation_id:
            raise WrongChainError(
                f"{config.path}: federation.id is not the id of the contract at {config.federation_address}; "
                "correct one of them"
            )
        if linked != self.federation.address:
            raise WrongChainError(
                f"{config.path}: the registry at {config.registry_address} belongs to another federation ({linked}); "
                "correct chain.registry"
            )

    @classmethod
    def connect(cls, config: Config) -> Chain:
        """Connect to ``config.rpc`` and check what is there; errors as for the class."""
        return cls(config, connect_http(config.rpc, config.timeout))

    def _contract(self, name: str, address: str) -> Contract:
        checksum = Web3.to_checksum_address(address)
        with self.errors():
            code = self._codes[name] = bytes(self.w3.eth.get_code(checksum))
        if not code:
            raise ContractAbsentError(
                f"{self.config.rpc_shown}: no {name} contract at {checksum}; the chain may have been reset, "
                f"or {self.config.path} is of another one"
            )
        return self.w3.eth.contract(address=checksum, abi=artifact(name).abi)

    def _identify(self, name: str, function: ContractFunction) -> Any:
        try:
            with self.errors():
                return function.call()
        except ChainAwayError:
            raise
        except ChainError as error:
            raise ContractAbsentError(
                f"{self.config.rpc_shown}: what stands at {function.address} is not a {name} contract ({error}); "
                f"correct {self.config.path}"
            ) from None

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what web3 and requests raise into the errors of this package."""
        with chain_errors(self.config.rpc):
            yield

    def call(self, function: ContractFunction) -> Any:
        """The value of a view function, at the newest block.

        Raises
        ------
        ChainError
            RevertedError where the contract refuses.
        """
        with self.errors():
            return function.call()

    def send(self, function: Call, account: Account) -> Receipt:
        """Send a transaction and wait until it is ``config.confirmations`` deep.

        For a hospital of the configuration it is kept in a journal in the hospital's state folder: a call that is
        repeated after a crash or a lost answer goes on with the transaction that was sent before.

        Raises
        ------
        RevertedError
            The contract refuses; ``error`` holds the custom error's name.
        ContractAbsentError
            The contract is not the one that this release was compiled with.
        ChainError, SignerError
            It cannot be sent, or the time is over; calling again is safe.
        """
        return self.sender(account).send(function)

    def send_many(self, functions: Sequence[Call], account: Account) -> list[Receipt | ChainError]:
        """Send transactions in as few requests as possible and wait for all; equal ones are one transaction.

        Each is estimated on today's state: none may need another one of them first.

        Returns
        -------
        list of Receipt or ChainError
            In the order of `functions`; what is refused has its error and does not stop the others.

        Raises
        ------
        ChainError, SignerError
            As for :meth:`send`, where none can be sent.
        """
        return self.sender(account).send_many(functions)

    def submit(self, functions: Sequence[Call], account: Account) -> list[Pending | ChainError]:
        """The first half of :meth:`send_many`: send, and do not wait."""
        return self.sender(account).submit(functions)

    def wait(self, pending: Sequence[Pending | ChainError], account: Account) -> list[Receipt | ChainError]:
        """The second half of :meth:`send_many`."""
        return self.sender(account).wait(pending)

    def settle(self, account: Account) -> int:
        """Send again what a node has forgotten or a reorganisation has thrown out, even after it was confirmed.

        Returns
        -------
        int
            Number of transactions sent again; wait for their confirmation before relying on them.
        """
        return self.sender(account).settle()

    def sender(self, account: Account) -> Sender:
        """What sends for an account; the contracts' code is checked first."""
        signer = as_signer(account)
        address = Web3.to_checksum_address(signer.address)
        with self._lock:
            self._check_code()
            if address not in self._senders:
                config = self.config
                homes = [one.state for one in config.hospitals.values() if one.address.lower() == address.lower()]
                path = homes[0] / NAME if homes else None
                journal = Journal(path, f"{config.chain_id}:{config.federation_id.hex()}", address)
                terms = Terms(config.confirmations, config.confirmation_timeout, config.bump_after, config.max_fee)
                self._senders[address] = Sender(self.w3, account, journal, terms, config.chain_id)
            # one journal per account, whoever signs for it now
            self._senders[address].signer = signer
            return self._senders[address]

    def _check_code(self) -> None:
        """Reading an older release's contracts is fine; writing needs to know what they do with it."""
        for name, code in list(self._codes.items()):
            if not is_compiled_from(code, artifact(name).bytecode):
                place = self.federation if name == "Federation" else self.registry
                raise ContractAbsentError(
                    f"{self.config.rpc_shown}: the code at {place.address} is not the {name} of this release; "
                    f"correct {self.config.path}, or use the release that the federation was made with for writing"
                )
            del self._codes[name]

    def head(self) -> int:
        """Number of the newest block."""
        with self.errors():
            return int(self.w3.eth.block_number)

    def confirmed_head(self) -> int:
        """Number of the newest block that is ``config.confirmations`` deep; negative while there is none."""
        return self.head() - self.config.confirmations + 1

    def time_of(self, block: int) -> int:
        """Time of a block, seconds since 1970."""
        with self.errors():
            return int(self.w3.eth.get_block(block)["timestamp"])

    def events(
        self, event: Any, from_block: int, to_block: int, filters: dict[str, Any] | None = None
    ) -> Iterator[EventData]:
        """Events of one kind in a range of blocks, oldest first.

        Public nodes limit range and size of an answer, each in its own way: a refused range is halved and asked again.

        Parameters
        ----------
        event : ContractEvent class
            For example ``chain.registry.events.BatchAnchored``.
        from_block, to_block : int
            Both included.
        filters : dict or None
            Values of indexed arguments.
        """
        start, step = max(0, from_block), max(1, to_block - max(0, from_block) + 1)
        while start <= to_block:
            end = min(start + step - 1, to_block)
            try:
                with self.errors():
                    found = event().get_logs(from_block=start, to_block=end, argument_filters=filters or {})
            except ChainError:
                if step == 1:
                    raise
                step = max(1, step // 2)
                continue
            yield from sorted(found, key=lambda log: (log["blockNumber"], log["logIndex"]))
            start = end + 1
