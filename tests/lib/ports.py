"""Ports on 127.0.0.1 for servers that must be told one.

The kernel's own choice (port 0) is for those who bind it themselves: one that is let go to be bound
by somebody else may meanwhile become the near end of any connection, or another test's.  So these
lie below those that the kernel gives away, and each process takes them from a block of its own: a
name in the abstract socket space marks it, until the process ends.
"""
import errno
import os
import random
import socket

BLOCK = 100
LOWEST = 10240


class Block:
    """The ports of one process."""

    def __init__(self):
        self.process, self.mark = os.getpid(), socket.socket(socket.AF_UNIX)
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as told:
            count = (int(told.read().split()[0]) - LOWEST) // BLOCK
        for number in random.sample(range(count), count):
            try:
                self.mark.bind(f"\0vicinal-ports-{number}")
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            self.first, self.at = LOWEST + number * BLOCK, 0
            return
        raise AssertionError("all blocks of ports are taken")

    def next(self):
        for _ in range(BLOCK):
            port, self.at = self.first + self.at, (self.at + 1) % BLOCK
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            return port
        raise AssertionError(f"no port from {self.first} on is free")


block = None


def free_port():
    """One that nobody listens at; the same again a hundred calls later at the earliest."""
    global block
    if block is None or block.process != os.getpid():
        block = Block()
    return block.next()
