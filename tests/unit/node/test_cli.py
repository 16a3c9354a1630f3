"""The command line: every bad input is one line on standard error, exit status 1, and nothing is left behind."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import socket
import struct
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
import tifffile
from PIL import Image
from safetensors.numpy import load, save

import medprov_ledger.chain
from medprov_ledger.config import Config
from medprov_node import cli
from medprov_node import mark as mark_module
from medprov_node.errors import MarkError
from medprov_node.held import exclusive
from medprov_watermark import media
from medprov_watermark.hashing import content_hash
from medprov_watermark.payload import Payload
from medprov_watermark.watermarker import DualWatermarker
from medprov_watermark.weights import FOLDER, RELEASE


def png_of(width: int, height: int, body: bytes = b"") -> bytes:
    """A grey PNG of any stated size; the samples are missing unless given."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(body)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def good_png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(96 * 96, dtype=np.uint32).reshape(96, 96).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def float_tiff() -> bytes:
    samples = np.ones((96, 96), np.float32)
    samples[3, 3] = np.nan
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples)
    return buffer.getvalue()


def dicom(change: Callable[[pydicom.Dataset], None]) -> bytes:
    dataset = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
    change(dataset)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=False)
    return buffer.getvalue()


def without_pixels() -> bytes:
    return dicom(lambda dataset: dataset.__delitem__("PixelData"))


def unsupported_syntax() -> bytes:
    raw = dicom(lambda dataset: None)
    # Explicit VR Little Endian becomes MPEG2, whose UID fills the same bytes when padded
    old = b"1.2.840.10008.1.2.1\x00"
    new = b"1.2.840.10008.1.2.9\x00"
    assert raw.count(old) == 1
    return raw.replace(old, new)


BAD_INPUTS = {
    "not an image": (lambda: b"hello, this is text" * 10, "not a PNG, TIFF, JPEG or DICOM"),
    "truncated": (lambda: good_png()[:-200], "damaged|cut off|truncated|incomplete|ends"),
    "zero bytes": (lambda: b"", "empty"),
    "1 x 1": (lambda: png_of(1, 1, b"\0\0"), "too small"),
    "40 x 40": (lambda: png_of(40, 40, bytes(40 * 41)), "too small to mark"),
    "20 000 x 20 000": (lambda: png_of(20_000, 20_000), "more than the limit"),
    "NaN in float TIFF": (float_tiff, "float"),
    "DICOM without pixels": (without_pixels, "no pixels"),
    "unsupported transfer syntax": (unsupported_syntax, "not supported"),
}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def online(house, node_tester, monkeypatch) -> Path:
    """The federation's configuration file, with its chain answering."""
    monkeypatch.setattr(medprov_ledger.chain, "connect_http", lambda *_: node_tester)
    return house.file


def assert_one_line(err: str, *parts: object) -> None:
    assert err.startswith("medprov-node: ") and err.endswith("\n") and err.count("\n") == 1, err
    for part in parts:
        assert re.search(str(part), err), f"{part!r} is not in {err!r}"


def assert_nothing_left(folder: Path, *expected: str) -> None:
    assert sorted(path.name for path in folder.iterdir() if path.name != "state") == sorted(expected)


@pytest.mark.parametrize("command", ["mark", "restore"])
@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_inputs(run, house, tmp_path, command, name) -> None:
    make, reason = BAD_INPUTS[name]
    if (command, name) == ("restore", "40 x 40"):
        reason = "cannot be restored"
    (tmp_path / "in.dat").write_bytes(make())
    more = ("--config", house.file) if command == "mark" else ()
    code, out, err = run(command, tmp_path / "in.dat", tmp_path / "out.png", *more, "--json")
    assert (code, out) == (1, "")
    assert_one_line(err, r"in\.dat", reason)
    assert_nothing_left(tmp_path, "in.dat")


def test_an_input_that_is_not_there(run, house, tmp_path) -> None:
    code, _, err = run("mark", tmp_path / "none.png", tmp_path / "out.png", "--config", house.file)
    assert code == 1
    assert_one_line(err, r"none\.png: it cannot be read \(no such file")


def _exists(folder: Path) -> Path:
    (folder / "out.png").write_bytes(b"mine")
    return folder / "out.png"


def _dangling(folder: Path) -> Path:
    (folder / "link.png").symlink_to(folder / "nowhere")
    return folder / "link.png"


BAD_OUTPUTS = {
    "exists": (_exists, "exists already"),
    "is a folder": (lambda folder: folder, "it is a folder"),
    "no folder": (lambda folder: folder / "none" / "out.png", "no such folder"),
    "below a file": (lambda folder: folder / "scan.png" / "out.png", "no such folder"),
    "closed folder": (lambda folder: Path("/proc/out.png"), "cannot be written to"),
    "lossy": (lambda folder: folder / "out.jpg", r"\.jpg is not written, because lossy"),
    "no suffix": (lambda folder: folder / "out", r"names no known format"),
    "DICOM from PNG": (lambda folder: folder / "out.dcm", "only a picture that was read from DICOM"),
    "zero byte in the name": (lambda folder: folder / "a\0b.png", "cannot be used as a file name"),
    "name too long": (lambda folder: folder / ("a" * 300 + ".png"), "cannot be used as a file name"),
    "dangling link": (_dangling, "exists already"),
}


@pytest.mark.parametrize("command", ["mark", "restore"])
@pytest.mark.parametrize("name", BAD_OUTPUTS)
def test_bad_outputs_are_refused_before_any_work(run, house, picture, command, name) -> None:
    make, reason = BAD_OUTPUTS[name]
    target = make(picture.parent)
    before = sorted(picture.parent.iterdir())
    # the chain of this configuration does not answer: had it been asked first, the reason would be another
    more = ("--config", house.file) if command == "mark" else ()
    code, _, err = run(command, picture, target, *more)
    assert code == 1
    assert_one_line(err, reason)
    assert sorted(picture.parent.iterdir()) == before
    if name == "exists":
        assert target.read_bytes() == b"mine"


def test_a_chain_that_is_down(run, house, picture) -> None:
    code, _, err = run("mark", picture, picture.with_name("out.png"), "--config", house.file)
    assert code == 1
    assert_one_line(err, house.config.rpc, "no chain answers there", "medprov-ledger up")
    assert_nothing_left(picture.parent, "scan.png")


def with_setting(file: Path, folder: Path, pattern: str, line: str) -> Path:
    """A copy of the configuration with one line replaced; what it names stays where it is."""
    text = file.read_text()
    assert len(re.findall(pattern, text, re.M)) >= 1
    text = re.sub(pattern, line, text, count=1, flags=re.M)
    text = re.sub(r'^(path = "|\w+ = "(?=hospitals/))(?!changed)', rf"\g<1>{file.parent}/", text, flags=re.M)
    changed = folder / "changed.toml"
    changed.write_text(text)
    return changed


@pytest.mark.parametrize(
    ("pattern", "line", "reason"),
    [
        ("^chain_id.*$", "chain_id = 4242", "serves chain .* says 4242"),
        ("^registry.*$", f'registry = "0x{"12" * 20}"', "no ProvenanceRegistry contract at 0x1212"),
        ("^federation = .*$", f'federation = "0x{"34" * 20}"', "no Federation contract at 0x3434"),
        ("^id = .*$", f'id = "0x{"56" * 32}"', "federation.id is not the id"),
        ("^registry.*$", "", "chain.registry is missing"),
        ("^rpc.*$", "", "chain.rpc is missing"),
        ("^keystore.*$", "", "hospitals.hospital-a.keystore is missing"),
        ("^reader_key.*$", 'reader_key = "none.pem"', r"none\.pem: cannot be read"),
        ('^path = "blocks"$', 'path = "changed.toml"', r"changed\.toml: cannot store a block"),
        ('^path = "blocks"$', "", "store.path is missing"),
        ("^rpc", "rpc rpc", "not valid TOML"),
    ],
)
def test_trouble_with_chain_store_and_configuration(run, online, picture, tmp_path, pattern, line, reason) -> None:
    file = with_setting(online, tmp_path, pattern, line)
    code, _, err = run("mark", picture, picture.with_name("out.png"), "--config", file, "--json")
    assert code == 1
    assert_one_line(err, reason)
    assert_nothing_left(tmp_path, "scan.png", "changed.toml")


def test_an_ipfs_daemon_that_is_down(run, online, picture, tmp_path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    text = online.read_text().replace(
        'kind = "blocks"\npath = "blocks"', f'kind = "ipfs"\napi = "/ip4/127.0.0.1/tcp/{port}/http"'
    )
    file = tmp_path / "ipfs.toml"
    file.write_text(text)
    code, _, err = run("mark", picture, picture.with_name("out.png"), "--config", file)
    assert code == 1
    assert_one_line(err, f"tcp/{port}/http: no IPFS daemon answers")


def test_no_configuration_at_all(run, picture, monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("MEDPROV_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    code, _, err = run("mark", picture, picture.with_name("out.png"))
    assert code == 1
    assert_one_line(err, "no configuration", "medprov-ledger up")


def test_an_unknown_hospital(run, house, picture) -> None:
    code, _, err = run("mark", picture, picture.with_name("o.png"), "--config", house.file, "--hospital", "x")
    assert code == 1
    assert_one_line(err, "no hospital 'x' here; known: hospital-a, hospital-b")


def test_a_verifiers_configuration_cannot_mark(run, house, picture, tmp_path) -> None:
    text = house.file.read_text()
    (tmp_path / "verifier.toml").write_text(text[: text.index("[hospitals.")])
    code, _, err = run("mark", picture, picture.with_name("o.png"), "--config", tmp_path / "verifier.toml")
    assert code == 1
    assert_one_line(err, r"verifier\.toml: holds no hospital's keys")


@pytest.mark.parametrize("arguments", [[], ["mark"], ["mark", "a"], ["restore", "a"], ["mark", "a", "b", "--no"]])
def test_wrong_usage_is_exit_status_2(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2


def test_an_interrupt_is_no_traceback(run, house, picture, monkeypatch) -> None:
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(mark_module, "mark_files", interrupted)
    code, _, err = run("mark", picture, picture.with_name("o.png"), "--config", house.file)
    assert code == 130
    assert_one_line(err, "interrupted")


# what works


@pytest.fixture
def quickly(quick, monkeypatch):
    monkeypatch.setattr(mark_module.DualWatermarker, "load", lambda: quick)
    return quick


@pytest.mark.parametrize("asked", [True, False])
def test_quick_is_asked_of_the_watermarker(run, online, quickly, phantom, tmp_path, asked: bool) -> None:
    source = tmp_path / "a.png"
    Image.fromarray(phantom(seed=4)).save(source)
    code, _, _ = run("mark", source, tmp_path / "b.png", "--config", online, *(["--quick"] if asked else []))
    assert code == 0
    assert quickly.quick == [asked]


def test_a_folder_becomes_one_batch(run, online, quickly, phantom, tmp_path) -> None:
    source, target = tmp_path / "in", tmp_path / "new" / "out"
    (source / "deep").mkdir(parents=True)
    Image.fromarray(phantom(seed=1)).save(source / "a.png")
    Image.fromarray(phantom(seed=2)).save(source / "b.jpg")
    Image.fromarray(phantom(seed=3)).save(source / "deep" / "c.tif")
    (source / ".hidden").write_bytes(b"no picture")
    code, out, err = run("mark", source, target, "--config", online, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["hospital"] == "hospital-a"
    files = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert files == ["a.png", "b.png", "deep/c.tif"]
    assert len({picture["transaction"] for picture in found["pictures"]}) == 1
    for picture in found["pictures"]:
        assert "0x" + content_hash(media.read(picture["output"]).array).hex() == picture["released_hash"]


@pytest.mark.parametrize(
    ("output", "reason"),
    [("in/out", "lies in the folder of the pictures"), ("in", "lies in the folder"), ("file", "it is a file")],
)
def test_a_folder_needs_another_folder(run, house, tmp_path, output, reason) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(good_png())
    (tmp_path / "file").write_bytes(b"")
    code, _, err = run("mark", tmp_path / "in", tmp_path / output, "--config", house.file)
    assert code == 1
    assert_one_line(err, reason)


def test_a_folder_without_a_picture(run, house, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    code, _, err = run("mark", tmp_path / "in", tmp_path / "out", "--config", house.file)
    assert code == 1
    assert_one_line(err, "holds no file")
    for number in range(7):
        (tmp_path / "in" / f"{number}.txt").write_text("hello")
    code, _, err = run("mark", tmp_path / "in", tmp_path / "out", "--config", house.file)
    assert code == 1
    assert_one_line(err, r"in: holds no picture, only 0\.txt, 1\.txt, 2\.txt, 3\.txt, 4\.txt and 2 more; name")


def directory() -> bytes:
    """A DICOMDIR, with an icon that is no picture of its own."""
    dataset = pydicom.dcmread(pydicom.data.get_testdata_file("DICOMDIR"))
    icon = pydicom.Dataset()
    icon.Rows = icon.Columns = 4
    icon.add_new(0x7FE00010, "OB", bytes(16))
    dataset.DirectoryRecordSequence[0].IconImageSequence = [icon]
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=False)
    return buffer.getvalue()


def test_what_lies_beside_pictures_is_left_out_and_said(run, online, quickly, phantom, tmp_path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(phantom(seed=1)).save(source / "a.png")
    Image.fromarray(phantom(seed=2)).save(source / "b.png")
    others = {"DICOMDIR": directory(), "README.TXT": b"hello", "viewer.exe": b"MZ", "lock": b""}
    for name, content in others.items():
        (source / name).write_bytes(content)
    code, out, err = run("mark", source, tmp_path / "out", "--config", online)
    assert (code, err) == (0, "")
    assert "left out     DICOMDIR, README.TXT, lock, viewer.exe: no pictures\n" in out
    assert_nothing_left(tmp_path / "out", "a.png", "b.png")
    code, out, _ = run("mark", source, tmp_path / "json", "--config", online, "--json")
    assert json.loads(out)["left_out"] == [str(source / name) for name in sorted(others)]


DAMAGED = {
    "a.png": b"hello",
    "b.bmp": b"BM",
    "c.png": b"",
    "d.dcm": without_pixels(),
    "e": good_png()[:-20],
    "f.jpg": b"\xff\xd8\xff",
    "g.png": png_of(40, 40, bytes(40 * 41)),
}


def test_all_bad_pictures_of_a_folder_are_found_before_any_work(run, house, phantom, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(phantom()).save(tmp_path / "in" / "good.png")
    for name, content in DAMAGED.items():
        (tmp_path / "in" / name).write_bytes(content)
    code, _, err = run("mark", tmp_path / "in", tmp_path / "out", "--config", house.file)
    assert code == 1
    numbered = [rf"\({number}\) \S*/in/{name}: " for number, name in enumerate(DAMAGED, 1)]
    assert_one_line(err, "7 of 8 pictures cannot be taken: ", *numbered[:5], " and 2 more$")
    assert not any(re.search(pattern, err) for pattern in numbered[5:])
    assert not (tmp_path / "out").exists()


def test_names_that_would_fall_together_are_refused(run, house, phantom, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(phantom()).save(tmp_path / "in" / "a.png")
    Image.fromarray(phantom()).save(tmp_path / "in" / "a.jpg")
    code, _, err = run("mark", tmp_path / "in", tmp_path / "out", "--config", house.file)
    assert code == 1
    assert_one_line(err, r"a\.png: both .*a\.jpg and .*a\.png")


def test_the_first_hospital_is_taken_and_said(run, online, quickly, picture) -> None:
    code, out, err = run("mark", picture, picture.with_name("o.png"), "--config", online)
    assert (code, err) == (0, "")
    assert re.search(r"hospital-a \(0x\w+\), the first of hospital-a, hospital-b: --hospital", out)
    assert re.search(r"transaction  0x[0-9a-f]{64} in block \d+", out)


def test_another_hospital_is_taken_by_name(run, online, quickly, picture) -> None:
    arguments = (picture, picture.with_name("o.png"), "--config", online, "--hospital", "hospital-b", "--json")
    code, out, _ = run("mark", *arguments)
    assert code == 0 and json.loads(out)["hospital"] == "hospital-b"


def test_a_marked_picture_is_refused_with_its_owner(run, online, done, node_tester, tmp_path) -> None:
    code, _, err = run("mark", done.png.output, tmp_path / "o.png", "--config", done.house.file, "--json")
    assert code == 1
    assert_one_line(err, r"scan-marked\.png: marked already by hospital-a \(0x", done.png.record_id)
    assert_nothing_left(tmp_path)


def test_a_marked_picture_that_was_changed_cannot_be_restored_first(run, online, done, tmp_path) -> None:
    array = media.read(done.png.output).array.copy()
    array[64, 64] ^= 1
    Image.fromarray(array).save(tmp_path / "changed.png")
    for source, advice in (
        (done.png.output, r"restore its cover first \('medprov-node restore'\)"),
        (tmp_path / "changed.png", "it was changed since, so its cover cannot be restored: mark the picture it was"),
    ):
        code, _, err = run("mark", source, tmp_path / "o.png", "--config", done.house.file, "--json")
        assert code == 1
        assert_one_line(err, "marked already by hospital-a", advice)


class Full(io.StringIO):
    """A standard output on a disk that is full after some lines."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.lines = lines

    def flush(self) -> None:
        self.lines -= 1
        if self.lines < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("as_json", [False, True])
def test_a_full_standard_output_does_not_hide_what_was_done(online, quickly, picture, capsys, monkeypatch, as_json):
    target = picture.with_name("o.png")
    arguments = ["mark", str(picture), str(target), "--config", str(online), *(["--json"] if as_json else [])]
    monkeypatch.setattr("sys.stdout", Full(0 if as_json else 1))
    assert cli.main(arguments) == 1
    reason = r"standard output: cannot be written \(No space left on device\), but all pictures are marked and written"
    assert_one_line(capsys.readouterr().err, reason)
    assert target.is_file()


def test_a_full_standard_output_is_noticed_before_the_work(house, picture, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdout", Full(0))
    assert cli.main(["mark", str(picture), str(picture.with_name("o.png")), "--config", str(house.file)]) == 1
    assert_one_line(capsys.readouterr().err, r"standard output: cannot be written \(No space left on device\); send it")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_name_that_is_not_utf_8(run, online, quickly, picture, as_json) -> None:
    source = Path(os.fsdecode(os.fsencode(picture.parent) + b"/\xff.png"))
    picture.rename(source)
    target = source.with_name("\udcfe.png")
    code, out, err = run("mark", source, target, "--config", online, *(["--json"] if as_json else []))
    assert (code, err) == (0, "")
    assert target.is_file()
    if as_json:
        assert json.loads(out)["pictures"][0]["input"] == str(source)
    else:
        assert r"\udcff.png -> " in out


def test_a_wait_for_another_marking_is_said(run, online, quickly, picture, monkeypatch) -> None:
    say = cli._tell
    with ExitStack() as other:
        other.enter_context(exclusive(Config.load(online).hospital("hospital-a").state))

        def said(text: str) -> None:
            say(text)
            other.close()

        monkeypatch.setattr(cli, "_tell", said)
        code, out, err = run("mark", picture, picture.with_name("o.png"), "--config", online, "--json")
    assert code == 0
    assert json.loads(out)["pictures"]
    assert_one_line(err, "another command is marking for this hospital; waiting")


@pytest.mark.parametrize("as_json", [False, True])
def test_restore_shows_what_it_brought_back(run, done, tmp_path, as_json) -> None:
    code, out, err = run("restore", done.png.output, tmp_path / "r.png", *(["--json"] if as_json else []))
    assert (code, err) == (0, "")
    cover = "0x" + content_hash(media.read(done.png.input).array).hex()
    assert (json.loads(out)["cover_hash"] == cover) if as_json else (cover in out and done.png.payload in out)
    assert np.array_equal(media.read(tmp_path / "r.png").array, media.read(done.png.input).array)


def test_restore_takes_one_picture(run, tmp_path) -> None:
    code, _, err = run("restore", tmp_path, tmp_path / "o.png")
    assert code == 1
    assert_one_line(err, "it is a folder")


# a consortium's key


KEY = b"secret of this consortium\n"


@pytest.fixture(scope="module")
def marked_with_key(make_house, node_tester, phantom, tmp_path_factory) -> Path:
    """A folder with ``marked.png``, ``cover.png``, ``right.key`` and ``wrong.key``."""
    folder = tmp_path_factory.mktemp("keyed")
    (folder / "right.key").write_bytes(KEY)
    (folder / "wrong.key").write_bytes(KEY[:-1])
    Image.fromarray(phantom(seed=8)).save(folder / "cover.png")
    house = make_house()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(medprov_ledger.chain, "connect_http", lambda *_: node_tester)
        arguments = (folder / "cover.png", folder / "marked.png", "--config", house.file)
        assert cli.main(["mark", *map(str, arguments), "--key-file", str(folder / "right.key")]) == 0
    return folder


def test_what_was_marked_with_a_key_reads_and_restores_with_it(run, marked_with_key, tmp_path) -> None:
    marked = media.read(marked_with_key / "marked.png").array
    arguments = (marked_with_key / "marked.png", tmp_path / "r.png", "--key-file", marked_with_key / "right.key")
    code, out, err = run("restore", *arguments)
    assert (code, err) == (0, "") and "secret" not in out
    assert np.array_equal(media.read(tmp_path / "r.png").array, media.read(marked_with_key / "cover.png").array)
    found = [DualWatermarker.load(key=key).extract(marked) for key in (KEY, None, KEY[:-1])]
    assert [one.present for one in found] == [True, False, False]
    assert found[0].payload == found[1].integrity.payload and found[1].payload is None


@pytest.mark.parametrize("name", ["wrong.key", None])
def test_another_key_does_not_restore_and_the_message_says_so(run, marked_with_key, tmp_path, name) -> None:
    more = ("--key-file", marked_with_key / name) if name else ()
    code, out, err = run("restore", marked_with_key / "marked.png", tmp_path / "r.png", *more)
    assert (code, out) == (1, "") and "secret" not in err
    how = "with another consortium key, or with none" if name else "with a consortium key"
    assert_one_line(err, "the cover cannot be restored", rf"marked {how} \('medprov-node restore --key-file FILE'\)")
    assert_nothing_left(tmp_path)


def test_a_key_does_not_restore_what_was_marked_without(run, done, marked_with_key, tmp_path) -> None:
    code, _, err = run("restore", done.png.output, tmp_path / "r.png", "--key-file", marked_with_key / "right.key")
    assert code == 1
    assert_one_line(err, "or with none")


def test_the_configuration_s_key_is_used_unless_another_is_named(run, online, picture, tmp_path, monkeypatch) -> None:
    taken: list[bytes | None] = []

    def load(file=None, key=None):
        taken.append(key)
        raise MarkError("loaded")

    monkeypatch.setattr(mark_module.DualWatermarker, "load", load)
    (tmp_path / "a.key").write_bytes(b"a" * 16)
    (tmp_path / "b.key").write_bytes(b"b" * 16)
    file = with_setting(
        online, tmp_path, "^\\[directory\\]$", f'[watermark]\nkey_file = "{tmp_path}/a.key"\n[directory]'
    )
    for config, more in ((online, ()), (file, ()), (file, ("--key-file", tmp_path / "b.key"))):
        run("mark", picture, picture.with_name("o.png"), "--config", config, *more)
    assert taken == [None, b"a" * 16, b"b" * 16]
    (tmp_path / "a.key").unlink()
    code, _, err = run("mark", picture, picture.with_name("o.png"), "--config", file)
    assert code == 1
    assert_one_line(err, r"a\.key: no such key file")


@pytest.mark.parametrize("command", ["mark", "restore"])
@pytest.mark.parametrize(
    ("content", "reason"), [(None, "no such key file"), (b"", "0 bytes"), (b"secret-secret-1", "15 bytes are too few")]
)
def test_a_key_file_that_holds_no_key(run, house, picture, tmp_path, command, content, reason) -> None:
    if content is not None:
        (tmp_path / "c.key").write_bytes(content)
    more = ("--config", house.file, "--json") if command == "mark" else ()
    code, out, err = run(command, picture, picture.with_name("o.png"), *more, "--key-file", tmp_path / "c.key")
    assert (code, out) == (1, "") and "secret" not in err
    assert_one_line(err, r"c\.key: ", reason)
    assert not picture.with_name("o.png").exists()


# other weights


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory) -> Path:
    """The weights that ship, as another model version: one more line in the header gives them another hash."""
    file = tmp_path_factory.mktemp("weights") / "other.safetensors"
    shipped = (FOLDER / f"{RELEASE}.safetensors").read_bytes()
    file.write_bytes(save(load(shipped), {"note": "another version"}))
    old, new = (hashlib.sha256(data).hexdigest().encode() for data in (shipped, file.read_bytes()))
    extractor = (FOLDER / f"{RELEASE}.onnx").read_bytes()
    assert old != new and extractor.count(old) == 1
    file.with_suffix(".onnx").write_bytes(extractor.replace(old, new))
    return file


@pytest.fixture(scope="module")
def marked_by_other(other_weights, phantom, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("other") / "marked.png"
    marked = DualWatermarker.load(other_weights).mark(phantom(seed=6), Payload(b"hashhash", b"seri"))
    Image.fromarray(marked.image).save(path)
    return path


def test_restore_names_the_option_for_another_model_s_picture(run, marked_by_other, tmp_path) -> None:
    code, _, err = run("restore", marked_by_other, tmp_path / "cover.png")
    assert code == 1
    assert_one_line(err, r"marked\.png: .*marked by model", "medprov-node restore --weights FILE")
    assert_nothing_left(tmp_path)


def test_restore_with_another_model_s_weights(run, marked_by_other, other_weights, phantom, tmp_path) -> None:
    code, out, err = run("restore", marked_by_other, tmp_path / "cover.png", "--weights", other_weights, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["model"] == "0x" + hashlib.sha256(other_weights.read_bytes()).hexdigest()
    assert np.array_equal(media.read(tmp_path / "cover.png").array, phantom(seed=6))


def test_a_changed_picture_is_not_blamed_on_the_weights(run, marked_by_other, tmp_path) -> None:
    array = media.read(marked_by_other).array.copy()
    array[64, 64] ^= 1
    Image.fromarray(array).save(tmp_path / "changed.png")
    code, _, err = run("restore", tmp_path / "changed.png", tmp_path / "cover.png")
    assert code == 1
    assert_one_line(err, "only the untouched picture restores")
    assert "--weights" not in err


def test_mark_with_other_weights_needs_their_release(run, online, other_weights, picture) -> None:
    code, _, err = run("mark", picture, picture.with_name("o.png"), "--config", online, "--weights", other_weights)
    assert code == 1
    assert_one_line(err, f"model {hashlib.sha256(other_weights.read_bytes()).hexdigest()}: not released")


@pytest.mark.parametrize("command", ["mark", "restore"])
def test_weights_that_cannot_be_loaded_are_named(run, house, picture, tmp_path, command) -> None:
    more = ("--config", house.file) if command == "mark" else ()
    code, _, err = run(command, picture, picture.with_name("o.png"), *more, "--weights", tmp_path / "none.safetensors")
    assert code == 1
    assert_one_line(err, r"none\.safetensors: weights cannot be read")
