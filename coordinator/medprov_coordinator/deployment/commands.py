"""The commands of ``medprov-coordinator`` that run and change a deployment: init, bundle, up, enroll, revoke."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from medprov_ledger import terminal

NAMES = ("init", "bundle", "up", "enroll", "revoke")
_CONFIG = "coordinator.toml (default: in this folder)"
_GOES_ON = "the same command goes on at the last anchored round"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the command line's parser."""
    init = commands.add_parser("init", help="write a first coordinator.toml")
    init.add_argument("--config", type=Path, required=True, metavar="FILE", help="the hospital's medprov.toml")
    init.add_argument("--dir", type=Path, required=True, help="folder for coordinator.toml and its state")
    init.add_argument("--listen", default="127.0.0.1:9092", metavar="HOST:PORT", help="(127.0.0.1:9092)")
    init.add_argument("--address", metavar="HOST:PORT", help="what members use (default: as --listen)")
    init.add_argument("--hospital", metavar="NAME", help="whose account acts (default: the first in the file)")
    bundle = commands.add_parser("bundle", help="print the hash of the app bundle, or approve it")
    bundle.add_argument("--approve", action="store_true", help="approve it with the accounts whose keys are here")
    bundle.add_argument("--file", type=Path, help="write the bundle itself into this file")
    up = commands.add_parser("up", help="run SuperLink and rounds until the federation has its rounds")
    up.add_argument("--stay", action="store_true", help="keep the SuperLink up after the last round")
    up.add_argument("--no-run", action="store_true", help="keep the SuperLink up for enrolling; submit no run")
    enroll = commands.add_parser("enroll", help="let a hospital in: node key, chain vote, start kit")
    enroll.add_argument("request", type=Path, metavar="REQUEST", help="request.json of 'medprov-node request'")
    enroll.add_argument("--out", type=Path, required=True, metavar="KIT", help="file for the start kit")
    revoke = commands.add_parser("revoke", help="shut a hospital out at run time")
    revoke.add_argument("who", metavar="NAME|ADDRESS")
    for command in (bundle, up, enroll, revoke):
        command.add_argument("--config", type=Path, default=Path("coordinator.toml"), metavar="FILE", help=_CONFIG)
    for command in (init, bundle, up, enroll, revoke):
        command.add_argument("--json", action="store_true", help="print JSON objects, one a line")


def run(options: argparse.Namespace) -> int:
    """Run one of :data:`NAMES`; gives the exit status.

    Raises
    ------
    CoordinatorError, LedgerError
    """
    # imported here and not above: it takes seconds, in which Ctrl-C is no error either
    from medprov_coordinator.deployment.config import Deployment

    if options.command == "init":
        return _init(options)
    deployment = Deployment.load(options.config)
    if options.command == "bundle":
        return _bundle(options, deployment)
    if options.command == "up":
        return _up(options, deployment)
    return (_enroll if options.command == "enroll" else _revoke)(options, deployment)


def _init(options: argparse.Namespace) -> int:
    from medprov_coordinator.deployment.setup import init

    made = init(options.config, options.dir, listen=options.listen, address=options.address, hospital=options.hospital)
    lines = [
        f"{made.path}: written, for {made.hospital.name}",
        f"next         medprov-coordinator bundle --approve --config {made.path}",
    ]
    _say(options, {"config": str(made.path), "hospital": made.hospital.name}, lines)
    return 0


def _bundle(options: argparse.Namespace, deployment: Any) -> int:
    from medprov_coordinator.deployment import bundle, files, members
    from medprov_coordinator.errors import SettingsError

    wanted = bundle.bundle_hash()
    values: dict[str, Any] = {"bundle": f"0x{wanted.hex()}"}
    lines = [f"bundle       0x{wanted.hex()}"]
    if options.file is not None:
        try:
            files.write(options.file, bundle.build())
        except OSError as error:
            raise SettingsError(f"{options.file}: cannot be written ({error.strerror})") from None
    if options.approve:
        values["released"] = members.approve(deployment)
        more = "others approve it with 'medprov-node approve-app HASH'"
        lines.append("released" if values["released"] else f"approved     not released yet: {more}")
    _say(options, values, lines)
    return 0


def _up(options: argparse.Namespace, deployment: Any) -> int:
    from medprov_coordinator.deployment.up import up

    def say(kind: str, text: str) -> None:
        line = json.dumps({"kind": kind, "text": text}) if options.json else f"{kind:12} {text}"
        terminal.say(line, done=_GOES_ON)

    rounds = up(deployment, say, stay=options.stay, train=not options.no_run)
    if rounds is None:
        raise KeyboardInterrupt
    say("rounds", str(rounds))
    return 0


def _enroll(options: argparse.Namespace, deployment: Any) -> int:
    from medprov_coordinator.deployment.members import enroll

    done = enroll(deployment, options.request, options.out)
    kit = done.kit
    votes = (
        "member"
        if done.member
        else f"{done.threshold} votes needed: others vote with 'medprov-node vote join {options.request}'"
    )
    lines = [
        f"{kit.name} ({kit.address})",
        f"  node       {kit.node_id} at {kit.superlink}",
        f"  chain      {votes}",
        f"  kit        {options.out}; no secret is in it",
    ]
    values = {
        "name": kit.name,
        "address": kit.address,
        "node": str(kit.node_id),
        "member": done.member,
        "voted": done.voted,
        "kit": str(options.out),
    }
    _say(options, values, lines)
    return 0


def _revoke(options: argparse.Namespace, deployment: Any) -> int:
    from medprov_coordinator.deployment.members import revoke

    done = revoke(deployment, options.who)
    chain = (
        "suspended" if done.suspended else f"{done.threshold} votes needed: 'medprov-node vote suspend {done.address}'"
    )
    lines = [
        f"{done.name} ({done.address or 'no member'})",
        f"  node       {', '.join(map(str, done.nodes)) or 'none enrolled'}: shut out",
        f"  chain      {chain if done.address else 'was no member'}",
    ]
    values = {
        "name": done.name,
        "address": done.address,
        "nodes": [str(node) for node in done.nodes],
        "suspended": done.suspended,
    }
    _say(options, values, lines)
    return 0


def _say(options: argparse.Namespace, values: dict[str, Any], lines: list[str]) -> None:
    terminal.say(json.dumps(values) if options.json else "\n".join(lines))
