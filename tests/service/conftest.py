"""Makes tests/lib importable, and one suite that tests share when they do not harm it."""
import pathlib
import sys
import uuid

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))

from suite import Suite  # noqa: E402


@pytest.fixture(scope="session")
def shared():
    """Two shards of one replica; tests use collections of their own."""
    with Suite(shards=2) as suite:
        yield suite


@pytest.fixture
def name():
    """A collection name of this test's own."""
    return "c" + uuid.uuid4().hex[:12]
