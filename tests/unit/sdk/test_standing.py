"""medprov_sdk.standing; the verifier's tests have the verdicts that follow."""

from typing import Any

from medprov_ledger.titles import Reason, Title
from medprov_sdk.standing import still_standing


def asked(world: Any, picture: Any) -> tuple[list[Any], Any, list[tuple[str, bool | None]]]:
    view, said = world.verifier.ledger, []
    view.refresh()
    found = view.find(world.record(picture, world.alice).key, world.record(picture, world.alice).released_hash)
    standing, revoked = still_standing(
        view,
        found,
        world.record(picture, world.alice).released_hash,
        lambda name, passed, _: said.append((name, passed)),
    )
    return standing, revoked, said


def test_a_record_of_which_nothing_is_told_stands(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    standing, revoked, said = asked(world, image)
    assert [one.record for one in standing] == [world.record(image, world.alice)]
    assert revoked is None
    assert said == []


def test_of_revoked_records_that_of_this_picture_is_named(world: Any) -> None:
    image, other = world.phantom(), world.phantom(3)
    for picture in (other, image):
        record = world.record(picture, world.alice)
        world.anchor(world.alice, record)
        gone = Title(record.owner, None, 1_800_000_000, Reason.OTHER, None)
        world.contracts.titles[record.leaf(world.domain)] = gone
    standing, revoked, said = asked(world, image)
    assert standing == []
    assert revoked is not None
    assert revoked.record == world.record(image, world.alice)
    assert said == [("record stands", False)]


def test_no_record_stands_while_the_chain_is_away(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    view = world.verifier.ledger
    view.refresh()
    record = world.record(image, world.alice)
    found = view.find(record.key, record.released_hash)
    world.contracts.away = True
    assert still_standing(view, found, record.released_hash, lambda *_: None) == ([], None)
    assert "no chain answers there" in view.chain_trouble
