"""The engine beside the public libraries: alternating in one run, one thread, one query at a time.

    bench/engine.py [--set NAME=BASE,QUERIES,TRUTH[,METRIC]]… [--make ROWSxDIMENSION]…
                    [--index hnsw,ivfrabitq,…] [--peers hnswlib,faiss-hnsw,…] [--rounds 3]
                    [--targets 0.90,0.95,0.99]

A set is three .npy files: rows, queries, and for each query the numbers of its nearest rows.  --make
draws one (bench/engine_data.py).  --index names ours: hnsw, ivfflat, ivfpq, ivfrabitq, flat; the first
one is compared with the best of the others.  Every contender is built with two threads; then, round
by round and effort by effort, each runs all queries once, so that whatever else the machine does meets
them all.  For each effort the best round counts.  Speed at a recall is interpolated between the
measured points around it.  Prints a table for each set; exit code 0 with whole ones.
"""
import argparse
import os
import pathlib
import platform
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))
BIN = pathlib.Path(os.environ.get("VICINAL_BIN", ROOT / "bin"))

from engine_data import Data, draw  # noqa: E402
from engine_peers import PEERS, Ours  # noqa: E402


def say(text):
    print(text, file=sys.stderr, flush=True)


class Contender:
    """An engine and its best rounds: {effort: Round}."""

    def __init__(self, engine):
        self.engine, self.best, self.build_s = engine, {}, None

    def measure(self, effort):
        found = self.engine.run(effort)
        if effort not in self.best or found.qps > self.best[effort].qps:
            self.best[effort] = found

    def at(self, target):
        """(QPS, p50, p99) where the recall is that; None: it is not reached."""
        before = None
        for effort in sorted(self.best):
            point = self.best[effort]
            if point.recall >= target:
                before = before or point
                gap = point.recall - before.recall
                share = (target - before.recall) / gap if gap > 0 else 1.0
                seconds = (1 - share) / before.qps + share / point.qps
                mix = [before.at(q) + share * (point.at(q) - before.at(q)) for q in (0.5, 0.99)]
                return 1 / seconds, *mix
            before = point
        return None


def first_round(contender, highest):
    """Efforts up to the first one that reaches the highest target, each measured once."""
    say(f"round 1: {contender.engine.name}")
    for effort in contender.engine.efforts:
        contender.measure(effort)
        yield effort
        if contender.best[effort].recall >= highest:
            return


def measure(contenders, rounds, highest):
    plans = [list(first_round(contender, highest)) for contender in contenders]
    for number in range(1, rounds):
        say(f"round {number + 1}")
        for step in range(max(map(len, plans))):
            for contender, plan in zip(contenders, plans):
                if step < len(plan):
                    contender.measure(plan[step])


def row_of(contender, targets):
    cells = [contender.engine.name]
    for target in targets:
        found = contender.at(target)
        cells.append("not reached" if found is None else
                     f"{found[0]:,.0f} ({found[1] * 1e6:.0f} / {found[2] * 1e6:.0f})")
    return cells + [f"{contender.build_s:.1f}", f"{contender.engine.bytes_per_vector:,.0f}"]


def ratios(contenders, targets, own):
    cells = ["ours / best of the others"]
    for target in targets:
        ours = contenders[0].at(target)
        others = [found[0] for found in (peer.at(target) for peer in contenders[own:]) if found]
        cells.append("-" if ours is None or not others else f"**{ours[0] / max(others):.2f} ×**")
    return cells + ["", ""]


def table(data, contenders, targets, own):
    head = ["", *(f"QPS at recall@10 {target:.2f} (p50 / p99 µs)" for target in targets), "build s, 2 threads",
            "bytes a vector"]
    lines = [head, ["---"] * len(head), *(row_of(contender, targets) for contender in contenders),
             ratios(contenders, targets, own)]
    print(f"\n{data.name}: {len(data.base):,} × {data.base.shape[1]}, {data.metric}, {len(data.queries):,} queries\n")
    for line in lines:
        print("| " + " | ".join(line) + " |")
    sys.stdout.flush()


def run_set(data, options, targets):
    ours = [Contender(Ours(data, BIN / "engine-bench", index)) for index in options.index.split(",")]
    contenders = ours + [Contender(PEERS[name](data)) for name in options.peers.split(",") if name]
    try:
        for contender in contenders:
            say(f"{data.name}: building {contender.engine.name}")
            contender.build_s = contender.engine.build()
        measure(contenders, options.rounds, max(targets))
        table(data, contenders, targets, len(ours))
    finally:
        for contender in ours:
            contender.engine.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--set", action="append", default=[], metavar="NAME=BASE,QUERIES,TRUTH[,METRIC]")
    parser.add_argument("--make", action="append", default=[], metavar="ROWSxDIMENSION")
    parser.add_argument("--index", default="hnsw,ivfrabitq")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--targets", default="0.90,0.95,0.99")
    options = parser.parse_args()
    targets = [float(target) for target in options.targets.split(",")]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the "
          "start.  Times of the libraries are without what a call from Python costs.")
    for text in options.set:
        name, _, files = text.partition("=")
        run_set(Data(name, *files.split(",")), options, targets)
    with tempfile.TemporaryDirectory() as folder:
        for size in options.make:
            rows, dimension = map(int, size.split("x"))
            say(f"drawing {size}")
            run_set(Data(size, *draw(rows, dimension, folder), "ip"), options, targets)
    return 0


if __name__ == "__main__":
    sys.exit(main())
