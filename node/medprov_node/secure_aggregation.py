"""A hospital's side of secure aggregation: four questions a round, each answered once and only in their order.

Key agreement, encryption and Shamir's shares are Flower's. Its mod for clients is not used: its masks come from 32-bit
seeds, and it gives away both halves of a member's secrets to a coordinator that names the member twice.

A hospital that signs accepts keys of members of the federation only, as the contract has them: else a coordinator could
take part as all the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
from eth_account import Account
from eth_account.messages import encode_defunct
from flwr.app import ConfigRecord, Context
from flwr.common.secure_aggregation.crypto.shamir import create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat, share_keys_plaintext_separate
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

from medprov_watermark.training import exchange as ex
from medprov_watermark.training import secagg
from medprov_watermark.training.tasks.base import TaskError

STATE = "medprov-secagg"
"""Record in the node's state: the secrets of the round that is going on."""
LAST = "medprov-secagg-last"
"""Record in the node's state: the last attempt that an update was masked for."""

_MOST_NODES = 10_000
Sign = Callable[[bytes], tuple[str, bytes]]
"""Signs a digest; gives address and signature, both empty where this hospital does not sign."""


def make_keys(question: ConfigRecord, context: Context, sign: Sign) -> ConfigRecord:
    """First answer: two fresh public keys for this round, signed. What was left of another round is forgotten."""
    number, attempt = secagg.value(question, ex.ROUND, int), secagg.value(question, "attempt", int)
    federation = secagg.value(question, "federation", bytes)
    if LAST in context.state and attempt <= secagg.value(context.state.config_records[LAST], "attempt", int):
        # The same update in two sums of other members: their difference would be single updates.
        raise TaskError(f"round {number}: attempt {attempt} was answered before")
    (masking, first), (sealing, second) = generate_key_pairs(), generate_key_pairs()
    keys = public_key_to_bytes(first), public_key_to_bytes(second)
    context.state[STATE] = ConfigRecord(
        {
            "stage": secagg.KEYS,
            ex.ROUND: number,
            "attempt": attempt,
            "federation": federation,
            "masking": private_key_to_bytes(masking),
            "sealing": private_key_to_bytes(sealing),
            "own": list(keys),
        }
    )
    signer, signature = sign(secagg.keys_digest(federation, number, attempt, context.node_id, *keys))
    return ConfigRecord({"keys": list(keys), ex.SIGNER: signer, ex.SIGNATURE: signature})


def make_shares(question: ConfigRecord, context: Context, members: frozenset[str] | None) -> ConfigRecord:
    """Second answer: a share of each secret for every other member, sealed for it, and what the mask's seed hashes to.

    Parameters
    ----------
    question : ConfigRecord
        Keys of all that take part.
    context : Context
    members : frozenset of str or None
        Addresses whose keys are accepted; None where this hospital does not sign.

    Raises
    ------
    TaskError
        Too few members, a threshold that does not protect, or keys that are not a member's.
    """
    state = _state(context, secagg.KEYS)
    nodes = secagg.values(question, "nodes", int, _MOST_NODES)
    first, second = (secagg.values(question, key, bytes, _MOST_NODES) for key in ("masking", "sealing"))
    signers = secagg.values(question, "signers", str, _MOST_NODES)
    signatures = secagg.values(question, "signatures", bytes, _MOST_NODES)
    threshold = secagg.value(question, "threshold", int)
    n, me = len(nodes), context.node_id
    if not n == len(first) == len(second) == len(signers) == len(signatures) or len(set(nodes)) != n:
        raise TaskError("secure aggregation: the lists of members and keys do not fit together")
    if n < secagg.FEWEST:
        raise TaskError(f"secure aggregation: {n} members, with fewer than {secagg.FEWEST} a sum hides nothing")
    if not secagg.lowest_threshold(n) <= threshold <= n:
        raise TaskError(f"secure aggregation: a threshold of {threshold} of {n} members does not protect an update")
    if len({*first, *second}) != 2 * n:
        raise TaskError("secure aggregation: two members have the same key")
    if me not in nodes or [first[nodes.index(me)], second[nodes.index(me)]] != state["own"]:
        raise TaskError("secure aggregation: this hospital's own keys are not among those of the round")
    if members is not None:
        _check_signers(state, nodes, first, second, signers, signatures, members)
    seed = os.urandom(32)
    of_seed = create_shares(seed, threshold, n)
    of_key = create_shares(secagg.value(state, "masking", bytes), threshold, n)
    sealing = bytes_to_private_key(secagg.value(state, "sealing", bytes))
    sealed: list[bytes] = []
    for i, node in enumerate(nodes):
        if node == me:
            sealed.append(b"")
            continue
        text = share_keys_plaintext_concat(me, node, of_seed[i], of_key[i])
        sealed.append(encrypt(generate_shared_key(sealing, bytes_to_public_key(second[i])), text))
    own = nodes.index(me)
    context.state[STATE] = ConfigRecord(
        {
            **state,
            "stage": secagg.SHARES,
            "seed": seed,
            "nodes": nodes,
            "masking-keys": first,
            "sealing-keys": second,
            "threshold": threshold,
            "own-shares": [of_seed[own], of_key[own]],
        }
    )
    return ConfigRecord({"sealed": sealed, "commitment": secagg.commitment(seed)})


def check_begun(context: Context, number: int, attempt: int) -> None:
    """Refuse to train for a round whose keys were not exchanged: before the work, not after it.

    Raises
    ------
    TaskError
        Another round, or another stage.
    """
    state = _state(context, secagg.SHARES)
    began = secagg.value(state, ex.ROUND, int)
    if began != number or state["attempt"] != attempt:
        raise TaskError(f"round {number}: the keys were exchanged for round {began}")


def make_masked(question: ConfigRecord, context: Context, deltas: ex.Arrays, clip: float) -> secagg.UInt32:
    """Third answer: the update under its masks.

    Parameters
    ----------
    question : ConfigRecord
        The sealed shares that the others made for this hospital.
    context : Context
    deltas : mapping of str to float32 array
        Of an L2 norm of at most `clip`.
    clip : float

    Raises
    ------
    TaskError
        Too few others are left, or their shares are not for this hospital.
    """
    state = _state(context, secagg.SHARES)
    sources = secagg.values(question, "sources", int, _MOST_NODES)
    sealed = secagg.values(question, "sealed", bytes, _MOST_NODES)
    nodes, threshold = secagg.values(state, "nodes", int, _MOST_NODES), secagg.value(state, "threshold", int)
    me = context.node_id
    if len(sources) != len(sealed) or len(set(sources)) != len(sources) or not set(sources) <= set(nodes) - {me}:
        raise TaskError("secure aggregation: the shares do not come from the members of the round")
    if len(sources) + 1 < max(threshold, secagg.FEWEST):
        raise TaskError(f"secure aggregation: {len(sources) + 1} members are left, the threshold is {threshold}")
    # The stage is over before anything is computed: two answers with other masks would give the update away.
    context.state[STATE] = ConfigRecord({**state, "stage": "masking"})
    context.state[LAST] = ConfigRecord({"attempt": state["attempt"]})
    masking, sealing = (bytes_to_private_key(secagg.value(state, key, bytes)) for key in ("masking", "sealing"))
    total = secagg.quantised(deltas, clip, len(nodes))
    total = total + secagg.mask(secagg.value(state, "seed", bytes), len(total))
    of_seed, of_key = [], []
    for source, text in zip(sources, sealed, strict=True):
        i = nodes.index(source)
        plain = decrypt(generate_shared_key(sealing, bytes_to_public_key(_item(state, "sealing-keys", i))), text)
        sender, receiver, seed_share, key_share = share_keys_plaintext_separate(plain)
        if (sender, receiver) != (source, me):
            raise TaskError(f"secure aggregation: a share that node {sender} made for node {receiver} came here")
        of_seed.append(seed_share)
        of_key.append(key_share)
        shared = generate_shared_key(masking, bytes_to_public_key(_item(state, "masking-keys", i)))
        pair = secagg.mask(shared, len(total))
        total = total + pair if me > source else total - pair
    own = [_item(state, "own-shares", i) for i in (0, 1)]
    context.state[STATE] = ConfigRecord(
        {
            "stage": secagg.MASKED,
            ex.ROUND: state[ex.ROUND],
            "attempt": state["attempt"],
            "threshold": threshold,
            "sources": [me, *sources],
            "seed-shares": [own[0], *of_seed],
            "key-shares": [own[1], *of_key],
        }
    )
    return np.asarray(total, np.uint32)


def open_sum(question: ConfigRecord, context: Context) -> ConfigRecord:
    """Last answer: for each member one share, of its mask's seed where its update came, of its key where it did not.

    Raises
    ------
    TaskError
        The coordinator asks for both of one member, or for too few updates.
    """
    state = _state(context, secagg.MASKED)
    came = secagg.values(question, "came", int, _MOST_NODES)
    gone = secagg.values(question, "gone", int, _MOST_NODES)
    sources = secagg.values(state, "sources", int, _MOST_NODES)
    if len({*came, *gone}) != len(came) + len(gone) or {*came, *gone} != set(sources):
        raise TaskError("secure aggregation: each member must be named once, with its update or without")
    if len(came) < max(secagg.value(state, "threshold", int), secagg.FEWEST):
        raise TaskError(f"secure aggregation: a sum of {len(came)} updates is not opened")
    del context.state[STATE]
    shares = [_item(state, "seed-shares", sources.index(node)) for node in came]
    shares += [_item(state, "key-shares", sources.index(node)) for node in gone]
    return ConfigRecord({"shares": shares})


def _check_signers(
    state: ConfigRecord,
    nodes: Sequence[int],
    first: Sequence[bytes],
    second: Sequence[bytes],
    signers: Sequence[str],
    signatures: Sequence[bytes],
    members: frozenset[str],
) -> None:
    known = {member.lower() for member in members}
    if len({signer.lower() for signer in signers}) != len(signers):
        raise TaskError("secure aggregation: one member takes part twice")
    for i, node in enumerate(nodes):
        digest = secagg.keys_digest(
            secagg.value(state, "federation", bytes),
            secagg.value(state, ex.ROUND, int),
            secagg.value(state, "attempt", int),
            node,
            first[i],
            second[i],
        )
        try:
            found = str(Account.recover_message(encode_defunct(primitive=digest), signature=signatures[i]))
        except Exception as error:  # the library raises many types on foreign bytes
            raise TaskError(f"secure aggregation: node {node}'s keys are not signed") from error
        if found.lower() != signers[i].lower() or found.lower() not in known:
            raise TaskError(f"secure aggregation: node {node}'s keys are not signed by a member of the federation")


def _state(context: Context, stage: str) -> ConfigRecord:
    state = context.state.config_records.get(STATE)
    if state is None or state["stage"] != stage:
        raise TaskError("secure aggregation: this question was answered before, or comes out of turn")
    return state


def _item(state: ConfigRecord, key: str, index: int) -> bytes:
    item: bytes = secagg.values(state, key, bytes, _MOST_NODES)[index]
    return item
