import errno
import io
import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medprov_ledger.config import Config
from medprov_ledger.errors import ConfigError, ContractAbsentError, WrongChainError
from medprov_sdk import Verdict, Verifier, cli
from medprov_sdk.ledger_view import Links
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
    from dataclasses import replace

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
