"""A TCP proxy that can be cut: for a while nothing passes, in either direction, as behind a broken
link: no connection is refused or closed, bytes just do not arrive.

    with FaultProxy(("127.0.0.1", port)) as proxy:
        proxy.port; proxy.cut(); proxy.heal()       # what was on its way arrives then
        proxy.forget()                              # or it never does, and all connections are reset
        proxy.answers = lambda data: b"nonsense"    # what comes back passes through this; None: the
                                                    # connection is closed in its place
        proxy.drop()                                # all connections are closed
        proxy.reset()                               # … as by a peer that knows nothing of them
        proxy.delay = 0.2                           # seconds, for each piece in each direction
        proxy.torn = 0.1                            # share of answers of which a half comes, then a reset
"""
import random
import socket
import struct
import threading
import time

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: whoever closes it now sends a reset


class FaultProxy:
    def __init__(self, target=None):
        self.target, self.is_open, self.ends = target, threading.Event(), threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets, self.gone, self.lock = set(), set(), threading.Lock()  # gone: those that were reset
        self.answers, self.delay, self.torn, self.forgotten = None, 0.0, 0.0, 0
        self.heal()

    def cut(self):
        self.is_open.clear()

    def heal(self):
        self.is_open.set()

    def forget(self):
        self.forgotten += 1
        self.reset()
        self.heal()

    def drop(self):
        for end in self._all():
            self._shut(end, socket.SHUT_RDWR)

    def reset(self):
        for end in self._all():
            self._reset(end)

    def _all(self):
        with self.lock:
            return list(self.sockets)

    @staticmethod
    def _shut(end, how):
        try:
            end.shutdown(how)
        except OSError:
            pass

    def _reset(self, end):
        """Its thread wakes and closes it, without a word before."""
        with self.lock:
            self.gone.add(end)
        try:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        except OSError:
            pass
        self._shut(end, socket.SHUT_RD)

    def _pump(self, source, sink, change):
        try:
            while data := source.recv(1 << 16):
                self.is_open.wait()
                if self.delay:
                    time.sleep(self.delay)
                data, is_torn = change(data)
                if self.ends.is_set() or data is None or source in self.gone:
                    break
                sink.sendall(data)
                if is_torn:
                    self._reset(source)
                    self._reset(sink)
        except OSError:
            pass
        self.is_open.wait()  # the end does not pass a cut link either
        for end in (source, sink):
            if end not in self.gone:
                self._shut(end, socket.SHUT_RDWR)

    def _change(self, data):
        if self.answers:
            data = self.answers(data)
        if data and self.torn and random.random() < self.torn:
            return data[:len(data) // 2], True
        return data, False

    def _serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client):
        known, ends = self.forgotten, [client]
        self.is_open.wait()
        try:
            if known != self.forgotten:
                raise OSError("forgotten")
            ends.append(socket.create_connection(self.target, 5))
            for end in ends:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                end.settimeout(None)
        except OSError:
            for end in ends:
                end.close()
            return
        with self.lock:
            self.sockets.update(ends)
        there = threading.Thread(target=self._pump, args=(*ends, lambda data: (data, False)), daemon=True)
        there.start()
        self._pump(*reversed(ends), self._change)
        there.join()
        with self.lock:
            self.sockets.difference_update(ends)
            self.gone.difference_update(ends)
        for end in ends:
            end.close()

    def __enter__(self):
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.heal()
        self._shut(self.listener, socket.SHUT_RDWR)
        self.listener.close()
        self.drop()
