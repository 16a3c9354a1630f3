import errno
import io
import json
import re
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medprov_ledger import proof_file
from medprov_ledger.config import Config, TrustConfig
from medprov_ledger.errors import ConfigError, ContractAbsentError, WrongChainError
from medprov_sdk import Verdict, Verifier, cli
from medprov_sdk.links import Links
from medprov_sdk.offline import Home, ProofView, Trust
from medprov_watermark import media
from medprov_watermark.errors import WeightsError
from medprov_watermark.geometry import Geometry, Warp
from medprov_watermark.key_file import read_key


@pytest.fixture
def picture(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A released picture in a file, and a command line whose verifier knows it."""
    image = world.phantom()
    file = tmp_path / "a.png"
    Image.fromarray(image).save(file)
    world.release(image, world.alice, media.attributes(media.read(file)))

    def from_config(path: Path | None = None, key_file: Path | None = None) -> Verifier:
        if key_file is not None:
            read_key(key_file)
        if path is not None:
            raise ConfigError(f"{path}: no such configuration file;\n'medprov-ledger up' writes one")
        verifier: Verifier = world.verifier
        return verifier

    monkeypatch.setattr(Verifier, "from_config", from_config)
    return file


def one_line(error: str) -> str:
    assert error.startswith("medprov: ") and error.count("\n") == 1 and "Traceback" not in error
    return error


def test_authentic_for_people(picture: Path, world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(picture)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("a.png: authentic\n") and world.alice.address in out and "(alice)" in out
    assert "\n  metadata: matches: all 7 recorded attributes of the file are as released\n" in out
    assert err == ""


def test_a_header_that_differs_is_told_and_does_not_change_the_verdict(
    picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.open(picture).save(picture, dpi=(30, 300))
    assert cli.main(["verify", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "\n  metadata: differs: 1 of 7 recorded attributes of the file are not as released: PNG pHYs\n" in out


def test_json_for_programs(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "--json", str(picture)]) == 0
    out = json.loads(capsys.readouterr().out)
    assert (out["verdict"], out["source"]) == ("authentic", "a.png")


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_exit_code_is_the_verdicts(
    picture: Path, world: Any, monkeypatch: pytest.MonkeyPatch, verdict: Verdict
) -> None:
    result = replace(world.verifier.verify(picture), verdict=verdict)
    monkeypatch.setattr(world.verifier, "verify", lambda *_, **__: result)
    assert cli.main(["verify", str(picture)]) == verdict.exit_code


def test_a_changed_sample_is_told_with_its_place(picture: Path, world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    image = np.asarray(Image.open(picture)).copy()
    image[70, 40] ^= 1
    world.reader.say(image, world.payload)
    Image.fromarray(image).save(picture)
    assert cli.main(["verify", str(picture)]) == 20
    assert "differs: 1 blocks" in capsys.readouterr().out


def test_the_report_is_written(picture: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    assert cli.main(["verify", str(picture), "--report", str(report)]) == 0
    assert "authentic" in report.read_text(encoding="utf-8")


def test_the_report_never_replaces_the_picture(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = picture.read_bytes()
    assert cli.main(["verify", str(picture), "--report", str(picture)]) == 2
    assert "a.png" in one_line(capsys.readouterr().err)
    assert picture.read_bytes() == before


def test_a_report_that_cannot_be_written(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(picture), "--report", str(tmp_path / "nowhere" / "r.html")]) == 2
    assert "r.html" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("name", ["notes.txt", "scan.png", "report", "link"])
def test_the_report_replaces_nothing_but_a_report(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file = tmp_path / name
    if name == "link":
        file.symlink_to(tmp_path / "nowhere")
    else:
        file.write_bytes(b"mine")
    assert cli.main(["verify", str(picture), "--report", str(file)]) == 2
    assert f"{file}: exists and is no .html file" in one_line(capsys.readouterr().err)
    assert file.is_symlink() or file.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["r.html", "r.HTM", "r"])
def test_the_report_appears_whole(picture: Path, tmp_path: Path, name: str) -> None:
    report = tmp_path / name
    if report.suffix:
        report.write_text("an older one")
        report.with_name("hard").hardlink_to(report)
    assert cli.main(["verify", str(picture), "--report", str(report)]) == 0
    assert report.read_text(encoding="utf-8").endswith("</html>\n")
    if report.suffix:
        assert report.with_name("hard").read_text() == "an older one", "it was renamed into its place"
    assert not list(tmp_path.glob(".*.part"))


def test_a_report_that_fails_leaves_the_older_one(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    report = tmp_path / "r.html"
    report.write_text("an older one")
    monkeypatch.setattr("os.fsync", full)
    assert cli.main(["verify", str(picture), "--report", str(report)]) == 2
    assert "r.html: it cannot be written (no space left on device)" in one_line(capsys.readouterr().err)
    assert report.read_text() == "an older one"
    assert not list(tmp_path.glob(".*.part"))


def test_a_report_with_a_name_too_long(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(picture), "--report", str(tmp_path / ("r" * 300 + ".html"))]) == 2
    assert "file name too long" in one_line(capsys.readouterr().err)


def test_a_name_that_is_not_utf_8(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "\udcff\u00e9.png"
    picture.rename(file)
    assert cli.main(["verify", str(file), "--report", str(tmp_path / "r.html")]) == 0
    assert capsys.readouterr().out.startswith("?\u00e9.png: authentic\n")
    assert "?\u00e9.png" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert cli.main(["verify", str(file), "--json"]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out)["source"] == file.name


def test_a_standard_output_that_fails(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("sys.stdout", Closed())
    assert cli.main(["verify", str(picture)]) == 2
    assert "standard output: cannot be written (Broken pipe)" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("content", [None, b"", b"\x89PNG\r\n\x1a\ncut", b"GIF89a", b"\xff\xd8\xff"])
def test_an_unreadable_picture(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    file = tmp_path / "bad.png"
    if content is not None:
        file.write_bytes(content)
    assert cli.main(["verify", str(file)]) == 3
    assert "bad.png" in one_line(capsys.readouterr().err)


def test_a_folder_is_no_picture(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(tmp_path)]) == 3
    one_line(capsys.readouterr().err)


def test_no_configuration(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(picture), "--config", str(tmp_path / "none.toml")]) == 2
    assert "none.toml" in one_line(capsys.readouterr().err)


def test_damaged_weights(picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_: Path | None = None, key_file: Path | None = None) -> Verifier:
        raise WeightsError("w.onnx: not a readable ONNX extractor; install medprov-watermark again")

    monkeypatch.setattr(Verifier, "from_config", broken)
    assert cli.main(["verify", str(picture)]) == 2
    one_line(capsys.readouterr().err)


@pytest.mark.parametrize("command", [["verify", "a.png"], ["serve"]])
@pytest.mark.parametrize("content", [None, b"", b"secret-secret-1"])
def test_a_key_file_that_holds_no_key(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str], content: Any
) -> None:
    monkeypatch.chdir(picture.parent)
    if content is not None:
        Path("c.key").write_bytes(content)
    assert cli.main([*command, "--key-file", "c.key"]) == cli.USAGE
    out, err = capsys.readouterr()
    assert out == "" and "c.key: " in one_line(err) and "secret" not in err


def test_an_orientation_is_told_with_how_much_was_compared(
    picture: Path, world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    part = np.asarray(Image.open(picture))[20:170, 20:200].copy()
    world.reader.say(part, world.payload, geometry=Geometry(warp=Warp((1.0, 0.0, -20.0, 0.0, 1.0, -20.0), 192, 224)))
    Image.fromarray(part).save(picture)
    assert cli.main(["verify", str(picture)]) == 10
    told = r"\n  orientation: cut out or moved, 5\d% of the released picture compared\n"
    assert re.search(told, capsys.readouterr().out)


@pytest.fixture
def offline(picture: Path, world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments that verify the released picture with its proof file, the chain being away."""
    assert cli.main(["export", str(picture), "--out", str(tmp_path / "proof.json")]) == 0
    world.contracts.away = True

    def from_proof(file: Path, home: Home, trusted: Trust, *, key_file: Path | None = None) -> Verifier:
        return Verifier(world.reader, ProofView(proof_file.read(Path(file)), home, trusted, str(file)))

    monkeypatch.setattr(Verifier, "from_proof", from_proof)
    spelled = Home.of(world.config).spelled()
    return ["verify", str(picture), "--offline", str(tmp_path / "proof.json"), "--federation", spelled]


def anchor_of(file: Path) -> str:
    proof = proof_file.read(file)
    return f"{proof.record.owner}:0x{proof.anchored.hex()}"


def test_an_export_says_how_to_verify_with_it(
    picture: Path, world: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "proof.json"
    assert cli.main(["export", str(picture), "--out", str(out)]) == 0
    told, err = capsys.readouterr()
    assert err == "" and told.startswith(f"{out}: record 0x") and "(alice), anchored 2023-11-14" in told
    spelled = Home.of(world.config).spelled()
    assert f"\n  verify with: medprov verify {picture} --offline {out} --federation {spelled}\n" in told
    assert f"\n  its anchor, to be looked up on the chain: {anchor_of(out)}\n" in told
    record_id = "0x" + proof_file.read(out).record_id.hex()
    assert cli.main(["export", "--record", record_id, "--out", str(tmp_path / "again.json")]) == 0
    assert (tmp_path / "again.json").read_bytes() == out.read_bytes()


@pytest.mark.parametrize("kind", ["prov", "fhir"])
def test_an_export_for_others(picture: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out.json"
    assert cli.main(["export", str(picture), "--format", kind, "--out", str(out)]) == 0
    found = json.loads(out.read_bytes())
    assert found["resourceType"] == "Provenance" if kind == "fhir" else "prefix" in found


def test_an_export_replaces_nothing(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = picture.read_bytes()
    assert cli.main(["export", str(picture), "--out", str(picture)]) == cli.USAGE
    assert "a.png: exists; name another file" in one_line(capsys.readouterr().err)
    assert picture.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        ([], 2, "give either a picture or --record ID"),
        (["a.png", "--record", "0x" + "11" * 32], 2, "give either a picture or --record ID"),
        (["--record", "11"], 2, "is no record's id"),
        (["--record", "0x" + "11" * 32], 2, "the chain proves no such record"),
        (["none.png"], 3, "none.png"),
        (["other.png"], 2, "other.png: no record to export, it is unknown"),
    ],
)
def test_what_cannot_be_exported(
    picture: Path, world: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, arguments: list[str], code: int, why: str
) -> None:
    monkeypatch.chdir(picture.parent)
    Image.fromarray(world.phantom(6)).save("other.png")
    assert cli.main(["export", *arguments, "--out", "out.json"]) == code
    assert why in one_line(capsys.readouterr().err)
    assert not Path("out.json").exists()


def test_of_two_owners_records_one_is_chosen(picture: Path, world: Any, tmp_path: Path, capsys: Any) -> None:
    image = np.asarray(Image.open(picture))
    world.anchor(world.bob, world.record(image, world.bob))
    world.reader.say(image, world.payload, world.seal(image, None))
    out = tmp_path / "out.json"
    assert cli.main(["export", str(picture), "--out", str(out)]) == cli.USAGE
    error = one_line(capsys.readouterr().err)
    chosen = "0x" + world.record(image, world.bob).leaf(world.domain).hex()
    assert "choose with --record" in error and f"{chosen} of {world.bob.address}" in error
    assert cli.main(["export", "--record", chosen, "--out", str(out)]) == 0
    assert proof_file.read(out).record.owner == world.bob.address


def test_offline_the_files_word_is_told_as_such(offline: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.main(offline) == 24
    out = capsys.readouterr().out
    assert out.startswith("a.png: unverifiable\n") and "(as the proof file states)" in out
    assert "\n  if the chain holds this anchor, the verdict is: authentic\n" in out
    assert "\n  not known without the chain: whether the owner has revoked the record since\n" in out


def test_offline_a_named_anchor_is_enough(
    offline: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "r.html"
    arguments = [*offline, "--anchor", anchor_of(tmp_path / "proof.json")]
    assert cli.main([*arguments, "--report", str(report)]) == 0
    assert "rests on: who asks has named the anchor" in capsys.readouterr().out
    page = report.read_text()
    assert "Without the chain" in page and "By the word of the proof file alone: block 10" in page
    assert "Not known: whether another member has anchored" in page
    assert cli.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["basis"], found["verdict"]) == ("named_anchor", "authentic")


def test_offline_with_a_configuration_and_a_signed_checkpoint(
    offline: list[str], world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = tmp_path / "c.json"
    world.contracts.away = False
    view = world.verifier.ledger
    monkeypatch.setattr("medprov_sdk.export_command.LedgerView", lambda *_: view)
    monkeypatch.setattr("medprov_sdk.export_command.load_signer", lambda _: world.alice)
    trusted = replace(world.config, trust=TrustConfig((world.alice.address,), 1, (file,)))
    monkeypatch.setattr(Config, "load", lambda _: trusted)
    assert cli.main(["checkpoint", str(file)]) == 0
    assert "signed by nobody" in capsys.readouterr().out
    arguments = offline[:-2]
    assert cli.main(arguments) == cli.USAGE
    assert "1 are needed" in one_line(capsys.readouterr().err)
    assert cli.main(["checkpoint", str(file), "--hospital", "alice"]) == 0
    assert f"signed by {world.alice.address}" in capsys.readouterr().out
    world.contracts.away = True
    assert cli.main(arguments) == 0
    assert "says the checkpoint of block 50" in capsys.readouterr().out
    world.contracts.away = False
    world.release(world.phantom(3), world.bob)
    assert cli.main(["checkpoint", str(file)]) == cli.USAGE
    assert "is not what the chain says" in one_line(capsys.readouterr().err)
    world.contracts.away = True
    assert cli.main(["checkpoint", str(tmp_path / "d.json")]) == cli.USAGE
    assert "no chain answers there" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read"),
        (b"", "is not JSON"),
        (b"{}", "is not a proof file"),
        (b"[" * 90, "is not JSON"),
        (b'{"kind":"medprov proof","version":9}', "version 9 is unknown"),
        (b"\xff" * 1000, "not written by this format"),
    ],
)
def test_a_hostile_proof_file_is_one_line(
    offline: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, why: str
) -> None:
    file = tmp_path / "proof.json"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    capsys.readouterr()
    assert cli.main(offline) == cli.USAGE
    out, err = capsys.readouterr()
    assert out == "" and why in one_line(err) and "proof.json" in err


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--anchor", "x"], "name an anchor as OWNER:ROOT"),
        (["--checkpoint", "none.json"], "nobody's signature counts"),
        (["--federation", "1"], "must be CHAIN_ID:REGISTRY:FEDERATION_ID"),
        (["--federation", f"1:0x{'11' * 20}:0x{'66' * 32}"], "is of chain 31337"),
        (["--federation", f"31337:0x{'11' * 20}:0x{'67' * 32}"], "is of another federation"),
    ],
)
def test_what_is_trusted_must_be_well_formed(offline: list[str], capsys: Any, more: list[str], why: str) -> None:
    capsys.readouterr()
    assert cli.main([*offline, *more]) == cli.USAGE
    assert why in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "more", [["--anchor", "x"], ["--federation", "x"], ["--checkpoint", "x"], ["--offline", "x", "--federation", "y"]]
)
def test_options_that_do_not_go_together(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["verify", "a.png", *more, *(["--config", "c"] if "--offline" in more else [])])
    assert stopped.value.code == cli.USAGE
    assert "--federation" in capsys.readouterr().err


def test_a_chain_that_is_away_is_named(picture: Path, world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    world.contracts.away = True
    assert cli.main(["verify", str(picture)]) == 24
    out = capsys.readouterr().out
    assert "no chain answers there" in out and "proved offline: no sample has changed" in out


@pytest.mark.parametrize("error", [WrongChainError, ContractAbsentError])
def test_a_configuration_of_another_chain_is_no_verdict(
    picture: Path, world: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Any
) -> None:
    def connect(_: Config) -> Links:
        raise error("http://127.0.0.1:8545: serves chain 1, but medprov.toml says 31337; correct chain.rpc")

    monkeypatch.setattr(world.verifier.ledger, "_connect", connect)
    for _ in range(2):
        assert cli.main(["verify", str(picture)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "serves chain 1" in one_line(err)


@pytest.mark.parametrize("arguments", [[], ["verify"], ["judge", "a.png"], ["verify", "a.png", "--loud"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == cli.USAGE
    assert "usage: medprov" in capsys.readouterr().err


def test_control_characters_do_not_reach_the_terminal(
    picture: Path, world: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a\x1b[2Jb.png"
    picture.rename(file)
    assert cli.main(["verify", str(file)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_the_help_needs_no_heavy_import() -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom medprov_sdk import cli\n"
        "try: cli.main(['verify', '--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'web3', 'onnxruntime', 'numpy', 'pydicom'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr.strip() == "[]"
    assert "exit codes" in done.stdout and "23 revoked," in done.stdout


def test_serve_takes_its_address_and_one_verifier(picture: Path, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("medprov_sdk.server.serve", lambda *arguments: asked.append(arguments))
    assert cli.main(["serve"]) == 0
    assert cli.main(["serve", "--host", "0.0.0.0", "--port", "0"]) == 0
    assert asked == [(world.verifier, "127.0.0.1", 8080), (world.verifier, "0.0.0.0", 0)]


@pytest.mark.parametrize("port", ["", "-1", "65536", "http", "8080.0", "²"])
def test_serve_at_no_port(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["serve", f"--port={port}"])
    assert stopped.value.code == cli.USAGE
    assert "must be a number from 0 to 65535" in capsys.readouterr().err


def test_serve_without_a_configuration(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--config", str(tmp_path / "none.toml")]) == cli.USAGE
    assert "none.toml" in one_line(capsys.readouterr().err)


def test_serve_at_an_address_that_is_taken(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert cli.main(["serve", "--port", str(taken.getsockname()[1])]) == cli.USAGE
    assert "cannot be taken" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "python_multipart"])
def test_serve_without_the_extra_packages(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    monkeypatch.delitem(sys.modules, "medprov_sdk.server", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert cli.main(["serve"]) == cli.USAGE
    assert "install medprov-sdk[web]" in one_line(capsys.readouterr().err)
