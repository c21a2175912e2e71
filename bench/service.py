"""Measure the whole suite over REST, beside a peer server in the same run, and print one table.

    bench/service.py --data DIR [--quick] [--rows N] [--seconds S] [--repeats R] [--json FILE] …

DIR holds docs-100k.npy, docs-100k.jsonl.zst, queries-2k.npy and truth-2k.npy.  bench/README.md says
what each row of the table means and how noise is dealt with.  Everything listens on and talks to
127.0.0.1.  Exit code 0 with a whole table; 1 when something failed, or when --limit has passed or a
signal came, with a table of what there is.  Nothing is left running in any case.
"""
import argparse
import json
import os
import pathlib
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

ROOT = pathlib.Path(__file__).resolve().parent.parent
BATCH = 1000
SINGLES_MAX = 200
SINGLES_SECONDS_MAX = 3.0
BATCHES = 5
QUIET_SHARE = 0.15        # of a core
QUIET_SECONDS_MAX = 20.0


def parse_options():
    parser = argparse.ArgumentParser(description="Measure Vicinal and a peer over REST.")
    parser.add_argument("--data", required=True, help="folder with docs-100k.npy and its kin")
    parser.add_argument("--rows", type=int, help="only the first N rows (the truth is computed anew)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one search run")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of all measurements")
    parser.add_argument("--loads", type=int, default=2, help="how often everything is loaded")
    parser.add_argument("--peers", default="chroma", help="chroma or none")
    parser.add_argument("--shards", default="1,2", help="suites to start, by number of shards")
    parser.add_argument("--connections", default="1,8,32")
    parser.add_argument("--ef", type=int, help="of our searches; not given: the default setting")
    parser.add_argument("--json", help="write every raw figure to this file")
    parser.add_argument("--limit", type=int, default=1500, help="give up after so many seconds")
    parser.add_argument("--quick", action="store_true", help="20,000 rows and short runs")
    options = parser.parse_args()
    if options.quick:
        options.rows = options.rows or 20000
        options.seconds, options.repeats, options.loads = 1.5, 2, 1
        options.limit = min(options.limit, 240)
    options.shards = [int(word) for word in options.shards.split(",") if word]
    options.connections = [int(word) for word in options.connections.split(",")]
    options.peers = [] if options.peers == "none" else options.peers.split(",")
    if set(options.peers) - {"chroma"}:
        parser.error("--peers knows chroma and none")
    return options


def say(text):
    print(time.strftime("%H:%M:%S ") + text, file=sys.stderr, flush=True)


class Figures:
    """{name of the target: {metric: [a value per repeat]}}."""

    def __init__(self):
        self.values = {}

    def add(self, target, metric, value):
        if value is not None:
            self.values.setdefault(target.name, {}).setdefault(metric, []).append(value)

    def of(self, name, metric):
        return self.values.get(name, {}).get(metric, [])


# --- what is measured ------------------------------------------------------------------------------


def settle(target):
    """Wait until the target has nothing left to do in the background."""
    end = time.monotonic() + QUIET_SECONDS_MAX
    before, then = sum(target.cpu().values()), time.monotonic()
    while time.monotonic() < end:
        time.sleep(0.3)
        after, now = sum(target.cpu().values()), time.monotonic()
        if (after - before) / (now - then) < QUIET_SHARE:
            return
        before, then = after, now
    say(f"{target.name} is still busy after {QUIET_SECONDS_MAX:.0f} s")


def measure_loads(targets, figures, options):
    """Each round begins with empty servers; those of the last one stay for what follows."""
    for number in range(options.loads):
        for target in targets:
            target.stop()
            target.start()
            times = target.load()
            say(f"load {number + 1}: {target.name}: "
                + ", ".join(f"{name} {value:.1f}" for name, value in times.items()))
            figures.add(target, "load_rows_s", target.data.rows / times["import_s"])
            for name, value in times.items():
                figures.add(target, name, value)
            figures.add(target, "load_cpu_s", sum(target.cpu().values()))
            settle(target)


def measure_memory(targets, figures):
    for target in targets:
        used = target.memory()
        for name, value in used.items():
            figures.add(target, "memory_mb " + name, value)
        say(f"memory: {target.name}: {used['total']:.0f} MB")


def measure_idle(target, figures, seconds=1.0):
    before = sum(target.cpu().values())
    time.sleep(seconds)
    figures.add(target, "idle_percent", (sum(target.cpu().values()) - before) / seconds * 100)


def measure_search(target, figures, connections, seconds, requests):
    """With the load generator that all targets share; CPU time per query from the same run."""
    import rest_client

    settle(target)
    before = target.cpu()
    found = rest_client.run(target.address(), requests, connections, seconds)
    after = target.cpu()
    answers = target.answers(found.pop("bodies"))
    found["recall"] = target.data.recall(answers)
    for name, value in found.items():
        figures.add(target, f"{name} {connections}", value)
    total = 0.0
    for name, value in after.items():
        used_us = (value - before.get(name, 0.0)) / found["count"] * 1e6
        total += used_us
        figures.add(target, f"cpu_us {name} {connections}", used_us)
    figures.add(target, f"cpu_us total {connections}", total)
    say(f"{target.name}, {connections} connections: {found['qps']:.0f} QPS, p50 {found['p50_ms']:.2f} "
        f"p99 {found['p99_ms']:.2f} ms, recall {found['recall'] or 0:.3f}, {found['errors']} errors")


def measure_own_client(target, figures, connections, seconds):
    settle(target)
    found = target.own_client(connections, seconds)
    for name, value in found.items():
        if isinstance(value, (int, float)):
            figures.add(target, f"own {name} {connections}", value)
    say(f"{target.name}, {connections} connections, vicinal bench: {found['qps']:.0f} QPS, "
        f"p50 {found['p50_ms']:.2f} p99 {found['p99_ms']:.2f} ms, recall {found['recall']:.3f}, "
        f"{found['errors']} errors")


def timed_post(connection, request, target):
    connection.send(request, 0)
    answer = None
    while answer is None:
        answer = connection.receive()
    if answer[0] >= 300:
        raise RuntimeError(f"{target.name}: {answer[0]} {answer[1][:300]!r}")
    return time.perf_counter() - connection.sent


def write_requests(target, starts, count, prefix):
    """Upserts of new ids, count records each, with the vectors and texts of rows from `starts`."""
    import rest_client

    rows = target.data.rows
    for start in starts:
        wanted = [(start + i) % rows for i in range(count)]
        yield rest_client.request_bytes(*target.address(), *target.upsert_body(wanted, prefix))


def measure_writes(target, figures, number):
    import rest_client

    settle(target)
    rows = target.data.rows
    singles = list(write_requests(target, range(0, SINGLES_MAX), 1, f"single{number}-"))
    batches = list(write_requests(target, [i * BATCH % rows for i in range(BATCHES)], BATCH,
                                  f"batch{number}-"))
    connection = rest_client.Connection(target.address())
    try:
        end, times = time.monotonic() + SINGLES_SECONDS_MAX, []
        for request in singles:
            times.append(timed_post(connection, request, target))
            if time.monotonic() > end:
                break
        times.sort()
        figures.add(target, "single_p50_ms", rest_client.quantile(times, 0.5) * 1e3)
        figures.add(target, "single_p99_ms", rest_client.quantile(times, 0.99) * 1e3)
        seconds = sum(timed_post(connection, request, target) for request in batches)
        figures.add(target, "batch_rows_s", BATCHES * BATCH / seconds)
    finally:
        connection.socket.close()
    say(f"{target.name}: write p50 {rest_client.quantile(times, 0.5) * 1e3:.2f} ms, "
        f"batches {BATCHES * BATCH / seconds:.0f} records/s")
    settle(target)


def measure_searches(targets, figures, options):
    """Targets alternate within each number of connections, within each round."""
    requests = {target.name: target.search_requests() for target in targets}
    for number in range(options.repeats + 1):
        is_warm_up = number == 0
        for target in targets:
            settle(target)
            if not is_warm_up:
                measure_idle(target, figures)
                if hasattr(target, "engine_us"):
                    figures.add(target, "engine_us", target.engine_us())
        for connections in options.connections if not is_warm_up else [max(options.connections)]:
            for target in targets:
                seconds = 1.0 if is_warm_up else options.seconds
                measure_search(target, Figures() if is_warm_up else figures, connections, seconds,
                               requests[target.name])
                if hasattr(target, "own_client") and not is_warm_up:
                    measure_own_client(target, figures, connections, seconds)


def measure(targets, figures, options):
    measure_loads(targets, figures, options)
    measure_memory(targets, figures)
    measure_searches(targets, figures, options)
    for number in range(options.repeats):
        for target in targets:
            began = time.perf_counter()
            took = target.restart()
            figures.add(target, "restart_s", took)
            used = sum(target.cpu().values())
            figures.add(target, "restart_cpu_s", used)
            say(f"{target.name}: restart {took:.2f} s, CPU {used:.2f} s")
            if hasattr(target, "wait_linked"):
                target.wait_linked()
                figures.add(target, "relinked_s", time.perf_counter() - began)
            settle(target)
    for number in range(options.repeats):
        for target in targets:
            measure_writes(target, figures, number)


# --- the table -------------------------------------------------------------------------------------


def number_text(value, decimals):
    return f"{value:,.{decimals}f}"


def cell(values, decimals):
    """Median, and in brackets the least and the greatest."""
    if not values:
        return "–"
    text = number_text(statistics.median(values), decimals)
    low, high = number_text(min(values), decimals), number_text(max(values), decimals)
    return text if low == high else f"{text} ({low}–{high})"


def rows_of_table(options):
    """(label, metrics shown in one cell, decimals)."""
    yield "import, records/s", ["load_rows_s"], 0
    yield "… start of import to all counted, s", ["counted_s"], 1
    yield "… to the first right answer, s", ["answer_s"], 1
    yield "… to all linked into the graph, s", ["linked_s"], 1
    yield "… CPU time of the server for all that, s", ["load_cpu_s"], 1
    for n in options.connections:
        at = f"{n} connection" + ("s" if n > 1 else "")
        yield f"**QPS**, {at}, shared client", [f"qps {n}"], 0
        yield f"p50 / p99 ms, {at}, shared client", [f"p50_ms {n}", f"p99_ms {n}"], 2
        yield f"QPS, {at}, `vicinal bench`", [f"own qps {n}"], 0
        yield f"p50 / p99 ms, {at}, `vicinal bench`", [f"own p50_ms {n}", f"own p99_ms {n}"], 2
    last = options.connections[-1]
    yield "**recall@10**, shared client", [f"recall {last}"], 4
    yield "recall@10, `vicinal bench`", [f"own recall {last}"], 4
    yield "memory, MB (Pss less clean file pages)", ["memory_mb total"], 0
    yield "restart to the first right answer, s", ["restart_s"], 2
    yield "… CPU time of the server for that, s", ["restart_cpu_s"], 2
    yield "… from SIGTERM to all linked again, s", ["relinked_s"], 1
    yield "one record written, p50 / p99 ms", ["single_p50_ms", "single_p99_ms"], 2
    yield f"batches of {BATCH:,}, records/s", ["batch_rows_s"], 0
    yield "idle CPU, % of a core", ["idle_percent"], 1
    for n in options.connections[:2]:
        yield f"CPU µs per query, {n} conn., all processes", [f"cpu_us total {n}"], 0
        yield (f"… router / shards, {n} conn.",
               [f"cpu_us vicinal-router {n}", f"cpu_us vicinal-shard {n}"], 0)
        yield f"… router + shards beyond the engine, {n} conn.", [f"added_us {n}"], 0
    yield "engine's time per query, µs (explain)", ["engine_us"], 0


def add_derived(figures, options):
    """Router and shards beyond the engine: CPU of a round less the engine's time of that round."""
    for metrics in figures.values.values():
        for n in options.connections:
            router = metrics.get(f"cpu_us vicinal-router {n}", [])
            shard = metrics.get(f"cpu_us vicinal-shard {n}", [])
            engine = metrics.get("engine_us", [])
            if router and shard and engine:
                metrics[f"added_us {n}"] = [a + b - c for a, b, c in zip(router, shard, engine)]


def print_table(targets, figures, machine, options):
    names = [target.name for target in targets]
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['ram_gb']} GB, Linux "
          f"{machine['kernel']}; load average {machine['load_at_start']:.2f} at the start, "
          f"{os.getloadavg()[0]:.2f} at the end; client on the same cores. "
          f"{targets[0].data.rows:,} × {targets[0].data.dimension}, k = 10, "
          f"M 16, ef_construction as by default (Vicinal 150), Chroma 200; ef: Vicinal {options.ef or 'as by default'}, Chroma 64. "
          f"Runs of {options.seconds:g} s, {options.repeats} rounds, {options.loads} loads: "
          f"median (least–greatest). {machine['versions']}\n")
    print("| | " + " | ".join(names) + " |")
    print("|---|" + "---|" * len(names))
    for label, metrics, decimals in rows_of_table(options):
        cells = []
        for name in names:
            values = [cell(figures.of(name, metric), decimals) for metric in metrics]
            cells.append("–" if all(value == "–" for value in values) else " / ".join(values))
        if any(value != "–" for value in cells):
            print(f"| {label} | " + " | ".join(cells) + " |")
    errors = {name: sum(sum(values) for metric, values in figures.values.get(name, {}).items()
                        if "errors" in metric) for name in names}
    print("\nFailed requests: " + ", ".join(f"{name} {int(count)}" for name, count in errors.items())
          + ".")
    return sum(errors.values())


def describe_machine(options):
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo", encoding="ascii")
                if line.startswith("model name")), platform.machine())
    memory = int(open("/proc/meminfo", encoding="ascii").readline().split()[1])
    commit = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
                            capture_output=True, text=True).stdout.strip()
    versions = f"Vicinal {commit or 'of unknown commit'}"
    if "chroma" in options.peers:
        versions += f", Chroma {version('chromadb')}"
    return {"cpu": cpu, "cores": os.cpu_count(), "ram_gb": round(memory * 1024 / 1e9),
            "kernel": platform.release(), "load_at_start": os.getloadavg()[0],
            "versions": versions + "."}


# --- the run ---------------------------------------------------------------------------------------


class Ended(BaseException):
    """By --limit or a signal.  No handler of errors is meant to hold it up."""


def give_up(number, _frame):
    """Once: what is cleaned up behind it is not to be interrupted."""
    for other in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)
    raise Ended("out of time (--limit)" if number == signal.SIGALRM else
                f"ended by {signal.Signals(number).name}")


def stop_all(targets):
    for target in targets:
        try:
            target.stop()
        except Exception as error:  # the others are still to be stopped
            say(f"{target.name}: {error}")


def run(options, scratch):
    import dataset
    import targets as servers

    machine = describe_machine(options)
    data = dataset.Dataset(options.data, options.rows, scratch)
    targets = [servers.Vicinal(data, shards, options.ef) for shards in options.shards]
    targets += [servers.Chroma(data) for _ in options.peers]
    figures, ended = Figures(), None
    try:
        measure(targets, figures, options)
    except Ended as why:
        ended = why
    finally:
        stop_all(targets)
        if options.json:
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump({"machine": machine, "options": vars(options), "figures": figures.values},
                          file, indent=1)
    add_derived(figures, options)
    failed = print_table(targets, figures, machine, options)
    if ended:
        print("\n**Not whole**: the run was " + str(ended) + ".")
        raise SystemExit(f"bench: {ended}")
    if failed > 0:
        raise SystemExit("bench: some requests failed")


def main():
    options = parse_options()
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, give_up)
    signal.alarm(options.limit)
    scratch = tempfile.mkdtemp(prefix="vicinal-bench-")
    try:
        run(options, scratch)
    except Ended as why:
        raise SystemExit(f"bench: {why}") from None
    finally:
        signal.alarm(0)
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
