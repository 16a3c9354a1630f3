"""Command line ``medprov-node``: mark and restore pictures."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from medprov_ledger.config import Config, HospitalConfig
from medprov_ledger.errors import ConfigError, LedgerError
from medprov_node import outputs
from medprov_node.errors import NodeError, OutputError
from medprov_node.mark import Progress, mark_files
from medprov_node.mark_result import MarkResult
from medprov_node.restore import RestoreResult, restore_file
from medprov_watermark.errors import WatermarkError

PROGRAM = "medprov-node"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    int
        0 done, 1 not (one line on standard error), 2 wrong usage, 130 interrupted.
    """
    options = _parser().parse_args(arguments)
    # what libraries think of a file's oddities is no business of the user's: errors come as one line
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if options.command == "mark":
                return _mark(options.input, options.output, options.hospital, options.config, options.json)
            return _restore(options.input, options.output, options.json)
        except (NodeError, LedgerError, WatermarkError) as error:
            return _failed(str(error))
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            return _failed(f"{place}{error.strerror or error}; check the path and its permissions")
        except MemoryError:
            return _failed(f"{options.input}: the memory does not suffice; mark smaller pictures, or fewer at once")
        except KeyboardInterrupt:
            print(f"{PROGRAM}: interrupted; the same command goes on where it stopped", file=sys.stderr)
            return 130


def choose(config: Config, name: str | None) -> tuple[HospitalConfig, str]:
    """The hospital to act for: the named one, otherwise the first in the file.

    Returns
    -------
    hospital : HospitalConfig
    note : str
        Says that it was the first of several; empty where there was nothing to choose.

    Raises
    ------
    ConfigError
        No such hospital, or the configuration has none.
    """
    if not config.hospitals:
        raise ConfigError(f"{config.path}: holds no hospital's keys; marking needs a [hospitals.NAME] table")
    if name is not None:
        return config.hospital(name), ""
    first = next(iter(config.hospitals.values()))
    others = len(config.hospitals) > 1
    return first, f", the first of {', '.join(config.hospitals)}: --hospital names another" if others else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Mark medical pictures, and restore their covers.")
    commands = parser.add_subparsers(dest="command", required=True)
    mark = commands.add_parser(
        "mark",
        help="mark a picture, or all pictures of a folder as one batch",
        description="Mark a picture (or all of a folder), store its evidence, anchor its record, then write it.",
    )
    mark.add_argument("input", type=Path, metavar="IN", help="PNG, TIFF, JPEG or DICOM file, or a folder of them")
    mark.add_argument("output", type=Path, metavar="OUT", help="file that is not there yet, or a folder")
    mark.add_argument("--hospital", metavar="NAME", help="whose picture (default: the configuration's first)")
    mark.add_argument("--config", type=Path, metavar="FILE", help="medprov.toml (default: where it usually lies)")
    restore = commands.add_parser(
        "restore",
        help="bring the cover of a marked picture back, bit for bit",
        description="Take both marks out of an unchanged marked picture. Needs neither chain nor store.",
    )
    restore.add_argument("input", type=Path, metavar="IN", help="marked picture, unchanged since marking")
    restore.add_argument("output", type=Path, metavar="OUT", help="file that is not there yet")
    for command in (mark, restore):
        command.add_argument("--json", action="store_true", help="print the result as one JSON object")
    return parser


def _mark(source: Path, target: Path, hospital: str | None, file: Path | None, as_json: bool) -> int:
    config = Config.load(file)
    house, note = choose(config, hospital)
    folder = source.is_dir()
    jobs = outputs.folder_jobs(source, target) if folder else [(source, target)]
    if not as_json:
        # before the work: a record cannot be taken back
        print(f"hospital     {house.name} ({house.address}){note}", flush=True)
    progress = None if as_json or not sys.stderr.isatty() else _progress()
    results = mark_files(jobs, house, config, progress, make_folders=folder)
    if as_json:
        first = results[0]
        batch = {
            "hospital": first.hospital,
            "owner": first.owner,
            "model": first.model,
            "pictures": [result.to_json() for result in results],
        }
        print(json.dumps(batch, indent=1))
        return 0
    for result in results:
        _show_marked(result)
    return 0


def _restore(source: Path, target: Path, as_json: bool) -> int:
    if source.is_dir():
        raise OutputError(f"{source}: it is a folder; restore takes one picture")
    result = restore_file(source, target)
    if as_json:
        print(json.dumps(result.to_json(), indent=1))
    else:
        _show_restored(result)
    return 0


def _show_marked(result: MarkResult) -> None:
    print(f"{result.input} -> {result.output}")
    print(f"  picture      {result.width} x {result.height}, {result.bits} bits, {result.psnr:.1f} dB to its cover")
    print(f"  payload      {result.payload}")
    print(f"  record       {result.record_id}")
    print(f"  transaction  {result.transaction} in block {result.block}")
    print(f"  evidence     {result.evidence_cid}")
    print(f"  bundle       {result.bundle_cid}")
    print(f"  manifest     {result.manifest_cid}")
    if result.short:
        print("  note         too small for cover hash and signature in the picture; the record has both")
    print(f"  time         {', '.join(f'{stage} {ms:.0f}' for stage, ms in result.milliseconds.items())} ms")


def _show_restored(result: RestoreResult) -> None:
    print(f"{result.input} -> {result.output}")
    print(f"  cover        {result.cover_hash} (SHA3-256 of its samples)")
    print(
        f"  restored     {result.width} x {result.height}, {result.bits} bits: {result.changed} samples brought back, "
        "checked against the mark"
    )
    print(f"  payload      {result.payload}")
    print(f"  model        {result.model}")
    print(f"  time         {', '.join(f'{stage} {ms:.0f}' for stage, ms in result.milliseconds.items())} ms")


def _progress() -> Progress:
    def show(stage: str, done: int, total: int) -> None:
        end = "\n" if stage == "write" and done == total else ""
        print(f"\r\x1b[K{stage} {min(done + 1, total)}/{total}", end=end, file=sys.stderr, flush=True)

    return show


def _failed(message: str) -> int:
    # clears what the progress has left on the line
    start = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{start}{PROGRAM}: {' '.join(message.splitlines())}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
