from pathlib import Path

import pytest

from medprov_coordinator.deployment.config import INITIAL, PLACES, Deployment
from medprov_coordinator.errors import SettingsError
from medprov_ledger.errors import ConfigError

LEDGER = """
[federation]
id = "0x1111111111111111111111111111111111111111111111111111111111111111"
name = "test"
[chain]
rpc = "http://127.0.0.1:8545"
chain_id = 1
federation = "0x0000000000000000000000000000000000000001"
registry = "0x0000000000000000000000000000000000000002"
[store]
kind = "blocks"
path = "blocks"
[hospitals.hospital-a]
address = "0x0000000000000000000000000000000000000003"
keystore = "k"
password_file = "p"
reader_key = "r"
state = "s"
"""
LEAST = '[coordinator]\nmedprov = "medprov.toml"\nstate = "state"\n'


def load(folder: Path, text: str) -> Deployment:
    (folder / "medprov.toml").write_text(LEDGER)
    (folder / "coordinator.toml").write_text(text)
    return Deployment.load(folder / "coordinator.toml")


def test_the_least(tmp_path: Path) -> None:
    made = load(tmp_path, LEAST)
    assert made.hospital.name == "hospital-a"
    assert (made.host, made.port, made.address, made.local) == ("127.0.0.1", 9092, "127.0.0.1:9092", "127.0.0.1:9092")
    assert made.hosts == ("127.0.0.1",)
    assert made.own_certificates
    assert made.certificate == tmp_path / "state" / "certificates" / "server.pem"
    assert made.initial is None


def test_everything(tmp_path: Path) -> None:
    made = load(
        tmp_path,
        LEAST
        + 'hospital = "hospital-a"\nrestarts = 3\n[superlink]\nlisten = "0.0.0.0:1234"\naddress = "c.example:443"\n'
        'names = ["10.0.0.1"]\nca = "ca"\ncertificate = "cert"\nkey = "key"\n'
        '[run]\nrounds = 7\nlocal-steps = 2\nrate = 1\nrule = "median"\ninitial-weights = "w.safetensors"\n',
    )
    assert made.restarts == 3
    assert made.local == "127.0.0.1:1234"
    assert made.hosts == ("c.example", "127.0.0.1", "10.0.0.1")
    assert not made.own_certificates
    assert (made.ca, made.key) == (tmp_path / "ca", tmp_path / "key")
    assert (made.run.rounds, made.run.local_steps, made.run.settings.rate) == (7, 2, 1.0)
    assert made.initial == tmp_path / "w.safetensors"


def test_all_addresses_of_this_machine_are_reached_by_its_own(tmp_path: Path) -> None:
    made = load(tmp_path, LEAST + '[superlink]\nlisten = "[::]:5"\naddress = "[2001:db8::1]:5"\n')
    assert (made.host, made.local) == ("::", "[::1]:5")
    assert made.hosts == ("2001:db8::1", "::1")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x", r"coordinator\.toml: not valid TOML"),
        ("", r"\[coordinator\] is missing"),
        ('[coordinator]\nstate = "s"\n', r"coordinator\.medprov is missing"),
        (LEAST + "surplus = 1\n", r"coordinator\.surplus is unknown; known here: medprov, hospital, state, restarts"),
        (LEAST + "[superlink]\nport = 1\n", r"superlink\.port is unknown"),
        (LEAST + "[run]\nround = 1\n", r"run\.round is unknown; known here: .*rounds,"),
        (LEAST + "[other]\n", r"file\.other is unknown; known here: coordinator, superlink, run"),
        (LEAST + '[superlink]\nlisten = "9092"\n', r"superlink\.listen host:port is needed"),
        (LEAST + '[superlink]\nca = "ca"\n', "name all three or none"),
        (LEAST + "restarts = true\n", r"coordinator\.restarts has the wrong type"),
        (LEAST + 'hospital = "b"\n', "no hospital 'b' here; known: hospital-a"),
    ],
)
def test_a_wrong_file_is_refused_with_the_key(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "why"),
    [("rounds = 0", "run: rounds is 0"), ('rounds = "2"', "run: run config: rounds is '2'"), ("trim = nan", "trim")],
)
def test_a_setting_of_the_run_out_of_range(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why) as caught:
        load(tmp_path, LEAST + "[run]\n" + text + "\n")
    assert str(caught.value).startswith(str(tmp_path / "coordinator.toml"))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; 'medprov-coordinator init' writes one"):
        Deployment.load(tmp_path / "coordinator.toml")


def test_places_are_settings_that_a_file_does_not_have(tmp_path: Path) -> None:
    for key in set(PLACES) - {INITIAL}:
        with pytest.raises(ConfigError, match=f"run.{key} is unknown"):
            load(tmp_path, LEAST + f'[run]\n{key} = "/etc"\n')


def test_members_are_not_told_the_coordinator_s_key_for_the_chain(tmp_path: Path) -> None:
    assert load(tmp_path, LEAST).rpc == "http://127.0.0.1:8545"
    text = LEAST + '[superlink]\nrpc = "http://10.0.0.2:8545"\n'
    assert load(tmp_path, text).rpc == "http://10.0.0.2:8545"
    with pytest.raises(ConfigError, match=r"superlink\.rpc must be an http:// or https:// address"):
        load(tmp_path, LEAST + '[superlink]\nrpc = "chain"\n')
    (tmp_path / "coordinator.toml").write_text(text)
    for rpc in ("https://user:pass@node.example", "https://node.example/v3/0123456789abcdef"):
        (tmp_path / "medprov.toml").write_text(LEDGER.replace("http://127.0.0.1:8545", rpc))
        assert Deployment.load(tmp_path / "coordinator.toml").rpc == "http://10.0.0.2:8545"
        (tmp_path / "coordinator.toml").write_text(LEAST)
        assert Deployment.load(tmp_path / "coordinator.toml").rpc == ""
        (tmp_path / "coordinator.toml").write_text(text)
