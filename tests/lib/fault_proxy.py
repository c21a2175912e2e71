"""A TCP proxy that can be cut: for a while nothing passes, in either direction, as behind a broken
link: no connection is refused or closed, bytes just do not arrive.

    with FaultProxy(("127.0.0.1", port)) as proxy:
        proxy.port; proxy.cut(); proxy.heal()
"""
import socket
import threading


class FaultProxy:
    def __init__(self, target=None):
        self.target, self.is_open, self.ends = target, threading.Event(), threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets, self.lock = [], threading.Lock()
        self.heal()

    def cut(self):
        self.is_open.clear()

    def heal(self):
        self.is_open.set()

    def _keep(self, *sockets):
        with self.lock:
            self.sockets += sockets

    def _pump(self, source, sink):
        try:
            while data := source.recv(1 << 16):
                self.is_open.wait()
                if self.ends.is_set():
                    break
                sink.sendall(data)
        except OSError:
            pass
        self.is_open.wait()  # the end does not pass a cut link either
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

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
        threading.Thread(target=self._pump, args=(client, server), daemon=True).start()
        self._pump(server, client)

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
