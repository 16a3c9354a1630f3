"""Who signs: a key in this process, or a signing service that keeps the key to itself.

A service is reached over JSON-RPC: Web3Signer (``eth_signTransaction``, ``eth_signTypedData``), which keeps keys in an
HSM or a vault, or Clef (``account_signTransaction``, ``account_signTypedData``). It is not trusted: what it returns
must be signed by the configured account and must be what it was asked to sign, before anything is sent.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import requests
import rlp  # type: ignore[import-untyped]
from eth_account import Account as Accounts
from eth_account.signers.local import LocalAccount
from eth_keys.exceptions import BadSignature
from eth_utils.conversions import to_hex
from eth_utils.exceptions import ValidationError
from rlp.exceptions import RLPException  # type: ignore[import-untyped]

from . import eip712, nesting, rpc_address
from .eip712 import TypedMessage
from .errors import RecordError, SignerAwayError, SignerRefusedError, TamperedError, WrongSignerError

TIMEOUT = 60.0
"""Seconds: a person may have to agree."""
ATTEMPTS = 3
PAUSE = 0.2
LARGEST = 1 << 20
"""Bytes of an answer."""
DEEPEST = 32
"""Levels of lists and objects in an answer."""

_BUSY = (429, 502, 503, 504)
_NO_METHOD = -32601
_LOCAL_HOSTS = {"127.0.0.1", "localhost", "::1"}
_DYNAMIC = 2


class Signer(Protocol):
    """Signs transactions and typed messages of one account."""

    @property
    def address(self) -> str:
        """Checksummed address."""

    def sign_transaction(self, fields: Mapping[str, Any]) -> bytes:
        """Sign a transaction.

        Parameters
        ----------
        fields : mapping
            ``chainId``, ``nonce``, ``gas``, ``to`` (absent for a creation), ``value``, ``data``, and either
            ``maxFeePerGas`` and ``maxPriorityFeePerGas`` or ``gasPrice``; numbers are int.

        Returns
        -------
        bytes
            As it is sent.
        """

    def sign_typed(self, message: TypedMessage) -> bytes:
        """Sign a message; 65 bytes r, s, v."""


Account = LocalAccount | Signer
"""What methods that send take."""


class LocalSigner:
    """A key in this process.

    Parameters
    ----------
    account : LocalAccount
    """

    def __init__(self, account: LocalAccount) -> None:
        self._account = account

    @property
    def address(self) -> str:
        """Checksummed address."""
        return str(self._account.address)

    def sign_transaction(self, fields: Mapping[str, Any]) -> bytes:
        """Sign a transaction; see :class:`Signer`."""
        return bytes(self._account.sign_transaction(dict(fields)).raw_transaction)

    def sign_typed(self, message: TypedMessage) -> bytes:
        """Sign a message; see :class:`Signer`."""
        return eip712.sign(message.digest, self._account)


class RemoteSigner:
    """A signing service.

    Parameters
    ----------
    url : str
        http or https; user and password in it are sent along.
    address : str
        The account it shall sign for.
    timeout : float
        Seconds per request.
    """

    def __init__(self, url: str, address: str, timeout: float = TIMEOUT) -> None:
        self.url, self._address, self.timeout = url, eip712.address(address, "signer's account"), timeout
        self._session = requests.Session()
        if (urlsplit(url).hostname or "") in _LOCAL_HOSTS:
            # a proxy from the environment cannot reach this machine's loopback
            self._session.trust_env = False
        self._numbers = itertools.count(1)

    @property
    def address(self) -> str:
        """Checksummed address."""
        return self._address

    def sign_transaction(self, fields: Mapping[str, Any]) -> bytes:
        """Sign a transaction; see :class:`Signer`.

        Raises
        ------
        SignerAwayError, SignerRefusedError, WrongSignerError, TamperedError
        """
        order = {"from": self.address, **{name: _json(value) for name, value in fields.items() if name != "from"}}
        answer = self._ask({"eth_signTransaction": [order], "account_signTransaction": [order]})
        raw = self._bytes(answer.get("raw") if isinstance(answer, dict) else answer)
        if not _is(raw, fields):
            raise TamperedError(
                f"{self._shown}: has signed another transaction than it was asked to; nothing was sent: "
                "find out who controls this signer"
            )
        try:
            signer = Accounts.recover_transaction(raw)
        except (BadSignature, ValidationError, ValueError, TypeError):
            raise TamperedError(f"{self._shown}: its signature of a transaction is no signature") from None
        self._check(signer)
        return raw

    def sign_typed(self, message: TypedMessage) -> bytes:
        """Sign a message; see :class:`Signer`.

        Raises
        ------
        SignerAwayError, SignerRefusedError, WrongSignerError, TamperedError
        """
        document = message.to_json()
        # Web3Signer takes the document as text, Clef as it is
        orders: dict[str, list[Any]] = {
            "eth_signTypedData": [self.address, json.dumps(document)],
            "account_signTypedData": [self.address, document],
        }
        signature = self._bytes(self._ask(orders))
        if len(signature) == 65 and signature[64] in (0, 1):
            signature = signature[:64] + bytes([signature[64] + 27])
        try:
            signer = eip712.recover(message.digest, signature)
        except RecordError as error:
            raise TamperedError(f"{self._shown}: what it returned for a typed message is no {error}") from None
        # of any other message too the recovered address would be another one
        self._check(signer)
        return signature

    @property
    def _shown(self) -> str:
        return f"{rpc_address.shown(self.url)} (signer)"

    def _check(self, signer: str) -> None:
        if signer != self.address:
            raise WrongSignerError(
                f"{self._shown}: was asked to sign for {self.address}, but the signature is by {signer} or over "
                "something else; correct the hospital's address or signer"
            )

    def _bytes(self, value: Any) -> bytes:
        try:
            if value[:2] != "0x":
                raise ValueError
            return bytes.fromhex(value[2:])
        except (TypeError, ValueError):
            raise TamperedError(f"{self._shown}: its answer is no signature; is this a signing service?") from None

    def _ask(self, orders: Mapping[str, list[Any]]) -> Any:
        """The result of the first method that the service knows."""
        for method, parameters in orders.items():
            answer = self._post({"jsonrpc": "2.0", "id": next(self._numbers), "method": method, "params": parameters})
            error = answer.get("error")
            if error is None:
                return answer.get("result")
            if not isinstance(error, dict) or error.get("code") != _NO_METHOD:
                break
        text = str(error.get("message") if isinstance(error, dict) else error)
        why = rpc_address.without_secrets(" ".join(text.split()), self.url)[:300]
        raise SignerRefusedError(f"{self._shown}: does not sign for {self.address} ({why}); ask who runs it")

    def _post(self, request: dict[str, Any]) -> dict[str, Any]:
        """One answer; asking again is harmless, because signing changes nothing."""
        for attempt in range(ATTEMPTS):
            try:
                with self._session.post(self.url, json=request, timeout=self.timeout, stream=True) as response:
                    body, status = response.raw.read(LARGEST + 1, decode_content=True), response.status_code
                if status not in _BUSY:
                    break
                why = f"it answers with HTTP status {status}"
            except requests.exceptions.Timeout:
                raise SignerAwayError(
                    f"{self._shown}: did not answer within {self.timeout:g} s; does somebody have to agree there?"
                ) from None
            except (requests.exceptions.RequestException, OSError) as error:
                why = "nobody answers there" if isinstance(error, requests.exceptions.ConnectionError) else "no answer"
            if attempt + 1 < ATTEMPTS:
                time.sleep(PAUSE * 2**attempt)
        else:
            raise SignerAwayError(f"{self._shown}: {why}; start it, or correct the hospital's signer")
        if status in (401, 403):
            raise SignerRefusedError(f"{self._shown}: does not let this hospital in (HTTP status {status})")
        try:
            answer = nesting.decode(body, DEEPEST) if len(body) <= LARGEST else None
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or not {"result", "error"} & set(answer):
            raise TamperedError(f"{self._shown}: does not speak JSON-RPC (HTTP status {status}); correct the address")
        return answer


def as_signer(account: Account) -> Signer:
    """The account as a :class:`Signer`."""
    return LocalSigner(account) if isinstance(account, LocalAccount) else account


def _json(value: Any) -> Any:
    """A field as JSON-RPC writes it."""
    return to_hex(value) if isinstance(value, int | bytes) else value


def _is(raw: bytes, fields: Mapping[str, Any]) -> bool:
    """Whether a signed transaction has these fields and no other."""
    dynamic = "maxFeePerGas" in fields
    try:
        items = rlp.decode(raw[1:] if dynamic else raw, strict=True)
    except (RLPException, TypeError):
        return False
    to, data = fields.get("to") or b"", fields.get("data", b"")
    asked: list[Any] = [
        _number(fields["gas"]),
        bytes.fromhex(to[2:]) if isinstance(to, str) else to,
        _number(fields.get("value", 0)),
        bytes.fromhex(data[2:]) if isinstance(data, str) else bytes(data),
    ]
    chain = int(fields["chainId"])
    if dynamic:
        fees = [_number(fields[name]) for name in ("maxPriorityFeePerGas", "maxFeePerGas")]
        expected = [_number(chain), _number(fields["nonce"]), *fees, *asked, []]
        return raw[:1] == bytes([_DYNAMIC]) and isinstance(items, list) and items[:-3] == expected
    expected = [_number(fields["nonce"]), _number(fields["gasPrice"]), *asked]
    if not isinstance(items, list) or items[:-3] != expected:
        return False
    # EIP-155: the signature is for this chain and no other
    return items[-3] in (_number(35 + 2 * chain), _number(36 + 2 * chain))


def _number(value: int) -> bytes:
    """An integer as RLP writes it."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")
