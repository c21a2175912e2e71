"""Of an import's parts that are sent twice at once, ahead of their turn, or to an import that was cancelled,
nothing stays in the blob store; what the log names stays, and the rows are there."""
import threading

import pytest

from imports import Upload, binary_row
from suite import Client, Suite
from vicinal_cli import verify

SENDERS = 6
ROWS = 300


def part_of(begin):
    return b"".join(binary_row(f"r{i:05}", [i, 1, 2], text="x" * 50) for i in range(begin, begin + ROWS))


def send(url, path, offset, data, statuses):
    client = Client(url)
    try:
        statuses.append(client.request("PUT", f"{path}/data?offset={offset}", data,
                                       {"Content-Type": "application/octet-stream"}).status)
    finally:
        client.close()


def send_at_once(suite, path, offset, data):
    """The statuses of as many requests."""
    statuses = []
    threads = [threading.Thread(target=send, args=(suite.url, path, offset, data, statuses)) for _ in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == SENDERS, statuses
    return statuses


def objects(suite):
    return [path for path in (suite.data / "suite" / "blob" / "imports").rglob("*") if path.is_file()]


@pytest.mark.embedded("verify reads the log's files")
def test_only_what_the_log_names_is_left():
    with Suite(shards=2) as suite:
        suite.create("c")
        upload = Upload(suite, "c", format="binary")
        for begin in range(0, 4 * ROWS, ROWS):
            data = part_of(begin)
            assert send_at_once(suite, upload.path, upload.offset, data).count(200) == 1
            upload.offset = upload.look()["offset"]
            assert upload.part(data, offset=upload.offset + 4).status == 409
            assert upload.offset == (begin // ROWS + 1) * len(data)
        assert len(objects(suite)) == 4

        other = Upload(suite, "c", format="binary")
        assert other.part(part_of(9000)[:-1], offset=8).status == 409
        assert suite.post(f"{other.path}/cancel", {}).status == 200
        assert 200 not in send_at_once(suite, other.path, 0, part_of(9000))
        assert len(objects(suite)) == 4

        answer = suite.post("/v1/collections/c/records/count", {"fresh": True, "timeout_ms": 20000})
        assert answer.body["count"] == 4 * ROWS
        suite.stop()
        counts = {thing["kind"]: thing for thing in verify(suite.data / "suite", 0)["things"]}["blobs"]["counts"]
        assert counts["other objects"] == 4 and "that no log here names" not in counts, counts
