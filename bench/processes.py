"""What the processes of a server use, from /proc: CPU time and memory.

A server is its first process and all that descend from it.
"""
import os
import pathlib

TICKS = os.sysconf("SC_CLK_TCK")


def stat_of(pid):
    """(name, parent, CPU seconds of all threads, also ended ones) or None when it is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    name, rest = text[text.index("(") + 1:].rsplit(")", 1)
    fields = rest.split()
    return name, int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS


def tree(root):
    """{pid: (name, CPU seconds)} of root and its descendants."""
    every = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            stat = stat_of(entry)
            if stat is not None:
                every[int(entry)] = stat
    found, wanted = {}, [root]
    while wanted:
        pid = wanted.pop()
        if pid in every and pid not in found:
            found[pid] = (every[pid][0], every[pid][2])
            wanted += [child for child, stat in every.items() if stat[1] == pid]
    return found


def cpu_by_name(root):
    """{process name: CPU seconds so far}."""
    total = {}
    for name, seconds in tree(root).values():
        total[name] = total.get(name, 0.0) + seconds
    return total


def is_plain_file(path):
    """Does a clean page of this mapping have a copy on disk?  Not so for memory that only looks
    like a file."""
    return path.startswith("/") and not path.startswith(("/memfd:", "/dev/", "/SYSV", "/anon"))


def clean_file_kib(fields):
    """The process's share of a mapping's clean pages.  Shared pages enter Pss divided by their
    number of users; clean and dirty ones are taken to be divided alike."""
    private_clean, private_dirty = fields["Private_Clean"], fields["Private_Dirty"]
    shared_clean, shared_dirty = fields["Shared_Clean"], fields["Shared_Dirty"]
    shared_pss = max(0, fields["Pss"] - private_clean - private_dirty)
    shared = shared_clean + shared_dirty
    return private_clean + (shared_pss * shared_clean / shared if shared else 0)


def mappings(pid):
    """(path, {field: KiB}) of each mapping."""
    path, fields = None, {}
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text(errors="replace").splitlines():
        words = line.split(None, 5)
        if "-" in words[0] and not words[0].endswith(":"):
            if path is not None:
                yield path, fields
            path, fields = (words[5] if len(words) > 5 else ""), {}
        elif len(words) == 3 and words[2] == "kB":
            fields[words[0][:-1]] = int(words[1])
    if path is not None:
        yield path, fields


def memory(root):
    """{"total", "pss", process name…: MB (1,000,000 bytes)}.

    total = sum over processes of (Pss - clean pages of files).  A clean file page is a copy of what
    is on disk, and the kernel takes it away when someone needs the memory; programs and mapped
    stores are full of them.  Anonymous memory, dirty pages and shared memory stay counted.
    """
    result = {"total": 0.0, "pss": 0.0}
    for pid, (name, _) in tree(root).items():
        try:
            for path, fields in mappings(pid):
                pss = fields.get("Pss", 0)
                own = pss - (clean_file_kib(fields) if is_plain_file(path) else 0)
                for key, kib in (("total", own), ("pss", pss), (name, own)):
                    result[key] = result.get(key, 0.0) + kib * 1024 / 1e6
        except OSError:
            continue  # it has just ended
    return result


def flush(folder):
    """Write the dirty pages of all files below, so that memory does not depend on the moment."""
    for path in pathlib.Path(folder).rglob("*"):
        try:
            if path.is_file():
                fd = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
        except OSError:
            continue
