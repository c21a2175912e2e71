"""Rows of NDJSON without an id get one made of the row: what is sent again is not there twice."""
import json

from vicinal_cli import run_json


def test_rows_without_ids_come_once(shared, name, tmp_path):
    shared.create(name, 3)
    rows = [{"vector": [1, 0, i], "text": f"row {i}"} for i in range(50)]
    lines = [json.dumps(row) for row in rows]
    lines += [lines[0], " { } ", "{}", '{ "metadata":{"id":1}}', '{"id":"mine","vector":[0,0,1]}']
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    for _ in range(2):
        outcome = run_json(shared, "import", "--collection", name, tmp_path / "rows.jsonl")
        assert outcome["imported"] == 55 and outcome["count"] == 55, outcome
    answer = shared.post(f"/v1/collections/{name}/records/scroll", {"limit": 100, "fresh": True})
    ids = [record["id"] for record in answer.body["records"]]
    assert len(set(ids)) == 55 and "mine" in ids
