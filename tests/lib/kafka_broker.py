"""A private Kafka broker for tests: one node in KRaft mode, free ports, nothing left behind.

    with KafkaBroker() as kafka:
        kafka.bootstrap     # 127.0.0.1:PORT
        kafka.url("prefix") # kafka://127.0.0.1:PORT/prefix
        kafka.kill(); kafka.start()     # as a crash, and back with the same log
        kafka.pause(); kafka.resume()   # with all connections open

As a program it prints its URL and obeys one command a line, each answered by "ok …" or "failed …";
the end of its input is the end of the broker:

    kill | start | pause | resume      address     of the listener that wants a password
    create TOPIC PARTITIONS [name=value …]         delete TOPIC
    trim TOPIC PARTITION OFFSET                    what lies before is no longer kept
    damage TOPIC PARTITION BYTES                   a byte of its log, so many before its end, is another

The jars are fetched by `make deps-test` (tools/kafka).
"""
import base64
import os
import pathlib
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

import standing_still
from ports import free_port

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
JARS = pathlib.Path(os.environ.get("VICINAL_KAFKA_JARS", ROOT / "build/kafka"))

# A broker makes the indexes of a segment as large as they may become, and with the first entry the
# system fills as much memory with zeros: with Kafka's own limit and 64 partitions more than a gigabyte,
# for seconds.
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
log.index.size.max.bytes=131072
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
num.network.threads=2
num.io.threads=4
"""

# One more listener, that wants a user and a password.
SASL = """listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},SASL://127.0.0.1:{sasl}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL://127.0.0.1:{sasl}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl.plain.sasl.jaas.config=\
 org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
"""


def _text(text):
    return struct.pack(">h", len(text.encode())) + text.encode()


class KafkaBroker:
    def __init__(self, folder=None, settings="", sasl=None):
        """folder: where its log goes; made, and removed, when there is none.  settings: more
        lines for the broker.  sasl: (user, password) of one more listener."""
        self.settings, self.sasl, self.sasl_port = settings, sasl, free_port()
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
        ports = {"port": self.port, "controller": self.controller, "sasl": self.sasl_port}
        text = SETTINGS.format(folder=self.folder, **ports) + self.settings
        if self.sasl:
            text += SASL.format(user=self.sasl[0], password=self.sasl[1], **ports)
        (self.folder / "settings").write_text(text)
        cluster = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
        # In one word: an id may begin with "-", which would be read as an option.
        done = subprocess.run(self._java("kafka.tools.StorageTool", "format",
                                         f"--cluster-id={cluster}",
                                         f"--config={self.folder / 'settings'}"),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=60)
        if done.returncode != 0:
            raise RuntimeError(f"the broker's folder could not be formatted: {done.stdout}")

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

    def _ask(self, api, version, body, seconds=2):
        """One request of Kafka's protocol; its answer behind the correlation number."""
        with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.settimeout(seconds)
            head = struct.pack(">hhi", api, version, 7) + _text("test")
            connection.sendall(struct.pack(">i", len(head + body)) + head + body)
            answer = connection.makefile("rb")
            return answer.read(struct.unpack(">i", answer.read(4))[0])[4:]

    def answers(self):
        """Does it tell its metadata, with itself as a broker?  (Metadata, version 1, no topics.)"""
        try:
            return struct.unpack(">i", self._ask(3, 1, struct.pack(">i", 0))[:4])[0] > 0
        except (OSError, struct.error):
            return False

    def create_topic(self, name, partitions, settings=None):
        """CreateTopics, version 2; one replica."""
        settings = settings or {}
        body = struct.pack(">i", 1) + _text(name) + struct.pack(">ihii", partitions, 1, 0,
                                                                len(settings))
        body += b"".join(_text(k) + _text(v) for k, v in settings.items())
        answer = self._ask(19, 2, body + struct.pack(">ib", 10000, 0), 15)
        code = struct.unpack(">h", answer[10 + len(name):12 + len(name)])[0]
        assert code == 0, f"topic {name} was not made: error {code}"

    def delete_topic(self, name):
        """DeleteTopics, version 1."""
        body = struct.pack(">i", 1) + _text(name) + struct.pack(">i", 10000)
        code = struct.unpack(">h", self._ask(20, 1, body, 15)[-2:])[0]
        assert code == 0, f"topic {name} was not deleted: error {code}"
        # The controller has done it; the broker, who is asked by everybody, follows.
        end = time.monotonic() + 15
        while self._topic_error(name) != 3:  # UNKNOWN_TOPIC_OR_PARTITION
            assert time.monotonic() < end, f"topic {name} is still told of"
            time.sleep(0.01)

    def _topic_error(self, name):
        """What Metadata, version 1, says of one topic."""
        answer = self._ask(3, 1, struct.pack(">i", 1) + _text(name), 15)
        at = 4
        for _ in range(struct.unpack(">i", answer[:4])[0]):  # brokers: id, host, port, rack
            at += 4
            at += 2 + struct.unpack(">h", answer[at:at + 2])[0] + 4
            at += 2 + max(0, struct.unpack(">h", answer[at:at + 2])[0])
        at += 4 + 4  # the controller's id, one topic
        return struct.unpack(">h", answer[at:at + 2])[0]

    def trim(self, name, partition, offset):
        """DeleteRecords, version 1."""
        body = struct.pack(">i", 1) + _text(name) + struct.pack(">iiqi", 1, partition, offset, 10000)
        code = struct.unpack(">h", self._ask(21, 1, body, 15)[-2:])[0]
        assert code == 0, f"topic {name} was not trimmed: error {code}"

    def damage(self, name, partition, before_end):
        """As a disk that gives back another byte than was written."""
        path = max((self.folder / "data" / f"{name}-{partition}").glob("*.log"))
        with open(path, "r+b") as log:
            log.seek(-before_end, os.SEEK_END)
            byte = log.read(1)[0]
            log.seek(-before_end, os.SEEK_END)
            log.write(bytes([byte ^ 0x10]))

    def url(self, prefix=""):
        return f"kafka://{self.bootstrap}" + (f"/{prefix}" if prefix else "")

    def signal(self, number):
        self.process.send_signal(number)

    def pause(self):
        standing_still.stop(self.process.pid)

    def resume(self):
        self.signal(signal.SIGCONT)

    def limit_files(self, room):
        """As on a full disk: no file grows by more than `room` bytes beyond the longest log segment.
        A broker whose only log folder fails ends itself; the next start is without the limit."""
        longest = max(path.stat().st_size for path in self.folder.glob("data/*/*.log"))
        _, most = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (longest + room, most))

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


def obey(broker, line):
    command, *words = line.split()
    if command == "address":
        return f"127.0.0.1:{broker.sasl_port}"
    if command == "create":
        broker.create_topic(words[0], int(words[1]), dict(w.split("=") for w in words[2:]))
    elif command == "trim":
        broker.trim(words[0], int(words[1]), int(words[2]))
    elif command == "damage":
        broker.damage(words[0], int(words[1]), int(words[2]))
    elif command == "delete":
        broker.delete_topic(words[0])
    else:
        {"kill": broker.kill, "start": broker.start,
         "pause": broker.pause, "resume": broker.resume}[command]()
    return ""


def main():
    with KafkaBroker(sasl=("reader", "right")) as broker:
        print(broker.url(), flush=True)
        for line in sys.stdin:
            try:
                print("ok", obey(broker, line), flush=True)
            except Exception as error:  # told to the test, which fails by it
                print("failed", repr(error).replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
