"""One data folder, one `up`: the second is refused and says who has it; the first is not harmed."""
import subprocess

import pytest

from suite import BIN, SLOW, Suite

pytestmark = pytest.mark.embedded("the lock of the data folder")


def test_it_is_refused():
    with Suite() as suite:
        suite.create("c")
        done = subprocess.run([str(BIN / "vicinal"), "up", "--data", str(suite.data / "suite"),
                               "--listen", "127.0.0.1:0"],
                              capture_output=True, text=True, timeout=20 * SLOW)
        assert done.returncode == 2
        assert done.stdout == ""
        assert str(suite.process.pid) in done.stderr
        suite.upsert("c", [{"id": "a", "vector": [1, 2, 3]}])
        assert suite.get("/v1/collections/c/records/a?fresh=true").status == 200
        suite.restart()
        assert suite.get("/v1/collections/c/records/a?fresh=true&timeout_ms=10000").status == 200
