"""The style that a program can check: layers, lengths, banned calls, formatting.

Exit code 1 and one line per finding.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 60
COLUMNS_MAX = 100

# Who may include whom: a folder and what it may reach besides itself.
LAYERS = {
    "common/base": [],
    "engine": ["common/base"],
    "common/model": ["common/base"],
    "common/observe": ["common/base", "common/model"],
    "common/http": ["common/base", "common/model", "common/observe"],
    "backends/wal": ["common/base", "common/model", "common/observe"],
    "backends/meta": ["common/base", "common/model"],
    "backends/cache": ["common/base", "common/model"],
    "backends/store": ["common/base", "common/model"],
    "backends/blob": ["common/base", "common/model", "common/observe", "common/http"],
    "backends/embedder": ["common/base", "common/model", "common/observe", "common/http",
                          "backends/cache/cache.h"],
    "cluster": ["common", "backends"],
    "services/router": ["common", "backends", "cluster", "engine/kernels.h"],
    "services/ingest": ["common", "backends", "cluster", "engine/kernels.h"],
    "services/replicator": ["common", "backends", "cluster"],
    "services/shard": ["common", "backends", "cluster", "engine"],
    "cli": ["common", "backends", "cluster", "services/shard/verify.h",
            "services/ingest/spool_verify.h"],
    "bench": ["common", "backends/wal", "engine", "services/ingest/sequencer.h"],
    "tests": [""],
}

# A library's header and the only folders that may include it.
THIRD_PARTY = {
    r"civetweb\.h": ["common/http"],
    r"curl/": ["common/http"],
    r"jansson\.h": ["common/http", "tests"],
    r"lmdb\.h": ["backends/store"],
    r"sqlite3\.h": ["backends/meta", "tests"],
    r"librdkafka/": ["backends/wal", "bench"],
    r"hiredis/": ["backends/cache"],
    r"libpq-fe\.h": ["backends/meta"],
    r"openssl/": ["common/base"],
    r"xxhash\.h": ["common/base"],
    r"cblas\.h": ["engine"],
    r"zlib\.h": ["common/http", "tests"],
    r"zstd\.h": ["common/model", "cli"],
    r"immintrin\.h": ["engine", "common/base"],
}

BANNED = re.compile(
    r"(?<![\w.>])(strcpy|strcat|sprintf|vsprintf|strtok|gets|atoi|atol|atof|alloca|system|tmpnam)\s*\(")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
MACHINE = re.compile(r"(?<![\w.])/(work|root|home|farm)/|bash_jobs")


def tracked(*patterns):
    out = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
                         cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / line for line in out.splitlines() if (ROOT / line).exists()]


def layer_of(relative):
    for folder in sorted(LAYERS, key=len, reverse=True):
        if relative.startswith(folder + "/"):
            return folder
    return None


def check_includes(relative, text):
    layer = layer_of(relative)
    if layer is None:
        yield 1, "the folder is in no layer of tests/tidy.py"
        return
    allowed = [layer, *LAYERS[layer]]
    for number, line in enumerate(text.splitlines(), 1):
        own = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if own and layer != "tests":
            path = own.group(1)
            if "/" in path and not any(path == a or path.startswith(a + "/") for a in allowed):
                yield number, f"{layer} may not include {path}"
        foreign = re.match(r"\s*#\s*include\s+[<\"]([^>\"]+)[>\"]", line)
        for pattern, folders in THIRD_PARTY.items():
            if foreign and re.match(pattern, foreign.group(1)):
                if not any(relative.startswith(f + "/") for f in folders):
                    yield number, f"{foreign.group(1)} may only be included in {', '.join(folders)}"


def strip(text):
    """Comments and strings replaced by blanks, lines kept."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match.group(0))
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text,
                  flags=re.S)


def check_functions(code):
    lines = code.splitlines()
    start = None
    for number, line in enumerate(lines, 1):
        if line == "{" and start is None and number > 1 and not lines[number - 2].rstrip().endswith("="):
            start = number
        elif line.startswith("}") and start is not None:
            if number - start - 1 > FUNCTION_LINES_MAX:
                yield start, f"a function of {number - start - 1} lines (at most {FUNCTION_LINES_MAX})"
            start = None


def check_c(path):
    relative = str(path.relative_to(ROOT))
    text = path.read_text()
    code = strip(text)
    lines = text.splitlines()
    is_test = relative.startswith("tests/")
    if len(lines) > FILE_LINES_MAX and not is_test:
        yield 1, f"{len(lines)} lines (at most {FILE_LINES_MAX})"
    if not text.startswith("/*"):
        yield 1, "the file does not open with what it is for"
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS_MAX:
            yield number, f"{len(line)} columns (at most {COLUMNS_MAX})"
    for number, line in enumerate(code.splitlines(), 1):
        banned = BANNED.search(line)
        if banned and not is_test:
            yield number, f"{banned.group(1)} is banned"
    if not is_test:
        yield from check_functions(code)
    yield from check_includes(relative, text)


def check_text(path):
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        if UNFINISHED.search(line):
            yield number, "an unfinished place"
        if MACHINE.search(line):
            yield number, "a path of one machine"
        if line != line.rstrip() and path.suffix != ".md":
            yield number, "blanks at the end of the line"


def main():
    findings = 0
    sources = tracked("*.c", "*.h")
    for path in sources:
        for number, what in check_c(path):
            print(f"{path.relative_to(ROOT)}:{number}: {what}")
            findings += 1
    for path in tracked("*.c", "*.h", "*.py", "*.md", "*.yaml", "*.sh", "Makefile", "*.mk"):
        if path.name == "tidy.py":
            continue
        for number, what in check_text(path):
            print(f"{path.relative_to(ROOT)}:{number}: {what}")
            findings += 1
    formatted = subprocess.run(["clang-format-14", "--dry-run", "-Werror", *map(str, sources)],
                               capture_output=True, text=True)
    if formatted.returncode != 0:
        bad = sorted({line.split(":")[0] for line in formatted.stderr.splitlines() if ": error:" in line})
        for name in bad:
            print(f"{pathlib.Path(name).relative_to(ROOT)}: not as clang-format would have it (make format)")
            findings += 1
    print(f"tidy: {len(sources)} sources, {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
