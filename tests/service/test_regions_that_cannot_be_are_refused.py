"""`up --regions` refuses what could never work before anything is started, and says what to do."""
import subprocess

import pytest

from suite import BIN, SLOW, Suite

pytestmark = pytest.mark.embedded("data folders that do not fit")


def up(data, *words):
    done = subprocess.run([str(BIN / "vicinal"), "up", "--data", str(data), "--listen", "127.0.0.1:0", *words],
                          capture_output=True, text=True, timeout=60 * SLOW)
    assert done.returncode == 2 and done.stdout == "", done
    return done.stderr


@pytest.mark.parametrize("names,said", [
    ("a,a", "twice"), ("a,b,a", "twice"), ("A", "a-z"), ("a,", "a-z"), (",", "a-z"), ("", "a-z"), ("a b", "a-z"),
    ("x" * 33, "a-z"), ("../a", "a-z"), ("a,b,c,d,e,f,g,h,i", "at most")])
def test_names(tmp_path, names, said):
    assert said in up(tmp_path / "d", "--regions", names)


def test_a_shared_log_or_store(tmp_path):
    for option in (["--wal", f"file:{tmp_path}/wal"], ["--meta", f"sqlite:{tmp_path}/meta.db"]):
        assert "{region}" in up(tmp_path / "d", "--regions", "a,b", *option)
    assert "--regions" in up(tmp_path / "e", "--wal", f"file:{tmp_path}" + "/{region}")
    assert list(tmp_path.glob("*/*")) == []


def test_ports_that_are_none(tmp_path):
    done = subprocess.run([str(BIN / "vicinal"), "up", "--data", str(tmp_path / "d"), "--regions", "a,b,c",
                           "--listen", "127.0.0.1:65534"], capture_output=True, text=True, timeout=60 * SLOW)
    assert done.returncode == 2 and "ports" in done.stderr


def test_a_folder_of_the_other_kind(tmp_path):
    with Suite(data=tmp_path) as suite:
        suite.stop()
        assert "without regions" in up(tmp_path / "suite", "--regions", "a,b")
    (tmp_path / "two").mkdir()
    with Suite(data=tmp_path / "two", regions="a,b", partitions=4) as suite:
        suite.stop()
        assert "give --regions" in up(tmp_path / "two" / "suite")


def test_a_second_up_on_a_region_s_folder(tmp_path):
    with Suite(data=tmp_path, regions="a,b", partitions=4) as suite:
        for folder in ("suite", "suite/a", "suite/b"):
            assert str(suite.process.pid) in up(tmp_path / folder)
        assert suite.get("/readyz").status == 200


def test_regions_with_different_numbers_of_partitions(tmp_path):
    for name, partitions in (("a", 4), ("b", 8)):
        with Suite(data=tmp_path, regions=name, partitions=partitions) as suite:
            assert len(suite.urls) == 1
    said = up(tmp_path / "suite", "--regions", "a,b")
    assert "4 partitions" in said and "has 8" in said and "made anew" in said
    # A new region takes the number that is there.
    with Suite(data=tmp_path, regions="a,c") as suite:
        assert [suite.region(name).get("/internal/v1/status").body["partitions"] for name in "ac"] == [4, 4]


def test_a_store_that_is_another_region_s(tmp_path):
    with Suite(data=tmp_path, regions="a", meta=f"sqlite:{tmp_path}/meta.db", partitions=4):
        pass
    assert "is that of region a" in up(tmp_path / "suite", "--regions", "x", "--partitions", "4", "--meta",
                                       f"sqlite:{tmp_path}/meta.db")


def test_placeholders_are_filled(tmp_path):
    with Suite(regions="a,b", partitions=4, wal=f"file:{tmp_path}/wal-" + "{region}",
               meta=f"sqlite:{tmp_path}/meta-" + "{region}.db", cache="none:") as suite:
        suite.create("c")
        token = suite.region("a").upsert("c", [{"id": "x", "vector": [1, 2, 3]}])["read_token"]
        assert suite.region("b").get(f"/v1/collections/c/records/x?timeout_ms=20000&read_token={token}").status == 200
        assert len(suite.pids("router", "b")) == len(suite.pids("replicator", "a")) == 1
    assert sorted(path.name for path in tmp_path.iterdir() if "-shm" not in path.name and "db-wal" not in path.name) \
        == ["meta-a.db", "meta-b.db", "wal-a", "wal-b"]
