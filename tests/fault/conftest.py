"""Makes tests/lib importable, and one suite that tests share when they do not harm it."""
import pathlib
import sys
import uuid

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))

import engines  # noqa: E402
from kafka_broker import KafkaBroker  # noqa: E402
from suite import Suite  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "embedded(reason): about files of the embedded defaults; left out with "
                                       "VICINAL_ENGINES=full")


def pytest_collection_modifyitems(config, items):
    if engines.wanted():
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("embedded")])
        items[:] = [item for item in items if not item.get_closest_marker("embedded")]


@pytest.fixture(scope="session")
def shared():
    """Two shards of one replica; tests use collections of their own."""
    with Suite(shards=2) as suite:
        yield suite


@pytest.fixture
def name():
    """A collection name of this test's own."""
    return "c" + uuid.uuid4().hex[:12]


@pytest.fixture(scope="session")
def kafka():
    """One broker for all that leave it running as it was; tests use prefixes of their own.  It
    listens a second time, for who has the password."""
    with KafkaBroker(sasl=("reader", "right")) as broker:
        yield broker
