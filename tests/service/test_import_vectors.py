"""Vectors from .npy, float32 and float16, with records plain and compressed: ids, texts and metadata
arrive as the files say, searches find what the numbers say."""
import json
import random

import pytest

from vicinal_cli import compress_file, run, run_json, write_npy


def rows(count, dimension, seed):
    chance = random.Random(seed)
    # Sixteenths: float16 holds them exactly.
    return [[chance.randrange(-64, 65) / 16 for _ in range(dimension)] for _ in range(count)]


@pytest.mark.parametrize("kind", ["<f4", "<f2"])
def test_they_arrive(shared, name, tmp_path, kind):
    vectors = rows(2500, 8, 1)
    write_npy(tmp_path / "v.npy", vectors, kind)
    with open(tmp_path / "r.jsonl", "w", encoding="utf-8") as out:
        for number in range(len(vectors)):
            record = {"id": number + 7, "text": f"passage “{number}”\n\u0001 end", "lang": "en",
                      "n": number, "deep": {"a": [1, None]}}
            if number == 3:
                record["id"] = "kb/4#ä"
            if number == 4:
                del record["id"]
            if number == 5:
                record["metadata"] = {"inner": 1}
            out.write(json.dumps(record, ensure_ascii=number % 2 == 0) + "\n")
    compress_file(tmp_path / "r.jsonl")
    outcome = run_json(shared, "import", "--collection", name, "--vectors", tmp_path / "v.npy",
                       "--records", tmp_path / "r.jsonl.zst", "--metric", "l2", "--batch", "300")
    assert outcome["imported"] == 2500 and outcome["refused"] == 0
    # Row 4 has no id: its number, 4; nothing else has that id, since the others begin at 7.
    assert outcome["count"] == 2500
    got = shared.post(f"/v1/collections/{name}/records/get",
                      {"ids": ["7", "kb/4#ä", "4", "12"], "include": ["text", "metadata", "vector"],
                       "fresh": True}).body["records"]
    assert [record["id"] for record in got] == ["7", "kb/4#ä", "4", "12"]
    assert got[0]["vector"] == vectors[0]
    assert got[1]["text"] == "passage “3”\n\u0001 end"
    assert got[1]["metadata"] == {"lang": "en", "n": 3, "deep": {"a": [1, None]}}
    assert got[2]["vector"] == vectors[4]
    assert got[3]["metadata"] == {"inner": 1, "lang": "en", "n": 5, "deep": {"a": [1, None]}}
    found = shared.post(f"/v1/collections/{name}/search",
                        {"vector": vectors[100], "top_k": 1, "params": {"exact": True}}).body
    assert found["matches"][0]["id"] == "107"


def test_without_records_ids_are_row_numbers(shared, name, tmp_path):
    vectors = rows(50, 3, 2)
    write_npy(tmp_path / "v.npy", vectors)
    outcome = run_json(shared, "import", "--collection", name, "--vectors", tmp_path / "v.npy")
    assert outcome["imported"] == outcome["count"] == 50
    got = shared.get(f"/v1/collections/{name}/records/49?include=vector&fresh=true").body
    assert got["vector"] == vectors[49]


def test_files_that_do_not_match_are_refused(shared, name, tmp_path):
    write_npy(tmp_path / "v.npy", rows(5, 3, 3))
    write_npy(tmp_path / "w.npy", rows(5, 4, 3))
    write_npy(tmp_path / "i.npy", [[1, 2], [3, 4]], "<i4")
    (tmp_path / "short.jsonl").write_text("{}\n" * 4)
    (tmp_path / "long.jsonl").write_text("{}\n" * 6)
    run(shared, "import", "--collection", name, "--vectors", tmp_path / "v.npy")
    for words, what in ((["--vectors", tmp_path / "w.npy"], "dimension"),
                        (["--vectors", tmp_path / "i.npy"], "not vectors"),
                        (["--vectors", tmp_path / "v.npy", "--records", tmp_path / "short.jsonl"], "4 rows"),
                        (["--vectors", tmp_path / "v.npy", "--records", tmp_path / "long.jsonl"], "more rows"),
                        (["--vectors", tmp_path / "none.npy"], "none.npy")):
        done = run(shared, "import", "--collection", name, *words, code=None)
        assert done.returncode in (1, 2) and what in done.stderr, done


def test_bench_judges_the_answers(shared, name, tmp_path):
    vectors = rows(200, 4, 4)
    write_npy(tmp_path / "v.npy", vectors)
    run(shared, "import", "--collection", name, "--vectors", tmp_path / "v.npy", "--metric", "l2")

    def nearest(query):
        return sorted(range(200), key=lambda i: (sum((a - b) ** 2 for a, b in zip(query, vectors[i])), str(i)))

    queries = rows(20, 4, 5)
    truth = [nearest(query)[:5] for query in queries]
    write_npy(tmp_path / "q.npy", queries)
    write_npy(tmp_path / "t.npy", truth, "<i4")
    words = ["--collection", name, "--queries", tmp_path / "q.npy", "--truth", tmp_path / "t.npy",
             "--top-k", "5", "--seconds", "1", "--warm-up", "50", "--exact"]
    for more in ([], ["--concurrency", "4"], ["--json-vectors"]):
        got = run_json(shared, "bench", *words, *more)
        assert got["errors"] == 0 and got["queries"] == 20
        assert got["recall"] > 0.97  # ties at the edge may be broken in another way
        assert got["qps"] > 0 and 0 < got["p50_ms"] <= got["p99_ms"]
    write_npy(tmp_path / "wrong.npy", [[(i + 77) % 200 for i in row] for row in truth], "<i4")
    words[5] = tmp_path / "wrong.npy"
    assert run_json(shared, "bench", *words)["recall"] < 0.5
