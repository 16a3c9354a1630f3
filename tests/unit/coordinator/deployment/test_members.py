import json
from pathlib import Path

import pytest
from eth_account import Account

from medprov_coordinator.deployment import bundle, certificates, members
from medprov_coordinator.deployment.control import Node, pem
from medprov_coordinator.errors import EnrolmentError, UnreleasedError
from medprov_ledger.app_code import bundle_cid
from medprov_ledger.enrolment import StartKit
from medprov_ledger.errors import RecordError
from medprov_ledger.federation import Federation, Status
from medprov_ledger.keys import load_account
from medprov_ledger.store import open_store
from medprov_node.joining import enrolling
from tests.unit.coordinator.deployment.conftest import Consortium, MakeConsortium


class FakeSuperLink:
    """Registrations in memory, in place of the SuperLink's Control interface."""

    nodes_there: dict[int, Node]

    def __init__(self, deployment: object) -> None:
        self.there = FakeSuperLink.nodes_there

    def nodes(self) -> list[Node]:
        return list(self.there.values())

    def register(self, name: str, key: str) -> int:
        for node in self.there.values():
            if node.public_key == pem(key):
                return node.number
        number = 100 + len(self.there)
        self.there[number] = Node(number, name, "registered", pem(key))
        return number

    def unregister(self, number: int) -> None:
        del self.there[number]

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def superlink(monkeypatch: pytest.MonkeyPatch) -> type[FakeSuperLink]:
    FakeSuperLink.nodes_there = {}
    monkeypatch.setattr(members, "SuperLink", FakeSuperLink)
    return FakeSuperLink


def ready(world: Consortium) -> Consortium:
    made = world.deployment
    certificates.ensure(made.ca, made.certificate, made.key, made.hosts)
    return world


def new_request(folder: Path, name: str = "hospital-d") -> Path:
    enrolling.request(folder, name)
    return folder / enrolling.REQUEST


def vote_of(world: Consortium, name: str) -> Account:
    return load_account(world.deployment.ledger.hospital(name))


def test_a_new_hospital_is_let_in(make_consortium: MakeConsortium, tmp_path: Path) -> None:
    world = ready(make_consortium())
    request = new_request(tmp_path / "d")
    done = members.enroll(world.deployment, request, tmp_path / "kit")
    assert (done.member, done.voted, done.threshold) == (True, True, 1)
    kit = StartKit.read(tmp_path / "kit")
    assert kit == done.kit
    assert kit.signer == world.deployment.hospital.address
    assert (kit.node_id, kit.superlink) == (100, "127.0.0.1:29999")
    assert kit.app == bundle.bundle_hash()
    assert kit.ca == world.deployment.ca.read_text()
    assert json.loads(request.read_bytes())["address"] == kit.address
    # again: the same number, no second vote
    again = members.enroll(world.deployment, request, tmp_path / "kit")
    assert (again.member, again.voted, again.kit.node_id) == (True, False, 100)


def test_several_members_have_to_vote(make_consortium: MakeConsortium, tmp_path: Path) -> None:
    world = ready(make_consortium(threshold=2))
    request = new_request(tmp_path / "d")
    first = members.enroll(world.deployment, request, tmp_path / "kit")
    assert (first.member, first.voted, first.threshold) == (False, True, 2)
    assert members.enroll(world.deployment, request, tmp_path / "kit").voted is False
    from medprov_node.joining.voting import vote

    ledger = world.deployment.ledger
    assert vote("join", str(request), ledger.hospital("hospital-b"), ledger) == (first.kit.address, True, 2)


def test_a_member_gets_a_kit_without_a_vote(make_consortium: MakeConsortium, tmp_path: Path) -> None:
    world = ready(make_consortium(threshold=2))
    ledger = world.deployment.ledger
    enrolling.request(tmp_path / "b", member=ledger.hospital("hospital-b"))
    done = members.enroll(world.deployment, tmp_path / "b" / enrolling.REQUEST, tmp_path / "kit")
    assert (done.member, done.voted) == (True, False)


def test_who_cannot_be_enrolled(
    make_consortium: MakeConsortium, tmp_path: Path, superlink: type[FakeSuperLink]
) -> None:
    world = ready(make_consortium())
    ledger, kit = world.deployment.ledger, tmp_path / "kit"
    house = ledger.hospital("hospital-b")
    enrolling.request(tmp_path / "b", member=house)
    request = tmp_path / "b" / enrolling.REQUEST
    with pytest.raises(RecordError, match="nowhere: cannot be read"):
        members.enroll(world.deployment, tmp_path / "nowhere", kit)
    changed = tmp_path / "changed"
    changed.write_bytes(request.read_bytes().replace(b"hospital-b", b"hospital-x"))
    with pytest.raises(RecordError, match="changed: join request: not signed by"):
        members.enroll(world.deployment, changed, kit)
    world.federation.suspend(house.address, vote_of(world, "hospital-a"))
    with pytest.raises(EnrolmentError, match="is suspended in the federation; the members must vote"):
        members.enroll(world.deployment, request, kit)
    assert not superlink.nodes_there
    assert not kit.exists()


def test_another_name_for_a_member(make_consortium: MakeConsortium, tmp_path: Path) -> None:
    world = ready(make_consortium())
    house = world.deployment.ledger.hospital("hospital-b")
    from medprov_ledger import enrolment
    from medprov_node.joining import node_key

    (tmp_path / "b").mkdir()
    other = enrolment.request("hospital-z", load_account(house), bytes(32), node_key.create(tmp_path / "b"))
    (tmp_path / "request").write_bytes(other.to_bytes())
    with pytest.raises(EnrolmentError, match="is a member under another name than hospital-z"):
        members.enroll(world.deployment, tmp_path / "request", tmp_path / "kit")


def test_a_coordinator_that_is_no_member(make_consortium: MakeConsortium, tmp_path: Path) -> None:
    world = ready(make_consortium())
    world.federation.leave(world.deployment.hospital.address, vote_of(world, "hospital-b"))
    for act in (
        lambda: members.enroll(world.deployment, new_request(tmp_path / "d"), tmp_path / "kit"),
        lambda: members.check_ready(world.deployment),
    ):
        with pytest.raises(EnrolmentError, match=r"hospital-a \(0x\w+\): is no active member"):
            act()


@pytest.mark.parametrize(
    ("former", "new"),
    [
        ("http://127.0.0.1:1", "http://user:sesame@127.0.0.1:1"),
        ('kind = "blocks"\npath = "blocks"', 'kind = "ipfs"\napi = "https://user:sesame@ipfs.example"'),
    ],
)
def test_no_kit_tells_a_password(make_consortium: MakeConsortium, tmp_path: Path, former: str, new: str) -> None:
    world = ready(make_consortium())
    world.ledger.write_text(world.ledger.read_text().replace(former, new))
    with pytest.raises(EnrolmentError, match="may hold a key, which no start kit may tell") as caught:
        members.enroll(world.deployment, new_request(tmp_path / "d"), tmp_path / "kit")
    assert "sesame" not in str(caught.value)


def test_a_kit_that_cannot_be_written(make_consortium: MakeConsortium, tmp_path: Path) -> None:
    world = ready(make_consortium())
    with pytest.raises(EnrolmentError, match=r"absent/kit: cannot be written .*; run the same command again"):
        members.enroll(world.deployment, new_request(tmp_path / "d"), tmp_path / "absent" / "kit")


@pytest.mark.parametrize("by", ["name", "address"])
def test_a_member_is_shut_out(
    make_consortium: MakeConsortium, tmp_path: Path, superlink: type[FakeSuperLink], by: str
) -> None:
    world = ready(make_consortium())
    house = world.deployment.ledger.hospital("hospital-b")
    enrolling.request(tmp_path / "b", member=house)
    members.enroll(world.deployment, tmp_path / "b" / enrolling.REQUEST, tmp_path / "kit")
    done = members.revoke(world.deployment, house.name if by == "name" else house.address.lower())
    assert (done.name, done.address, done.nodes, done.suspended) == ("hospital-b", house.address, (100,), True)
    assert not superlink.nodes_there
    found = world.federation.member(house.address)
    assert found is not None
    assert found.status is Status.SUSPENDED
    assert members.revoke(world.deployment, house.name).nodes == ()


def test_revocation_with_several_votes(make_consortium: MakeConsortium) -> None:
    world = ready(make_consortium(threshold=2))
    for _ in range(2):
        done = members.revoke(world.deployment, "hospital-b")
        assert (done.suspended, done.threshold, done.nodes) == (False, 2, ())


def test_a_vote_that_the_contract_refuses(make_consortium: MakeConsortium) -> None:
    world = ready(make_consortium(threshold=3))
    with pytest.raises(EnrolmentError, match=r"its node is shut out, but the vote was not cast: .*BadThreshold"):
        members.revoke(world.deployment, "hospital-b")


def test_a_node_without_membership_is_shut_out(
    make_consortium: MakeConsortium, tmp_path: Path, superlink: type[FakeSuperLink]
) -> None:
    world = ready(make_consortium(threshold=2))
    members.enroll(world.deployment, new_request(tmp_path / "d"), tmp_path / "kit")
    done = members.revoke(world.deployment, "hospital-d")
    assert (done.address, done.nodes) == (None, (100,))
    assert not superlink.nodes_there


def test_who_cannot_be_shut_out(make_consortium: MakeConsortium) -> None:
    world = ready(make_consortium())
    with pytest.raises(EnrolmentError, match="hospital-a: is this coordinator's own hospital"):
        members.revoke(world.deployment, "hospital-a")
    with pytest.raises(EnrolmentError, match="hospital-q: no member and no enrolled node"):
        members.revoke(world.deployment, "hospital-q")


def test_a_bundle_is_released_by_as_many_as_it_takes(make_consortium: MakeConsortium) -> None:
    world = ready(make_consortium(threshold=2))
    with pytest.raises(UnreleasedError, match=r"app bundle 0x\w{64}: the members have not released it.*\(2 needed\)"):
        members.check_ready(world.deployment)
    assert members.approve(world.deployment)
    assert members.approve(world.deployment)
    assert isinstance(members.check_ready(world.deployment), Federation)
    wanted = bundle.bundle_hash()
    assert open_store(world.deployment.ledger).get(bundle_cid(wanted)) == bundle.build()


def test_one_approval_of_two(make_consortium: MakeConsortium) -> None:
    world = ready(make_consortium(threshold=2, keys_of=("hospital-a",)))
    assert not members.approve(world.deployment)
    # the second time it is not an error either
    assert not members.approve(world.deployment)
