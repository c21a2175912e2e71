"""compose.full.yaml without containers: its own commands and environments, in its order, on a real
Kafka, Redis and Postgres; only names of hosts become ports of this machine.  Its health checks become
well, what is written in one region is found in the other, and Prometheus sees every part of it."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import urllib.request

import pytest
import yaml

from kafka_broker import KafkaBroker
from postgres_server import PostgresServer
from ports import free_port
from redis_server import RedisServer
from suite import BIN, SLOW, Client, poll

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "compose"
BROKERS = "kafka-1:9092,kafka-2:9092,kafka-3:9092"


class Stack:
    """Who is started when is the file's depends_on."""

    def __init__(self, kafka, redis, postgres):
        text = (COMPOSE / "compose.full.yaml").read_text(encoding="utf-8")
        whole = yaml.safe_load(text)["services"]
        self.services = {name: service for name, service in whole.items()
                         if service["image"].startswith("vicinal:")}
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="vicinal-compose-"))
        self.ports, self.running, self.done = {}, {}, set()
        self.places = {BROKERS: kafka.bootstrap, "redis:6379": f"127.0.0.1:{redis.port}",
                       "postgres:5432": f"127.0.0.1:{postgres.port}"}
        for name, service in self.services.items():
            listen = re.search(r"--listen=0\.0\.0\.0:(\d+)", " ".join(service["command"]))
            if listen:
                self.ports[name] = free_port()
                self.places[f"{name}:{listen.group(1)}"] = f"127.0.0.1:{self.ports[name]}"

    def here(self, name, text):
        """Text of one service, with the defaults of its variables and this machine's places."""
        text = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text)
        for place, address in self.places.items():
            text = text.replace(place, address)
        if name in self.ports:
            text = re.sub(r"(0\.0\.0\.0|127\.0\.0\.1):80\d\d\b", f"127.0.0.1:{self.ports[name]}", text)
        return (text.replace("--data=/data", f"--data={self.folder / name}")
                .replace("--spool=/data", f"--spool={self.folder / name}"))

    def run(self, name):
        service = self.services[name]
        (self.folder / name).mkdir(exist_ok=True)  # where its volume is
        environment = {"PATH": f"{BIN}:{os.environ['PATH']}"}
        for key in ("ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS"):
            environment.update({key: os.environ[key]} if key in os.environ else {})
        environment.update({key: self.here(name, str(value)) for key, value in service["environment"].items()})
        command = [self.here(name, word) for word in service["command"]]
        command[0] = shutil.which(command[0], path=environment["PATH"])
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    cwd=self.folder)

    def is_well(self, name):
        words = [self.here(name, word) for word in self.services[name]["healthcheck"]["test"][1:]]
        words[0] = str(BIN / words[0])
        return subprocess.run(words, capture_output=True, timeout=30 * SLOW).returncode == 0

    def may_start(self, name):
        for other, wanted in self.services[name]["depends_on"].items():
            if other not in self.services:
                continue
            if wanted["condition"] == "service_completed_successfully" and other not in self.done:
                return False
            if wanted["condition"] == "service_healthy" and not (other in self.running and self.is_well(other)):
                return False
        return True

    def step(self):
        """Start what may start; True when all that stays runs and all else has ended well."""
        for name, process in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            assert code == 0 and self.services[name]["restart"] == "on-failure", f"{name} ended with {code}"
            self.done.add(name)
            del self.running[name]
        for name in self.services:
            if name not in self.running and name not in self.done and self.may_start(name):
                self.running[name] = self.run(name)
        return len(self.running) + len(self.done) == len(self.services) and \
            all(self.services[name]["restart"] == "unless-stopped" for name in self.running)

    def close(self):
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            try:
                process.wait(20 * SLOW)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def logs(self):
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}"
                         for path in sorted(self.folder.glob("*.log")))


def sql(postgres, text):
    subprocess.run(["psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", postgres.url, "-c", text], check=True,
                   stdin=subprocess.DEVNULL, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def stack():
    with KafkaBroker() as kafka, RedisServer() as redis, PostgresServer() as postgres:
        sql(postgres, "CREATE ROLE vicinal LOGIN PASSWORD 'vicinal'")
        sql(postgres, "CREATE DATABASE vicinal OWNER vicinal")
        stack = Stack(kafka, redis, postgres)
        try:
            poll("everything is started", stack.step, 120, 0.2)
            poll("everything is well", lambda: all(map(stack.is_well, stack.ports)), 90, 0.2)
            yield stack
        except BaseException:
            print(stack.logs())
            raise
        finally:
            stack.close()


def test_what_is_written_in_one_region_is_found_in_the_other(stack):
    a, b = (Client(f"http://127.0.0.1:{stack.ports[name]}") for name in ("a-router", "b-router"))
    try:
        for here, there, name in ((a, b, "from-a"), (b, a, "from-b")):
            made = here.put(f"/v1/collections/{name}", {"vector": {"dimension": 3}})
            assert made.status == 201, made
            assert here.post(f"/v1/collections/{name}/records", {
                "records": [{"id": str(i), "vector": [1, i, 0]} for i in range(20)]}).status == 200

            def arrived():
                answer = there.post(f"/v1/collections/{name}/search", {"vector": [1, 7, 0], "top_k": 20})
                return answer.status == 200 and len(answer.body["matches"]) == 20 and answer.body["matches"]

            assert poll(f"all of {name} arrives", arrived, 30)[0]["id"] == "7"
        shards = {(r["shard"], r["replica"]) for r in a.get("/internal/v1/status").body["replicas"]}
        assert shards == {(0, 0), (1, 0)}
        regions = {r["name"]: r for r in a.get("/v1/admin/regions").body["regions"]}
        assert regions.keys() == {"a", "b"} and regions["b"]["router_url"].endswith(str(stack.ports["b-router"]))
    finally:
        a.close()
        b.close()


def test_prometheus_sees_every_part_and_can_evaluate_every_rule(stack):
    folder = stack.folder / "prometheus"
    shutil.copytree(COMPOSE / "rules", folder / "rules")
    port = free_port()
    text = (COMPOSE / "prometheus.yml").read_text(encoding="utf-8")
    for place, address in stack.places.items():
        text = text.replace(place, address)
    text = text.replace("localhost:9090", f"127.0.0.1:{port}").replace("_interval: 5s", "_interval: 1s")
    (folder / "prometheus.yml").write_text(text)
    with open(stack.folder / "prometheus.log", "wb") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{port}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ask(path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=5) as answer:
                return json.load(answer)["data"]
        except OSError:
            assert process.poll() is None, "Prometheus ended"
            return None

    def all_up():
        targets = (ask("targets") or {"activeTargets": []})["activeTargets"]
        return len(targets) == len(stack.ports) + 1 and all(t["health"] == "up" for t in targets)

    def evaluated():
        rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
        return rules if rules and all(rule["health"] != "unknown" for rule in rules) else None

    try:
        poll("every target is up", all_up, 60, 0.2)
        rules = poll("every rule is evaluated", evaluated, 60, 0.2)
        assert all(rule["health"] == "ok" for rule in rules), [r for r in rules if r["health"] != "ok"]
        # How much room this machine has is its own affair.
        firing = [r["name"] for r in rules if r["state"] == "firing" and "Disk" not in r["name"]]
        assert firing == []
    finally:
        process.terminate()
        process.wait(20)
