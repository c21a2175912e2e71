"""Rows that the server refuses are left out, counted by reason and shown; all others arrive."""
import json

from vicinal_cli import run, run_json


def lines(count, bad):
    for number in range(count):
        yield json.dumps(bad.get(number, {"id": f"r{number}", "vector": [number, 1, 2], "text": f"t{number}"}))


def test_a_few_of_each_kind(shared, name, tmp_path):
    bad = {5: {"id": "x", "vector": [1, 2]}, 6: {"id": "", "vector": [1, 2, 3]}, 17: {"id": 7, "vector": [1, 2, 3]},
           999: {"id": "y", "vector": [1, 2, 3], "colour": 1}, 1000: {"id": "z", "vector": [1, 2, 3], "metadata": []},
           2499: {"id": "w" * 501, "vector": [1, 2, 3]}}
    text = list(lines(2500, bad))
    text[300] = "{broken"
    text[301] = "[1]"
    text[302] = ""
    (tmp_path / "rows.ndjson").write_text("\n".join(text) + "\n")
    outcome = run_json(shared, "import", "--collection", name, tmp_path / "rows.ndjson", code=3)
    assert outcome["imported"] == 2500 - 6 - 3
    assert outcome["refused"] == 8
    assert outcome["reasons"] == {"dimension_mismatch": 1, "invalid_argument": 5, "unknown_field": 1,
                                  "invalid_json": 1}
    assert outcome["count"] == outcome["imported"]
    done = run(shared, "import", "--collection", name, tmp_path / "rows.ndjson", code=3)
    assert "refused 8 rows" in done.stdout
    assert "row 6:" in done.stdout  # lines are counted from 1


def test_a_batch_full_of_them(shared, name, tmp_path):
    bad = {number: {"id": f"r{number}", "vector": [1]} for number in range(3000) if number % 3}
    (tmp_path / "rows.ndjson").write_text("\n".join(lines(3000, bad)))
    outcome = run_json(shared, "import", "--collection", name, tmp_path / "rows.ndjson", code=3)
    assert outcome["imported"] == outcome["count"] == 1000
    assert outcome["reasons"] == {"dimension_mismatch": 2000}


def test_a_missing_collection_may_stay_missing(shared, name, tmp_path):
    (tmp_path / "rows.ndjson").write_text("\n".join(lines(3, {})))
    done = run(shared, "import", "--collection", name, "--no-create", tmp_path / "rows.ndjson", code=1)
    assert name in done.stderr or "collection" in done.stderr
    assert shared.get(f"/v1/collections/{name}").status == 404
