"""``medprov-ledger model``: publish a model version, approve it, withdraw it, fetch it."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import terminal
from .errors import ConfigError, ModelError

if TYPE_CHECKING:
    from .chain import Account
    from .config import Config
    from .federation import Federation

NAME = "model"
_TEXTS = {
    "publish": "put weights and extractor into the store; what it prints is what members approve",
    "approve": "approve a published model for marking; the k-th approval releases it",
    "list": "the models that the members have released, and which of them are in use",
    "withdraw": "approve that a model marks no more; what it has marked stays good",
    "reinstate": "approve that a withdrawn model marks again",
    "fetch": "get a released model from the store, check it, and print where it lies",
}


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the commands to the command line's parser."""
    text = "versions of the watermark networks: publish, approve, list, withdraw, fetch"
    actions = commands.add_parser(NAME, help=text, description=text).add_subparsers(dest="action", required=True)
    made = {name: actions.add_parser(name, help=text, description=text) for name, text in _TEXTS.items()}
    for name, action in made.items():
        action.add_argument("--config", type=Path, metavar="FILE", help="medprov.toml (default: where it usually lies)")
        if name in ("approve", "withdraw", "reinstate"):
            action.add_argument("--hospital", metavar="NAME", help="who approves (default: the first in the file)")
        if name not in ("publish", "list"):
            action.add_argument("model", type=_hash, metavar="HASH", help="SHA-256 of the weights file")
    made["publish"].add_argument("weights", type=Path, metavar="FILE.safetensors")
    made["publish"].add_argument(
        "--onnx", type=Path, metavar="FILE", help="its extractor (default: the .onnx beside it)"
    )
    made["publish"].add_argument("--round", type=int, default=0, help="the anchored round that it comes from")
    made["approve"].add_argument("--cid", required=True, help="of the package, as 'publish' printed it")
    made["list"].add_argument("--json", action="store_true", help="print the result as one JSON object")
    made["fetch"].add_argument("--out", type=Path, metavar="DIR", help="folder (default: the cache of models)")


def run(options: argparse.Namespace) -> int:
    """Run one of them; the exit status.

    Raises
    ------
    LedgerError
    """
    # imported here and not above: web3 takes a second, in which Ctrl-C is no error either
    from . import model_package as packages
    from .chain import Chain
    from .config import Config
    from .federation import Federation
    from .store import open_store

    config = Config.load(options.config)
    if options.action == "publish":
        _publish(options, config)
        return 0
    federation = Federation(Chain.connect(config))
    if options.action == "list":
        _list(federation, options.json)
    elif options.action == "fetch":
        found = packages.fetch(options.model, federation, open_store(config), options.out or packages.folder())
        terminal.say(str(found))
    elif options.action == "approve":
        # a package that is not whole would be released for ever: everything is fetched and hashed first
        store = open_store(config)
        packages.files(packages.read(options.model, options.cid, store), store)
        federation.release_model(options.model, options.cid, _account(config, options.hospital))
        released = federation.is_released(options.model)
        terminal.say(f"{options.model.hex()}: approved" + (", and released" if released else "; more must approve"))
    else:
        usable = options.action == "reinstate"
        change = federation.reinstate_model if usable else federation.withdraw_model
        change(options.model, _account(config, options.hospital))
        done = federation.is_usable(options.model) is usable
        word = "in use again" if usable else "withdrawn"
        terminal.say(
            f"{options.model.hex()}: {word}" if done else f"{options.model.hex()}: approved; more must approve"
        )
    return 0


def _publish(options: argparse.Namespace, config: Config) -> None:
    from . import model_package as packages
    from .store import open_store

    onnx = options.onnx or options.weights.with_suffix(packages.EXTRACTOR)
    package, cid = packages.publish(_read(options.weights), _read(onnx), open_store(config), options.round)
    terminal.say(
        f"model    {package.model.hex()}\npackage  {cid}\n"
        f"members approve it with: medprov-ledger model approve {package.model.hex()} --cid {cid}",
        done="the model is in the store",
    )


def _list(federation: Federation, as_json: bool) -> None:
    active = federation.active_model()
    rows = [
        {
            "model": one.model_hash.hex(),
            "cid": one.cid,
            "block": one.block,
            "time": one.time,
            "usable": federation.is_usable(one.model_hash),
            "active": active is not None and one.model_hash == active.model_hash,
        }
        for one in federation.released_models()
    ]
    if as_json:
        terminal.say(json.dumps({"models": rows}, indent=1))
        return
    words = {(True, True): "newest in use", (True, False): "in use", (False, False): "withdrawn"}
    lines = [f"{row['model']}  block {row['block']}  {words[bool(row['usable']), bool(row['active'])]}" for row in rows]
    terminal.say("\n".join(lines) or "no model is released")


def _account(config: Config, name: str | None) -> Account:
    from .keys import load_signer

    names = list(config.hospitals)
    chosen = name or (names[0] if names else "")
    if chosen not in config.hospitals:
        raise ConfigError(f"{config.path}: hospital '{chosen}' has no keys here; name one of [{', '.join(names)}]")
    return load_signer(config.hospitals[chosen])


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror})") from None


def _hash(text: str) -> bytes:
    if not re.fullmatch(r"(0x)?[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError("must be 64 hexadecimal digits")
    return bytes.fromhex(text.removeprefix("0x"))
