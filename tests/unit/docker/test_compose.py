"""docker/compose.yaml, docker/Dockerfile and .dockerignore, without a Docker daemon."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import distribution, entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
DOCKER = ROOT / "docker"
HOSPITALS = ("hospital-a", "hospital-b", "hospital-c")
SITES = ("site-a", "site-b", "site-c")
PAGES = {"verifier": "8080", "watcher": "8090"}
DISTRIBUTIONS = {
    "watermark": "medprov-watermark",
    "ledger": "medprov-ledger",
    "node": "medprov-node",
    "coordinator": "medprov-coordinator",
    "client_sdk": "medprov-sdk",
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def stages() -> dict[str, tuple[str, list[str]]]:
    """Name of each stage to what it begins from and its instructions, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text()).replace("\\\n", " ")
    found: dict[str, tuple[str, list[str]]] = {}
    for line in text.splitlines():
        begin = re.fullmatch(r"FROM (\S+) AS (\S+)", line)
        if begin:
            found[begin[2]] = (begin[1], [])
            name = begin[2]
        elif line.strip():
            found[name][1].append(re.sub(r"\s+", " ", line.strip()))
    return found


def lineage(stages: dict[str, tuple[str, list[str]]], name: str) -> list[str]:
    """The stage's instructions after those of the stages that it begins from."""
    base, lines = stages[name]
    return (lineage(stages, base) if base in stages else []) + lines


def installed(stages: dict[str, tuple[str, list[str]]], target: str) -> set[str]:
    """What the target's virtual environment was asked to hold, as requirements."""
    (venv,) = {
        line.split("--from=")[1].split()[0] for line in lineage(stages, target) if "/opt/medprov /opt/medprov" in line
    }
    pip = " ".join(line for line in lineage(stages, venv) if "pip install" in line)
    local = re.findall(r"\./(\w+)(\[\w+\])?", pip)
    return {DISTRIBUTIONS[folder] + extra for folder, extra in local}


def closure(requirements: set[str]) -> set[str]:
    """Names of all packages that these requirements bring, on this machine."""
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in distribution(name).requires or []:
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    waiting.append(needed)
    return {name for name, _ in seen}


def test_the_file_keeps_to_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(DOCKER / "compose.yaml")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_check_finds_what_is_wrong(tmp_path: Path, compose: dict[str, Any]) -> None:
    wrong = {**compose, "services": {**compose["services"], "chain": {"comand": ["x"]}}}
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(wrong))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(tmp_path / "compose.yaml")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1


def test_only_the_pages_ports_are_published_and_only_here(compose: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert ports == {"chain": [f"127.0.0.1:{port}:{port}" for port in PAGES.values()]}
    for name, port in PAGES.items():
        command = compose["services"][name]["command"]
        assert command[command.index("--port") + 1] == port
    listening = [name for name, service in compose["services"].items() if "0.0.0.0" in service["command"]]
    assert listening == list(PAGES) or listening == list(reversed(PAGES))


def test_all_share_the_chains_network(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service.get("network_mode") == (None if name == "chain" else "service:chain"), name
        assert "networks" not in service
    script = (DOCKER / "ipfs-loopback.sh").read_text()
    addresses = dict(re.findall(r"(?m)^ipfs config Addresses\.(\w+) (\S+)$", script))
    assert addresses == {"API": "/ip4/127.0.0.1/tcp/5001", "Gateway": "/ip4/127.0.0.1/tcp/8081"}
    assert os.access(DOCKER / "ipfs-loopback.sh", os.X_OK)
    assert "--offline" in compose["services"]["ipfs"]["command"]


def test_every_target_is_a_stage_of_an_ordinary_user(compose: dict[str, Any], stages: dict[str, Any]) -> None:
    ours = {name: service["build"] for name, service in compose["services"].items() if "build" in service}
    assert {build["target"] for build in ours.values()} == {"chain", "node", "coordinator", "verifier"}
    for build in ours.values():
        assert ((DOCKER / build["context"]).resolve(), build["dockerfile"]) == (ROOT, "docker/Dockerfile")
        users = [line.split()[1] for line in lineage(stages, build["target"]) if line.startswith("USER ")]
        assert users == ["medprov"]
        assert lineage(stages, build["target"])[-1].startswith("CMD ")
        assert any("ORT_DISABLE_TELEMETRY=1" in line for line in lineage(stages, build["target"]))
        arguments = {line.split()[1].split("=")[0] for line in lineage(stages, build["target"]) if line[:4] == "ARG "}
        assert set(build["args"]) <= arguments
    for name in ours:
        service = compose["services"][name]
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and "privileged" not in service, name


def test_images_are_pinned(compose: dict[str, Any], stages: dict[str, Any]) -> None:
    foreign = [service["image"] for service in compose["services"].values() if "build" not in service]
    assert foreign and all(re.fullmatch(r"[\w/.-]+:v\d+\.\d+\.\d+", image) for image in foreign)
    for base, _ in stages.values():
        assert base in stages or re.fullmatch(r"(python:3\.11|node:20)-[a-z-]+", base), base
    assert [name for name, (base, _) in stages.items() if base.startswith("node:")] == ["anvil"]
    assert [t for t in ("chain", "node", "coordinator", "verifier") if "anvil" in str(stages[t][1])] == ["chain"]


def test_copies_exist_and_are_not_ignored(stages: dict[str, Any]) -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {rule[1:] for rule in rules if rule.startswith("!")}
    assert "*" in rules
    copied: set[str] = set()
    for name in stages:
        for line in stages[name][1]:
            if line.startswith("COPY --from="):
                assert line.split("--from=")[1].split()[0] in stages
            elif line.startswith("COPY "):
                copied |= set(line.split()[1:-1])
    assert copied == kept
    assert all((ROOT / path).exists() for path in copied)


def test_every_installation_takes_the_pinned_versions(stages: dict[str, Any]) -> None:
    lines = [line for _, lines in stages.values() for line in lines if "pip install" in line]
    assert len(lines) == 5
    assert all("pip install -c constraints.txt " in line for line in lines)


@pytest.mark.parametrize("target", ["chain", "node", "coordinator", "verifier"])
def test_every_package_of_an_image_is_pinned(stages: dict[str, Any], target: str) -> None:
    text = (ROOT / "constraints.txt").read_text()
    pinned = {canonicalize_name(line.split("==")[0]) for line in text.splitlines() if not line.startswith("#")}
    # setuptools comes with the virtual environment; the CUDA packages only with another index than the Dockerfile's
    needed = closure(installed(stages, target)) - set(DISTRIBUTIONS.values()) - {"setuptools"}
    assert {name for name in needed if not name.startswith(("nvidia", "triton", "cuda"))} <= pinned


def test_the_verifier_has_neither_torch_nor_flower(stages: dict[str, Any]) -> None:
    assert installed(stages, "verifier") == {"medprov-watermark", "medprov-ledger", "medprov-sdk[web]"}
    found = closure(installed(stages, "verifier"))
    assert {"fastapi", "uvicorn", "python-multipart", "onnxruntime", "web3"} <= found
    assert not {"torch", "flwr", "medprov-node"} & found
    assert "torch" in closure(installed(stages, "node")), "the closure would have found it"


def test_every_program_is_in_its_image(compose: dict[str, Any], stages: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if "build" not in service:
            continue
        there = closure(installed(stages, service["build"]["target"]))
        (script,) = entry_points(group="console_scripts", name=service["command"][0])
        assert script.dist is not None
        assert canonicalize_name(script.dist.name) in there, name
    (model,) = entry_points(group="medprov.models")
    assert model.dist is not None
    assert model.dist.name in closure(installed(stages, "chain")), "the chain's image offers the model to release"


def test_every_hospital_has_its_own_folders_and_name(compose: dict[str, Any]) -> None:
    for name in HOSPITALS:
        service = compose["services"][name]
        assert service["profiles"] and service["command"][5] == name
        binds = {volume["target"]: volume for volume in service["volumes"] if isinstance(volume, dict)}
        assert {target: bind["source"] for target, bind in binds.items()} == {
            "/in": f"./data/{name}/in",
            "/out": f"./data/{name}/out",
        }
        assert binds["/in"]["read_only"] is True


def test_every_site_has_its_own_keys_and_its_hospitals_pictures(compose: dict[str, Any]) -> None:
    mounted: dict[str, set[str]] = {}
    for name in SITES:
        service = compose["services"][name]
        assert service["profiles"] == ["training"] and service["command"][:2] == ["medprov-node", "join"]
        (images,) = [volume for volume in service["volumes"] if isinstance(volume, dict)]
        assert images["source"] == f"./data/hospital-{name[-1]}/in" and images["read_only"] is True
        mounted[name] = {text.split(":")[0] for text in service["volumes"] if isinstance(text, str)}
        assert mounted[name] == {"consortium", "exchange", name}
    for name, service in compose["services"].items():
        if name not in SITES:
            assert not [text for text in map(str, service["volumes"]) if "site-" in text], name


def test_pages_change_nothing(compose: dict[str, Any]) -> None:
    for name in PAGES:
        assert all(volume.endswith(":ro") for volume in compose["services"][name]["volumes"]), name


def test_new_volumes_belong_to_the_ordinary_user(compose: dict[str, Any], stages: dict[str, Any]) -> None:
    (line,) = [line for line in lineage(stages, "base") if "install --directory" in line]
    made = set(line.partition("--mode 700 ")[2].split())
    for service in compose["services"].values():
        if "build" in service:
            named = [text for text in service["volumes"] if isinstance(text, str)]
            assert {text.split(":")[1] for text in named} <= made


def test_the_script_names_what_is_there(compose: dict[str, Any]) -> None:
    script = DOCKER / "training.sh"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["sh", "-n", str(script)], timeout=60).returncode == 0
    text = script.read_text()
    assert set(re.findall(r'in_service "?([a-z]+)', text)) == {"coordinator", "site"}
    assert "for letter in a b c;" in text
    for path in re.findall(r"(?<![\w\"-])/[a-z]{2,}", text.partition("in_service() {")[2]):
        assert path in {"/consortium", "/coordinator", "/site", "/images", "/exchange"}, path


def test_paths_in_commands_are_mounted(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        targets = {
            volume["target"] if isinstance(volume, dict) else volume.split(":")[1] for volume in service["volumes"]
        }
        for word in service["command"]:
            path = word.partition("=")[2] or word
            if path.startswith("/") and not path.startswith("/ip4/"):
                assert any(path == target or path.startswith(target + "/") for target in targets), (name, word)
