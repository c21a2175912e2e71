"""Kafka, Redis and Postgres for whole suites: with VICINAL_ENGINES=full every Suite that does not
name its own stores runs on them, in a topic and a schema of its own.  Started at the first use,
ended with the process."""
import atexit
import os
import uuid

_servers = []


def wanted():
    return os.environ.get("VICINAL_ENGINES") == "full"


def _start():
    from kafka_broker import KafkaBroker
    from postgres_server import PostgresServer
    from redis_server import RedisServer
    for make in (KafkaBroker, RedisServer, PostgresServer):
        server = make()
        server.__enter__()
        _servers.append(server)
        atexit.register(server.__exit__, None, None, None)


def options(regions):
    """Of `vicinal up`."""
    if not _servers:
        _start()
    kafka, redis, postgres = _servers
    name = "t" + uuid.uuid4().hex[:12] + ("-{region}" if regions else "")
    return {"wal": kafka.url(name), "cache": redis.url, "meta": f"{postgres.url}?schema={name}"}
