"""Command line ``medprov-node``: mark and restore pictures, deal in keys, take part in the training."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medprov_ledger import terminal
from medprov_ledger.config import Config, HospitalConfig
from medprov_ledger.errors import ConfigError, LedgerError
from medprov_node import key_commands, queue_commands
from medprov_node.errors import MarkError, NodeError, OutputError, RegionError
from medprov_node.joining import commands as joining
from medprov_watermark.errors import WatermarkError

if TYPE_CHECKING:
    from medprov_ledger.outbox import Delivery
    from medprov_node.mark import Progress
    from medprov_node.mark_result import MarkResult
    from medprov_node.restore import RestoreResult
    from medprov_watermark.watermarker import DualWatermarker

PROGRAM = "medprov-node"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    int
        0 done, 1 not (one line on standard error), 2 wrong usage, 130 interrupted.
    """
    terminal.prepare()
    # what libraries think of a file's oddities is no business of the user's: errors come as one line
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _run(terminal.parse(_parser(), arguments))
        except (NodeError, LedgerError, WatermarkError) as error:
            _tell(str(error))
            return 1
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            _tell(f"{place}{error.strerror or error}; check the path and its permissions")
            return 1
        except KeyboardInterrupt:
            _tell("interrupted; the same command goes on where it stopped")
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
    mark.add_argument(
        "--roi",
        choices=("off", "attenuate", "strict"),
        default="off",
        help="region of interest: the mark is halved in it, or not one of its pixels changes (default: %(default)s)",
    )
    mark.add_argument(
        "--roi-mask",
        type=Path,
        metavar="FILE",
        help="PNG mask or DICOM segmentation of the region (default: a network finds it)",
    )
    mark.add_argument(
        "--quick",
        action="store_true",
        help="a few seconds less for each picture: the mark is tried against four attacks instead of all",
    )
    mark.add_argument(
        "--queue",
        action="store_true",
        help="mark now, anchor and write later ('medprov-node flush'); neither chain nor store need answer",
    )
    restore = commands.add_parser(
        "restore",
        help="bring the cover of a marked picture back, bit for bit",
        description="Take both marks out of an unchanged marked picture. Needs neither chain nor store, unless another "
        "model than the installed one made the mark and was not fetched before.",
    )
    restore.add_argument(
        "--config", type=Path, metavar="FILE", help="medprov.toml of the federation whose models may be fetched"
    )
    restore.add_argument("input", type=Path, metavar="IN", help="marked picture, unchanged since marking")
    restore.add_argument("output", type=Path, metavar="OUT", help="file that is not there yet")
    for command in (mark, restore):
        command.add_argument(
            "--weights", type=Path, metavar="FILE", help="model's .safetensors file (default: the one that ships)"
        )
        default = " (default: key_file of [watermark] in the configuration)" if command is mark else ""
        command.add_argument(
            "--key-file",
            type=Path,
            metavar="FILE",
            help=f"consortium's key, the bytes of the file as they are{default}",
        )
        command.add_argument("--json", action="store_true", help="print the result as one JSON object")
    key_commands.add(commands)
    queue_commands.add(commands)
    joining.add(commands)
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.command in key_commands.NAMES:
        key_commands.run(options)
        return 0
    if options.command in queue_commands.NAMES:
        return queue_commands.run(options, choose)
    if options.command in joining.NAMES:
        return joining.run(options)
    try:
        if options.command == "mark":
            return _mark(options)
        _restore(options)
    except MemoryError:
        raise MarkError(
            f"{options.input}: the memory does not suffice; mark smaller pictures, or fewer at once"
        ) from None
    return 0


def _mark(options: argparse.Namespace) -> int:
    if options.roi_mask is not None and options.roi == "off":
        raise MarkError(f"{options.roi_mask}: a mask needs --roi attenuate or --roi strict")
    # imported here and not above: it takes a second, in which Ctrl-C is no error either
    from medprov_node import outputs
    from medprov_node.mark import Order, mark_files
    from medprov_node.queueing import queue_files

    source, target = options.input, options.output
    config = Config.load(options.config)
    house, note = choose(config, options.hospital)
    folder = source.is_dir()
    jobs, left_out = outputs.folder_jobs(source, target) if folder else ([(source, target)], [])
    if not options.json:
        # before the work: a record cannot be taken back
        terminal.say(f"hospital     {house.name} ({house.address}){note}")
        if left_out:
            terminal.say(f"left out     {outputs.named(left_out)}: no pictures")
    progress = _progress(sys.stderr.isatty() and not options.json)
    watermarker = _named_weights(options.weights, options.key_file or config.key_file)
    refused: list[RegionError] = []
    order = Order(options.roi, options.roi_mask)
    if options.queue:
        queued = queue_files(
            jobs,
            house,
            config,
            progress,
            watermarker=watermarker,
            roi=order,
            refused=refused.append,
            quick=options.quick,
        )
        return _queued(queued, refused, options.json)
    results = mark_files(
        jobs,
        house,
        config,
        progress,
        watermarker=watermarker,
        make_folders=folder,
        roi=order,
        refused=refused.append,
        quick=options.quick,
    )
    for error in refused:
        _tell(str(error))
    if not results:
        return 1
    text = "\n".join(line for result in results for line in _marked_lines(result))
    if options.json:
        first = results[0]
        batch = {
            "hospital": first.hospital,
            "owner": first.owner,
            "model": first.model,
            "pictures": [result.to_json() for result in results],
            "left_out": [str(source / name) for name in left_out],
            "refused": [str(error) for error in refused],
        }
        text = json.dumps(batch, indent=1)
    which = "the other" if refused else "all"
    terminal.say(text, done=f"{which} pictures are marked and written, and their records anchored")
    return 1 if refused else 0


def _queued(queued: Sequence[Delivery], refused: Sequence[RegionError], as_json: bool) -> int:
    for error in refused:
        _tell(str(error))
    text = "\n".join(f"{one.source} -> {one.target}: waits for its anchor" for one in queued)
    if as_json:
        pictures = [{"input": one.source, "output": one.target, "job": one.job} for one in queued]
        text = json.dumps({"queued": pictures, "refused": [str(error) for error in refused]}, indent=1)
    if text:
        terminal.say(text, done="the pictures are marked and queued; 'medprov-node flush' writes them")
    return 1 if refused else 0


def _restore(options: argparse.Namespace) -> None:
    from medprov_node.restore import restore_file

    if options.input.is_dir():
        raise OutputError(f"{options.input}: it is a folder; restore takes one picture")
    loaded = _named_weights(options.weights, options.key_file)
    result = restore_file(options.input, options.output, watermarker=loaded, others=_other_models(options))
    text = json.dumps(result.to_json(), indent=1) if options.json else "\n".join(_restored_lines(result))
    terminal.say(text, done="the cover is restored and written")


def _other_models(options: argparse.Namespace) -> Callable[[bytes], DualWatermarker] | None:
    """Loads models that were fetched before, or fetches them from the federation that is named."""
    if options.weights is not None:
        return None

    def load(prefix: bytes) -> DualWatermarker:
        from medprov_ledger import model_package as packages
        from medprov_node.connect import connect
        from medprov_watermark.key_file import read_key
        from medprov_watermark.watermarker import DualWatermarker

        place = packages.folder()
        file = packages.kept(prefix, place)
        if file is None:
            if options.config is None:
                file = packages.find(prefix, None, None, place)
            else:
                ledger = connect(Config.load(options.config))
                file = packages.find(prefix, ledger.federation, ledger.store, place)
        return DualWatermarker.load(file, key=read_key(options.key_file) if options.key_file is not None else None)

    return load


def _named_weights(file: Path | None, key_file: Path | None) -> DualWatermarker | None:
    """The model of ``--weights`` with the key; None where the command loads the one that ships after other checks."""
    if file is None and key_file is None:
        return None
    from medprov_watermark.key_file import read_key
    from medprov_watermark.watermarker import DualWatermarker

    return DualWatermarker.load(file, key=read_key(key_file) if key_file is not None else None)


def _marked_lines(result: MarkResult) -> Iterator[str]:
    yield f"{result.input} -> {result.output}"
    yield f"  picture      {result.width} x {result.height}, {result.bits} bits, {result.psnr:.1f} dB to its cover"
    if result.roi_mode != "off":
        yield f"  region       {result.roi_mode}, {result.roi_share:.0%} of the picture, from {result.roi_source}"
    yield f"  payload      {result.payload}"
    yield f"  record       {result.record_id}"
    yield f"  transaction  {result.transaction} in block {result.block}"
    yield f"  evidence     {result.evidence_cid}"
    yield f"  bundle       {result.bundle_cid}"
    yield f"  manifest     {result.manifest_cid}"
    if result.short:
        yield "  note         too small for cover hash and signature in the picture; the record has both"
    yield f"  time         {', '.join(f'{stage} {ms:.0f}' for stage, ms in result.milliseconds.items())} ms"


def _restored_lines(result: RestoreResult) -> Iterator[str]:
    yield f"{result.input} -> {result.output}"
    yield f"  cover        {result.cover_hash} (SHA3-256 of its samples)"
    yield (
        f"  restored     {result.width} x {result.height}, {result.bits} bits: {result.changed} samples brought back, "
        "checked against the mark"
    )
    yield f"  payload      {result.payload}"
    yield f"  model        {result.model}"
    yield f"  time         {', '.join(f'{stage} {ms:.0f}' for stage, ms in result.milliseconds.items())} ms"


def _progress(watched: bool) -> Progress:
    """What happens, where somebody watches; a wait in any case, so that nobody takes it for a standstill."""

    def show(stage: str, done: int, total: int) -> None:
        if stage == "wait":
            _tell("another command is marking for this hospital; waiting until it has finished")
        elif watched:
            end = "\n" if stage == "write" and done == total else ""
            print(f"\r\x1b[K{stage} {min(done + 1, total)}/{total}", end=end, file=sys.stderr, flush=True)

    return show


def _tell(message: str) -> None:
    terminal.complain(f"{PROGRAM}: {message}")


if __name__ == "__main__":
    sys.exit(main())
