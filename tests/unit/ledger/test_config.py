"""medprov_ledger.config"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medprov_ledger.config import Config, TrustConfig, toml_text
from medprov_ledger.errors import ConfigError

TEXT = f"""
[federation]
id = "0x{"ab" * 32}"
name = "Nord"

[chain]
rpc = "http://127.0.0.1:8545"
chain_id = 31337
federation = "0x{"11" * 20}"
registry = "0x{"22" * 20}"
confirmations = 3
timeout = 5

[store]
kind = "blocks"
path = "blocks"

[directory]
discoverable = true
key = "0x{"cd" * 32}"

[hospitals.hospital-a]
address = "0x{"33" * 20}"
keystore = "a/keystore.json"
password_file = "a/password"
reader_key = "a/reader.pem"
state = "/var/lib/a"
"""


def write(folder: Path, text: str, name: str = "medprov.toml") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_a_consortium_key_is_a_file_beside_the_configuration(tmp_path: Path) -> None:
    assert Config.load(write(tmp_path, TEXT)).key_file is None
    named = Config.load(write(tmp_path, TEXT + '\n[watermark]\nkey_file = "consortium.key"\n'))
    assert named.key_file == tmp_path / "consortium.key"


def test_every_field(tmp_path: Path) -> None:
    file = write(tmp_path, TEXT)
    config = Config.load(file)
    assert config.path == file
    assert config.federation_id == b"\xab" * 32
    assert config.federation_name == "Nord"
    assert (config.rpc, config.chain_id) == ("http://127.0.0.1:8545", 31337)
    assert config.federation_address == "0x" + "11" * 20
    assert config.registry_address == "0x" + "22" * 20
    assert (config.confirmations, config.timeout) == (3, 5.0)
    assert config.store.kind == "blocks"
    assert config.store.path == tmp_path / "blocks"
    assert config.discoverable
    assert config.directory_key == b"\xcd" * 32
    hospital = config.hospital("hospital-a")
    assert hospital == config.hospital()
    assert hospital.keystore == tmp_path / "a" / "keystore.json"
    assert hospital.state == Path("/var/lib/a")
    assert "cdcd" not in repr(config), "the directory key must not reach a log"


def test_a_hospital_with_a_signing_service(tmp_path: Path) -> None:
    text = TEXT.replace('keystore = "a/keystore.json"', 'signer = "https://me:secret@signer:9000"')
    hospital = Config.load(write(tmp_path, text)).hospital()
    assert (hospital.keystore, hospital.signer) == (None, "https://me:secret@signer:9000")
    assert "secret" not in repr(hospital)
    with pytest.raises(ConfigError, match=r"hospitals\.hospital-a\.signer must be an http:// or https:// address"):
        Config.load(write(tmp_path, text.replace("https://me", "ftp://me")))
    with pytest.raises(ConfigError, match=r"hospitals\.hospital-a\.signer stands beside a keystore"):
        Config.load(write(tmp_path, text + 'keystore = "a/keystore.json"\n'))
    with pytest.raises(ConfigError, match=r"hospitals\.hospital-a\.keystore is missing"):
        Config.load(write(tmp_path, TEXT.replace('keystore = "a/keystore.json"', "")))


def test_fees_of_stuck_transactions(tmp_path: Path) -> None:
    plain = Config.load(write(tmp_path, TEXT))
    assert (plain.bump_after, plain.max_fee) == (60.0, 500 * 10**9)
    text = TEXT.replace("timeout = 5", "timeout = 5\nbump_after = 7.5\nmax_fee_gwei = 0.25")
    config = Config.load(write(tmp_path, text))
    assert (config.bump_after, config.max_fee) == (7.5, 250_000_000)
    with pytest.raises(ConfigError, match=r"chain\.max_fee_gwei must lie between"):
        Config.load(write(tmp_path, text.replace("0.25", "0")))


def test_defaults_and_verifier(tmp_path: Path) -> None:
    text = TEXT[: TEXT.index("[directory]")].replace("confirmations = 3\ntimeout = 5\n", "")
    config = Config.load(write(tmp_path, text))
    assert (config.confirmations, config.timeout, config.discoverable) == (1, 10.0, False)
    assert config.directory_key is None
    assert config.hospitals == {}
    with pytest.raises(ConfigError, match="known here: none"):
        config.hospital()


def test_directory_keys_of_several_epochs(tmp_path: Path) -> None:
    config = Config.load(write(tmp_path, TEXT))
    assert config.directory_keys == (config.directory_key,) and config.former_directory_keys == ()
    former = f'key = "0x{"cd" * 32}"\nformer = ["0x{"ce" * 32}", "0x{"CF" * 32}"]'
    config = Config.load(write(tmp_path, TEXT.replace(f'key = "0x{"cd" * 32}"', former)))
    assert config.directory_key == b"\xcd" * 32, "the first is the one for writing"
    assert config.directory_keys == (b"\xcd" * 32, b"\xce" * 32, b"\xcf" * 32)
    assert "cece" not in repr(config) and "\\xce" not in repr(config)
    without = Config.load(write(tmp_path, TEXT[: TEXT.index("[directory]")]))
    assert without.directory_keys == ()


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ('key = "0x{key}"\nformer = "0x{other}"', "directory.former has the wrong type (str)"),
        ('key = "0x{key}"\nformer = [7]', "directory.former must be a list of texts of 0x and 64"),
        ('key = "0x{key}"\nformer = ["{other}"]', "directory.former must be a list of texts of 0x and 64"),
        ('key = "0x{key}"\nformer = ["0x{key}"]', "directory.former names a key twice, or the present one"),
        ('key = "0x{key}"\nformer = ["0x{other}", "0x{other}"]', "directory.former names a key twice"),
        ('former = ["0x{other}"]', "directory.former needs a directory.key"),
    ],
)
def test_former_directory_keys_that_cannot_be(tmp_path: Path, lines: str, why: str) -> None:
    table = "[directory]\n" + lines.format(key="cd" * 32, other="ce" * 32) + "\n"
    text = TEXT[: TEXT.index("[directory]")] + table + TEXT[TEXT.index("[hospitals.") :]
    with pytest.raises(ConfigError, match=re.escape(why)):
        Config.load(write(tmp_path, text))


def test_ipfs_store(tmp_path: Path) -> None:
    text = TEXT.replace('kind = "blocks"\npath = "blocks"', 'kind = "ipfs"\napi = "/ip4/127.0.0.1/tcp/5001/http"')
    store = Config.load(write(tmp_path, text)).store
    assert (store.kind, store.path, store.api) == ("ipfs", None, "/ip4/127.0.0.1/tcp/5001/http")
    assert (store.daemons, store.copies) == ((store.api,), 1)


def test_several_ipfs_daemons(tmp_path: Path) -> None:
    old = 'kind = "blocks"\npath = "blocks"'
    assert old in TEXT
    apis = 'apis = ["/dns/a/tcp/5001", "http://b:5001", "http://c:5001"]'
    for copies, expected in (("", 3), ("copies = 2", 2)):
        store = Config.load(write(tmp_path, TEXT.replace(old, f'kind = "ipfs"\n{apis}\n{copies}'))).store
        assert store.daemons == ("/dns/a/tcp/5001", "http://b:5001", "http://c:5001")
        assert (store.api, store.copies) == (None, expected)
    for new, reason in [
        (f"{apis}\ncopies = 4", "store.copies must lie between 1 and 3"),
        (f"{apis}\ncopies = 0", "store.copies must lie between 1 and 3"),
        (f'{apis}\napi = "/dns/a/tcp/5001"', "store.api stands beside apis"),
        ('api = "/dns/a/tcp/5001"\ncopies = 2', "store.copies must lie between 1 and 1"),
        ("apis = []", "store.apis must name one daemon or more"),
        ('apis = ["http://b:1", "http://b:1"]', "store.apis must name one daemon or more, each of them once"),
        ('apis = "http://b:1"', "store.apis has the wrong type"),
        ("apis = [1]", "store.apis must be a list of texts"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(reason)):
            Config.load(write(tmp_path, TEXT.replace(old, f'kind = "ipfs"\n{new}')))


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("federation", "id"),
        ("federation", "name"),
        ("chain", "rpc"),
        ("chain", "chain_id"),
        ("chain", "federation"),
        ("chain", "registry"),
        ("store", "kind"),
        ("store", "path"),
        ("directory", "key"),
        ("hospitals.hospital-a", "address"),
        ("hospitals.hospital-a", "keystore"),
        ("hospitals.hospital-a", "password_file"),
        ("hospitals.hospital-a", "reader_key"),
        ("hospitals.hospital-a", "state"),
    ],
)
def test_missing_key_is_named(tmp_path: Path, table: str, key: str) -> None:
    begin = TEXT.index(f"[{table}]")
    text = TEXT[:begin] + re.sub(rf"(?m)^{key} = .*\n", "", TEXT[begin:], count=1)
    file = write(tmp_path, text)
    with pytest.raises(ConfigError, match=rf"{re.escape(str(file))}: {re.escape(table)}\.{key} is missing"):
        Config.load(file)


@pytest.mark.parametrize("table", ["federation", "chain", "store"])
def test_missing_table_is_named(tmp_path: Path, table: str) -> None:
    text = TEXT.replace(f"[{table}]", f"[other_{table}]")
    with pytest.raises(ConfigError, match=rf"\[{table}\] is missing"):
        Config.load(write(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("31337", '"31337"', "chain.chain_id has the wrong type"),
        ("31337", "0", "chain.chain_id must lie between"),
        ("confirmations = 3", "confirmations = true", "chain.confirmations has the wrong type"),
        ("confirmations = 3", "confirmations = 0", "chain.confirmations must lie between"),
        ("timeout = 5", "timeout = nan", "chain.timeout must lie between"),
        ("timeout = 5", "timeout = -1", "chain.timeout must lie between"),
        ("http://127.0.0.1:8545", "file:///etc/passwd", "chain.rpc must be an http"),
        ("http://127.0.0.1:8545", "http://127.0.0.1:99999", "chain.rpc has a port that is no number from 1 to 65535"),
        ("http://127.0.0.1:8545", "http://[::1", "chain.rpc names a malformed IPv6 address"),
        ("http://127.0.0.1:8545", "", "chain.rpc is empty"),
        ("0x" + "11" * 20, "0x" + "11" * 19, "chain.federation must be 0x and 40"),
        ("0x" + "ab" * 32, "ab" * 32, "federation.id must be 0x and 64"),
        ("0x" + "cd" * 32, "0x" + "zz" * 32, "directory.key must be 0x and 64"),
        ('kind = "blocks"', 'kind = "s3"', "store.kind is 's3'"),
        ("discoverable = true", 'discoverable = "yes"', "directory.discoverable has the wrong type"),
        ("[hospitals.hospital-a]", '[hospitals."../x"]', "hospital name"),
        ('"a/password"', '"a/pass\\u0000word"', "password_file is empty or holds a zero byte"),
        ("confirmations = 3", "confirmatons = 3", "chain.confirmatons is unknown; known here: rpc, chain_id"),
        ("[chain]", '[chain]\n"x\\ny" = 1', "chain.'x\\ny' is unknown"),
        ("discoverable = true", "discoverable = true\ndiscovery = 1", "directory.discovery is unknown"),
        ("[directory]", "[dictionary]\n[directory]", "[dictionary] is unknown; known are federation, chain"),
        ('name = "Nord"', 'name = "Nord"\nnames = 1', "federation.names is unknown; known here: id, name"),
        ("[directory]", "[watermark]\nkey = 1\n[directory]", "watermark.key is unknown; known here: key_file"),
        ("[directory]", "[watermark]\nkey_file = 1\n[directory]", "watermark.key_file has the wrong type (int)"),
        ("[directory]", '[watermark]\nkey_file = ""\n[directory]', "watermark.key_file is empty"),
        ('path = "blocks"', 'path = "blocks"\nfolder = "x"', "store.folder is unknown; known here: kind, path, api"),
        ('path = "blocks"', 'path = "blocks"\ncopies = 2', "store.copies is for IPFS daemons"),
        ('state = "/var/lib/a"', 'state = "a"\nstat = 1', "hospitals.hospital-a.stat is unknown"),
    ],
)
def test_malformed_value_is_named(tmp_path: Path, old: str, new: str, names: str) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError, match=re.escape(names)):
        Config.load(write(tmp_path, TEXT.replace(old, new)))


def test_hospitals_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[hospitals\] is not a table"):
        Config.load(write(tmp_path, "hospitals = 3\n" + TEXT[: TEXT.index("[hospitals")]))


def test_unknown_hospital(tmp_path: Path) -> None:
    config = Config.load(write(tmp_path, TEXT))
    with pytest.raises(ConfigError, match="no hospital 'b' here; known: hospital-a"):
        config.hospital("b")


def test_several_hospitals_need_a_name(tmp_path: Path) -> None:
    text = TEXT + TEXT[TEXT.index("[hospitals") :].replace("hospital-a", "hospital-b").replace("/lib/a", "/lib/b")
    with pytest.raises(ConfigError, match="known here: hospital-a, hospital-b"):
        Config.load(write(tmp_path, text)).hospital()


@pytest.mark.parametrize("state", ["/var/lib/a", "/var/lib/../lib/a/", "link"])
def test_two_hospitals_in_one_state_folder(tmp_path: Path, state: str) -> None:
    (tmp_path / "link").symlink_to("/var/lib/a")
    second = TEXT[TEXT.index("[hospitals") :].replace("hospital-a", "hospital-b").replace("/var/lib/a", state)
    with pytest.raises(ConfigError, match=r"hospitals\.hospital-b\.state is the folder of hospital-a too"):
        Config.load(write(tmp_path, TEXT + second))


def test_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "medprov.toml"
    file.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert Config.load(file).federation_name == "Nord"


def test_the_node_s_password_is_not_shown(tmp_path: Path) -> None:
    config = Config.load(write(tmp_path, TEXT.replace("127.0.0.1:8545", "me:secret@127.0.0.1:8545/key?k=key")))
    assert config.rpc == "http://me:secret@127.0.0.1:8545/key?k=key"
    assert config.rpc_shown == "http://127.0.0.1:8545/..."
    assert "secret" not in repr(config)


def test_search_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEDPROV_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="no configuration"):
        Config.load()
    write(tmp_path, TEXT.replace("Nord", "hidden"), ".medprov/medprov.toml")
    assert Config.load().federation_name == "hidden"
    write(tmp_path, TEXT.replace("Nord", "here"))
    assert Config.load().federation_name == "here"
    monkeypatch.setenv("MEDPROV_CONFIG", str(write(tmp_path, TEXT.replace("Nord", "env"), "e/x.toml")))
    assert Config.load().federation_name == "env"
    assert Config.load(write(tmp_path, TEXT.replace("Nord", "argument"), "a.toml")).federation_name == "argument"
    monkeypatch.setenv("MEDPROV_CONFIG", str(tmp_path / "nowhere.toml"))
    with pytest.raises(ConfigError, match=r"nowhere\.toml: no such configuration file"):
        Config.load()


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[chain", b"[" * 5000, b"a=" + b"[" * 100_000, b"a=" + b"9" * 5000]
)
def test_unusable_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "medprov.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(file))) as caught:
        Config.load(file)
    assert "\n" not in str(caught.value)


@given(st.text())
def test_any_text_is_written_as_toml_reads_it(text: str) -> None:
    assert tomllib.loads(f"a = {toml_text(text)}") == {"a": text}


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Config.load(tmp_path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, len(TEXT)), length=st.integers(0, 40), text=st.text(max_size=20))
def test_damaged_file_gives_config_or_error(tmp_path: Path, start: int, length: int, text: str) -> None:
    file = tmp_path / "medprov.toml"
    file.write_bytes((TEXT[:start] + text + TEXT[start + length :]).encode("utf-8", "replace"))
    try:
        config = Config.load(file)
    except ConfigError as error:
        assert "\n" not in str(error)
        assert str(file) in str(error)
    else:
        assert len(config.federation_id) == 32


TRUST = f'\n[trust]\nmembers = ["0x{"44" * 20}", "0x{"55" * 20}"]\nthreshold = 2\ncheckpoints = ["c.json"]\n'


def test_whose_word_counts_without_the_chain(tmp_path: Path) -> None:
    assert Config.load(write(tmp_path, TEXT)).trust == TrustConfig()
    trust = Config.load(write(tmp_path, TEXT + TRUST)).trust
    assert trust == TrustConfig(("0x" + "44" * 20, "0x" + "55" * 20), 2, (tmp_path / "c.json",))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("threshold = 2", "threshold = 3", "trust.threshold must lie between 1 and 2"),
        ("threshold = 2", "threshold = 0", "trust.threshold must lie between 1 and 2"),
        ("threshold = 2\n", "", "trust.threshold is missing"),
        ("threshold", "treshold", "trust.treshold is unknown"),
        ("0x" + "44" * 20, "0x44", "trust.members must be a list of addresses"),
        ("0x" + "44" * 20, "0x" + "55" * 20, "trust.members names an account twice"),
        ("members", "#", "trust.members is missing"),
        ('["c.json"]', '"c.json"', "trust.checkpoints has the wrong type"),
        ('["c.json"]', '[""]', "trust.checkpoints must be a list of texts"),
    ],
)
def test_a_wrong_trust_is_named(tmp_path: Path, old: str, new: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        Config.load(write(tmp_path, TEXT + TRUST.replace(old, new, 1)))
    assert "\n" not in str(caught.value)
