"""Measure ingest's way into the log: in files, and on Kafka beside librdkafka's producer alone.

    bench/log.py [--rounds N] [--seconds S] [--only kafka,file,rest] [--groups 1,16,100,1000,10000]

On Kafka the bare producer and ingest take turns, on the same topic: as many writers, each committing
groups of records one after the other, by linger.ms.  `stream` is the bare producer as it is fastest: one
thread that hands records over and waits for none.  Records are vectors of 384 numbers.  REST is the
whole suite: batches of 1,000 with vector_base64, four connections.  Starts a private broker; prints
tables of medians (least–greatest).  Exit code 0 with whole tables.  Nothing is left running.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests/lib"), str(ROOT / "bench")]
BIN = pathlib.Path(os.environ.get("VICINAL_BIN", ROOT / "bin"))

import distributed  # noqa: E402
from kafka_broker import KafkaBroker  # noqa: E402
from suite import Suite  # noqa: E402

WRITERS = 8
LINGERS = (0, 1, 5)
# Topics that are deleted give their room back at once; no segment is rolled in the middle of a cell.
BROKER = "log.segment.delete.delay.ms=100\nlog.segment.bytes=1073741824\n"


def say(text):
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def measure(way, wal, seconds, *words):
    """One run of log-bench; large groups take turns too seldom for a short one."""
    if "10000" in words:
        seconds *= 2
    out = subprocess.run([BIN / "log-bench", "--way", way, "--wal", wal, "--seconds", str(seconds), *words],
                         check=True, capture_output=True, text=True, timeout=300)
    return json.loads(out.stdout)


def spread(values, form="{:,.0f}"):
    """Median (least–greatest)."""
    middle = form.format(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({form.format(min(values))}–{form.format(max(values))})"


class Found(dict):
    """Results by what was measured, of all rounds."""

    def add(self, key, result):
        self.setdefault(key, []).append(result)

    def rate(self, key):
        return spread([result["records_per_s"] for result in self[key]])

    def middle(self, key, what):
        return statistics.median(result[what] for result in self[key])


def table(head, rows):
    print("\n| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print(flush=True)


# --- Kafka ---------------------------------------------------------------------------------------


def kafka_round(kafka, number, options, found):
    """The ways take turns; who begins changes with every cell."""
    topic, turn = f"round{number}", number
    url = f"kafka://{kafka.bootstrap}/{topic}"
    measure("append", url, 0.2)  # makes the topic
    for linger in LINGERS:
        with_linger = f"{url}?linger_ms={linger}"
        found.add(("stream", linger), measure("bare", url, options.seconds, "--linger", str(linger), "--stream"))
        for group in options.groups:
            words = ["--group", str(group), "--writers", str(WRITERS)]
            turns = [("bare", url, [*words, "--linger", str(linger)]), ("ingest", with_linger, words)]
            turn += 1
            for way, wal, more in turns if turn % 2 == 0 else turns[::-1]:
                found.add((way, linger, group), measure(way, wal, options.seconds, *more))
    kafka.delete_topic(topic + ".log")


def kafka_tables(options):
    found = Found()
    with KafkaBroker(settings=BROKER) as kafka:
        for number in range(options.rounds):
            say(f"Kafka, round {number + 1}")
            kafka_round(kafka, number, options, found)
    best = max(found.middle(("stream", linger), "records_per_s") for linger in LINGERS)
    rows = [[f"{linger}", "without waiting", found.rate(("stream", linger)), "–", "–", "–", "–"] for linger in LINGERS]
    for linger in LINGERS:
        for group in options.groups:
            bare, ours = ("bare", linger, group), ("ingest", linger, group)
            mine = found.middle(ours, "records_per_s")
            rows.append([linger, f"{group:,}", found.rate(bare), found.rate(ours),
                         f"{100 * mine / found.middle(bare, 'records_per_s'):.0f} %", f"{100 * mine / best:.0f} %",
                         f"{found.middle(bare, 'p50_ms'):.2f} / {found.middle(ours, 'p50_ms'):.2f}"])
    table(["linger ms", f"records a commit, {WRITERS} writers", "bare producer, records/s", "ingest's path, records/s",
           "share", "of the best without waiting", "p50 of a commit, ms: bare / ours"], rows)


# --- files ---------------------------------------------------------------------------------------


def file_tables(options):
    found, rows = Found(), []
    for number in range(options.rounds):
        say(f"files, round {number + 1}")
        for group in options.groups:
            for way, writers in (("append", 1), ("ingest", 1), ("ingest", WRITERS)):
                folder = tempfile.mkdtemp(prefix="vicinal-log-bench-", dir=options.folder)
                try:
                    found.add((way, writers, group), measure(way, f"file:{folder}/wal", options.seconds, "--group",
                                                             str(group), "--writers", str(writers)))
                finally:
                    shutil.rmtree(folder)
    for group in options.groups:
        cells = [("append", 1, group), ("ingest", 1, group), ("ingest", WRITERS, group)]
        rows.append([f"{group:,}", *(found.rate(cell) for cell in cells),
                     f"{found.middle(cells[2], 'p50_ms'):.2f} / {found.middle(cells[2], 'p99_ms'):.2f}"])
    table(["records a commit", "append alone, records/s", "ingest's path, 1 writer", f"ingest's path, {WRITERS} writers",
           f"p50 / p99 of a commit, {WRITERS} writers, ms"], rows)


# --- the whole suite -----------------------------------------------------------------------------


def rest_rate(**up):
    chance = random.Random(1)
    vectors = [distributed.vector(chance) for _ in range(200)]
    with Suite(**up) as suite:
        suite.create("c", distributed.DIMENSION)
        return max(distributed.write_batches(suite, vectors) for _ in range(2))


def rest_tables(options):
    files, kafkas = [], []
    with KafkaBroker(settings=BROKER) as kafka:
        for number in range(options.rounds):
            say(f"REST, round {number + 1}")
            files.append(rest_rate())
            kafkas.append(rest_rate(wal=f"kafka://{kafka.bootstrap}/rest{number}"))
    table(["batches of 1,000 × 384 over REST, vector_base64", "records/s"],
          [["into files", spread(files)], ["into Kafka", spread(kafkas)]])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each cell of a table")
    parser.add_argument("--groups", default="1,16,100,1000,10000")
    parser.add_argument("--only", default="kafka,file,rest")
    parser.add_argument("--folder", default=None, help="where logs in files are made; default: the temporary folder")
    options = parser.parse_args()
    options.groups = [int(group) for group in options.groups.split(",")]
    parts = options.only.split(",")
    before = os.getloadavg()[0]
    for part, tables in (("kafka", kafka_tables), ("file", file_tables), ("rest", rest_tables)):
        if part in parts:
            tables(options)
    print(f"{os.cpu_count()} cores, load average {before:.1f} at the start, {os.getloadavg()[0]:.1f} at the end; broker, "
          "services and clients on the same cores.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
