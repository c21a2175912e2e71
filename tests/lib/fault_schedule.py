"""What goes wrong in a deployment, one fault after the other and now and then two at a time, by seed.

At most one replica of each shard is hurt at a time, so that a healthy one is always there: then no read
may fail.  Each kind of fault says which requests may fail during it (`excuses`), until all is well again.
"""
import contextlib
import random
import time

from suite import poll

WELL_SECONDS = 30  # after a fault has ended: all in use, every kind of request succeeds
CLOSE = 0.3        # seconds around a fault in which a request counts as one of it
# On a log without a lock an append of who has lost it may land later still: whoever has the log then refuses
# what is on its way, and is sure again.  So long afterwards a write may fail, nothing of it being written.
ECHO = 10.0
RUN_OUT_SECONDS = 4  # of a connection to a store of metadata that stood still


@contextlib.contextmanager
def killed(member, chance):
    member.kill()
    yield


@contextlib.contextmanager
def killed_again_and_again(member, chance):
    for _ in range(chance.randrange(2, 5)):
        member.kill()
        time.sleep(chance.uniform(0.05, 0.5))
    yield


@contextlib.contextmanager
def stopped(member, chance):
    member.stop()
    try:
        yield
    finally:
        member.go_on()


@contextlib.contextmanager
def slowed_down(member, chance):
    member.proxy.delay = chance.uniform(0.02, 0.5)
    try:
        yield
    finally:
        member.proxy.delay = 0.0


@contextlib.contextmanager
def answers_torn(member, chance):
    member.proxy.torn = chance.uniform(0.05, 0.3)
    try:
        yield
    finally:
        member.proxy.torn = 0.0


@contextlib.contextmanager
def cut_off(member, chance):
    member.proxy.cut()
    try:
        yield
    finally:
        member.proxy.forget()


@contextlib.contextmanager
def reset(member, chance):
    for _ in range(chance.randrange(2, 10)):
        member.proxy.reset()
        time.sleep(chance.uniform(0.01, 0.3))
    yield


@contextlib.contextmanager
def disk_full(disk, chance):
    disk.fill()
    try:
        yield
    finally:
        disk.free()


@contextlib.contextmanager
def server_killed(server, chance):
    server.kill()
    try:
        yield
    finally:
        server.start()


@contextlib.contextmanager
def server_stopped(server, chance):
    server.pause()
    try:
        yield
    finally:
        server.resume()


class Kind:
    def __init__(self, name, harm, victims, excuses, weight=1):
        """victims(deployment): {group: those that may be hurt}, of which one group at a time is."""
        self.name, self.harm, self.victims, self.excuses, self.weight = name, harm, victims, excuses, weight


NETWORK = [("slow", slowed_down), ("torn answers", answers_torn), ("cut off", cut_off), ("connections reset", reset)]
WRITES = frozenset({"write"})
EVERYTHING = frozenset({"read", "own read", "token read", "fresh read", "write"})


def replicas(deployment):
    return {f"shard {shard}": deployment.named(f"shard-{shard}.") for shard in range(deployment.shards)}


def of_members(kind, excuses):
    def victims(deployment):
        return {kind: deployment.named(kind)}
    return [Kind(f"{kind}: {name}", harm, victims, excuses) for name, harm in
            [("killed", killed), ("killed again and again", killed_again_and_again), ("stopped", stopped), *NETWORK]]


def kinds(has_disks, is_file):
    found = [Kind(f"replica: {name}", harm, replicas, frozenset(), 2) for name, harm in
             [("killed", killed), ("killed again and again", killed_again_and_again), ("stopped", stopped), *NETWORK]]
    found += of_members("ingest", WRITES)
    found += [Kind("router: killed", killed, lambda d: {"router": d.named("router")}, EVERYTHING),
              Kind("router: stopped", stopped, lambda d: {"router": d.named("router")}, EVERYTHING)]
    if has_disks:
        found.append(Kind("replica: disk full", disk_full, lambda d: {
            f"shard {shard}": [d.disk(f"shard-{shard}.{i}") for i in range(d.replicas)] for shard in range(d.shards)},
            frozenset(), 2))
        if is_file:
            found.append(Kind("log: disk full", disk_full, lambda d: {"ingest": [d.disk("wal")]}, WRITES, 2))
    return found


def of_servers(servers):
    """servers: {name: (server, what its absence excuses)}."""
    return [Kind(f"{name}: {what}", harm, lambda d, s=server, n=name: {n: [s]}, excuses, 2)
            for name, (server, excuses) in servers.items()
            for what, harm in [("killed", server_killed), ("stopped", server_stopped)]]


class Fault:
    def __init__(self, kind, group, victim):
        self.kind, self.group, self.victim = kind, group, victim
        self.began = self.struck = self.ended = self.well = 0.0  # struck: the harm is done


class Schedule:
    def __init__(self, deployment, journal, seed, choice):
        self.deployment, self.journal, self.chance, self.choice = deployment, journal, random.Random(seed), choice
        self.faults, self.turn = [], list(choice)
        self.chance.shuffle(self.turn)

    def pick(self, groups):
        """A fault in none of these groups; each kind comes once before any comes again."""
        if {"ingest", "router"} & set(groups):  # a write that its client gave up could pass the next one
            groups = {"ingest", "router", *groups}
        while True:
            if not self.turn:
                self.turn = [kind for kind in self.choice for _ in range(kind.weight)]
                self.chance.shuffle(self.turn)
            kind = self.turn.pop()
            victims = {group: list_ for group, list_ in kind.victims(self.deployment).items() if group not in groups}
            if victims:
                group = self.chance.choice(sorted(victims))
                return Fault(kind, group, self.chance.choice(victims[group]))

    def round(self):
        """One fault or two, until all is well again."""
        faults = [self.pick(())]
        if self.chance.random() < 0.2:
            faults.append(self.pick({faults[0].group}))
        self.faults += faults
        with contextlib.ExitStack() as stack:
            for fault in faults:
                fault.began = time.monotonic()
                stack.enter_context(fault.kind.harm(fault.victim, self.chance))
                fault.struck = time.monotonic()
            time.sleep(self.chance.choice([self.chance.uniform(0.2, 1.5), self.chance.uniform(1.5, 6)]))
        ended = time.monotonic()
        for fault in faults:
            fault.ended = ended
        poll(f"all is well after {[fault.kind.name for fault in faults]}",
             lambda: self.deployment.is_well() and self.journal.succeeded_since(ended), WELL_SECONDS, 0.02)
        for fault in faults:
            fault.well = time.monotonic()
        time.sleep(self.chance.uniform(0.3, 1.0))

    def run(self, seconds):
        """So long, and until each kind has come."""
        end = time.monotonic() + seconds
        while time.monotonic() < end or len({fault.kind.name for fault in self.faults}) < len(self.choice):
            self.round()

    # --- what became of it ----------------------------------------------------------------------

    def of(self, failure):
        """The faults during which a request failed."""
        return [fault for fault in self.faults if fault.began - CLOSE < failure.ended and
                (failure.began < fault.well + CLOSE or fault.well == 0)]

    def beside(self, fault):
        """It, and those that have a part of their time in common with it."""
        return [other for other in self.faults if other is fault or
                other.began < fault.well and fault.began < other.well]

    def writes_from(self, fault):
        """Since when a write may be waited for: an ingest that was hurt takes none before the brokers, and the store
        of metadata, are back."""
        groups = {other.group for other in self.beside(fault)}
        return fault.ended if "ingest" in groups and groups & {"kafka", "postgres"} else fault.began

    def is_echo(self, failure):
        return failure.kind == "write" and "were committed" in str(failure.answer) and \
            self.deployment.log_is_shared and any("write" in fault.kind.excuses and
                                                  fault.began < failure.began < fault.well + ECHO
                                                  for fault in self.faults)

    def is_out_of_reach(self, failure):
        """Without the brokers a replica stays where it is: what was sent before they went may have been read by none
        of them, and what a token demands by that one alone which is hurt as well."""
        names = [fault.kind.name for fault in self.of(failure)]
        away = [fault for fault in self.of(failure) if fault.kind.name.startswith("kafka")]
        return (failure.kind == "own read" and any(failure.since < fault.struck for fault in away)
                or failure.kind in ("own read", "token read") and away != [] and
                any(name.startswith("replica") for name in names))

    def unexcused(self):
        return [failure for failure in self.journal.failures
                if not self.is_echo(failure) and not self.is_out_of_reach(failure) and
                not any(failure.kind in fault.kind.excuses for fault in self.of(failure))]

    def told(self, failure):
        """It, and how long after the beginning and the end of each fault of its time it began."""
        return failure, [(fault.kind.name, round(failure.began - fault.began, 3), round(failure.began - fault.ended, 3))
                         for fault in self.of(failure)]

    def is_start_without(self, death):
        """Who was killed is started while the store of metadata is away: it ends with code 1, and is started
        again until that is back.  A connection that it opened before may run out a moment later."""
        _, code, when = death
        return code == 1 and any(fault.kind.name.startswith("postgres") and
                                 fault.began < when < fault.well + RUN_OUT_SECONDS for fault in self.faults)

    def report(self):
        """Lines: a kind of fault each, with what it cost."""
        lines = []
        for name in sorted({fault.kind.name for fault in self.faults}):
            faults = [fault for fault in self.faults if fault.kind.name == name]
            alone = [fault for fault in faults if len(self.beside(fault)) == 1]
            gaps = {kind: max((self.journal.slowest_gap(kind, fault.began, fault.well) for fault in alone), default=0.0)
                    for kind in ("read", "write")}
            failed = {}
            for failure in self.journal.failures:
                if any(fault in alone for fault in self.of(failure)):
                    key = f"{failure.kind} {failure.code}"
                    failed[key] = failed.get(key, 0) + 1
            lines.append(f"{name}: {len(faults)} times, {len(alone)} alone; longest without a read "
                         f"{gaps['read']:.2f} s, a write {gaps['write']:.2f} s; well {max(f.well - f.ended for f in faults):.1f} s after it; "
                         f"failed {failed or 0}")
        return lines
