"""The chain client: one checked connection, transactions that are waited for, refusals with their names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from eth_account.signers.local import LocalAccount
from hexbytes import HexBytes
from web3 import HTTPProvider, Web3
from web3.contract import Contract
from web3.contract.contract import ContractConstructor, ContractFunction
from web3.exceptions import ContractLogicError, TransactionNotFound, Web3Exception, Web3RPCError
from web3.middleware import ExtraDataToPOAMiddleware
from web3.providers.rpc.utils import REQUEST_RETRY_ALLOWLIST, ExceptionRetryConfiguration
from web3.types import EventData, TxParams, TxReceipt

from . import rpc_address
from .config import Config
from .contracts import artifact, explain
from .errors import ChainAwayError, ChainError, ContractAbsentError, RevertedError, WrongChainError

GAS_MARGIN = 1.2
NONCE_RETRIES = 5
_LOCAL_HOSTS = {"127.0.0.1", "localhost", "::1"}
_NONCE_WORDS = (
    "nonce too low",
    "nonce too high",
    "replacement transaction",
    "correct nonce",
    "transaction nonce",
    "invalid nonce",
    "expected nonce",
)


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
            code = self.w3.eth.get_code(checksum)
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

    def send(self, function: ContractFunction, account: LocalAccount) -> Receipt:
        """Send a transaction and wait until it is confirmed; see :func:`transact`."""
        return transact(
            self.w3,
            function,
            account,
            confirmations=self.config.confirmations,
            timeout=self.config.confirmation_timeout,
        )

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


def connect_http(rpc: str, timeout: float = 10.0) -> Web3:
    """A Web3 on an HTTP node, without checks.

    Parameters
    ----------
    rpc : str
        URL, http or https.
    timeout : float
        Seconds per request.
    """
    session = requests.Session()
    if (urlsplit(rpc).hostname or "") in _LOCAL_HOSTS:
        # a proxy from the environment cannot reach this machine's loopback
        session.trust_env = False
    # the node may have closed an idle connection: ask again, but never send a transaction twice without looking
    retry = ExceptionRetryConfiguration(
        errors=(requests.exceptions.ConnectionError,),
        retries=2,
        backoff_factor=0.05,
        method_allowlist=[name for name in REQUEST_RETRY_ALLOWLIST if name != "eth_sendRawTransaction"],
    )
    w3 = Web3(
        HTTPProvider(rpc, request_kwargs={"timeout": timeout}, session=session, exception_retry_configuration=retry)
    )
    # proof-of-authority chains (Besu, Geth's Clique) put more into extraData than web3 accepts (EIP-225)
    w3.middleware_onion.inject(ExtraDataToPOAMiddleware, layer=0)
    return w3


@contextmanager
def chain_errors(rpc: str) -> Iterator[None]:
    """Turn what web3, eth-tester and requests raise into :class:`ChainError` and its subclasses."""
    place = rpc_address.shown(rpc)
    try:
        yield
    except ChainError:
        raise
    except requests.exceptions.Timeout:
        raise ChainAwayError(
            f"{place}: the chain's node did not answer in time; is it busy, or chain.timeout too short?"
        ) from None
    except requests.exceptions.ConnectionError:
        raise ChainAwayError(
            f"{place}: no chain answers there; start it ('medprov-ledger up') or correct chain.rpc"
        ) from None
    except (requests.exceptions.RequestException, OSError) as error:
        # the address goes before the text is cut: half a password must not be left over
        why = rpc_address.without_secrets(" ".join(str(error).split()), rpc)[:300] or type(error).__name__
        raise ChainAwayError(f"{place}: the request failed ({why}); is this a chain's JSON-RPC address?") from None
    except (ContractLogicError, Web3RPCError) as error:
        raise _refused(rpc, error) from None
    except (Web3Exception, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = rpc_address.without_secrets(explain(error).text, rpc)
        raise ChainError(f"{place}: unusable answer ({why}); is this a chain's JSON-RPC address?") from None
    except Exception as error:
        # eth-tester is an optional dependency with error classes of its own
        if type(error).__module__.startswith(("eth_tester", "eth.", "eth_utils")):
            raise _refused(rpc, error) from None
        raise


def _refused(rpc: str, error: BaseException) -> ChainError:
    place, refusal = rpc_address.shown(rpc), explain(error)
    reverted = isinstance(error, ContractLogicError) or type(error).__name__ == "TransactionFailed"
    if refusal.name or reverted or "revert" in refusal.text.lower():
        return RevertedError(f"{place}: the contract refused: {refusal.text}", refusal.name)
    return ChainError(f"{place}: the node refused: {refusal.text}")


def transact(
    w3: Web3,
    function: ContractFunction | ContractConstructor | TxParams,
    account: LocalAccount,
    *,
    confirmations: int = 1,
    timeout: float = 120.0,
) -> Receipt:
    """Sign, send and wait until `confirmations` blocks deep.

    A transaction that a reorganisation throws out is sent again as it is: the same bytes, so it can count only once.

    Parameters
    ----------
    w3 : Web3
        The node.
    function : ContractFunction or ContractConstructor or dict
        With its arguments; a dict holds plain transaction fields.
    account : LocalAccount
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
    rpc = str(getattr(w3.provider, "endpoint_uri", None) or "the test chain")
    for attempt in range(NONCE_RETRIES):
        try:
            with chain_errors(rpc):
                raw = _sign(w3, function, account)
                tx_hash = w3.eth.send_raw_transaction(raw)
        except RevertedError:
            raise
        except ChainError as error:
            # another process of this hospital may have used the nonce between our question and our sending
            if attempt == NONCE_RETRIES - 1 or not any(word in str(error).lower() for word in _NONCE_WORDS):
                raise
            time.sleep(0.1 * (attempt + 1))
            continue
        break
    with chain_errors(rpc):
        receipt = _wait(w3, rpc, raw, tx_hash, confirmations, timeout)
        if receipt["status"] != 1:
            raise _why_failed(w3, rpc, function, account, receipt)
        return Receipt(
            tx_hash=Web3.to_hex(receipt["transactionHash"]),
            block=int(receipt["blockNumber"]),
            time=int(w3.eth.get_block(receipt["blockNumber"])["timestamp"]),
            gas=int(receipt["gasUsed"]),
            contract=receipt.get("contractAddress"),
        )


def _sign(w3: Web3, function: Any, account: LocalAccount) -> bytes:
    """The raw transaction, with gas, fees and nonce filled in."""
    fields: TxParams = {
        "from": account.address,
        "nonce": w3.eth.get_transaction_count(account.address, "pending"),
        "chainId": w3.eth.chain_id,
    }
    fields.update(_fees(w3))
    if isinstance(function, dict):
        fields.update(cast(TxParams, function))
        fields["gas"] = w3.eth.estimate_gas(fields)
    else:
        fields = function.build_transaction(fields)
    latest = w3.eth.get_block("latest")
    fields["gas"] = min(int(fields["gas"] * GAS_MARGIN), int(latest["gasLimit"]))
    return bytes(account.sign_transaction(cast(dict[str, Any], fields)).raw_transaction)


def _fees(w3: Web3) -> TxParams:
    """EIP-1559 fees, or the legacy gas price where blocks have no base fee."""
    base = w3.eth.get_block("latest").get("baseFeePerGas")
    if base is None:
        return {"gasPrice": w3.eth.gas_price}
    tip = w3.eth.max_priority_fee
    return {"maxPriorityFeePerGas": tip, "maxFeePerGas": w3.to_wei(2 * int(base) + int(tip), "wei")}


def _wait(w3: Web3, rpc: str, raw: bytes, tx_hash: HexBytes, confirmations: int, timeout: float) -> TxReceipt:
    deadline, pause, seen = time.monotonic() + timeout, 0.02, False
    while True:
        try:
            receipt = w3.eth.get_transaction_receipt(tx_hash)
            seen = True
        except TransactionNotFound:
            receipt = None
            if seen:
                _send_again(w3, raw)
                seen = False
        if receipt is not None and w3.eth.block_number >= receipt["blockNumber"] + confirmations - 1:
            return receipt
        if time.monotonic() > deadline:
            raise ChainError(
                f"{rpc_address.shown(rpc)}: transaction {Web3.to_hex(tx_hash)} is not {confirmations} block(s) deep "
                f"after {timeout:g} s; it may still come: look again before repeating it"
            )
        time.sleep(pause)
        pause = min(1.0, pause * 1.5)


def _send_again(w3: Web3, raw: bytes) -> None:
    try:
        w3.eth.send_raw_transaction(raw)
    except Web3RPCError:
        # "already known": the node put it back into its pool by itself
        return


def _why_failed(w3: Web3, rpc: str, function: Any, account: LocalAccount, receipt: TxReceipt) -> ChainError:
    """The reason of a transaction that was mined and failed: ask again on the state it met."""
    if isinstance(function, ContractFunction):
        try:
            with chain_errors(rpc):
                function.call({"from": account.address}, block_identifier=receipt["blockNumber"])
        except ChainError as error:
            return error
    tx_hash = Web3.to_hex(receipt["transactionHash"])
    return RevertedError(f"{rpc_address.shown(rpc)}: transaction {tx_hash} failed in block {receipt['blockNumber']}")
