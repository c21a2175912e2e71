"""The compose files are valid, our containers are locked down and watched, foreign images are pinned,
no door is open to the world by itself, and the image holds the libraries that the programs need."""
import os
import pathlib
import re
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("VICINAL_BIN", ROOT / "bin"))
FILES = ["compose.yaml", "compose.full.yaml"]
PROGRAMS = ["vicinal", "vicinal-router", "vicinal-ingest", "vicinal-shard", "vicinal-replicator"]


def services(name):
    return yaml.safe_load((ROOT / "compose" / name).read_text(encoding="utf-8"))["services"]


def ours():
    return [pytest.param(service, id=f"{file}-{name}") for file in FILES
            for name, service in services(file).items() if service["image"].startswith("vicinal:")]


def foreign():
    return [pytest.param(service, id=name) for file in FILES
            for name, service in services(file).items() if not service["image"].startswith("vicinal:")]


@pytest.mark.parametrize("file", FILES)
def test_compose_takes_it(file):
    run = subprocess.run(["docker-compose", "-f", str(ROOT / "compose" / file), "config", "-q"],
                         capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_compose_would_notice(tmp_path):
    text = (ROOT / "compose" / "compose.yaml").read_text(encoding="utf-8")
    (tmp_path / "compose.yaml").write_text(text.replace("restart:", "restrat:"))
    run = subprocess.run(["docker-compose", "-f", str(tmp_path / "compose.yaml"), "config", "-q"],
                         capture_output=True, text=True, timeout=60)
    assert run.returncode != 0


@pytest.mark.parametrize("service", ours())
def test_our_containers_may_do_little_and_are_watched(service):
    assert service["user"].split(":")[0] not in ("0", "root", "")
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & service.keys()
    if service["restart"] == "on-failure":  # runs to its end
        return
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][:3] == ["CMD", "vicinal", "healthcheck"]


@pytest.mark.parametrize("service", foreign())
def test_foreign_images_are_pinned_watched_and_restarted(service):
    assert re.fullmatch(r"[a-z/]+:v?\d+(\.\d+){1,2}(-[a-z]+)?", service["image"])
    assert service["healthcheck"]["test"] and service["restart"] == "unless-stopped"
    assert "no-new-privileges:true" in service["security_opt"]


@pytest.mark.parametrize("file", FILES)
def test_doors_are_open_to_this_machine_only(file):
    ports = [port for service in services(file).values() for port in service.get("ports", [])]
    assert ports and all(re.match(r"(\$\{VICINAL_LISTEN:-)?127\.0\.0\.1:\d+", port) for port in ports)


@pytest.mark.parametrize("file", FILES)
def test_what_is_kept_lies_in_named_volumes_and_no_password_in_a_url(file):
    text = (ROOT / "compose" / file).read_text(encoding="utf-8")
    volumes = yaml.safe_load(text)["volumes"]
    for name, service in services(file).items():
        for volume in service.get("volumes", []):
            source, _, rest = volume.partition(":")
            assert source in volumes or (source.startswith("./") and rest.endswith(":ro")), f"{name}: {volume}"
            assert not source.startswith("./") or (ROOT / "compose" / source).exists()
    assert not re.search(r"://[^/\s@]*:[^/\s@]*@", text)


def needed(program):
    out = subprocess.run(["readelf", "-d", BIN / program], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"\(NEEDED\).*\[([^]]+)\]", out))


def packages_of(library):
    out = subprocess.run(["dpkg-query", "-S", f"*/{library}"], check=True, capture_output=True, text=True).stdout
    return {line.split(":")[0] for line in out.splitlines()}


def test_the_image_holds_the_programs_and_what_they_are_linked_with():
    text = (ROOT / "compose" / "Dockerfile").read_text(encoding="utf-8")
    final = text.split("\nFROM ")[-1]
    installed = set(re.findall(r"[a-z0-9.+-]+", final.split("RUN", 1)[1].split("&& rm", 1)[0]))
    for program in PROGRAMS:
        assert f"/src/bin/{program} " in final
        for library in needed(program):
            assert packages_of(library) & (installed | {"libc6"}), f"{program} needs {library}"
    assert re.search(r"^USER 10001:10001$", final, re.M)


def test_the_image_is_built_with_what_make_deps_installs():
    text = (ROOT / "compose" / "Dockerfile").read_text(encoding="utf-8")
    build = text.split("\nFROM ")[1]
    copied = re.findall(r"^COPY (?!--from)(\S+)", build, re.M)
    assert copied[-1] == "." and "make deps" in build
    for path in copied:
        assert (ROOT / path).exists()
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", "bin", "build*"} <= set(ignored)
