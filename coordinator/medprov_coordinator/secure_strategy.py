"""Strategy of a run with secure aggregation: the coordinator learns the sum of a round's updates and no single one.

Flower has the protocol for its legacy workflow only, which expects another driver, another strategy and FedAvg; its
masks come from 32-bit seeds. Here its key agreement and its shares are used, over four questions to the members.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from eth_account import Account
from eth_account.messages import encode_defunct
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.serverapp import Grid
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key, public_key_to_bytes

from medprov_coordinator.aggregation import Aggregate
from medprov_coordinator.screening import Expectation, Rejection, Screened, Update, screen
from medprov_coordinator.strategy import GatedStrategy
from medprov_watermark.training import exchange as ex
from medprov_watermark.training import secagg
from medprov_watermark.training.privacy import PRIVACY

_MOST_TRIES = 300
_LONGEST = 8192
"""Bytes of a key, a sealed share or a share at most; honest ones have less than 2000."""


@dataclass
class _Round:
    """What the members said before they trained."""

    nodes: list[int] = field(default_factory=list)
    masking: dict[int, bytes] = field(default_factory=dict)
    sealing: dict[int, bytes] = field(default_factory=dict)
    signers: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    threshold: int = 0
    sealed: dict[int, list[bytes]] = field(default_factory=dict)
    commitments: dict[int, bytes] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)


class SecureStrategy(GatedStrategy):
    """Secure aggregation.

    Notes
    -----
    What is left of the gate: each reply's form, its receipt and signature, one vote a member; of the sum its norm and
    the probe. A member that lies within its mask can spoil a round, which is refused then, but cannot be named.
    """

    _grid: Grid
    _round = _Round()

    def _wait_for_quorum(self, grid: Grid) -> list[int]:
        """The members whose keys and shares are there; none where they are too few for a sum."""
        self._grid, self._round = grid, _Round()
        self._exchange_keys(super()._wait_for_quorum(grid))
        r = self._round
        r.threshold = max(
            self.config.privacy.threshold or secagg.usual_threshold(len(r.nodes)), secagg.lowest_threshold(len(r.nodes))
        )
        if len(r.nodes) >= self._fewest:
            self._exchange_shares()
        self._event("secagg", f"{len(r.sealed)} of {len(r.nodes)} members exchanged keys and shares")
        return sorted(r.sealed) if len(r.sealed) >= self._fewest else []

    @property
    def _fewest(self) -> int:
        return max(self.config.quorum, secagg.FEWEST, self._round.threshold)

    def _exchange_keys(self, nodes: Sequence[int]) -> None:
        members = self._known_members()
        question = {
            ex.ROUND: self.state.number + 1,
            "attempt": self.state.attempts,
            "federation": self.services.federation,
        }

        def read(node: int, record: ConfigRecord) -> None:
            first, second = (_short(key) for key in secagg.values(record, "keys", bytes, 2))
            for key in (first, second):
                if not isinstance(bytes_to_public_key(key).curve, ec.SECP384R1):
                    raise ex.ExchangeError("keys are points of P-384")
            signer, signature = secagg.value(record, ex.SIGNER, str), secagg.value(record, ex.SIGNATURE, bytes)
            if members is not None:
                digest = secagg.keys_digest(
                    self.services.federation, self.state.number + 1, self.state.attempts, node, first, second
                )
                found = str(Account.recover_message(encode_defunct(primitive=digest), signature=signature)).lower()
                if found != signer.lower() or found not in {member.lower() for member in members}:
                    raise ex.ExchangeError("the keys are not signed by a member")
                if found in {other.lower() for other, _ in r.signers.values()}:
                    raise ex.ExchangeError("this member's keys came from another node already")
            if {first, second} & {*r.masking.values(), *r.sealing.values()} or first == second:
                raise ex.ExchangeError("these keys came before")
            r.nodes.append(node)
            r.masking[node], r.sealing[node], r.signers[node] = first, second, (signer, signature)

        r = self._round
        self._put(secagg.KEYS, {node: question for node in nodes}, read, "keys")

    def _exchange_shares(self) -> None:
        r = self._round
        question = {
            "nodes": r.nodes,
            "masking": [r.masking[node] for node in r.nodes],
            "sealing": [r.sealing[node] for node in r.nodes],
            "signers": [r.signers[node][0] for node in r.nodes],
            "signatures": [r.signers[node][1] for node in r.nodes],
            "threshold": r.threshold,
        }

        def read(node: int, record: ConfigRecord) -> None:
            sealed = [_short(text) for text in secagg.values(record, "sealed", bytes, len(r.nodes))]
            commitment = secagg.value(record, "commitment", bytes)
            if len(sealed) != len(r.nodes) or len(commitment) != 32:
                raise ex.ExchangeError(f"{len(sealed)} shares instead of {len(r.nodes)}")
            r.sealed[node], r.commitments[node] = sealed, commitment

        self._put(secagg.SHARES, {node: question for node in r.nodes}, read, "shares")

    def _put(
        self,
        action: str,
        questions: Mapping[int, Mapping[str, Any]],
        read: Callable[[int, ConfigRecord], None],
        code: str,
    ) -> None:
        """Put a question to each node and read the answers in the order of the nodes; bad ones are rejected."""
        messages = [
            self._grid.create_message(
                RecordDict({secagg.SECAGG: ConfigRecord(dict(question))}),
                f"{MessageType.QUERY}.{action}",
                node,
                str(self.state.number + 1),
            )
            for node, question in questions.items()
        ]
        answers: dict[int, list[Message]] = {node: [] for node in questions}
        for reply in self._ask(self._grid, messages):
            answers.get(int(reply.metadata.src_node_id), []).append(reply)
        for node in sorted(questions):
            try:
                if len(answers[node]) != 1 or answers[node][0].has_error():
                    raise ex.ExchangeError("no answer, or an error" if len(answers[node]) < 2 else "several answers")
                read(node, answers[node][0].content.config_records[secagg.SECAGG])
            except ex.ExchangeError as error:
                self._round.rejected.append(Rejection(node, code, str(error)[:200]))
            except Exception as error:  # an answer is foreign input: whatever it breaks, the round goes on without it
                self._round.rejected.append(Rejection(node, code, type(error).__name__))

    def _orders(self, node: int) -> dict[str, ConfigRecord]:
        r = self._round
        sources = [source for source in sorted(r.sealed) if source != node]
        place = r.nodes.index(node)
        return {
            PRIVACY: ConfigRecord(dict(self.config.privacy.order.to_config())),
            secagg.SECAGG: ConfigRecord(
                {"sources": sources, "sealed": [r.sealed[source][place] for source in sources]}
            ),
        }

    def _screen(self, replies: Iterable[Message], expected: Expectation) -> Screened:
        screened = screen(replies, replace(expected, encoding=secagg.MASKED), self.config.limits)
        both = (*screened.rejected, *self._round.rejected)
        return Screened(screened.accepted, tuple(sorted(both, key=lambda r: (r.node, r.code))))

    def _merge(self, updates: tuple[Update, ...]) -> Aggregate | str:
        r = self._round
        came = [u.node for u in updates]
        gone = [node for node in sorted(r.sealed) if node not in came]
        if len(came) < self._fewest:
            return f"{len(came)} masked updates came, {self._fewest} are needed to open their sum"
        shares: dict[int, list[bytes]] = {node: [] for node in (*came, *gone)}

        def read(node: int, record: ConfigRecord) -> None:
            found = [_short(share) for share in secagg.values(record, "shares", bytes, len(shares))]
            if len(found) != len(shares):
                raise ex.ExchangeError(f"{len(found)} shares instead of {len(shares)}")
            for owner, share in zip(shares, found, strict=True):
                shares[owner].append(share)

        self._put(secagg.UNMASK, {node: {"came": came, "gone": gone} for node in came}, read, "unmask")
        total = np.zeros(secagg.size_of(ex.shapes_of(self.weights)), np.uint32)
        for update in updates:
            seed = _opened(shares[update.node], r.threshold, _seed_check(r.commitments[update.node]))
            if seed is None:
                return f"the mask of node {update.node} cannot be taken off: too few right shares came"
            total += np.asarray(update.deltas[secagg.MASKED]).view(np.uint32) - secagg.mask(seed, len(total))
        for node in gone:
            key = _opened(shares[node], r.threshold, _key_check(r.masking[node]))
            if key is None:
                return f"the masks of node {node}, which is gone, cannot be taken off: too few right shares came"
            for other in came:
                shared = generate_shared_key(bytes_to_private_key(key), bytes_to_public_key(r.masking[other]))
                pair = secagg.mask(shared, len(total))
                total = total - pair if other > node else total + pair
        return self._mean(total, came, len(gone))

    def _mean(self, total: secagg.UInt32, came: list[int], gone: int) -> Aggregate | str:
        clip, members = self.config.privacy.clip, len(self._round.nodes)
        deltas = secagg.restored(total, clip, members, ex.shapes_of(self.weights))
        mean = {name: array / len(came) for name, array in deltas.items()}
        norm = math.sqrt(sum(float(np.square(array).sum()) for array in mean.values()))
        # Rounding to steps can lengthen a vector by half a step in each direction.
        limit = clip * (1 + 1e-6 + math.sqrt(len(total)) / secagg.levels(members) / 2)
        if norm > limit:
            return (
                f"the mean of the updates has norm {norm:.3g}, each was to be at most {clip:g}: a member did not comply"
            )
        note = f"secure sum of {len(came)} of {members} members, {gone} gone, threshold {self._round.threshold}"
        return Aggregate(mean, self.config.rule, tuple(sorted(came)), note)

    def _privacy(self) -> dict[str, Any]:
        r = self._round
        return {**self.config.privacy.order.to_config(), "members": len(r.nodes), "threshold": r.threshold}


def _short(data: bytes) -> bytes:
    if len(data) > _LONGEST:
        raise ex.ExchangeError(f"{len(data)} bytes where at most {_LONGEST} are plausible")
    return data


def _opened(shares: Sequence[bytes], threshold: int, check: Callable[[bytes], bool]) -> bytes | None:
    """A secret out of shares of which some may be wrong: sets of them are tried until one fits what is known of it."""
    for chosen in itertools.islice(itertools.combinations(shares, threshold), _MOST_TRIES):
        try:
            secret = combine_shares(list(chosen))
        except Exception:  # shares are foreign input, and the library raises many types on wrong ones
            continue
        if check(secret):
            return secret
    return None


def _seed_check(commitment: bytes) -> Callable[[bytes], bool]:
    return lambda seed: secagg.commitment(seed) == commitment


def _key_check(public: bytes) -> Callable[[bytes], bool]:
    def check(secret: bytes) -> bool:
        try:
            return public_key_to_bytes(bytes_to_private_key(secret).public_key()) == public
        except ValueError:
            return False

    return check
