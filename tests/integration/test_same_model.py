"""One seed, one model: in this process, in Flower's simulation engine, and between real processes over TLS."""

from __future__ import annotations

import signal
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from medprov_coordinator import cli as coordinator
from medprov_coordinator.round import Services
from medprov_coordinator.run import run_federation
from medprov_coordinator.run_config import RunConfig
from medprov_ledger import development
from medprov_ledger.chain import Chain
from medprov_ledger.federation import Federation
from medprov_ledger.supervised import free_port
from medprov_node import cli as node
from medprov_node.client_app import app
from medprov_node.joining.config import Site
from medprov_watermark.training.phantoms import phantom
from tests.integration.test_deployment import RUN, Program, until

pytestmark = pytest.mark.slow
# All three, so that no round is made before the last of them has joined.
ALL = RUN.replace("quorum = 2", "quorum = 3")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("encoding", "optimiser"), [("float32", "own"), ("int8", "shared")])
def test_simulation_gives_the_model_of_the_in_process_run(tmp_path: Path, encoding: str, optimiser: str) -> None:
    nodes = [{"images": str(pictures(tmp_path / f"images-{h}", h))} for h in range(3)]
    config = RunConfig.from_flat({**tomllib.loads(ALL)["run"], "encoding": encoding, "optimiser": optimiser})
    here = run_federation(app, nodes, config)
    simulated = run_federation(app, nodes, config, workers=2)
    assert simulated.model_hash == here.model_hash and simulated.number == here.number == 2
    assert [report.root for report in simulated.rounds] == [report.root for report in here.rounds]


@pytest.mark.timeout(300)
def test_an_interrupted_simulation_ends(tmp_path: Path) -> None:
    images = [part for h in range(3) for part in ("--images", str(pictures(tmp_path / f"images-{h}", h)))]
    size = ["--batch", "2", "--channels", "8", "--blocks", "1", "--extractor-blocks", "1", "--set", "probe-pictures=1"]
    run = ["medprov_coordinator.cli", "run", "--dir", str(tmp_path / "run"), *images, *size, "--rounds", "999"]
    command = Program([*run, "--steps", "1", "--workers", "2"], tmp_path / "log")
    try:
        # in the midst of a round, while threads of the engine wait for workers
        until(lambda: "round 1:" in command.said or command.process.poll() is not None, "a round", 200)
        command.process.send_signal(signal.SIGINT)
        # 1 is Ray's own exit where a thread of the engine still asks it after its end
        assert command.process.wait(60) in (1, 130), command.said
    finally:
        command.process.kill()
        command.process.wait()
    assert "Traceback" not in command.said
    assert command.process.returncode == 1 or "goes on at the last round" in command.said


@pytest.mark.timeout(900)
def test_deployment_gives_the_model_of_the_in_process_run(tmp_path: Path) -> None:
    if not Path("/proc/self/task").exists():
        pytest.skip("needs /proc")
    chain = tmp_path / "chain"
    config = development.up(chain).config
    running: list[Program] = []
    try:
        ledger, folder = str(config.path), tmp_path / "c"
        listen = f"127.0.0.1:{free_port()}"
        assert not coordinator.main(["init", "--config", ledger, "--dir", str(folder), "--listen", listen])
        file = folder / "coordinator.toml"
        file.write_text(file.read_text().partition("[run]")[0] + ALL)
        assert not coordinator.main(["bundle", "--approve", "--config", str(file)])
        up = Program(["medprov_coordinator.cli", "up", "--config", str(file)], tmp_path / "up.log")
        running.append(up)
        until(lambda: "superlink  " in up.said or up.process.poll() is not None, "the SuperLink")
        sites = []
        for h, name in enumerate(development.HOSPITALS):
            home, images = tmp_path / name, pictures(tmp_path / f"images-{name}", h)
            assert not node.main(["request", str(home), "--config", ledger, "--hospital", name])
            kit = str(home / "kit.json")
            assert not coordinator.main(["enroll", str(home / "request.json"), "--config", str(file), "--out", kit])
            join = ["join", "--kit", kit, "--home", str(home), "--images", str(images), "--config", ledger]
            assert not node.main([*join, "--no-start"])
            sites.append(Site.load(home / "node.toml"))
            running.append(
                Program(["medprov_node.cli", "join", "--config", str(home / "node.toml")], tmp_path / f"{name}.log")
            )
        until(lambda: up.process.poll() is not None, "the last round", 700)
        assert up.process.returncode == 0, up.said
        last = Federation(Chain.connect(config)).last_round()
        services = Services(federation=config.federation_id)
        run = RunConfig.from_flat(tomllib.loads(ALL)["run"])
        here = run_federation(app, [site.node_config() for site in sites], run, services=services)
        assert last is not None and last.number == here.number == 2
        assert bytes(last.model_hash) == here.model_hash
        # the same signatures in the same order as well
        assert bytes(last.updates_root).hex() == here.rounds[-1].root
    finally:
        for program in reversed(running):
            program.stop()
        development.down(chain)


def pictures(folder: Path, hospital: int) -> Path:
    folder.mkdir()
    for i in range(2):
        Image.fromarray(phantom(700 + 10 * hospital + i)).save(folder / f"{i}.png")
    return folder
