"""A TCP proxy that can be cut: for a while nothing passes, in either direction, as behind a broken
link: no connection is refused or closed, bytes just do not arrive.

    with FaultProxy(("127.0.0.1", port)) as proxy:
        proxy.port; proxy.cut(); proxy.heal()
        proxy.answers = lambda data: b"nonsense"    # what comes back passes through this; None: the
                                                    # connection is closed in its place
        proxy.drop()                                # all connections are closed
"""
import socket
import threading


class FaultProxy:
    def __init__(self, target=None):
        self.target, self.is_open, self.ends = target, threading.Event(), threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets, self.lock = [], threading.Lock()
        self.answers = None
        self.heal()

    def cut(self):
        self.is_open.clear()

    def heal(self):
        self.is_open.set()

    def drop(self):
        with self.lock:
            dropped, self.sockets = self.sockets, []
        for end in dropped:
            self._shut(end)

    @staticmethod
    def _shut(end):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _keep(self, *sockets):
        with self.lock:
            self.sockets += sockets

    def _pump(self, source, sink, change):
        try:
            while data := source.recv(1 << 16):
                self.is_open.wait()
                data = change(data)
                if self.ends.is_set() or data is None:
                    break
                sink.sendall(data)
        except OSError:
            pass
        self.is_open.wait()  # the end does not pass a cut link either
        self._shut(source)
        self._shut(sink)

    def _change(self, data):
        change = self.answers
        return change(data) if change else data

    def _serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self._keep(client)
            threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client):
        self.is_open.wait()
        try:
            server = socket.create_connection(self.target, 5)
        except OSError:
            client.close()
            return
        self._keep(server)
        threading.Thread(target=self._pump, args=(client, server, lambda data: data), daemon=True).start()
        self._pump(server, client, self._change)

    def __enter__(self):
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.heal()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.lock:
            for end in self.sockets:
                end.close()
