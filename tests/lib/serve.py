"""A private server for a test program that kills, pauses and restarts it.

    python3 tests/lib/serve.py redis|postgres [FLAG ...]

prints the server's URL, then obeys one command a line and answers each with a line: "ok …" or
"failed …".  At the end of its input the server is ended and its folder removed: a test that dies
leaves nothing behind.

    kill | start     as a crash, and again on the same port
    pause | resume   the whole server, with the connections open
    sql TEXT         postgres: run it        command WORD…    redis: likewise
"""
import sys

from postgres_server import PostgresServer
from redis_server import RedisServer


def obey(server, line):
    word, _, rest = line.strip().partition(" ")
    if word in ("kill", "start", "pause", "resume"):
        getattr(server, word)()
        return ""
    if word == "sql":
        return server.sql(rest).replace("\n", " ")
    if word == "command":
        return server.command(*rest.split())
    raise ValueError(f"no command {word}")


def main():
    server = PostgresServer() if sys.argv[1] == "postgres" else RedisServer(*sys.argv[2:])
    with server:
        print(server.url, flush=True)
        for line in sys.stdin:
            try:
                answer = "ok " + obey(server, line)
            except Exception as error:  # told to the test, which fails by it
                answer = "failed " + str(error).replace("\n", " ")
            print(answer, flush=True)


if __name__ == "__main__":
    main()
