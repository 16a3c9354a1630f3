from collections.abc import Callable
from pathlib import Path

import pytest
from web3 import Web3

from medprov_ledger.chain import Chain
from medprov_ledger.errors import RecordError, RevertedError
from medprov_node.errors import JoinError
from medprov_node.joining import enrolling
from medprov_node.joining.voting import approve_app, vote
from tests.unit.node.conftest import House


def test_the_four_motions(house: House, tmp_path: Path) -> None:
    config = house.config
    voter, other = config.hospital("hospital-a"), config.hospital("hospital-b")
    made = enrolling.request(tmp_path / "d", "hospital-d")
    assert vote("join", str(tmp_path / "d" / "request.json"), voter, config) == (made.address, True, 1)
    assert vote("suspend", "hospital-b", voter, config) == (other.address, True, 1)
    assert vote("resume", other.address.lower(), voter, config) == (other.address, True, 1)
    assert vote("leave", "hospital-d", voter, config) == (made.address, True, 1)
    assert house.ledger.federation.is_member(other.address)
    assert not house.ledger.federation.is_member(made.address)


def test_votes_that_make_no_sense(house: House, tmp_path: Path) -> None:
    config = house.config
    voter = config.hospital("hospital-a")
    with pytest.raises(JoinError, match="hospital-q: no member of that account or name"):
        vote("suspend", "hospital-q", voter, config)
    with pytest.raises(RecordError, match="nothing: cannot be read"):
        vote("join", str(tmp_path / "nothing"), voter, config)
    with pytest.raises(RevertedError):
        vote("resume", "hospital-b", voter, config)


def test_a_vote_that_does_not_decide(
    make_house: Callable[..., House], node_tester: Web3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Chain, "connect", lambda config: Chain(config, node_tester))
    house = make_house(release=False)
    voter = house.config.hospital("hospital-a")
    from medprov_ledger.keys import load_account

    house.ledger.federation.set_threshold(2, load_account(voter))
    made = enrolling.request(tmp_path / "d", "hospital-d")
    assert vote("join", str(tmp_path / "d" / "request.json"), voter, house.config) == (made.address, False, 2)


def test_approval(house: House) -> None:
    config, wanted = house.config, "0x" + "ab" * 32
    voter = config.hospital("hospital-a")
    assert approve_app(wanted, voter, config) == (True, 1)
    assert approve_app(wanted, voter, config) == (True, 1)


@pytest.mark.parametrize("text", ["", "0x12", "0x" + "zz" * 32, "ab" * 33])
def test_what_is_no_hash(house: House, text: str) -> None:
    with pytest.raises(JoinError, match="is no hash of a bundle; 0x and 64 hexadecimal digits are needed"):
        approve_app(text, house.config.hospital("hospital-a"), house.config)
