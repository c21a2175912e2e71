"""`vicinal up` with an engine that it can never use ends within seconds, with a code that is not 0
and one line that names the option and says what to do; nothing stays behind.  An engine that is only
away is another matter: Postgres is needed at once, Kafka and Redis are waited for, and it says so."""
import pathlib
import signal
import subprocess
import threading
import time

import pytest

from postgres_server import PostgresServer
from ports import free_port
from redis_server import RedisServer
from suite import BIN, SLOW, Suite, poll

END_SECONDS = 20
UP = ["--log-level", "warn", "--shards", "1"]


def command(data, *words):
    return [str(BIN / "vicinal"), "up", "--data", str(data), "--listen", "127.0.0.1:0", *UP, *words]


def refused(data, *words, program=None, code=2):
    """What it says, when it has ended by itself, in time."""
    began = time.monotonic()
    done = subprocess.run([str(BIN / program), *words] if program else command(data, *words), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60 * SLOW)
    assert done.returncode == code and "ready" not in done.stdout, done
    assert time.monotonic() - began < END_SECONDS * SLOW
    # Of the process that found it out: one plain line, and what up says of that process.
    told = [line for line in done.stderr.splitlines() if line.startswith("vicinal")]
    assert told and len(set(told)) == 1, done.stderr
    assert len(done.stderr) < 20000
    return told[0]


@pytest.fixture(scope="module")
def postgres():
    with PostgresServer() as server:
        server.sql("CREATE ROLE someone LOGIN PASSWORD 'right'")
        rules = pathlib.Path(server.folder, "data", "pg_hba.conf")
        rules.write_text("host all someone 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        server.sql("SELECT pg_reload_conf()")
        yield server


@pytest.mark.parametrize("option,url,said", [
    ("wal", "kafak://127.0.0.1:9092/p", "known: file:, kafka:"),
    ("wal", "kafka://127.0.0.1:9092", "write kafka://host:port[,host:port]/prefix"),
    ("wal", "kafka://me:secret@127.0.0.1:9092/p", "user and password go into config=FILE"),
    ("wal", "kafka://127.0.0.1:9092/p?linger=5", "known: linger_ms"),
    ("wal", "kafka://127.0.0.1:9092/p?config={folder}/none", "No such file"),
    ("meta", "mysql://127.0.0.1/x", "want sqlite:FILE, postgres://"),
    ("meta", "postgres://someone@127.0.0.1:many/x", "port"),
    ("meta", "postgres://someone:secret@127.0.0.1/x?schema=A;B", "schema=NAME"),
    ("cache", "memcached://127.0.0.1", "want memory:SIZE, redis://HOST:PORT or none:"),
    ("cache", "redis://127.0.0.1", "redis://[user:password@]host:port"),
    ("cache", "redis://me:secret@127.0.0.1:none", "redis://[user:password@]host:port"),
])
def test_urls_that_are_none(tmp_path, option, url, said):
    line = refused(tmp_path / "d", f"--{option}", url.format(folder=tmp_path))
    assert f"--{option}: " in line and said in line and "secret" not in line


def test_kafka(kafka, tmp_path):
    def through(password):
        path = tmp_path / password
        path.write_text("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\n"
                        f"sasl.username={kafka.sasl[0]}\nsasl.password={password}\n")
        return f"kafka://127.0.0.1:{kafka.sasl_port}/refused?config={path}"

    line = refused(tmp_path / "d", "--wal", through("wrong"))
    assert "--wal: " in line and "check the user, the password" in line
    # A topic of ours, with another number; one that was never ours; one that would lose entries.
    with Suite(wal=kafka.url("four"), partitions=4):
        pass
    assert "--partitions 8: the log has 4" in refused(tmp_path / "d", "--wal", kafka.url("four"), "--partitions", "8")
    kafka.create_topic("few.log", 4)
    kafka.create_topic("single.log", 1)
    kafka.create_topic("compacted.log", 5, {"cleanup.policy": "compact"})
    kafka.create_topic("short.log", 5, {"retention.ms": "1000"})
    for prefix, partitions, said in (("few", 8, "start with --partitions 3"), ("single", 4, "choose another prefix"),
                                     ("compacted", 4, "set cleanup.policy=delete"), ("short", 4, "retention.ms")):
        line = refused(tmp_path / "d", "--wal", kafka.url(prefix), "--partitions", str(partitions))
        assert "--wal: " in line and said in line
    # The same by the service alone.
    line = refused(None, "--wal", kafka.url("few"), "--partitions", "8", "--meta", f"sqlite:{tmp_path}/alone.db",
                   "--listen", "127.0.0.1:0", "--log-level", "warn", program="vicinal-ingest")
    assert "--wal: " in line and "start with --partitions 3" in line


def test_redis(tmp_path):
    with RedisServer("--requirepass", "right") as redis:
        for url in (redis.url, redis.url.replace("//", "//:wrong@"), redis.url.replace("//", "//me:wrong@")):
            line = refused(tmp_path / "d", "--cache", url)
            assert "--cache: " in line and "check user, password and database" in line and "wrong@" not in line
        line = refused(tmp_path / "d", "--cache", redis.url.replace("//", "//:right@") + "/99")
        assert "--cache: " in line and "check user, password and database" in line


def test_postgres(postgres, tmp_path):
    def by(user):
        return postgres.url.replace("postgres@", user + "@")

    postgres.sql("CREATE SCHEMA newer")
    postgres.sql("CREATE TABLE newer.schema_version (version bigint NOT NULL)")
    postgres.sql("INSERT INTO newer.schema_version VALUES (99)")
    for url, said in ((by("someone:wrong"), "check user, password and database"),
                      (by("someone"), "check user, password and database"),
                      (by("nobody-at-all"), "check user, password and database"),
                      (postgres.url + "-none", "check user, password and database"),
                      (by("someone:right"), "grant the user this right"),
                      (postgres.url + "?schema=newer", "run the newer program")):
        line = refused(tmp_path / "d", "--meta", url)
        assert "--meta: " in line and said in line and "wrong" not in line, line


def test_postgres_that_is_away(tmp_path):
    line = refused(tmp_path / "d", "--meta", f"postgres://me@127.0.0.1:{free_port()}/x", code=1)
    assert "--meta: " in line and "Connection refused" in line
    # The numbers of what is said beside it are numbers.
    done = subprocess.run(command(tmp_path / "d", "--meta", f"postgres://me@127.0.0.1:{free_port()}/x"),
                          capture_output=True, text=True, timeout=60 * SLOW, stdin=subprocess.DEVNULL)
    assert '"pause_ms":0' in done.stderr and "184467" not in done.stderr


def test_a_log_that_is_away_is_waited_for(tmp_path):
    """It says what it waits for, and SIGTERM ends it."""
    port = free_port()
    with open(tmp_path / "said", "wb") as said:
        process = subprocess.Popen(command(tmp_path / "d", "--wal", f"kafka://127.0.0.1:{port}/away", "--partitions", "4"),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)
    try:
        poll("it says what it waits for", lambda: b'"option":"--wal"' in (tmp_path / "said").read_bytes(), 20)
        line = next(line for line in (tmp_path / "said").read_text().splitlines() if '"option":"--wal"' in line)
        assert "Connection refused" in line and "waits" in line
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20 * SLOW)
    assert process.returncode == 0 and out == b""


def test_a_log_that_comes_later(kafka):
    """The suite is ready by itself, some seconds after its broker."""
    kafka.kill()
    suite = Suite(wal=kafka.url("later"), partitions=4)
    try:
        starter = threading.Thread(daemon=True, target=kafka.start)
        starter.start()
        try:
            suite.start()
        finally:
            starter.join()
        suite.create("c")
        suite.upsert("c", [{"id": "x", "vector": [1, 2, 3]}])
    finally:
        suite.__exit__(None, None, None)


def test_a_cache_that_is_away_is_done_without(tmp_path):
    with RedisServer() as redis:
        redis.kill()
        with Suite(cache=redis.url) as suite:
            assert "the cache is away: going on without" in (suite.data / "log").read_text()
            suite.create("c")
            suite.upsert("c", [{"id": "x", "vector": [1, 2, 3]}])
            assert suite.post("/v1/collections/c/search", {"vector": [1, 2, 3], "fresh": True}).body["matches"]
