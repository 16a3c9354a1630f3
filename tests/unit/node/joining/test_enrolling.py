import stat
from dataclasses import replace
from pathlib import Path

import pytest

from medprov_ledger.config import Config
from medprov_ledger.enrolment import JoinRequest, StartKit, sign
from medprov_ledger.errors import ChainError, ConfigError, RecordError
from medprov_ledger.keys import KEYSTORE, load_account
from medprov_node.errors import JoinError
from medprov_node.joining import enrolling, node_key
from tests.unit.ledger.test_enrolment import CA
from tests.unit.node.conftest import House

NAME = 'a "quoted" name, \U0001f3e5, \x7f'


def make_kit(house: House, request: JoinRequest, **changes: object) -> StartKit:
    config = house.config
    kit = StartKit(
        federation_id=config.federation_id,
        federation_name=NAME,
        name=request.name,
        address=request.address,
        node_id=42,
        superlink="127.0.0.1:9092",
        ca=CA,
        rpc=config.rpc,
        chain_id=config.chain_id,
        federation=config.federation_address,
        registry=config.registry_address,
        confirmations=1,
        store={"kind": "ipfs", "api": "/ip4/127.0.0.1/tcp/5001/http"},
        directory_key=None,
        app=bytes(32),
    )
    return sign(replace(kit, **changes), load_account(config.hospital("hospital-a")))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def test_a_new_hospital(house: House, tmp_path: Path, images: Path) -> None:
    home = tmp_path / "home"
    made = enrolling.request(home, "hospital-d")
    assert JoinRequest.read(home / "request.json") == made
    for name in ("keystore.json", "password", "reader.pem", "node-key"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
        secret = (home / name).read_text().strip()
        assert secret not in (home / "request.json").read_text()
    (tmp_path / "kit").write_bytes(make_kit(house, made).to_bytes())
    site, kit = enrolling.take(tmp_path / "kit", home, images, federation_id=house.config.federation_id)
    assert (site.node, site.address, site.hospital.name) == (42, "127.0.0.1:9092", "hospital-d")
    assert site.ca.read_text() == kit.ca == CA
    config = Config.load(home / "medprov.toml")
    assert config.federation_name == NAME
    assert load_account(config.hospital("hospital-d")).address == made.address
    assert node_key.load(site.key)
    # a newer kit may be taken later
    (tmp_path / "kit").write_bytes(make_kit(house, made, node_id=43).to_bytes())
    assert enrolling.take(tmp_path / "kit", home, images)[0].node == 43


def test_a_hospital_that_has_its_keys(house: House, tmp_path: Path, images: Path) -> None:
    home = tmp_path / "home"
    made = enrolling.request(home, member=house.config.hospital("hospital-b"))
    assert made.address == house.config.hospital("hospital-b").address
    assert not (home / KEYSTORE).exists()
    (tmp_path / "kit").write_bytes(make_kit(house, made).to_bytes())
    with pytest.raises(JoinError, match="has no account of its own; name the hospital's"):
        enrolling.take(tmp_path / "kit", home, images)
    site, _ = enrolling.take(tmp_path / "kit", home, images, config=house.file)
    assert site.ledger.path.resolve() == house.file.resolve()
    assert not (home / "medprov.toml").exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_store_of_blocks(house: House, tmp_path: Path, images: Path, there: bool) -> None:
    made = enrolling.request(tmp_path / "home", "hospital-d")
    (tmp_path / "blocks").mkdir()
    place = tmp_path / ("blocks" if there else "elsewhere")
    kit = make_kit(house, made, store={"kind": "blocks", "path": str(place)}, directory_key=bytes(range(32)))
    (tmp_path / "kit").write_bytes(kit.to_bytes())
    site, _ = enrolling.take(tmp_path / "kit", tmp_path / "home", images)
    assert site.ledger.store.path == (place if there else tmp_path / "home" / "blocks")
    assert site.ledger.store.path.is_dir()
    assert site.ledger.directory_key == bytes(range(32))


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    enrolling.request(tmp_path, "hospital-d")
    with pytest.raises(JoinError, match=r"request\.json: exists already"):
        enrolling.request(tmp_path, "hospital-d")
    (tmp_path / "request.json").unlink()
    with pytest.raises(ConfigError, match="exists already; keys are never overwritten"):
        enrolling.request(tmp_path, "hospital-d")


def test_a_name_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="name: 1 to 64 letters"):
        enrolling.request(tmp_path / "home", "no name")
    assert not (tmp_path / "home").exists()


def test_a_remote_signer_cannot_sign_updates(house: House, tmp_path: Path) -> None:
    member = replace(house.config.hospital("hospital-b"), keystore=None, signer="http://127.0.0.1:1")
    with pytest.raises(JoinError, match="hospital-b: its key is kept by a signing service"):
        enrolling.request(tmp_path / "home", member=member)


def refused(house: House, tmp_path: Path, images: Path, kit: bytes, why: str, **more: object) -> None:
    (tmp_path / "kit").write_bytes(kit)
    with pytest.raises((JoinError, RecordError, ChainError), match=why):
        enrolling.take(tmp_path / "kit", tmp_path / "home", images, **more)
    assert not list((tmp_path / "home").glob("*.toml"))
    assert not list((tmp_path / "home").glob(".*"))


def test_kits_that_are_refused(house: House, tmp_path: Path, images: Path) -> None:
    made = enrolling.request(tmp_path / "home", "hospital-d")
    good = make_kit(house, made)
    name, address = made.name, made.address
    refused(house, tmp_path, images, b"", "kit: start kit: is not JSON")
    # a changed byte gives another signer
    changed = good.to_bytes().replace(b":9092", b":9093")
    refused(house, tmp_path, images, changed, "or changed since, and 0x.* is no active member")
    broken = replace(good, signature=bytes(64) + b"\x1b").to_bytes()
    refused(house, tmp_path, images, broken, "kit: ")
    stranger = sign(good, load_account(Config.load(_own(tmp_path, house, made)).hospital(name)))
    refused(house, tmp_path, images, stranger.to_bytes(), f"signed by {address} or changed since")
    other = make_kit(house, made, name="hospital-e")
    refused(house, tmp_path, images, other.to_bytes(), "is for hospital-e .*, not for hospital-d")
    wrong = bytes(32)
    refused(house, tmp_path, images, good.to_bytes(), "is for another federation", federation_id=wrong)
    foreign = make_kit(house, made, federation_id=wrong)
    refused(house, tmp_path, images, foreign.to_bytes(), "is not the id of the contract")
    refused(house, tmp_path, images, foreign.to_bytes(), "is for another federation than", config=house.file)
    refused(house, tmp_path, tmp_path / "none", good.to_bytes(), "none: no such folder of images")


def _own(tmp_path: Path, house: House, made: JoinRequest) -> Path:
    """A configuration that opens the new hospital's own account."""
    text = house.file.read_text().partition("[hospitals")[0]
    home = tmp_path / "home"
    text += (
        f'[hospitals.{made.name}]\naddress = "{made.address}"\nkeystore = "{home}/keystore.json"\n'
        f'password_file = "{home}/password"\nreader_key = "{home}/reader.pem"\nstate = "s"\n'
    )
    (tmp_path / "own.toml").write_text(text)
    return tmp_path / "own.toml"


def test_the_wrong_folder(house: House, tmp_path: Path, images: Path) -> None:
    made = enrolling.request(tmp_path / "home", "hospital-d")
    (tmp_path / "kit").write_bytes(make_kit(house, made).to_bytes())
    with pytest.raises(JoinError, match=r"request\.json: cannot be read .*--home is the folder of"):
        enrolling.take(tmp_path / "kit", tmp_path, images)
