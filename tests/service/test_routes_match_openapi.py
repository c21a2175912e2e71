"""Each service has the routes that its OpenAPI file says, and no others; the limits of the public
file are those of common/base/limits.h; every reference leads somewhere; errors are problems."""
import os
import pathlib
import re
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("VICINAL_BIN", ROOT / "bin"))
HEALTH = {"/livez", "/healthz", "/readyz", "/metrics", "/version"}
METHODS = {"get", "put", "post", "delete", "patch"}


def description(service):
    return yaml.safe_load((ROOT / "openapi" / f"{service}.yaml").read_text(encoding="utf-8"))


def served(service):
    """{(METHOD, path with stars): operation} of the program."""
    out = subprocess.run([BIN / f"vicinal-{service}", "--print-routes"], check=True, timeout=20,
                         capture_output=True, text=True).stdout
    rows = [line.split() for line in out.splitlines()]
    assert rows and all(len(row) == 3 for row in rows)
    return {(method, path): operation for method, path, operation in rows}


def described(service):
    routes = {}
    for path, item in description(service)["paths"].items():
        stars = re.sub(r"\{[^}]*\}", "*", path)
        for method in METHODS & item.keys():
            routes[method.upper(), stars] = item[method]["operationId"]
    return routes


def test_the_public_file_describes_every_public_route_and_no_other():
    public = {key: operation for key, operation in served("router").items()
              if not key[1].startswith("/internal/")}
    assert described("router") == public


@pytest.mark.parametrize("service", ["shard", "ingest", "replicator"])
def test_the_internal_files_describe_every_route_but_those_of_health(service):
    own = {key: operation for key, operation in served(service).items() if key[1] not in HEALTH}
    assert described(service) == own


def walk(node, at=""):
    yield at, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        yield from walk(value, f"{at}/{key}")


@pytest.mark.parametrize("service", ["router", "shard", "ingest", "replicator"])
def test_every_reference_leads_somewhere_and_every_operation_says_how_it_fails(service):
    whole = description(service)
    assert whole["openapi"] == "3.0.3"
    for at, node in walk(whole):
        if isinstance(node, dict) and isinstance(node.get("$ref"), str):
            target = whole
            for name in node["$ref"].removeprefix("#/").split("/"):
                assert name in target, f"{at}: {node['$ref']}"
                target = target[name]
    operations = [item[method] for item in whole["paths"].values() for method in METHODS & item.keys()]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    for operation in operations:
        assert operation["summary"] and operation["responses"]["default"] == \
            {"$ref": "#/components/responses/Problem"}
        for response in operation["responses"].values():
            for link in response.get("links", {}).values():
                assert link["operationId"] in names


def limits():
    text = (ROOT / "common" / "base" / "limits.h").read_text(encoding="utf-8")
    return {name: int(value) for name, value in re.findall(r"\b([A-Z0-9_]+) = (\d+),", text)}


# Where each limit stands in the public file: schema or parameter, and the keyword.
PLACES = [
    ("ID_BYTES_MAX", "schemas/VectorRecord/properties/id/maxLength"),
    ("ID_BYTES_MAX", "parameters/RecordId/schema/maxLength"),
    ("ID_BYTES_MAX", "schemas/GetRequest/properties/ids/items/maxLength"),
    ("ID_BYTES_MAX", "schemas/DeleteRequest/properties/ids/items/maxLength"),
    ("ID_BYTES_MAX", "schemas/SearchRequest/properties/id/maxLength"),
    ("IDS_PER_REQUEST_MAX", "schemas/UpdateRequest/properties/ids/maxItems"),
    ("IDEMPOTENCY_KEY_MAX", "parameters/IdempotencyKey/schema/maxLength"),
    ("DIMENSION_MAX", "schemas/VectorSchema/properties/dimension/maximum"),
    ("DIMENSION_MAX", "schemas/VectorRecord/properties/vector/maxItems"),
    ("DIMENSION_MAX", "schemas/SearchRequest/properties/vector/maxItems"),
    ("RECORDS_PER_REQUEST_MAX", "schemas/UpsertRequest/properties/records/maxItems"),
    ("IDS_PER_REQUEST_MAX", "schemas/GetRequest/properties/ids/maxItems"),
    ("IDS_PER_REQUEST_MAX", "schemas/DeleteRequest/properties/ids/maxItems"),
    ("TOP_K_MAX", "schemas/SearchRequest/properties/top_k/maximum"),
    ("TOP_K_DEFAULT", "schemas/SearchRequest/properties/top_k/default"),
    ("TOP_K_MAX", "schemas/MmrParams/properties/fetch_k/maximum"),
    ("SEARCH_EF_MAX", "schemas/SearchParams/properties/ef/maximum"),
    ("SEARCHES_PER_BATCH_MAX", "schemas/SearchBatchRequest/properties/searches/maxItems"),
    ("SCROLL_LIMIT_MAX", "schemas/ScrollRequest/properties/limit/maximum"),
    ("SCROLL_LIMIT_DEFAULT", "schemas/ScrollRequest/properties/limit/default"),
    ("DEADLINE_MS_MAX", "schemas/SearchRequest/properties/timeout_ms/maximum"),
    ("DEADLINE_MS_DEFAULT", "schemas/SearchRequest/properties/timeout_ms/default"),
    ("DEADLINE_MS_MAX", "parameters/TimeoutMs/schema/maximum"),
    ("WRITE_DEADLINE_MS_DEFAULT", "schemas/UpsertRequest/properties/timeout_ms/default"),
    ("WRITE_DEADLINE_MS_DEFAULT", "schemas/DeleteRequest/properties/timeout_ms/default"),
    ("COLLECTION_NAME_BYTES_MAX", "parameters/Collection/schema/maxLength"),
    ("HNSW_M_MIN", "schemas/IndexSchema/properties/m/minimum"),
    ("HNSW_M_MAX", "schemas/IndexSchema/properties/m/maximum"),
    ("HNSW_M_DEFAULT", "schemas/IndexSchema/properties/m/default"),
    ("HNSW_EF_CONSTRUCTION_MIN", "schemas/IndexSchema/properties/ef_construction/minimum"),
    ("HNSW_EF_CONSTRUCTION_MAX", "schemas/IndexSchema/properties/ef_construction/maximum"),
    ("HNSW_EF_CONSTRUCTION_DEFAULT", "schemas/IndexSchema/properties/ef_construction/default"),
    ("TOKEN_BYTES_MAX", "schemas/SearchRequest/properties/read_token/maxLength"),
    ("TOKEN_BYTES_MAX", "parameters/ReadToken/schema/maxLength"),
]


@pytest.mark.parametrize("name,place", PLACES)
def test_the_limits_of_the_public_file_are_those_of_the_code(name, place):
    node = description("router")["components"]
    for key in place.split("/"):
        node = node[key]
    assert node == limits()[name]


def test_sizes_told_in_words_are_those_of_the_code():
    text = (ROOT / "common" / "base" / "limits.h").read_text(encoding="utf-8")
    sizes = dict(re.findall(r"#define (\w+)\s+((?:KIB|MIB)\(\d+\))", text))
    schemas = description("router")["components"]["schemas"]
    assert sizes["TEXT_BYTES_MAX"] == "KIB(512)"
    assert "512 KiB" in schemas["VectorRecord"]["properties"]["text"]["description"]
    assert sizes["METADATA_BYTES_MAX"] == "KIB(64)" and limits()["METADATA_DEPTH_MAX"] == 8
    assert "64 KiB and 8 levels" in schemas["VectorRecord"]["properties"]["metadata"]["description"]
    words = schemas["Filter"]["description"]
    assert f"{limits()['FILTER_DEPTH_MAX']} levels" in words
    assert f"{limits()['FILTER_CLAUSES_MAX']} clauses" in words
    assert f"{limits()['FILTER_VALUES_MAX']} values" in words
