"""Imports with an S3-compatible store, which checks signatures: loaded, read by every shard, and
read again by one that lost its folder; without the store nothing is acknowledged or passed over."""
import os
import shutil

import pytest

from imports import Upload, binary_row
from s3_server import S3Server
from suite import Suite


@pytest.fixture(scope="module")
def s3():
    with S3Server() as server:
        kept = {name: os.environ.get(name) for name in server.environment}
        os.environ.update(server.environment)
        yield server
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def count(suite):
    answer = suite.post("/v1/collections/c/records/count", {"fresh": True, "timeout_ms": 50000})
    assert answer.status == 200, answer
    return answer.body["count"]


@pytest.mark.embedded("what is removed are files")
def test_imports_into_s3(s3):
    data = b"".join(binary_row(f"{n}", [n, 1, 2, 3], text=f"text {n}") for n in range(12000))
    with Suite(shards=2, blob=s3.url("imports/here")) as suite:
        suite.create("c", 4)
        assert Upload(suite, "c", format="binary").put(data)["rows_done"] == 12000
        assert count(suite) == 12000
        assert not (suite.data / "suite/blob").exists()
        suite.stop()
        shutil.rmtree(suite.data / "suite/shard-0.0")
        suite.start()
        assert count(suite) == 12000


def test_without_the_store_nothing_is_acknowledged(s3):
    with S3Server() as other:
        kept = dict(os.environ)
        os.environ.update(other.environment)
        with Suite(blob=other.url("imports")) as suite:
            os.environ.update(kept)
            suite.create("c", 4)
            upload = Upload(suite, "c", format="ndjson")
            assert upload.part(b'{"id":"a"}\n').status == 200
            assert count(suite) == 1
            other.stop()
            assert upload.part(b'{"id":"b"}\n').status == 503
            assert upload.look()["rows_done"] == 1 and count(suite) == 1
            suite.upsert("c", [{"id": "single"}])  # other writes go on
            assert count(suite) == 2
