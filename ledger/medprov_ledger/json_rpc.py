"""Talking to a chain's node: one connection, its errors by name, many calls in one request.

Every request has a timeout. What only asks is asked again a few times where the node or the network stumbles; what
sends a transaction is never repeated here, because whoever sends must look first whether it has arrived.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import requests
from hexbytes import HexBytes
from web3 import HTTPProvider, Web3
from web3.exceptions import ContractLogicError, TransactionNotFound, Web3Exception, Web3RPCError
from web3.middleware import ExtraDataToPOAMiddleware
from web3.types import RPCEndpoint, RPCResponse, TxParams

from . import rpc_address
from .contracts import explain
from .errors import ChainAwayError, ChainError, NoFundsError, RevertedError

ATTEMPTS = 3
PAUSE = 0.05
"""Seconds before the second attempt; each further one waits four times as long."""
CHUNK = 50
"""Calls in one request: nodes limit them, most at 100."""

_SEND = RPCEndpoint("eth_sendRawTransaction")
_BUSY = (429, 502, 503, 504)
_LOCAL_HOSTS = {"127.0.0.1", "localhost", "::1"}
# Geth, Anvil, Besu; Ganache; py-evm
_NO_FUNDS = ("insufficient funds", "upfront cost", "enough funds", "insufficient balance", "cannot afford")
_HELD = ("already known", "already imported", "known transaction")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Mined:
    """Where a transaction stands.

    Parameters
    ----------
    tx_hash : bytes
        32 bytes.
    block : int
    ok : bool
        False where the contract refused it.
    gas : int
        Gas used.
    contract : str or None
        Address of the contract it created, if any.
    """

    tx_hash: bytes
    block: int
    ok: bool
    gas: int
    contract: str | None


class _Provider(HTTPProvider):
    """An HTTP connection that asks again where asking is harmless, with growing pauses and within twice the timeout."""

    def __init__(self, rpc: str, timeout: float, session: requests.Session) -> None:
        super().__init__(rpc, request_kwargs={"timeout": timeout}, session=session, exception_retry_configuration=None)
        self._patience = 2 * timeout

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        def once() -> RPCResponse:
            return super(_Provider, self).make_request(method, params)

        return once() if method == _SEND else self._patiently(once)

    def make_batch_request(self, batch_requests: list[tuple[RPCEndpoint, Any]]) -> list[RPCResponse] | RPCResponse:
        def once() -> list[RPCResponse] | RPCResponse:
            return super(_Provider, self).make_batch_request(batch_requests)

        return once() if any(method == _SEND for method, _ in batch_requests) else self._patiently(once)

    def _patiently(self, once: Callable[[], _T]) -> _T:
        deadline = time.monotonic() + self._patience
        for attempt in range(ATTEMPTS - 1):
            try:
                return once()
            except requests.exceptions.RequestException as error:
                if not _passes(error) or time.monotonic() > deadline:
                    raise
            time.sleep(PAUSE * 4**attempt)
        return once()


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
    w3 = Web3(_Provider(rpc, timeout, session))
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


def address_of(w3: Web3) -> str:
    """Where the node is, for messages; may hold a password, see :mod:`medprov_ledger.rpc_address`."""
    return str(getattr(w3.provider, "endpoint_uri", None) or "the test chain")


def send_raw(w3: Web3, transactions: Sequence[bytes]) -> list[ChainError | None]:
    """Send signed transactions in one request; None where the node has the transaction now or had it before.

    Raises
    ------
    ChainAwayError
        The node did not answer. It may have them nevertheless: look before doing anything else.
    """
    answers = _each(w3, _SEND, [["0x" + raw.hex()] for raw in transactions], lambda n: _send_one(w3, transactions[n]))
    return [_failure(answer) for answer in answers]


def estimate_gas(w3: Web3, calls: Sequence[Mapping[str, Any]]) -> list[int | ChainError]:
    """Gas that each call needs on today's state, or why it would fail."""
    parameters = [[{name: _hexadecimal(value) for name, value in call.items()}] for call in calls]
    answers = _each(
        w3, RPCEndpoint("eth_estimateGas"), parameters, lambda n: w3.eth.estimate_gas(cast(TxParams, calls[n]))
    )
    with chain_errors(address_of(w3)):
        return [answer if isinstance(answer, ChainError) else _int(answer) for answer in answers]


def receipts(w3: Web3, hashes: Sequence[bytes]) -> list[Mined | None]:
    """Where each transaction stands; None where it is not mined.

    Raises
    ------
    ChainError
    """
    parameters = [["0x" + tx_hash.hex()] for tx_hash in hashes]

    def one(number: int) -> Any:
        try:
            return w3.eth.get_transaction_receipt(HexBytes(hashes[number]))
        except TransactionNotFound:
            return None

    answers = _all(_each(w3, RPCEndpoint("eth_getTransactionReceipt"), parameters, one))
    with chain_errors(address_of(w3)):
        return [_mined(answer) for answer in answers]


def known(w3: Web3, hashes: Sequence[bytes]) -> list[bool]:
    """Whether the node knows each transaction, mined or waiting.

    Raises
    ------
    ChainError
    """

    def one(number: int) -> Any:
        try:
            return w3.eth.get_transaction(HexBytes(hashes[number]))
        except TransactionNotFound:
            return None

    parameters = [["0x" + tx_hash.hex()] for tx_hash in hashes]
    return [answer is not None for answer in _all(_each(w3, RPCEndpoint("eth_getTransactionByHash"), parameters, one))]


def _each(w3: Web3, method: RPCEndpoint, parameters: Sequence[list[Any]], one: Callable[[int], Any]) -> list[Any]:
    """One answer per call: the result, or the ChainError that it was refused with.

    Parameters
    ----------
    one : callable
        Makes a single call; for providers that are no HTTP connection, which know no batches.
    """
    rpc, provider = address_of(w3), w3.provider
    found: list[Any] = []
    if not isinstance(provider, HTTPProvider):
        for number in range(len(parameters)):
            try:
                with chain_errors(rpc):
                    found.append(one(number))
            except ChainAwayError:
                raise
            except ChainError as error:
                found.append(error)
        return found
    for start in range(0, len(parameters), CHUNK):
        calls: list[tuple[RPCEndpoint, Any]] = [(method, one_call) for one_call in parameters[start : start + CHUNK]]
        with chain_errors(rpc):
            answers = provider.make_batch_request(calls) if len(calls) > 1 else None
            if not isinstance(answers, list) or len(answers) != len(calls):
                # a single call, or a node that takes no batches
                answers = [provider.make_request(*call) for call in calls]
            found += [_answer(rpc, answer) for answer in answers]
    return found


def _answer(rpc: str, response: RPCResponse) -> Any:
    error = response.get("error")
    if error is None:
        return response["result"]
    message = error.get("message") if isinstance(error, Mapping) else error
    return _refused(rpc, Web3RPCError(str(message), rpc_response=response))


def _all(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, ChainError):
            raise answer
    return answers


def _send_one(w3: Web3, raw: bytes) -> None:
    w3.eth.send_raw_transaction(HexBytes(raw))


def _failure(answer: Any) -> ChainError | None:
    if isinstance(answer, ChainError) and not any(words in str(answer).lower() for words in _HELD):
        return answer
    return None


def _refused(rpc: str, error: BaseException) -> ChainError:
    place, refusal = rpc_address.shown(rpc), explain(error)
    if any(words in refusal.text.lower() for words in _NO_FUNDS):
        return NoFundsError(f"{place}: the account cannot pay ({refusal.text}); send it money and try again")
    reverted = isinstance(error, ContractLogicError) or type(error).__name__ == "TransactionFailed"
    if refusal.name or reverted or "revert" in refusal.text.lower():
        return RevertedError(f"{place}: the contract refused: {refusal.text}", refusal.name)
    return ChainError(f"{place}: the node refused: {refusal.text}")


def _passes(error: requests.exceptions.RequestException) -> bool:
    """Whether the next attempt may succeed."""
    if isinstance(error, requests.exceptions.HTTPError):
        return error.response is not None and error.response.status_code in _BUSY
    return isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.Timeout)


def _mined(receipt: Any) -> Mined | None:
    if receipt is None or receipt["blockNumber"] is None:
        return None
    return Mined(
        tx_hash=_bytes(receipt["transactionHash"]),
        block=_int(receipt["blockNumber"]),
        ok=_int(receipt["status"]) == 1,
        gas=_int(receipt["gasUsed"]),
        contract=Web3.to_checksum_address(receipt["contractAddress"]) if receipt.get("contractAddress") else None,
    )


def _int(value: Any) -> int:
    return int(value, 16) if isinstance(value, str) else int(value)


def _bytes(value: Any) -> bytes:
    return bytes.fromhex(value[2:]) if isinstance(value, str) else bytes(value)


def _hexadecimal(value: Any) -> Any:
    return Web3.to_hex(value) if isinstance(value, int | bytes) else value
