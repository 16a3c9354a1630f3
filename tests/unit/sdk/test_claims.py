"""medprov_sdk.claims and what follows from it: whose a picture is."""

from typing import Any

import pytest

from medprov_ledger.errors import ChainError
from medprov_ledger.registry import Registration
from medprov_ledger.titles import Reason as Revocation
from medprov_ledger.titles import Title
from medprov_sdk import Reason, Verdict
from medprov_watermark.geometry import ALL, Geometry


def revoke(world: Any, record: Any, reason: Revocation = Revocation.CONSENT_WITHDRAWN) -> None:
    world.contracts.titles[record.leaf(world.domain)] = Title(record.owner, None, 1_800_000_000, reason, None)


@pytest.mark.parametrize("derived", [False, True])
def test_a_revoked_record_is_said_to_be_revoked(world: Any, derived: bool) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    revoke(world, world.record(image, world.alice))
    given = world.jpeg(image) if derived else image
    if derived:
        world.reader.say(given, world.payload)
    result = world.verifier.verify(given)
    assert (result.verdict, result.reason) == (Verdict.REVOKED, Reason.RECORD_REVOKED)
    assert result.owner == world.alice.address
    (check,) = [check for check in result.checks if check.name == "record stands"]
    assert check.passed is False
    assert check.detail.endswith("was revoked by its owner on 2027-01-15 08:00 UTC: consent withdrawn")


def test_a_record_that_took_the_place_of_a_revoked_one_counts(world: Any) -> None:
    image = world.phantom()
    old = world.record(image, world.alice, time=5)
    world.anchor(world.alice, old)
    world.release(image, world.alice)
    revoke(world, old, Revocation.SUPERSEDED)
    result = world.verifier.verify(image)
    assert result.verdict is Verdict.AUTHENTIC
    assert result.record.record["time"] == 1_700_000_000
    assert [check.passed for check in result.checks if check.name == "record stands"] == [None]


def test_a_revoked_claim_conflicts_with_nothing(world: Any) -> None:
    image = world.phantom()
    false_claim = world.record(world.phantom(3), world.bob)
    world.anchor(world.bob, false_claim)
    world.release(image, world.alice)
    copy = world.jpeg(image)
    world.reader.say(copy, world.payload)
    assert world.verifier.verify(copy).verdict is Verdict.CONFLICTING_CLAIMS
    revoke(world, false_claim, Revocation.ERRONEOUS)
    assert world.verifier.verify(copy).verdict is Verdict.AUTHENTIC_DERIVED


def test_a_new_owner_and_a_dispute_are_named(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    record = world.record(image, world.alice)
    changed = Title(world.bob.address, None, None, Revocation.NONE, b"e" * 32)
    world.contracts.titles[record.leaf(world.domain)] = changed
    result = world.verifier.verify(image)
    assert result.verdict is Verdict.AUTHENTIC
    details = {check.name: check for check in result.checks}
    assert details["owner"].detail.startswith(f"now {world.bob.address}")
    assert details["uncontested"].passed is False
    assert (b"e" * 32).hex() in details["uncontested"].detail


def test_a_chain_that_goes_away_before_it_tells_of_a_revocation_proves_nothing(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = world.phantom()
    world.release(image, world.alice)

    def away(record_id: bytes, owner: str) -> Title:
        raise ChainError("no chain answers there")

    monkeypatch.setattr(world.contracts, "title", away)
    result = world.verifier.verify(image)
    assert result.verdict is Verdict.UNVERIFIABLE
    assert result.record is None


def test_two_owners_of_one_payload_conflict_and_the_earlier_anchor_is_named(world: Any) -> None:
    image = world.phantom()
    world.anchor(world.alice, world.record(world.phantom(3), world.alice))
    world.release(image, world.bob)
    result = world.verifier.verify(image)
    assert (result.verdict, result.reason) == (Verdict.CONFLICTING_CLAIMS, Reason.SEVERAL_OWNERS)
    assert result.owner == world.alice.address
    assert [claim.owner for claim in result.claims] == [world.alice.address, world.bob.address]


def test_records_of_a_members_former_and_present_key_are_one_owners(world: Any) -> None:
    image = world.phantom()
    world.anchor(world.alice, world.record(world.phantom(3), world.alice))
    world.release(image, world.bob)
    assert world.verifier.verify(image).verdict is Verdict.CONFLICTING_CLAIMS
    world.contracts.following[world.alice.address] = world.bob.address
    result = world.verifier.verify(image)
    assert (result.verdict, result.owner) == (Verdict.AUTHENTIC, world.bob.address)
    assert [claim.owner for claim in result.claims] == [world.alice.address, world.bob.address]
    copy = world.jpeg(image)
    world.reader.say(copy, world.payload)
    assert world.verifier.verify(copy).verdict is Verdict.AUTHENTIC_DERIVED


def test_single_registrations_of_both_keys_are_one_owners_too(world: Any) -> None:
    image = world.phantom()
    for block, (owner, picture) in enumerate([(world.alice, world.phantom(3)), (world.bob, image)]):
        record = world.record(picture, owner)
        one = Registration(record.leaf(world.domain), record, block, 1_700_000_050, "0x" + "cd" * 32)
        world.contracts.registered.append(one)
    copy = world.jpeg(image)
    world.reader.say(copy, world.payload)
    assert world.verifier.verify(copy).verdict is Verdict.CONFLICTING_CLAIMS
    world.contracts.following[world.alice.address] = world.bob.address
    assert world.verifier.verify(copy).verdict is Verdict.AUTHENTIC_DERIVED


def test_a_seal_of_the_former_key_fits_a_record_of_the_present_one(world: Any) -> None:
    image = world.phantom()
    world.reader.say(image, world.payload, world.seal(image, world.alice))
    world.contracts.members.remove(world.alice.address)
    world.anchor(world.bob, world.record(image, world.bob))
    assert world.verifier.verify(image).reason is Reason.FOREIGN_SIGNATURE
    world.contracts.following[world.alice.address] = world.bob.address
    result = world.verifier.verify(image)
    assert (result.verdict, result.signer, result.owner) == (
        Verdict.AUTHENTIC,
        world.alice.address,
        world.bob.address,
    )


def test_a_chain_that_goes_away_before_it_tells_of_a_key_proves_nothing(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = world.phantom()
    world.release(image, world.alice)

    def away(address: str) -> str:
        raise ChainError("no chain answers there")

    monkeypatch.setattr(world.contracts, "current_of", away)
    result = world.verifier.verify(image)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.CHAIN_UNREACHABLE)


@pytest.mark.parametrize("first", ["alice", "bob"])
@pytest.mark.parametrize("geometry", ALL[:2], ids=str)
def test_a_copied_record_takes_nothing_from_who_sealed_the_picture(world: Any, first: str, geometry: Geometry) -> None:
    image = world.phantom()
    given = geometry.apply(image)
    world.reader.say(image, world.payload, world.seal(image, world.alice))
    if not geometry.identity:
        world.reader.say(given, world.payload, geometry=geometry)
    owners = [world.alice, world.bob] if first == "alice" else [world.bob, world.alice]
    for owner in owners:
        world.anchor(owner, world.record(image, owner))
    result = world.verifier.verify(given)
    assert result.verdict is (Verdict.AUTHENTIC if geometry.identity else Verdict.AUTHENTIC_DERIVED)
    assert result.owner == world.alice.address and [claim.owner for claim in result.claims] == [world.alice.address]
    (told,) = [check for check in result.checks if check.name == "another's record"]
    assert world.bob.address in told.detail and told.passed is None


def test_a_later_record_of_the_payload_takes_nothing_either(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    world.anchor(world.bob, world.record(image, world.bob, released_hash=b"x" * 32))
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC


def test_of_a_derived_copy_both_claims_stand(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    world.anchor(world.bob, world.record(image, world.bob))
    copy = world.jpeg(image)
    world.reader.say(copy, world.payload)
    result = world.verifier.verify(copy)
    assert (result.verdict, result.owner) == (Verdict.CONFLICTING_CLAIMS, world.alice.address)


def test_a_seal_without_signature_settles_no_conflict(world: Any) -> None:
    image = world.phantom()
    world.reader.say(image, world.payload, world.seal(image, None))
    world.anchor(world.alice, world.record(image, world.alice))
    world.anchor(world.bob, world.record(image, world.bob))
    assert world.verifier.verify(image).verdict is Verdict.CONFLICTING_CLAIMS


def test_two_records_of_one_owner_do_not_conflict_and_the_fitting_one_counts(world: Any) -> None:
    world.anchor(world.alice, world.record(world.phantom(5), world.alice))
    image = world.phantom()
    world.release(image, world.alice)
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC
    copy = world.jpeg(image)
    world.reader.say(copy, world.payload)
    result = world.verifier.verify(copy)
    assert result.verdict is Verdict.AUTHENTIC_DERIVED
    assert result.block == 11


def test_a_strangers_signature_is_not_lent_a_members_name(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    again = world.jpeg(image, 95)
    world.reader.say(again, world.payload, world.seal(again, world.mallory))
    result = world.verifier.verify(again)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.FOREIGN_SIGNATURE)
    assert result.signer == world.mallory.address


def test_another_members_seal_on_a_recorded_payload_is_a_mismatch(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    again = world.jpeg(image, 95)
    world.reader.say(again, world.payload, world.seal(again, world.bob))
    result = world.verifier.verify(again)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.RECORD_MISMATCH)


def test_a_record_with_other_hashes_than_the_seal_is_a_mismatch(world: Any) -> None:
    image = world.phantom()
    world.reader.say(image, world.payload, world.seal(image, world.alice))
    world.anchor(world.alice, world.record(image, world.alice, marked_hash=b"x" * 32))
    assert world.verifier.verify(image).reason is Reason.RECORD_MISMATCH


def test_sealed_but_not_yet_anchored(world: Any) -> None:
    image = world.phantom()
    world.reader.say(image, world.payload, world.seal(image, world.alice))
    result = world.verifier.verify(image)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.NO_RECORD)
    assert any(world.alice.address in line for line in result.proved_offline)
