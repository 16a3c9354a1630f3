"""``medprov-ledger title``: who owns a record, who may use it, whether it stands, and how a hospital changes that."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import terminal
from .errors import ConfigError, TitleError

if TYPE_CHECKING:
    from .chain import Receipt
    from .config import Config, HospitalConfig
    from .federation import Federation
    from .index import RecordIndex, SyncReport
    from .signer import Signer
    from .title_claims import Proved
    from .titles import Licence, Title, Titles

NAME = "title"
REASONS = ("erroneous", "consent-withdrawn", "superseded", "key-compromised", "other")

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_DAY = 86_400
_RECORD = "a record's id or its record key, 64 hexadecimal digits"
_TEXTS = {
    "show": "whose a record is, whether it stands, to whom it is offered, who contests it",
    "transfer": "offer a record to another member, who must accept it",
    "accept": "take over a record that was offered to this hospital",
    "license": "let somebody use a record's image until a day; replaces an earlier licence",
    "revoke": "revoke a record, for good: it stays on the chain, and everybody sees why it no longer stands",
    "dispute": "contest a later record of the same mark or image; the earlier anchor is in the right",
}


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the commands to the command line's parser."""
    text = "who owns a record, who may use it, and whether it stands: show it, change it"
    parser = commands.add_parser(NAME, help=text, description=text)
    actions = parser.add_subparsers(dest="action", required=True)
    made = {name: actions.add_parser(name, help=text, description=text) for name, text in _TEXTS.items()}
    for name, action in made.items():
        action.add_argument("--config", type=Path, metavar="FILE", help="medprov.toml (default: where it usually lies)")
        action.add_argument(
            "--index", type=Path, metavar="FILE", help="keep the index of records in this file (default: nowhere)"
        )
        if name != "show":
            action.add_argument("--hospital", metavar="NAME", help="who acts (default: the first in the configuration)")
        if name != "dispute":
            action.add_argument("record", metavar="RECORD", help=_RECORD)
    made["show"].add_argument("--licensee", metavar="WHO", help="tell of this licence too")
    made["show"].add_argument("--json", action="store_true", help="print the result as one JSON object")
    made["transfer"].add_argument("to", metavar="TO", nargs="?", help="the other member: its address, or its name here")
    made["transfer"].add_argument("--withdraw", action="store_true", help="take the offer back")
    made["license"].add_argument("licensee", metavar="WHO", help="an address, or the name of a hospital here")
    made["license"].add_argument(
        "--until", type=_until, metavar="DATE", help="last day or second of its validity in UTC, as ISO 8601 writes it"
    )
    made["license"].add_argument(
        "--terms", type=Path, metavar="FILE", help="the terms; their SHA-256 goes on the chain (default: zero)"
    )
    made["license"].add_argument("--withdraw", action="store_true", help="take the licence back")
    made["revoke"].add_argument("reason", choices=REASONS)
    made["revoke"].add_argument(
        "--note", type=Path, metavar="FILE", help="an explanation; its SHA-256 goes on the chain (default: zero)"
    )
    made["dispute"].add_argument("earlier", metavar="EARLIER", help=f"the hospital's own record: {_RECORD}")
    made["dispute"].add_argument("later", metavar="LATER", help="the record that is contested")


def run(options: argparse.Namespace) -> int:
    """Run one of them; the exit status.

    Raises
    ------
    LedgerError
    """
    from .config import Config

    _check_usage(options)
    desk = _Desk.open(Config.load(options.config), options.index)
    if options.action == "show":
        _show(desk, options)
        return 0
    actor = _Actor(desk, *_choose(desk.config, options.hospital))
    # each looks for everything that can be wrong before a key is opened and money is spent
    {
        "transfer": _transfer,
        "accept": _accept,
        "license": _license,
        "revoke": _revoke,
        "dispute": _dispute,
    }[options.action](actor, options)
    return 0


@dataclass(frozen=True)
class _Desk:
    """The ledger, as these commands need it."""

    config: Config
    titles: Titles
    federation: Federation
    index: RecordIndex
    report: SyncReport

    @classmethod
    def open(cls, config: Config, file: Path | None) -> _Desk:
        from . import eip712
        from .chain import Chain
        from .federation import Federation
        from .index import RecordIndex
        from .registry import Registry
        from .store import open_store
        from .titles import Titles

        chain = Chain.connect(config)
        federation = Federation(chain)
        index = RecordIndex(file or ":memory:", eip712.domain(config.chain_id, config.registry_address))
        # no directory keys: who owns what needs no payloads
        report = index.sync(Registry(chain), federation, open_store(config))
        return cls(config, Titles(chain), federation, index, report)

    def find(self, name: str) -> tuple[Proved, Title]:
        from .title_claims import look_up

        proved = look_up(self.index, self.report, name)
        return proved, self.titles.title(proved.record_id, proved.claim.record.owner)

    def address(self, who: str) -> str:
        """An address, given as such or as the name of a hospital of the configuration."""
        from web3 import Web3

        if who in self.config.hospitals:
            return str(Web3.to_checksum_address(self.config.hospitals[who].address))
        if not _ADDRESS.fullmatch(who):
            known = ", ".join(self.config.hospitals) or "none"
            raise TitleError(f"{who[:80]!r}: is neither an address (0x and 40 digits) nor a hospital here ({known})")
        mixed = who[2:] != who[2:].lower() and who[2:] != who[2:].upper()
        if mixed and not Web3.is_checksum_address(who):
            raise TitleError(f"{who}: its upper and lower case (EIP-55) do not fit, so a digit is wrong; copy it again")
        return str(Web3.to_checksum_address(who))

    def called(self, address: str) -> str:
        """An address with the name that it has here."""
        hospitals = self.config.hospitals.values()
        name = next((one.name for one in hospitals if one.address.lower() == address.lower()), None)
        return f"{address} ({name})" if name else address


@dataclass(frozen=True)
class _Actor:
    """The hospital that acts."""

    desk: _Desk
    hospital: HospitalConfig
    note: str
    """That it was the first of several, for the output."""

    def signer(self) -> Signer:
        from .keys import load_signer

        return load_signer(self.hospital)

    def own(self, name: str) -> tuple[Proved, Title]:
        """A record that stands and is the hospital's."""
        proved, title = self.desk.find(name)
        self._stands(proved, title)
        if title.owner.lower() != self.hospital.address.lower():
            raise TitleError(
                f"{_hex(proved.record_id)}: belongs to {self.desk.called(title.owner)}, not to "
                f"{self.hospital.name}{self.note}"
            )
        return proved, title

    def offered(self, name: str) -> tuple[Proved, Title]:
        """A record that stands and is offered to the hospital."""
        proved, title = self.desk.find(name)
        self._stands(proved, title)
        to = title.offered and self.desk.federation.current_of(title.offered)
        if to is None or to.lower() != self.hospital.address.lower():
            whom = f"offered to {self.desk.called(to)}" if to else "offered to nobody"
            raise TitleError(f"{_hex(proved.record_id)}: is {whom}, not to {self.hospital.name}{self.note}")
        return proved, title

    def _stands(self, proved: Proved, title: Title) -> None:
        if title.revoked is not None:
            raise TitleError(f"{_hex(proved.record_id)}: {_revocation(title)}, which nobody can undo")

    def say(self, proved: Proved, what: str, receipt: Receipt) -> None:
        lines = [f"{_hex(proved.record_id)}: {what}", f"by {self.hospital.name}{self.note}"]
        lines.append(f"block {receipt.block}, transaction {receipt.tx_hash}")
        terminal.say("\n".join(lines), done="the chain has it")


def _show(desk: _Desk, options: argparse.Namespace) -> None:
    proved, title = desk.find(options.record)
    licensee = desk.address(options.licensee) if options.licensee else None
    licence = desk.titles.licence(proved.record_id, licensee) if licensee else None
    if options.json:
        terminal.say(json.dumps(_to_json(proved, title, licence), indent=1))
        return
    record = proved.claim.record
    how = "registered by itself" if proved.claim.root is None else f"anchored in batch {_hex(proved.claim.root)}"
    lines = [
        f"record         {_hex(proved.record_id)}",
        f"owner          {desk.called(title.owner)}",
        f"recorded by    {desk.called(record.owner)}",
        f"proved         {how}, block {proved.block}, {_moment(proved.time)}",
        f"standing       {'stands' if title.revoked is None else _revocation(title)}",
        f"offered to     {desk.called(title.offered) if title.offered else 'nobody'}",
        f"contested by   {_hex(title.contested_by) if title.contested_by else 'nobody'}",
    ]
    if licensee:
        lines.append(f"licence        {desk.called(licensee)}: {_licence(licence)}")
    terminal.say("\n".join(lines))


def _transfer(actor: _Actor, options: argparse.Namespace) -> None:
    proved, title = actor.own(options.record)
    if options.withdraw:
        if title.offered is None:
            raise TitleError(f"{_hex(proved.record_id)}: is offered to nobody, so there is nothing to take back")
        receipt = actor.desk.titles.offer(proved.claim, None, actor.signer())
        actor.say(proved, f"the offer to {actor.desk.called(title.offered)} is taken back", receipt)
        return
    to = actor.desk.address(options.to)
    if to.lower() == actor.hospital.address.lower():
        raise TitleError(f"{_hex(proved.record_id)}: belongs to {actor.hospital.name} already{actor.note}")
    if not actor.desk.federation.is_member(to):
        raise TitleError(f"{to}: is no active member of the federation; records go to members only")
    receipt = actor.desk.titles.offer(proved.claim, to, actor.signer())
    what = f"offered to {actor.desk.called(to)}; it changes hands when that member accepts ('title accept')"
    actor.say(proved, what, receipt)


def _accept(actor: _Actor, options: argparse.Namespace) -> None:
    proved, title = actor.offered(options.record)
    receipt = actor.desk.titles.accept(proved.record_id, actor.signer())
    actor.say(proved, f"taken over from {actor.desk.called(title.owner)}", receipt)


def _license(actor: _Actor, options: argparse.Namespace) -> None:
    proved, _ = actor.own(options.record)
    licensee = actor.desk.address(options.licensee)
    if options.withdraw:
        if actor.desk.titles.licence(proved.record_id, licensee) is None:
            raise TitleError(f"{_hex(proved.record_id)}: {actor.desk.called(licensee)} has no licence to take back")
        receipt = actor.desk.titles.withdraw_licence(proved.record_id, licensee, actor.signer())
        actor.say(proved, f"the licence of {actor.desk.called(licensee)} is taken back", receipt)
        return
    if options.until <= time.time():
        raise TitleError(f"--until: {_moment(options.until)} is over; a licence ends in the future")
    terms = _digest(options.terms)
    receipt = actor.desk.titles.license(proved.claim, licensee, options.until, terms, actor.signer())
    actor.say(proved, f"licensed to {actor.desk.called(licensee)} until {_moment(options.until)}", receipt)


def _revoke(actor: _Actor, options: argparse.Namespace) -> None:
    from .titles import Reason

    proved, _ = actor.own(options.record)
    reason = Reason[options.reason.upper().replace("-", "_")]
    receipt = actor.desk.titles.revoke(proved.claim, reason, actor.signer(), _digest(options.note))
    actor.say(proved, f"revoked: {options.reason.replace('-', ' ')}", receipt)


def _dispute(actor: _Actor, options: argparse.Namespace) -> None:
    earlier, _ = actor.own(options.earlier)
    later, title = actor.desk.find(options.later)
    if earlier.record_id == later.record_id:
        raise TitleError(f"{_hex(later.record_id)}: is one and the same record; name the other one")
    a, b = earlier.claim.record, later.claim.record
    if a.key != b.key and a.marked_hash != b.marked_hash and a.released_hash != b.released_hash:
        raise TitleError(
            f"{_hex(later.record_id)}: shares neither mark nor image with {_hex(earlier.record_id)}, so neither can "
            "contest the other"
        )
    if earlier.block >= later.block:
        raise TitleError(
            f"{_hex(earlier.record_id)}: stands in block {earlier.block} and {_hex(later.record_id)} in block "
            f"{later.block}; only the earlier one can contest"
        )
    if title.contested_by == earlier.record_id:
        raise TitleError(f"{_hex(later.record_id)}: is contested by {_hex(earlier.record_id)} already")
    receipt = actor.desk.titles.dispute(earlier.claim, later.claim, actor.signer())
    actor.say(later, f"contested by {_hex(earlier.record_id)}", receipt)


def _check_usage(options: argparse.Namespace) -> None:
    if options.action == "transfer" and options.withdraw == (options.to is not None):
        raise TitleError("title transfer: name the member that shall have the record, or give --withdraw")
    if options.action == "license" and options.withdraw == (options.until is not None):
        raise TitleError("title license: give --until, or --withdraw")


def _choose(config: Config, name: str | None) -> tuple[HospitalConfig, str]:
    if not config.hospitals:
        raise ConfigError(f"{config.path}: holds no hospital's keys; titles are changed with a hospital's key")
    if name is not None:
        return config.hospital(name), ""
    first = next(iter(config.hospitals.values()))
    others = len(config.hospitals) > 1
    return first, f", the first of {', '.join(config.hospitals)}: --hospital names another" if others else ""


def _until(text: str) -> int:
    """Seconds since 1970; a day ends with its last second."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date; write 2030-12-31 or 2030-12-31T12:00:00Z") from None
    seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    return seconds + _DAY - 1 if re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", text) else seconds


def _digest(file: Path | None) -> bytes:
    if file is None:
        return bytes(32)
    try:
        return hashlib.sha256(file.read_bytes()).digest()
    except OSError as error:
        raise TitleError(f"{file}: cannot be read ({error.strerror or error})") from None


def _to_json(proved: Proved, title: Title, licence: Licence | None) -> dict[str, Any]:
    return {
        "record_id": _hex(proved.record_id),
        "record": proved.claim.record.to_json(),
        "root": _hex(proved.claim.root) if proved.claim.root is not None else None,
        "proof": [_hex(node) for node in proved.claim.proof],
        "block": proved.block,
        "time": proved.time,
        "owner": title.owner,
        "offered_to": title.offered,
        "revoked": title.revoked,
        "reason": None if title.revoked is None else _words(title),
        "contested_by": _hex(title.contested_by) if title.contested_by else None,
        "licence": None
        if licence is None
        else {
            "licensee": licence.licensee,
            "granted": licence.granted,
            "expires": licence.expires,
            "terms": _hex(licence.terms),
            "valid": licence.valid,
        },
    }


def _revocation(title: Title) -> str:
    return f"was revoked on {_moment(title.revoked or 0)}: {_words(title)}"


def _words(title: Title) -> str:
    return title.reason.name.lower().replace("_", " ")


def _licence(licence: Licence | None) -> str:
    if licence is None:
        return "none"
    return f"{'valid until' if licence.valid else 'not valid; it was to end'} {_moment(licence.expires)}"


def _moment(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        # 48 bits reach beyond the calendar
        return f"second {seconds} since 1970"


def _hex(value: bytes) -> str:
    return "0x" + value.hex()
