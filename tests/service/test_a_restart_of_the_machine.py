"""A suite whose machine was started anew goes on as after its own restart: with the log that it has,
whatever was said when that was made."""
import os

import pytest

from suite import Suite

pytestmark = pytest.mark.embedded("the log is in files")
BOOT_WORD_AT, BOOT_WORD_BYTES = 64, 8  # of the log's control page (backends/wal/wal_file_internal.h)


def restart_the_machine(suite):
    """No writer has opened the log since."""
    with open(suite.data / "suite/wal/control", "r+b") as page:
        page.seek(BOOT_WORD_AT)
        word = page.read(BOOT_WORD_BYTES)
        assert word != bytes(BOOT_WORD_BYTES)
        page.seek(BOOT_WORD_AT)
        page.write(os.urandom(BOOT_WORD_BYTES))


@pytest.mark.parametrize("partitions", [2, 64, 100])
def test_it_goes_on_with_the_partitions_that_it_has(partitions):
    with Suite(shards=2, partitions=partitions) as suite:
        suite.create("c", 3)
        suite.upsert("c", [{"id": f"{i}", "vector": [i, 1, 2]} for i in range(50)])
        suite.stop()
        restart_the_machine(suite)
        del suite.options["partitions"]
        suite.start()
        answer = suite.post("/v1/collections/c/records/count", {"fresh": True})
        assert answer.status == 200 and answer.body["count"] == 50, answer
        suite.upsert("c", [{"id": "more", "vector": [1, 2, 3]}])
        assert suite.get("/v1/collections/c/records/more?fresh=true").status == 200
