"""A private Kafka broker for tests: one node in KRaft mode, free ports, nothing left behind.

    with KafkaBroker() as kafka:
        kafka.bootstrap     # 127.0.0.1:PORT
        kafka.url("prefix") # kafka://127.0.0.1:PORT/prefix
        kafka.kill(); kafka.start()     # as a crash, and back with the same log
        kafka.pause(); kafka.resume()   # with all connections open

As a program it prints its URL and obeys one command a line (kill, start, pause, resume), each
answered by "ok" or "failed …"; the end of its input is the end of the broker.  Words behind it are
lines of its settings: kafka_broker.py message.max.bytes=5000.

The jars are fetched by `make deps-test` (tools/kafka).
"""
import base64
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

from redis_server import free_port

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
JARS = pathlib.Path(os.environ.get("VICINAL_KAFKA_JARS", ROOT / "build/kafka"))

SETTINGS = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={folder}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=16777216
log.segment.bytes=16777216
num.network.threads=2
num.io.threads=4
"""


class KafkaBroker:
    def __init__(self, folder=None, settings=()):
        """folder: where its log goes; made, and removed, when there is none.  settings: more
        lines for the broker."""
        self.settings = settings
        self.port, self.controller = free_port(), free_port()
        self.own_folder = folder is None
        self.folder = pathlib.Path(folder) if folder else None
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.process = None

    def _java(self, *words):
        return ["java", "-Xmx256m", "-Xms256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                "-cp", f"{JARS}/*", *words]

    def _format(self):
        if self.folder is None:
            self.folder = pathlib.Path(tempfile.mkdtemp(prefix="vicinal-kafka-"))
        if (self.folder / "settings").exists():
            return
        (self.folder / "settings").write_text(SETTINGS.format(
            port=self.port, controller=self.controller, folder=self.folder)
            + "".join(f"{line}\n" for line in self.settings))
        cluster = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
        subprocess.run(self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c",
                                  str(self.folder / "settings")),
                       check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, timeout=60)

    def start(self, seconds=60):
        self._format()
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                self._java("kafka.Kafka", str(self.folder / "settings")), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + seconds
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > end:
                text = (self.folder / "log").read_text(errors="replace")[-3000:]
                self.kill()
                raise AssertionError(f"the broker does not start:\n{text}")
            time.sleep(0.05)
        return self

    def answers(self):
        """Does it tell its metadata, with itself as a broker?  (Metadata request, version 1, of no
        topics.)"""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.settimeout(2)
                body = struct.pack(">hhih", 3, 1, 7, 1) + b"t" + struct.pack(">i", 0)
                connection.sendall(struct.pack(">i", len(body)) + body)
                head = connection.recv(12, socket.MSG_WAITALL)
                return len(head) == 12 and struct.unpack(">iii", head)[2] > 0
        except OSError:
            return False

    def url(self, prefix=""):
        return f"kafka://{self.bootstrap}" + (f"/{prefix}" if prefix else "")

    def signal(self, number):
        self.process.send_signal(number)

    def pause(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def restart(self):
        self.kill()
        return self.start()

    def kill(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self):
        self.kill()
        if self.own_folder and self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()


def main():
    with KafkaBroker(settings=sys.argv[1:]) as broker:
        commands = {"kill": broker.kill, "start": broker.start,
                    "pause": broker.pause, "resume": broker.resume}
        print(broker.url(), flush=True)
        for line in sys.stdin:
            try:
                commands[line.strip()]()
                print("ok", flush=True)
            except Exception as error:  # told to the test, which fails by it
                print("failed", repr(error).replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
