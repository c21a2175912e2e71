"""The client that openapi-generator writes from /openapi.json works, without any help of ours.

The generator runs with a proxy that does not exist, so it cannot fetch anything.  Its jar:
$OPENAPI_GENERATOR_JAR, or Maven's local repository, where `make deps-test` puts it.
"""
import importlib
import json
import os
import pathlib
import subprocess
import sys
import urllib.request

import pytest

VERSION = "7.25.0"


def find_jar():
    given = os.environ.get("OPENAPI_GENERATOR_JAR")
    jar = pathlib.Path(given) if given else (
        pathlib.Path.home() / ".m2/repository/org/openapitools/openapi-generator-cli" / VERSION
        / f"openapi-generator-cli-{VERSION}.jar")
    assert jar.is_file(), f"{jar} is missing: make deps-test, or set OPENAPI_GENERATOR_JAR"
    return jar


@pytest.fixture(scope="module")
def generated(url, tmp_path_factory):
    """The generated package, imported from a temporary folder."""
    folder = tmp_path_factory.mktemp("generated")
    description = folder / "openapi.json"
    with urllib.request.urlopen(url + "/openapi.json", timeout=30) as answer:
        description.write_bytes(answer.read())
    assert json.loads(description.read_text())["openapi"] == "3.0.3"
    nowhere = [f"-D{scheme}.proxy{what}" for scheme in ("http", "https")
               for what in ("Host=127.0.0.1", "Port=9")]
    run = subprocess.run(
        ["java", *nowhere, "-jar", str(find_jar()), "generate", "-i", str(description),
         "-g", "python", "-o", str(folder / "python"), "--package-name", "vicinal_generated"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False)
    assert run.returncode == 0, run.stdout.decode()[-4000:]
    sys.path.insert(0, str(folder / "python"))
    yield importlib.import_module("vicinal_generated")
    sys.path.remove(str(folder / "python"))
    for module in [m for m in sys.modules if m.split(".")[0] == "vicinal_generated"]:
        del sys.modules[module]


@pytest.fixture
def api(generated, url):
    with generated.ApiClient(generated.Configuration(host=url)) as client:
        yield client


def test_round_trip(generated, api, name):
    collections = generated.CollectionsApi(api)
    records = generated.RecordsApi(api)
    search = generated.SearchApi(api)
    definition = generated.CollectionDefinition(vector=generated.VectorSchema(dimension=3))

    assert collections.create_collection_with_http_info(name, definition).status_code == 201
    assert collections.create_collection_with_http_info(name, definition).status_code == 200
    written = records.upsert_records(name, generated.UpsertRequest(records=[
        generated.VectorRecord(id="kb/42#3", vector=[1, 0, 0], text="hello",
                               metadata={"n": 1, "deep": {"list": [1, "a", None]}}),
        generated.VectorRecord(id="b", vector=[0, 1, 0]),
        generated.VectorRecord(id="without a vector", metadata={"n": 2})]))
    assert written.upserted_count == 3 and written.ids[0] == "kb/42#3"

    found = search.search(name, generated.SearchRequest(
        vector=[1, 0.1, 0], top_k=5, read_token=written.read_token, explain=True))
    assert [m.id for m in found.matches] == ["kb/42#3", "b"]
    assert found.matches[0].score > found.matches[1].score and found.explain
    assert found.matches[0].metadata == {"n": 1, "deep": {"list": [1, "a", None]}}
    assert found.read.coverage == 1 and found.read.stale is False
    filtered = search.search(name, generated.SearchRequest(
        vector=[0, 1, 0], filter={"n": {"$gte": 1}}, read_token=written.read_token))
    assert [m.id for m in filtered.matches] == ["kb/42#3"]
    batch = search.search_batch(name, generated.SearchBatchRequest(searches=[
        generated.SearchRequest(id="b", top_k=1, read_token=written.read_token),
        generated.SearchRequest(vector=[1.0], read_token=written.read_token)]))
    assert batch.results[0].matches[0].id == "b"
    assert batch.results[1].error.code == "dimension_mismatch"

    got = records.get_records(name, generated.GetRequest(
        ids=["b", "nothing", "kb/42#3"], include=["vector", "text"],
        read_token=written.read_token))
    assert [r.id for r in got.records] == ["b", "kb/42#3"]
    assert got.records[1].vector == [1, 0, 0] and got.records[1].text == "hello"
    one = records.get_record(name, "kb/42#3", read_token=written.read_token)
    assert one.text == "hello" and one.version
    assert records.count_records(name, generated.CountRequest(
        read_token=written.read_token)).count == 3
    page = records.scroll_records(name, generated.ScrollRequest(
        limit=2, read_token=written.read_token))
    assert [r.id for r in page.records] == ["b", "kb/42#3"] and page.next_page_token
    page = records.scroll_records(name, generated.ScrollRequest(
        limit=2, page_token=page.next_page_token, read_token=written.read_token))
    assert [r.id for r in page.records] == ["without a vector"] and not page.next_page_token

    put = records.put_record_with_http_info(name, "new one", generated.VectorRecord(
        vector=[0, 0, 1]))
    assert put.status_code == 201
    patched = records.patch_record(name, "new one", generated.PatchRequest(metadata={"n": 1}))
    assert patched.updated_count == 1 and patched.version
    updated = records.update_records(name, generated.UpdateRequest(
        ids=["new one", "nothing"], metadata={"n": 2}))
    assert (updated.matched_count, updated.missing_count) == (1, 1)
    deleted = records.delete_records(name, generated.DeleteRequest(ids=["kb/42#3", "nothing"]))
    assert deleted.deleted_count == 1
    with pytest.raises(generated.ApiException) as caught:
        records.get_record(name, "kb/42#3", read_token=deleted.read_token)
    assert caught.value.status == 404 and caught.value.data.code == "record_not_found"

    assert collections.get_collection(name).vector.dimension == 3
    assert name in [c.name for c in collections.list_collections(limit=1000).collections]
    collections.delete_collection(name)
    with pytest.raises(generated.ApiException) as caught:
        collections.get_collection(name)
    assert caught.value.data.code == "collection_not_found"


def test_operations(generated, api):
    operations = generated.OperationsApi(api)
    assert operations.get_version().version
    assert operations.get_livez().status == "ok"
    assert operations.get_readyz().status == "ok"
    assert operations.get_openapi()["openapi"] == "3.0.3"
    assert "# TYPE" in operations.get_metrics()
    assert operations.get_root().links


def test_bounds_are_checked_before_anything_is_sent(generated):
    with pytest.raises(ValueError):
        generated.VectorSchema(dimension=8193)
    with pytest.raises(ValueError):
        generated.SearchRequest(vector=[1], top_k=10001)


def test_an_import_is_uploaded(generated, api, name):
    generated.CollectionsApi(api).create_collection(
        name, generated.CollectionDefinition(vector=generated.VectorSchema(dimension=3)))
    imports = generated.ImportsApi(api)
    job = imports.create_import(name, generated.ImportRequest(format="ndjson"))
    data = b'{"id":"a","vector":[1,0,0]}\n{"id":"b","vector":[1,0]}\n'
    done = imports.put_import_data(name, job.id, 0, data, final=True)
    assert (done.state, done.rows_done, done.rows_refused) == ("succeeded", 1, 1)
    assert done.errors[0].row == 1 and done.errors[0].code == "dimension_mismatch"
    assert imports.get_import(name, job.id).offset == len(data)
