"""Rotation of a hospital's key on the in-process chain, cut short at every step."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from eth_account import Account
from PIL import Image

from medprov_ledger.chain import transact
from medprov_ledger.config import Config
from medprov_ledger.errors import ChainError, ConfigError
from medprov_ledger.federation import Federation, Status
from medprov_ledger.index import RecordIndex
from medprov_ledger.keys import load_account, load_reader_key, reader_public
from medprov_ledger.registry import Registry
from medprov_node import config_file, readers, rotation
from medprov_node.errors import ConfigFileError, RotationError
from medprov_node.mark import mark_files

NAME = "hospital-a"


class Crash(BaseException):
    """Nothing catches this, as nothing catches a power cut."""


@pytest.fixture
def own(make_house):
    """A federation that the test may change."""
    return make_house()


def again(house):
    """The configuration as the next command reads it, with its hospital."""
    config = Config.load(house.file)
    return config, config.hospital(NAME)


def rotate(house) -> rotation.Rotation:
    config, hospital = again(house)
    return rotation.rotate(hospital, config, house.ledger.chain)


def marked_now(house, quick, phantom, folder, seed: int):
    config, _ = again(house)
    Image.fromarray(phantom(seed=seed)).save(folder / f"{seed}.png")
    jobs = [(folder / f"{seed}.png", folder / f"{seed}-out.png")]
    (result,) = mark_files(jobs, NAME, config, watermarker=quick, ledger=house.ledger)
    return result


def entries(house, results):
    index = RecordIndex(":memory:", house.ledger.domain)
    report = index.sync(house.ledger.registry, house.ledger.federation, house.ledger.store, house.config.directory_key)
    assert report.problems == ()
    return [index.by_key(bytes.fromhex(result.record_key[2:]))[0] for result in results]


def test_the_hospital_goes_on_with_the_new_key_and_nothing_is_lost(own, quick, phantom, tmp_path) -> None:
    _, former_hospital = again(own)
    before = marked_now(own, quick, phantom, tmp_path, 1)
    text = own.file.read_text()
    done = rotate(own)
    config, hospital = again(own)

    # the configuration: two lines of one table, nothing else
    assert (
        (hospital.address, hospital.keystore) == (done.following, done.keystore) != (done.former, done.former_keystore)
    )
    changed = [
        pair for pair in zip(text.splitlines(), own.file.read_text().splitlines(), strict=True) if len({*pair}) == 2
    ]
    assert [line.split(" = ")[0] for line, _ in changed] == ["address", "keystore"]
    assert config == replace(own.config, hospitals={**own.config.hospitals, NAME: hospital})

    # both keystores open
    assert load_account(hospital).address == done.following
    assert load_account(former_hospital).address == done.former and done.former_keystore.exists()
    assert done.keystore.stat().st_mode & 0o077 == 0

    # the chain
    federation = own.ledger.federation
    assert federation.current_of(done.former) == done.following
    assert federation.is_member(done.following) and not federation.is_member(done.former)
    found = federation.member(done.following)
    assert found is not None and found.reader_key == reader_public(load_reader_key(hospital))

    # former records, former bundles, new records
    after = marked_now(own, quick, phantom, tmp_path, 2)
    first, second = entries(own, [before, after])
    assert (first.record.owner, second.record.owner) == (done.former, done.following)
    assert readers.open_own(hospital, config, before.bundle_cid, None).salt
    assert readers.open_own(hospital, config, after.bundle_cid, None).salt


def test_twice_is_two_rotations(own) -> None:
    first, second = rotate(own), rotate(own)
    assert second.former == first.following and second.following != first.following
    assert own.ledger.federation.current_of(first.former) == second.following


STEPS = {
    "before the keystore": (config_file, "write"),
    "before the offer": (Federation, "offer_key"),
    "before the money": (rotation, "_move"),
    "before the acceptance": (Federation, "accept_key"),
    "before the configuration": (config_file, "change"),
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_is_gone_on_from(own, monkeypatch, step, after) -> None:
    place, name = STEPS[step]
    real = getattr(place, name)

    def crash(*arguments, **named):
        if after:
            real(*arguments, **named)
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(place, name, crash)
        with pytest.raises(Crash):
            rotate(own)
    _, between = again(own)
    assert load_account(between), "the configuration names an account that opens at any time"
    if (step, after) == ("before the configuration", True):
        assert own.ledger.federation.is_member(between.address)
        return
    done = rotate(own)
    _, hospital = again(own)
    assert load_account(hospital).address == done.following == own.ledger.federation.current_of(done.former)
    assert own.ledger.federation.is_member(done.following)
    keystores = list(done.keystore.parent.glob("keystore*.json"))
    assert len(keystores) == 2, "what a crash left is used, not made anew"
    assert not list(done.keystore.parent.glob("*.tmp")) and not list(own.file.parent.glob("*.tmp"))


def test_pictures_that_wait_for_their_anchor_are_not_left_behind(own, quick, phantom, tmp_path, monkeypatch) -> None:
    def gone(*_, **__):
        raise ChainError("http://somewhere: no chain answers there")

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "anchor_batch", gone)
        with pytest.raises(ChainError):
            marked_now(own, quick, phantom, tmp_path, 1)
    with pytest.raises(RotationError, match="wait to be anchored with the present key"):
        rotate(own)
    assert own.ledger.federation.is_member(again(own)[1].address)
    marked_now(own, quick, phantom, tmp_path, 1)
    rotate(own)


def test_who_is_no_member_cannot_rotate(make_house) -> None:
    house = make_house(members=("hospital-b",))
    with pytest.raises(RotationError, match=r"hospital-a .* is unknown to it"):
        rotate(house)


def test_a_suspended_member_cannot_rotate(own, monkeypatch) -> None:
    found = own.ledger.federation.member(again(own)[1].address)
    monkeypatch.setattr(Federation, "member", lambda *_: replace(found, status=Status.SUSPENDED))
    with pytest.raises(RotationError, match="is suspended at the federation"):
        rotate(own)


def test_an_account_without_money_says_how_much(own, node_tester) -> None:
    _, hospital = again(own)
    account = load_account(hospital)
    price = 2 * node_tester.eth.get_block("latest")["baseFeePerGas"] + node_tester.eth.max_priority_fee
    spare = node_tester.eth.get_balance(account.address) - 450_000 * price
    transact(node_tester, {"to": Account.create().address, "value": spare}, account)
    with pytest.raises(ChainError, match=r"too little money to go on as 0x\w+; send it \d+ wei and run the same"):
        rotate(own)
    rich = load_account(own.config.hospital("hospital-b"))
    transact(node_tester, {"to": account.address, "value": 10**18}, rich)
    rotate(own)


def test_a_lost_new_keystore_is_said(own, monkeypatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(config_file, "change", lambda *_: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            rotate(own)
    _, hospital = again(own)
    (keystore,) = hospital.keystore.parent.glob("keystore-0x*.json")
    away = keystore.with_suffix(".away")
    keystore.rename(away)
    keystore.with_name("keystore-0xbroken.json").write_text("{}")
    with pytest.raises(RotationError, match=r"goes on as 0x\w+, whose keystore is not in .* restore it"):
        rotate(own)
    away.rename(keystore)
    assert rotate(own).transaction is None


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (r"\[hospitals\.hospital-a\]", '[ hospitals . "hospital-a" ] # ours'),
        (r'address = ("0x\w+")', r"  address   =  \1 # of 2026"),
        (r'keystore = "([^"]+)"', r"keystore = '\1'"),
    ],
)
def test_the_configuration_is_changed_however_it_is_written(own, pattern, line) -> None:
    own.file.write_text(re.sub(pattern, line, own.file.read_text(), count=1))
    comment = "# of 2026" in own.file.read_text()
    done = rotate(own)
    assert again(own)[1].address == done.following
    assert ("# of 2026" in own.file.read_text()) is comment


def test_a_configuration_that_must_be_changed_by_hand(own) -> None:
    text = own.file.read_text()
    begin = text.index("[hospitals.hospital-a]")
    end = text.index("[hospitals.hospital-b]")
    pairs = ", ".join(text[begin:end].strip().splitlines()[1:])
    own.file.write_text(f"hospitals.hospital-a = {{{pairs}}}\n{text[:begin]}{text[end:]}")
    with pytest.raises(
        ConfigFileError, match=r"write these lines into \[hospitals\.hospital-a\] yourself: address = "
    ) as told:
        rotate(own)
    values = dict(re.findall(r'(address|keystore) = ("[^"]+")', str(told.value)))
    changed = own.file.read_text()
    for name, value in values.items():
        changed = re.sub(rf'{name} = "[^"]+"', f"{name} = {value}", changed, count=1)
    own.file.write_text(changed)
    _, hospital = again(own)
    assert own.ledger.federation.is_member(load_account(hospital).address)


def test_a_key_in_a_signing_service_is_rotated_there(own) -> None:
    config, hospital = again(own)
    remote = replace(hospital, keystore=None, signer="http://127.0.0.1:9000")
    with pytest.raises(ConfigError, match="signing service"):
        rotation.rotate(remote, config, own.ledger.chain)


def test_the_new_keystore_costs_as_much_to_open_as_the_former(own) -> None:
    done = rotate(own)
    costs = {json.loads(file.read_text())["crypto"]["kdfparams"]["n"] for file in (done.keystore, done.former_keystore)}
    assert len(costs) == 1
