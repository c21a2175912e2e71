"""Prometheus takes our configuration; the rules speak when they should and are silent on a healthy day;
every number that they look at is one that a running suite gives, under the labels that they use."""
import pathlib
import re
import subprocess
import urllib.request

import pytest
import yaml

from suite import Suite, poll

ROOT = pathlib.Path(__file__).resolve().parents[2]
RULES = ROOT / "compose" / "rules" / "vicinal.yml"
SUFFIX = re.compile(r"_(bucket|sum|count)$")


def promtool(*words):
    run = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_prometheus_takes_the_configuration():
    assert "1 rule files found" in promtool("check", "config", ROOT / "compose" / "prometheus.yml")


def test_the_rules_speak_when_they_should():
    assert "SUCCESS" in promtool("test", "rules", ROOT / "tests" / "deploy" / "rules_test.yml")


def alerts():
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_rule_is_tested_and_says_what_to_do():
    tested = (ROOT / "tests" / "deploy" / "rules_test.yml").read_text(encoding="utf-8")
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names)) and len(names) >= 15
    for rule in alerts():
        assert re.search(rf"\b{rule['alert']}\b", tested), f"{rule['alert']} is in no test"
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"] and rule["annotations"]["action"]


def selectors(expr):
    """[(metric, {label})] of an expression."""
    functions = {"sum", "max", "by", "rate", "increase", "histogram_quantile", "predict_linear", "or", "and"}
    labels = {label for group in re.findall(r"by \(([^)]*)\)", expr) for label in group.split(", ")}
    for name, braces in re.findall(r"\b([a-z][a-z_]*)\b(?:\{([^}]*)\})?", re.sub(r'by \([^)]*\)|"[^"]*"(?!\s*[,}])', "", expr)):
        if name not in functions | {"e"} and ("_" in name or name == "up"):
            yield name, set(re.findall(r"([a-z]+)[=!]", braces)), labels


def series(text):
    """{metric: {labels seen}} of an exposition."""
    seen = {}
    for line in text.splitlines():
        match = re.match(r"([a-z_]+)(?:\{(.*)\})? ", line)
        if match:
            seen.setdefault(match.group(1), set()).update(re.findall(r'([a-z]+)="', match.group(2) or ""))
    return seen


@pytest.fixture(scope="module")
def measured():
    """Of every service of a suite of two regions: found by what they listen on."""
    everything = {}
    with Suite(regions="a,b", embedders="m=http://127.0.0.1:9;dimension=3") as suite:
        suite.create("c")
        suite.upsert("c", [{"id": "x", "vector": [1, 2, 3]}])
        poll("the record is found", lambda: suite.post(
            "/v1/collections/c/search", {"vector": [1, 2, 3]}).body.get("matches"))
        for service in ("router", "ingest", "shard", "replicator"):
            pids = suite.region("a").pids(service)
            assert pids, service
            for pid in pids:
                for port in ports_of(pid):
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                        for name, labels in series(answer.read().decode()).items():
                            everything.setdefault(name, set()).update(labels)
    return everything


def ports_of(pid):
    """TCP ports that a process listens on."""
    inodes = set()
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.update(re.findall(r"socket:\[(\d+)\]", str(fd.readlink())))
        except OSError:
            pass
    rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and row[9] in inodes}


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule["alert"]) for rule in alerts()])
def test_rules_look_at_numbers_that_there_are(rule, measured):
    found = list(selectors(rule["expr"]))
    assert found
    for name, matched, grouped in found:
        if name == "up":
            continue
        assert name in measured, f"{name} is measured by nobody"
        unknown = matched | grouped
        assert unknown <= measured[name] | {"region", "job", "le"}, f"{name} has not {unknown - measured[name]}"
