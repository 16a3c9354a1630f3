"""A chain that is killed while a federation trains: the rounds wait in the folder and are anchored later."""

import os
import signal

import pytest
from PIL import Image

from medprov_coordinator import audit_log, cli
from medprov_coordinator.checkpoint import CheckpointFolder
from medprov_coordinator.connect import connect
from medprov_coordinator.errors import CheckpointError, PendingError
from medprov_coordinator.run import run_federation
from medprov_coordinator.run_config import RunConfig
from medprov_ledger import development, embedded
from medprov_ledger.chain import Chain
from medprov_ledger.federation import Federation
from medprov_node.client_app import app
from medprov_watermark.training.phantoms import phantom

pytestmark = pytest.mark.slow
FLAT = {"local-steps": 1, "batch": 2, "channels": 8, "blocks": 1, "extractor-blocks": 1, "probe-pictures": 1}


def config(rounds):
    return RunConfig.from_flat({**FLAT, "rounds": rounds, "total-steps": 10, "anchor-wait": 0.0})


@pytest.fixture
def world(tmp_path):
    up = development.up(tmp_path / "chain")
    nodes = []
    for h, name in enumerate(sorted(up.config.hospitals)):
        folder = tmp_path / name
        folder.mkdir()
        for i in range(2):
            Image.fromarray(phantom(700 + 10 * h + i)).save(folder / f"{i}.png")
        nodes.append({"images": str(folder), "hospital": name, "medprov-config": str(up.config.path)})
    try:
        yield tmp_path, up.config, nodes
    finally:
        development.down(tmp_path / "chain")


def test_chain_killed_while_training(world, capsys):
    tmp_path, ledger, nodes = world
    run, file = tmp_path / "run", str(ledger.path)

    def kill_chain(event):
        if event.kind == "asked" and event.number == 1:
            # the second round is trained without a chain, its members' signatures checked against the last known list
            os.kill(embedded.load(tmp_path / "chain").pid, signal.SIGKILL)

    events = []
    with pytest.raises(PendingError, match=r"round.* 3 not anchored yet"):
        run_federation(
            app,
            nodes,
            config(3),
            folder=run,
            services=connect(file),
            on_event=lambda event: (events.append(event), kill_chain(event)),
        )
    assert [e.number for e in events if e.kind == "round"] == [1, 2, 3]
    assert "members" in {e.kind for e in events}
    state = CheckpointFolder(run).load_state()
    waiting = [entry.number for entry in state.pending]
    assert state.number == 3 and waiting == [2, 3]
    command = ["anchor", "--dir", str(run), "--config", file]
    assert cli.main(command) == 1
    development.up(tmp_path / "chain")
    assert cli.main(command) == 0
    assert capsys.readouterr().out.startswith("anchored  ")
    anchored = Federation(Chain.connect(ledger)).rounds()
    assert [one.number for one in anchored] == [1, 2, 3]
    assert anchored[-1].model_hash.hex() == state.model
    assert audit_log.verify(run / audit_log.FILE).good
    # a second coordinator with a folder of its own goes on from the chain; the first one is told so
    run_federation(app, nodes, config(4), folder=tmp_path / "other", services=connect(file))
    behind = run_federation(app, nodes, config(5), folder=run, services=connect(file))
    assert behind.resumed_from == 4
    with pytest.raises(CheckpointError, match="of federation"):
        run_federation(app, nodes, config(6), folder=run)
