"""Imports beside record by record: rows a second from a file to durable, in one run.

    VICINAL_BIN=bin python3 bench/imports.py [--rows 100000] [--dimension 384] [--rounds 3]

For each way a suite of its own (one shard); the clock runs from opening the file to the answer that
says that the last row is durable; then until all rows are counted freshly.  Client and servers share
the machine.  The ways take turns; told are the median and the range of the rounds.

  npy         the file as it is, in parts of 16 MiB, four under way at a time
  ndjson      vectors in base64, likewise
  batches     POST …/records with 1,000 records, vectors in base64, four at a time
  singles     POST …/records with one record, eight connections (a tenth of the rows)
"""
import argparse
import base64
import json
import os
import pathlib
import random
import statistics
import struct
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests/lib"))

from suite import Client, Suite  # noqa: E402

PART = 16 << 20
CONNECTIONS = 4
COUNT = {"fresh": True, "timeout_ms": 60000}


def make_files(folder, rows, dimension):
    """vectors.npy, the same as rows.ndjson; numbers of 997 random vectors, each row its own."""
    chance = random.Random(1)
    some = [struct.pack(f"<{dimension - 1}f", *(chance.gauss(0, 1) for _ in range(dimension - 1))) for _ in range(997)]
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dimension}), }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    with open(folder / "vectors.npy", "wb") as npy, open(folder / "rows.ndjson", "wb") as ndjson:
        npy.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode())
        for n in range(rows):
            vector = struct.pack("<f", n / rows) + some[n % 997]
            npy.write(vector)
            ndjson.write(b'{"id":"%d","vector_base64":"%s"}\n' % (n, base64.b64encode(vector)))


def parts_of(path, form, dimension):
    """[(offset, bytes)], cut between rows."""
    cuts, size = [0], path.stat().st_size
    with open(path, "rb") as file:
        row = dimension * 4
        head = size % row if form == "npy" else 0
        while cuts[-1] < size:
            end = min(cuts[-1] + PART, size)
            if form == "npy":
                end -= (end - head) % row
            elif end < size:
                file.seek(end)
                end += len(file.readline())
            cuts.append(end)
    return list(zip(cuts, cuts[1:]))


def upload(suite, path, form, dimension):
    """The first part; then, over some connections, the others side by side: each waits for its turn."""
    base = "/v1/collections/c/imports"
    data_path = f"{base}/{suite.post(base, {'format': form}).body['id']}/data"
    parts = parts_of(path, form, dimension)
    numbers, lock = iter(range(1, len(parts))), threading.Lock()

    def send(client, file, number):
        begin, end = parts[number]
        final = "&final=true" if number + 1 == len(parts) else ""
        file.seek(begin)
        data = file.read(end - begin)
        while True:
            answer = client.request("PUT", f"{data_path}?offset={begin}{final}", data,
                                    {"Content-Type": "application/octet-stream"})
            if answer.status != 409:  # it overtook the part before
                assert answer.status == 200 and answer.body["offset"] == end, answer
                return

    def run():
        client = Client(suite.url)
        with open(path, "rb", buffering=0) as file:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                send(client, file, number)

    with open(path, "rb", buffering=0) as file:
        send(Client(suite.url), file, 0)
    threads = [threading.Thread(target=run) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def post_all(suite, path, batch, connections, rows):
    lines, lock = open(path, "rb"), threading.Lock()
    left = [rows]

    def send():
        client = Client(suite.url)
        while True:
            with lock:
                taken = [lines.readline() for _ in range(min(batch, left[0]))]
                left[0] -= len(taken)
            if not taken:
                return
            body = b'{"timeout_ms":60000,"records":[' + b",".join(taken) + b"]}"
            answer = client.post("/v1/collections/c/records", body)
            assert answer.status == 200, answer

    threads = [threading.Thread(target=send) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines.close()


def processor_seconds(suite):
    """Of router and ingest."""
    ticks = 0
    for service in ("router", "ingest"):
        fields = pathlib.Path(f"/proc/{suite.pids(service)[0]}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(way, folder, rows, dimension):
    """Rows a second to durable, and to counted freshly; processor time a row, us."""
    with Suite() as suite:
        suite.create("c", dimension)
        before = processor_seconds(suite)
        began = time.monotonic()
        if way == "npy":
            upload(suite, folder / "vectors.npy", "npy", dimension)
        elif way == "ndjson":
            upload(suite, folder / "rows.ndjson", "ndjson", dimension)
        elif way == "batches":
            post_all(suite, folder / "rows.ndjson", 1000, CONNECTIONS, rows)
        else:
            rows //= 10
            post_all(suite, folder / "rows.ndjson", 1, 8, rows)
        durable = time.monotonic() - began
        took = processor_seconds(suite) - before
        answer = suite.post("/v1/collections/c/records/count", COUNT)
        assert answer.status == 200 and answer.body["count"] == rows, answer
        return rows / durable, rows / (time.monotonic() - began), took * 1e6 / rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ways = ("npy", "ndjson", "batches", "singles")
    rates = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="vicinal-bench-") as name:
        folder = pathlib.Path(name)
        make_files(folder, options.rows, options.dimension)
        for _ in range(options.rounds):
            for way in ways:
                rates[way].append(measure(way, folder, options.rows, options.dimension))
                print("{:8} {:10,.0f} durable {:10,.0f} counted {:6.1f} us".format(way, *rates[way][-1]), file=sys.stderr)
    names = ("durable", "counted", "processor_us")
    table = {way: {name: [r[i] for r in rates[way]] for i, name in enumerate(names)} for way in ways}
    if options.json:
        print(json.dumps(table))
        return
    for way in ways:
        told = [f"{statistics.median(table[way][k]):,.0f} ({min(table[way][k]):,.0f}–{max(table[way][k]):,.0f})"
                for k in names[:2]]
        took = statistics.median(table[way]["processor_us"])
        print(f"{way:8} rows/s to durable {told[0]}, to counted {told[1]}; router and ingest {took:.1f} us a row")


if __name__ == "__main__":
    main()
