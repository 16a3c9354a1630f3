"""medprov_sdk.offline: what a proof file proves, what it only states, and what makes its word good."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medprov_ledger import eip712, proof_file
from medprov_ledger.config import TrustConfig
from medprov_ledger.errors import RecordError
from medprov_ledger.proof_file import Proof
from medprov_ledger.registry import Registration
from medprov_ledger.titles import Reason as Revocation
from medprov_ledger.titles import Title
from medprov_sdk import Reason, Verdict, Verification, Verifier, export
from medprov_sdk.errors import SdkError
from medprov_sdk.metadata import State
from medprov_sdk.offline import Home, ProofView, Trust, trust
from medprov_sdk.verdict import Basis
from medprov_watermark.payload import Payload
from medprov_watermark.watermarker import Integrity

ORDER = [Verdict.UNKNOWN, Verdict.UNVERIFIABLE, Verdict.AUTHENTIC_DERIVED, Verdict.AUTHENTIC]


def exported(world: Any, image: Any, account: Any = None) -> Proof:
    """The proof file of a released picture, made with chain and store at hand."""
    record = world.record(image, account or world.alice)
    found, title = export.find(world.verifier.ledger, record.leaf(world.domain))
    made, missing = export.proof(world.verifier.ledger, found, title)
    assert missing == ""
    return proof_file.parse(made.to_bytes())


def released(world: Any) -> tuple[Any, Proof]:
    image = world.phantom()
    world.anchor(world.bob, world.record(world.phantom(9), world.bob, released_hash=b"o" * 32, key=b"o" * 32))
    other = world.record(world.phantom(8), world.alice, released_hash=b"p" * 32, key=b"p" * 32)
    world.reader.say(image, world.payload, world.seal(image, world.alice))
    world.anchor(world.alice, world.record(image, world.alice), other)
    return image, exported(world, image)


def home(world: Any, *members: Any, threshold: int = 0) -> Home:
    names = tuple(account.address.lower() for account in members)
    config = replace(world.config, trust=TrustConfig(names, threshold or len(names)))
    return Home.of(config)


def named(proof: Proof) -> Trust:
    return Trust(frozenset({(proof.record.owner, proof.anchored)}))


def verify(world: Any, image: Any, proof: Proof, trusted: Trust | None = None, at: Home | None = None) -> Verification:
    """Without chain and store, which fail when they are asked."""
    world.contracts.away = True
    view = ProofView(proof, at or home(world), trusted or Trust(), "proof.json")
    return Verifier(world.reader, view).verify(image)


def signed(world: Any, tmp_path: Path, *accounts: Any, block: int = 50) -> Path:
    """A checkpoint in a file."""
    made = export.checkpoint(world.verifier.ledger, block)
    for account in accounts:
        made = made.sign(account)
    file = tmp_path / f"checkpoint-{block}.json"
    file.write_bytes(made.to_bytes())
    return file


def test_the_files_own_word_makes_nothing_authentic(world: Any) -> None:
    image, proof = released(world)
    result = verify(world, image, proof)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.ANCHOR_AS_STATED)
    assert result.verdict.exit_code == 24 and result.basis is Basis.FILE
    assert result.offline is not None and result.offline.if_anchored is Verdict.AUTHENTIC
    assert {"block", "time", "transaction", "block_hash", "members"} <= set(result.offline.stated)
    assert any("whether the chain holds this anchor" in line for line in result.offline.not_known)
    assert {check.name: check.passed for check in result.checks}["record anchored"] is None
    out = json.loads(json.dumps(result.to_json()))
    assert (out["basis"], out["offline"]["if_anchored"]) == ("proof_file", "authentic")


def test_a_named_anchor_makes_the_untouched_picture_authentic(world: Any) -> None:
    image, proof = released(world)
    result = verify(world, image, proof, named(proof))
    assert (result.verdict, result.reason) == (Verdict.AUTHENTIC, Reason.SIGNED_AND_ANCHORED)
    assert (result.basis, result.owner, result.member) == (Basis.NAMED, world.alice.address, "alice")
    assert result.offline is not None and "block" in result.offline.stated
    assert any("revoked the record since" in line for line in result.offline.not_known)
    assert any("who was first" in line for line in result.offline.not_known)


def test_a_checkpoint_makes_it_authentic_and_knows_block_and_time(world: Any, tmp_path: Path) -> None:
    image, proof = released(world)
    at = home(world, world.alice, world.bob)
    known = trust(at, files=[signed(world, tmp_path, world.alice, world.bob)])
    result = verify(world, image, proof, known, at)
    assert (result.verdict, result.basis, result.block) == (Verdict.AUTHENTIC, Basis.CHECKPOINT, 11)
    assert result.offline is not None and "block" not in result.offline.stated
    assert any("revoked the record after block 50" in line for line in result.offline.not_known)
    assert {check.name: check.passed for check in result.checks}["record stands"] is True


def derived(world: Any, image: Any) -> Any:
    return world.jpeg(image)


def touched(world: Any, image: Any) -> Any:
    changed = image.copy()
    changed[70, 40] ^= 1
    return changed


def foreign(world: Any, image: Any) -> Any:
    return np.ascontiguousarray(image[::-1, ::-1])


@pytest.mark.parametrize(
    ("change", "verdict", "reason"),
    [
        (derived, Verdict.AUTHENTIC_DERIVED, Reason.CONTENT_AGREES),
        (touched, Verdict.TAMPERED, Reason.BLOCKS_DIFFER),
        (foreign, Verdict.COPIED_MARK, Reason.CONTENT_DIFFERS),
    ],
)
def test_the_evidence_in_the_file_is_compared(
    world: Any, change: Callable[[Any, Any], Any], verdict: Verdict, reason: Reason
) -> None:
    image, proof = released(world)
    given_picture = change(world, image)
    world.reader.say(given_picture, world.payload, Integrity("broken", payload=world.payload, reason="changed"))
    result = verify(world, given_picture, proof, named(proof))
    assert (result.verdict, result.reason) == (verdict, reason)
    # whoever reads a mark could write a file that accuses the picture: its own word does not
    alone = verify(world, given_picture, proof)
    assert (alone.verdict, alone.reason) == (Verdict.UNVERIFIABLE, Reason.ANCHOR_AS_STATED)
    assert alone.offline is not None and alone.offline.if_anchored is verdict


def test_without_the_evidence_only_the_untouched_picture_is_verified(world: Any) -> None:
    image, proof = released(world)
    bare = proof.without_evidence()
    assert verify(world, image, bare, named(proof)).verdict is Verdict.AUTHENTIC
    copy = world.jpeg(image)
    world.reader.say(copy, world.payload)
    result = verify(world, copy, bare, named(proof))
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.EVIDENCE_UNREACHABLE)
    assert any("proof.json: holds no evidence" in check.detail for check in result.checks)


def test_a_file_about_another_picture_helps_nothing(world: Any) -> None:
    _, proof = released(world)
    other = world.phantom(4)
    payload = Payload(b"otherone", b"seri")
    world.reader.say(other, payload, world.seal(other, world.alice, payload))
    result = verify(world, other, proof, named(proof))
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.PROOF_OF_ANOTHER)
    assert result.record is None and result.offline is None
    assert verify(world, world.phantom(5), proof, named(proof)).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("known", [True, False])
def test_a_seal_of_another_than_the_records_owner_is_a_mismatch(world: Any, known: bool) -> None:
    image, proof = released(world)
    at = home(world, world.bob) if known else None
    world.reader.say(image, world.payload, world.seal(image, world.bob))
    for trusted in (named(proof), Trust()):
        result = verify(world, image, proof, trusted, at)
        assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.RECORD_MISMATCH)


def test_a_forged_file_of_a_stranger_stays_its_own_word(world: Any, tmp_path: Path) -> None:
    """Everything in it is consistent, since the stranger signs and anchors it on a chain of its own."""
    image = world.phantom()
    world.reader.say(image, world.payload, world.seal(image, world.mallory))
    world.contracts.members.add(world.mallory.address)
    world.anchor(world.mallory, world.record(image, world.mallory))
    forged = exported(world, image, world.mallory)
    world.contracts.members.remove(world.mallory.address)
    world.contracts.anchored.clear()
    assert verify(world, image, forged).verdict is Verdict.UNVERIFIABLE
    world.contracts.away = False
    at = home(world, world.alice)
    known = trust(at, files=[signed(world, tmp_path, world.alice)])
    with pytest.raises(SdkError, match=r"proof\.json: states an anchor .* do not trust this file"):
        verify(world, image, forged, known, at)


def test_a_file_of_another_chain_or_federation_is_refused(world: Any) -> None:
    _, proof = released(world)
    at = home(world)
    for wrong, why in [
        (replace(at, domain=eip712.domain(1, at.domain.registry)), "is of chain 31337"),
        (replace(at, domain=eip712.domain(31337, "0x" + "33" * 20)), "is of chain 31337"),
        (replace(at, federation_id=b"g" * 32), "is of another federation"),
    ]:
        with pytest.raises(SdkError, match=rf"proof\.json: {why}"):
            ProofView(proof, wrong, Trust(), "proof.json")


def test_the_anchor_of_another_root_or_owner_pins_nothing(world: Any) -> None:
    image, proof = released(world)
    for pair in [(proof.record.owner, b"r" * 32), (world.bob.address, proof.anchored)]:
        assert verify(world, image, proof, Trust(frozenset({pair}))).basis is Basis.FILE


def test_a_checkpoint_that_does_not_reach_the_anchor_pins_nothing(world: Any, tmp_path: Path) -> None:
    image, proof = released(world)
    at = home(world, world.alice)
    early = trust(at, files=[signed(world, tmp_path, world.alice, block=10)])
    result = verify(world, image, proof, early, at)
    assert (result.verdict, result.basis) == (Verdict.UNVERIFIABLE, Basis.FILE)
    assert result.offline is not None and "no checkpoint reaches block 11" in result.offline.pinned
    both = replace(early, anchors=named(proof).anchors)
    assert verify(world, image, proof, both, at).basis is Basis.NAMED


@pytest.mark.parametrize(("name", "by"), [("block", -1), ("time", -1), ("block", 1), ("block", 1000)])
def test_a_file_that_contradicts_the_checkpoint_is_refused(world: Any, tmp_path: Path, name: str, by: int) -> None:
    image, proof = released(world)
    at = home(world, world.alice)
    known = trust(at, files=[signed(world, tmp_path, world.alice)])
    shifted = replace(proof, anchor=replace(proof.anchor, **{name: getattr(proof.anchor, name) + by}))
    with pytest.raises(SdkError, match="do not trust this file"):
        verify(world, image, shifted, known, at)


def test_a_revocation_that_a_checkpoint_knows_is_told(world: Any, tmp_path: Path) -> None:
    image, proof = released(world)
    gone = Title(proof.record.owner, None, 1_700_000_040, Revocation.ERRONEOUS, None)
    world.contracts.titles[proof.record_id] = gone
    at = home(world, world.alice)
    known = trust(at, files=[signed(world, tmp_path, world.alice)])
    result = verify(world, image, proof, known, at)
    assert (result.verdict, result.basis) == (Verdict.REVOKED, Basis.CHECKPOINT)
    with pytest.raises(SdkError, match="was revoked by its owner; no proof file is made of it"):
        world.contracts.away = False
        exported(world, image)


def test_a_checkpoint_counts_only_with_enough_known_signatures(world: Any, tmp_path: Path) -> None:
    released(world)
    file = signed(world, tmp_path, world.alice, world.mallory)
    trust(home(world, world.alice), files=[file])
    for at in (home(world, world.alice, world.bob), home(world, world.bob)):
        with pytest.raises(SdkError, match=r"checkpoint-50\.json: .* are needed"):
            trust(at, files=[file])
    with pytest.raises(SdkError, match="nobody's signature counts"):
        trust(home(world), files=[file])
    with pytest.raises(SdkError, match=r"checkpoint-50\.json: is of chain 31337"):
        trust(replace(home(world, world.alice), domain=eip712.domain(1, world.domain.registry)), files=[file])
    with pytest.raises(SdkError, match=r"^[^\n]*none\.json: cannot be read"):
        trust(home(world, world.alice), files=[tmp_path / "none.json"])


def test_a_record_that_was_registered_by_itself(world: Any, tmp_path: Path) -> None:
    image = world.phantom()
    world.reader.say(image, world.payload, world.seal(image, world.alice))
    record = world.record(image, world.alice)
    one = Registration(record.leaf(world.domain), record, 7, 1_700_000_050, "0x" + "cd" * 32)
    world.contracts.registered.append(one)
    proof = exported(world, image)
    assert proof.batch is None and proof.signature is None and proof.anchored == one.record_id
    at = home(world, world.alice)
    known = trust(at, files=[signed(world, tmp_path, world.alice)])
    assert verify(world, image, proof, known, at).verdict is Verdict.AUTHENTIC
    assert verify(world, image, proof, named(proof)).verdict is Verdict.AUTHENTIC
    assert verify(world, image, proof).verdict is Verdict.UNVERIFIABLE


def test_the_header_is_not_called_as_released_on_the_files_word(world: Any, tmp_path: Path) -> None:
    from medprov_watermark import media

    image = world.phantom()
    Image.fromarray(image).save(tmp_path / "a.png")
    world.release(image, world.alice, media.attributes(media.read(tmp_path / "a.png")))
    found, title = export.find(
        world.verifier.ledger, world.verifier.verify(image).record and _leaf(world.verifier.verify(image))
    )
    proof, _ = export.proof(world.verifier.ledger, found, title)
    assert verify(world, tmp_path / "a.png", proof).metadata.state is State.NOT_AVAILABLE
    assert verify(world, tmp_path / "a.png", proof, named(proof)).metadata.state is State.MATCHES


def _leaf(result: Verification) -> bytes:
    assert result.record is not None
    return bytes.fromhex(result.record.record_id[2:])


def test_no_network_is_asked(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image, proof = released(world)

    def connect(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    assert verify(world, image, proof, named(proof)).verdict is Verdict.AUTHENTIC


def test_the_federation_can_be_named_without_a_configuration(world: Any) -> None:
    spelled = home(world).spelled()
    assert spelled == f"31337:{world.domain.registry}:0x{(b'f' * 32).hex()}"
    at = Home.parse(spelled)
    assert (at.domain, at.federation_id) == (world.domain, b"f" * 32)
    for wrong in ("", "x", "31337", spelled[:-1], spelled + "0", "0" + spelled[5:], spelled.replace("11", "zz", 1)):
        with pytest.raises(SdkError) as caught:
            Home.parse(wrong)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "0x", "0x" + "11" * 32, "0x" + "11" * 20 + ":0x" + "22" * 31, "\n:\n"])
def test_a_malformed_anchor_is_named(world: Any, text: str) -> None:
    with pytest.raises(SdkError, match="name an anchor as OWNER:ROOT") as caught:
        trust(home(world), anchors=[text])
    assert "\n" not in str(caught.value)


@given(place=st.integers(0, 10**6), value=st.integers(0, 255), pinned=st.booleans())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_no_single_mutation_of_a_file_raises_the_verdict(
    make_world: Callable[..., Any], place: int, value: int, pinned: bool
) -> None:
    """Refused, or no better than before; and what differs is told as the file's own word."""
    world = _cached(make_world)
    image, proof = world.made
    trusted = named(proof) if pinned else Trust()
    data = bytearray(proof.to_bytes())
    # the evidence is most of the file: half of the mutations are put into the rest
    rest = len(data) - len(proof.without_evidence().to_bytes())
    at = place % len(data) if place % 2 else rest + place % (len(data) - rest)
    data[at] = value
    try:
        result = verify(world, image, proof_file.parse(bytes(data)), trusted)
    except (RecordError, SdkError) as error:
        assert "\n" not in str(error)
        return
    before = verify(world, image, proof, trusted)
    assert ORDER.index(result.verdict) <= ORDER.index(before.verdict)
    assert result.owner == before.owner and result.record is not None and before.record is not None
    assert result.record.record == before.record.record
    for name in ("block", "time", "transaction"):
        if getattr(result, name) != getattr(before, name):
            assert result.offline is not None and name in result.offline.stated


_worlds: list[Any] = []


def _cached(make_world: Callable[..., Any]) -> Any:
    """One world for all examples: making one takes longer than a verification."""
    if not _worlds:
        world = make_world()
        world.made = released(world)
        _worlds.append(world)
    return _worlds[0]
