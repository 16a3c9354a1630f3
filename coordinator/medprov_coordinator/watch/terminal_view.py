"""A run in the terminal: tables that renew themselves, or plain lines where standard output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from medprov_coordinator.audit_log import Entry
from medprov_coordinator.watch import words
from medprov_coordinator.watch.chain_view import ChainState, ChainView
from medprov_coordinator.watch.run_folder import Run, RunFolder
from medprov_ledger import terminal

ROUNDS = 12
"""Rounds that the table shows."""
RECENT = 6
"""Refused attempts, rejected updates and lines of the log that are shown, each."""
_COLOURS = {"anchored": "green", "waiting": "yellow", "differs": "bold red"}


def watch(folder: RunFolder, chain: ChainView | None, *, once: bool, every: float) -> None:
    """Show a run until Ctrl-C.

    Parameters
    ----------
    folder : RunFolder
    chain : ChainView or None
    once : bool
        Show the present state and end.
    every : float
        Seconds between two looks.

    Raises
    ------
    StandardOutputError
        Nobody takes the output.
    """
    console = Console(highlight=False)
    if once:
        run, state = _look(folder, chain)
        if console.is_terminal:
            console.print(screen(run, state))
        else:
            terminal.say("\n".join(lines(run, state)))
        return
    if console.is_terminal:
        with Live(screen(*_look(folder, chain)), console=console, auto_refresh=False, screen=True) as live:
            while True:
                time.sleep(every)
                live.update(screen(*_look(folder, chain)), refresh=True)
    follow(folder, chain, every)


def follow(folder: RunFolder, chain: ChainView | None, every: float) -> None:
    """Print the present state, then each new line of the log as one line."""
    run, state = _look(folder, chain)
    said = list(lines(run, state))
    problems = set(run.problems)
    while True:
        if said:
            terminal.say("\n".join(said))
        time.sleep(every)
        run = folder.refresh()
        said = [line_of(entry) for entry in run.fresh]
        said += [f"problem    {words.clean(problem)}" for problem in run.problems if problem not in problems]
        problems = set(run.problems)


def line_of(entry: Entry) -> str:
    """One line of the log as one line for people."""
    return f"{words.moment(entry.time)}  {words.clean(entry.kind, 20):10} {words.clean(entry.body.get('text', ''))}"


def lines(run: Run, chain: ChainState) -> Iterator[str]:
    """The state as plain lines."""
    names = words.Names(run, chain)
    yield f"run        {words.clean(run.path)}: {_standing(run)}"
    yield f"audit log  {_log(run)}"
    if chain.configured:
        yield f"chain      {words.clean(chain.trouble) or f'{len(chain.rounds)} rounds anchored'}"
    for record in run.rounds:
        state, transaction, block = words.anchor_of(record, run, chain)
        took = words.seconds(run.history.seconds.get(record.number))
        yield (
            f"round      {record.number}: {len(record.updates)} accepted, {len(record.rejected)} rejected,"
            f" {words.clean(record.rule, 40)}, score {words.number(record.score)}, loss {words.number(record.loss)},"
            f" down {words.size(record.bytes_down)}, up {words.size(record.bytes_up)}, {took},"
            f" {state}{f' {words.clean(transaction, 80)}' if transaction else ''}{f' block {block}' if block else ''}"
        )
        for row in record.rejected:
            yield f"rejected   round {record.number}, {names.of(row.node)}: {words.clean(f'{row.code}: {row.detail}')}"
    for refusal in run.history.refusals:
        yield f"refused    {words.moment(refusal.time)} {words.clean(refusal.text)}"
    for member in run.members:
        yield (
            f"member     {names.of(member.node, member.signer)}: {member.accepted} accepted,"
            f" {member.rejected} rejected, {words.figures(member.figures)}{_standing_of(member.signer, chain)}"
        )
    for problem in run.problems:
        yield f"problem    {words.clean(problem)}"


def screen(run: Run, chain: ChainState) -> Group:
    """The state as tables."""
    names = words.Names(run, chain)
    parts: list[Panel | Table | Text] = [_head(run, chain), _rounds(run, chain), _members(run, chain, names)]
    if (rejected := _rejected(run, names)).row_count:
        parts.append(rejected)
    if run.history.refusals:
        refused = _table("Refused attempts", "when (UTC)", "attempt", "why")
        for refusal in islice(reversed(run.history.refusals), RECENT):
            why = Text(words.clean(refusal.text))
            refused.add_row(Text(words.moment(refusal.time)), str(refusal.attempt), why)
        parts.append(refused)
    if run.history.tail:
        log = _table("Audit log", "line", "when (UTC)", "kind", "what")
        for entry in list(run.history.tail)[-RECENT:]:
            what = Text(words.clean(entry.body.get("text", "")))
            log.add_row(str(entry.seq), Text(words.moment(entry.time)), Text(words.clean(entry.kind, 20)), what)
        parts.append(log)
    return Group(*parts)


def _look(folder: RunFolder, chain: ChainView | None) -> tuple[Run, ChainState]:
    return folder.refresh(), chain.refresh() if chain else ChainState()


def _head(run: Run, chain: ChainState) -> Panel:
    text = Text(f"{_standing(run)}\n")
    text.append(f"audit log: {_log(run)}", style="bold red" if run.history.broken_line else "")
    if chain.configured:
        said = words.clean(chain.trouble) or f"{len(chain.rounds)} rounds anchored"
        text.append(f"\nchain: {said}", style="yellow" if chain.trouble else "")
    for problem in run.problems:
        text.append(f"\n{words.clean(problem)}", style="red")
    return Panel(text, title=Text(f"medprov {words.clean(run.path)}"), title_align="left")


def _rounds(run: Run, chain: ChainState) -> Table:
    table = _table("Rounds", "round", "accepted", "rejected", "rule", "score", "loss", "down", "up", "time", "anchor")
    for record in run.rounds[-ROUNDS:]:
        state, transaction, block = words.anchor_of(record, run, chain)
        place = f" {words.short(transaction)}" if transaction else ""
        place += f" block {block}" if block else ""
        table.add_row(
            str(record.number),
            str(len(record.updates)),
            Text(str(len(record.rejected)), style="red" if record.rejected else ""),
            Text(words.clean(record.rule, 24)),
            words.number(record.score),
            words.number(record.loss),
            words.size(record.bytes_down),
            words.size(record.bytes_up),
            words.seconds(run.history.seconds.get(record.number)),
            Text(state + place, style=_COLOURS.get(state, "")),
        )
    return table


def _members(run: Run, chain: ChainState, names: words.Names) -> Table:
    members = run.members
    shown = words.ordered({name for member in members for name in member.figures})[:6]
    table = _table("Members", "member", "accepted", "rejected", "last round", *map(words.label, shown), "on chain")
    for member in members:
        table.add_row(
            Text(names.of(member.node, member.signer)),
            str(member.accepted),
            Text(str(member.rejected), style="red" if member.rejected else ""),
            str(member.last_round or "–"),
            *(words.number(member.figures.get(name)) for name in shown),
            chain.members.get(member.signer.lower(), "–"),
        )
    return table


def _rejected(run: Run, names: words.Names) -> Table:
    table = _table("Rejected updates", "round", "member", "reason")
    gone = [(record.number, row) for record in run.rounds for row in record.rejected]
    for number, row in reversed(gone[-RECENT:]):
        table.add_row(str(number), Text(names.of(row.node)), Text(words.clean(f"{row.code}: {row.detail}")))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", expand=True, box=None, header_style="bold", padding=(0, 1))
    for column in columns:
        # a figure's name is foreign text: as a plain string it would be read as markup
        table.add_column(Text(column), overflow="fold")
    return table


def _standing(run: Run) -> str:
    last = run.rounds[-1].number if run.rounds else 0
    number = max(last, run.stands_at or 0)
    entry = run.history.last
    now = (
        f"; last event {words.moment(entry.time)} UTC: {words.clean(entry.body.get('text', entry.kind))}"
        if entry
        else ""
    )
    refused = f", {run.history.refused} attempts refused" if run.history.refused else ""
    waiting = f", {len(run.pending)} waiting for the anchor" if run.pending else ""
    return f"{number} rounds{refused}{waiting}{now}"


def _log(run: Run) -> str:
    history = run.history
    if history.broken_line:
        return f"line {history.broken_line} {words.clean(history.broken_why)}"
    if history.absent:
        return "none in this folder"
    torn = f", {history.torn} bytes of an unfinished line" if history.torn else ""
    crashes = f", {history.crashes} lines cut short by a crash" if history.crashes else ""
    return f"{history.entries} lines, chain of hashes whole, head {history.head.hex()[:16]}{torn}{crashes}"


def _standing_of(signer: str, chain: ChainState) -> str:
    return f", {found} on the chain" if (found := chain.members.get(signer.lower())) else ""
