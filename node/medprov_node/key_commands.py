"""The commands of ``medprov-node`` that deal in keys: readers, reader-key, open, rotate-key, directory-key."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medprov_ledger import terminal
from medprov_ledger.config import Config, HospitalConfig
from medprov_node.errors import KeyFileError, OutputError, UnknownBundleError

if TYPE_CHECKING:
    from medprov_ledger.bundle import Bundle
    from medprov_node.readers import Access

NAMES = ("readers", "reader-key", "open", "rotate-key", "directory-key")
_WHAT = "the marked picture, the bundle's CID, the payload or the record key"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the command line's parser."""
    readers = commands.add_parser(
        "readers",
        help="who may open the private bundle of a picture",
        description="Show or change who may open a picture's private bundle, or destroy its key.",
    ).add_subparsers(dest="action", required=True)
    listed = readers.add_parser("list", help="who is named", description="Show who is named, for one bundle or all.")
    listed.add_argument("what", nargs="?", metavar="WHAT", help=f"{_WHAT} (default: every bundle)")
    grant = readers.add_parser(
        "grant",
        help="name a further reader",
        description="Wrap the bundle's key for a further reader, and write the wrap into a file for that reader.",
    )
    revoke = readers.add_parser(
        "revoke",
        help="take a reader's wrap away",
        description="Take a reader's wrap away. A reader that has opened the bundle, or was handed a wrap, can open it "
        "for ever: the record names the bundle by its CID, so it cannot be sealed anew.",
    )
    shred = readers.add_parser(
        "shred",
        help="destroy a bundle's key for good",
        description="Overwrite and remove all wraps of a bundle that this hospital holds. Nobody who has not kept the "
        "key can open the bundle any more, the hospital neither. Backups of the state folder are not reached.",
    )
    shred.add_argument("--yes", action="store_true", help="needed, because it cannot be undone")
    export = readers.add_parser(
        "export",
        help="write the wrap of a reader that is named already",
        description="Write the wrap of a reader that is named already into a file for that reader.",
    )
    for command in (grant, revoke, shred, export):
        command.add_argument("what", metavar="WHAT", help=_WHAT)
    grant.add_argument("reader", metavar="KEY", help="reader's X25519 public key: 64 hexadecimal digits, or a file")
    for command in (revoke, export):
        command.add_argument("reader", metavar="READER", help="reader's fingerprint, or its public key")
    grant.add_argument("--wrap", type=Path, metavar="FILE", help="write the wrap for the reader into this new file")
    export.add_argument("wrap", type=Path, metavar="FILE", help="new file for the wrap")
    key = commands.add_parser(
        "reader-key",
        help="make a key for a reader that is no hospital",
        description="Make an X25519 key pair: reader.pem, the password that opens it, and reader.pub for hospitals.",
    )
    key.add_argument("folder", type=Path, metavar="FOLDER", help="where the three files go; nothing is overwritten")
    opened = commands.add_parser(
        "open",
        help="open a private bundle, as its hospital or as a reader with a wrap",
        description="Show what is in a private bundle: the original metadata, notes, and the salt of the cover's hash.",
    )
    opened.add_argument("what", metavar="WHAT", help=f"file with a wrap that was handed over, or {_WHAT}")
    opened.add_argument("--key", type=Path, metavar="FILE", help="reader's private key (PEM), for a wrap")
    opened.add_argument(
        "--password-file", type=Path, metavar="FILE", help="its password (default: the file password beside it)"
    )
    opened.add_argument("--bundle", type=Path, metavar="FILE", help="the sealed bundle (default: from the store)")
    opened.add_argument("--output", type=Path, metavar="FILE", help="new file for it (default: standard output)")
    rotate = commands.add_parser(
        "rotate-key",
        help="go on with another chain key",
        description="Make a new account, have the federation take it for the hospital's, and write it into the "
        "configuration. The former keystore is kept. After an interruption the same command goes on.",
    )
    epochs = commands.add_parser(
        "directory-key",
        help="go on with another key of the federation's directories, after a member has left",
        description="Draw or take the key with which members seal and open the directories of batches.",
    ).add_subparsers(dest="action", required=True)
    new = epochs.add_parser(
        "new",
        help="draw a key for all members",
        description="Draw a new key, write it into a file that only the active members can open, and go on with it.",
    )
    take = epochs.add_parser(
        "take",
        help="take a key that another member has drawn",
        description="Check who has drawn the key and for whom, and go on with it. Former keys stay for reading.",
    )
    new.add_argument("file", type=Path, metavar="FILE", help="new file, to be sent to all members")
    take.add_argument("file", type=Path, metavar="FILE", help="the file that was sent")
    for command in (listed, grant, revoke, shred, export, opened, rotate, new, take):
        command.add_argument("--hospital", metavar="NAME", help="whose (default: the configuration's first)")
        command.add_argument(
            "--config", type=Path, metavar="FILE", help="medprov.toml (default: where it usually lies)"
        )
    for command in (listed, grant, revoke, shred, export, key, rotate, new, take):
        command.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(options: argparse.Namespace) -> None:
    """Run one of :data:`NAMES`.

    Raises
    ------
    NodeError, LedgerError, WatermarkError, OSError
    """
    if options.command == "reader-key":
        _reader_key(options)
    elif options.command == "open":
        _open(options)
    elif options.command == "rotate-key":
        _rotate(options)
    elif options.command == "directory-key":
        _directory_key(options)
    else:
        _readers(options)


def _reader_key(options: argparse.Namespace) -> None:
    from medprov_node import reader_key

    made = reader_key.create(options.folder)
    values = {"folder": str(made.folder), "public": made.public.hex(), "fingerprint": made.fingerprint}
    lines = [
        f"{made.folder}: keep {reader_key.PRIVATE} and {reader_key.PASSWORD} secret, give {reader_key.PUBLIC} away",
        f"  public key   {made.public.hex()}",
        f"  fingerprint  {made.fingerprint}",
    ]
    _say(options, values, lines, "the key is made")


def _readers(options: argparse.Namespace) -> None:
    # imported here and not above: it takes a second, in which Ctrl-C is no error either
    from medprov_node import reader_key, readers

    config, house = _house(options)
    if options.action == "list" and options.what is None:
        _list(options, house, [readers.access(house, name) for name in readers.wrap_folder(house).bundles()])
        return
    name = _found(options, house, config)
    if options.action == "list":
        _list(options, house, [readers.access(house, name)])
    elif options.action == "grant":
        wrap = readers.grant(house, name, reader_key.public_key(options.reader))
        if options.wrap is not None:
            readers.write_wrap(options.wrap, wrap)
        values = {"bundle": name, "reader": wrap.reader, "wrap": options.wrap and str(options.wrap)}
        file = [f"  wrap         {options.wrap}, for this reader only"] if options.wrap else []
        _say(options, values, [f"{name}", f"  granted      {wrap.reader}", *file], "the reader is named")
    elif options.action == "revoke":
        reader = readers.reader_of(options.reader)
        left = readers.revoke(house, name, reader)
        lines = [
            f"{name}",
            f"  revoked      {reader}, {len(left.readers)} left",
            "  note         what this reader has opened, or was handed over, it can still open",
        ]
        _say(options, {"bundle": name, "revoked": reader, "readers": list(left.readers)}, lines, "it is revoked")
    elif options.action == "shred":
        if not options.yes:
            raise UnknownBundleError(
                f"{name}: shredding cannot be undone; repeat the command with --yes if it shall be"
            )
        readers.shred(house, name)
        lines = [
            f"{name}",
            "  shredded     no key of it is left in this hospital's state folder",
            "  note         backups of that folder, and readers that keep the key or a wrap, are not reached",
        ]
        _say(options, {"bundle": name, "shredded": True}, lines, "the key is destroyed")
    else:
        wrap = readers.hand_over(house, name, readers.reader_of(options.reader))
        readers.write_wrap(options.wrap, wrap)
        values = {"bundle": name, "reader": wrap.reader, "wrap": str(options.wrap)}
        _say(options, values, [f"{options.wrap}: for {wrap.reader}, bundle {name}"], "the wrap is written")


def _list(options: argparse.Namespace, house: HospitalConfig, found: list[Access]) -> None:
    from medprov_ledger import sealing
    from medprov_ledger.keys import load_reader_key, reader_public

    own = sealing.fingerprint(reader_public(load_reader_key(house)))
    values = [
        {"bundle": one.bundle_cid, "record_key": f"0x{one.record_key.hex()}", "readers": list(one.readers)}
        for one in found
    ]
    lines = [f"{house.name}: {len(found)} bundle(s) with a key"]
    for one in found:
        lines += [one.bundle_cid, f"  record key   0x{one.record_key.hex()}"]
        lines += [f"  reader       {name}{' (this hospital)' if name == own else ''}" for name in one.readers]
    _say(options, {"hospital": house.name, "own": own, "bundles": values}, lines, "")


def _open(options: argparse.Namespace) -> None:
    from medprov_node import reader_key, readers

    if options.output is not None and options.output.exists():
        raise OutputError(f"{options.output}: the file exists already; name another one")
    sealed = _sealed(options.bundle)
    wrap = readers.read_wrap(Path(options.what))
    if wrap is not None:
        if options.key is None:
            raise KeyFileError(f"{options.what}: a wrap needs its reader's private key; name the file with --key")
        key = reader_key.load(options.key, options.password_file)
        config = Config.load(options.config) if sealed is None else None
        name, found = wrap.bundle_cid, readers.open_handed(wrap, key, config, sealed)
        record_key = wrap.record_key
    else:
        if options.key is not None:
            raise KeyFileError(f"{options.what}: is no wrap; --key goes with a wrap that the hospital has handed over")
        config, house = _house(options)
        name = _found(options, house, config)
        found = readers.open_own(house, config, name, sealed)
        record_key = readers.access(house, name).record_key
    text = json.dumps(_values(name, record_key, found), indent=1, ensure_ascii=False)
    if options.output is None:
        terminal.say(text)
    else:
        _write(options.output, text)


def _rotate(options: argparse.Namespace) -> None:
    from medprov_node import rotation

    config, house = _house(options)
    done = rotation.rotate(house, config)
    lines = [
        f"hospital     {done.hospital}",
        f"  former       {done.former}, its keystore stays at {done.former_keystore}",
        f"  now          {done.following}, keystore {done.keystore}",
        f"  transaction  {done.transaction or 'accepted by an earlier run'}",
        "  note         former records stay valid; back the new keystore up",
    ]
    _say(options, done.to_json(), lines, "the hospital goes on with the new key")


def _directory_key(options: argparse.Namespace) -> None:
    from medprov_node import directory_keys

    config, house = _house(options)
    act = directory_keys.draw if options.action == "new" else directory_keys.take
    done = act(options.file, house, config)
    epochs = len(Config.load(options.config).directory_keys)
    values = {"file": str(options.file), "key_id": f"0x{done.key_id.hex()}", "members": sorted(done.keys)}
    lines = [
        f"{options.file}",
        f"  key          0x{done.key_id.hex()}, for {len(done.keys)} member(s)",
        f"  now          {config.path} writes with it and reads {epochs} epoch(s)",
    ]
    if options.action == "new":
        lines.append("  next         send the file to all members: 'medprov-node directory-key take FILE'")
    _say(options, values, lines, "the configuration has the new key")


def _house(options: argparse.Namespace) -> tuple[Config, HospitalConfig]:
    from medprov_node.cli import choose

    config = Config.load(options.config)
    return config, choose(config, options.hospital)[0]


def _found(options: argparse.Namespace, house: HospitalConfig, config: Config) -> str:
    from medprov_node import readers

    return readers.find(options.what, house, config, lambda file: _payload(file, config))


def _payload(file: Path, config: Config) -> bytes:
    from medprov_node.preparing import load_watermarker
    from medprov_watermark import media

    found = load_watermarker(config).extract(media.read(file).array)
    payload = found.integrity.payload or found.payload
    if payload is None:
        raise UnknownBundleError(
            f"{file}: no mark can be read in it; name the marked picture, or the bundle's CID ('medprov-node readers "
            "list')"
        )
    return payload.data


def _sealed(file: Path | None) -> bytes | None:
    if file is None:
        return None
    from medprov_ledger.bundle import MAX_SEALED

    with file.open("rb") as stream:
        data = stream.read(MAX_SEALED + 1)
    return data


def _values(name: str, record_key: bytes, found: Bundle) -> dict[str, Any]:
    return {
        "bundle": name,
        "record_key": f"0x{record_key.hex()}",
        "salt": found.salt.hex(),
        "metadata": dict(found.metadata),
        "notes": dict(found.notes),
    }


def _write(file: Path, text: str) -> None:
    try:
        # personal data: for the owner of the file only
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text + "\n")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"{file}: cannot be written ({why})") from None


def _say(options: argparse.Namespace, values: dict[str, Any], lines: list[str], done: str) -> None:
    terminal.say(json.dumps(values, indent=1) if options.json else "\n".join(lines), done=done)
