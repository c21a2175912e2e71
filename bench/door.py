"""A raw keep-alive connection for measuring one request after the other, and what is told of times."""
import json
import sys
import time
import urllib.parse

from rest_client import Connection, request_bytes


def say(text):
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def at(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def times(values):
    return f"p50 {at(values, .5) * 1000:.2f}, p95 {at(values, .95) * 1000:.2f}, p99 {at(values, .99) * 1000:.2f} ms"


class Door:
    """A raw keep-alive connection to one router."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname, parts.port
        self.connection = Connection((self.host, self.port))

    def prepare(self, path, body):
        return request_bytes(self.host, self.port, path, json.dumps(body, separators=(",", ":")))

    def send(self, request, status=200):
        """(seconds, body); any other status is an error."""
        self.connection.send(request, 0)
        answer = None
        while answer is None:
            answer = self.connection.receive()
        if answer[0] != status:
            raise AssertionError(f"{answer[0]} {answer[1][:300]}")
        return time.perf_counter() - self.connection.sent, answer[1]
