"""The program `vicinal` as a user calls it; .npy and .zst files without more packages."""
import ctypes
import json
import os
import struct
import subprocess

from suite import BIN, SLOW


def command(suite, verb, *words):
    return [str(BIN / "vicinal"), verb, "--url", suite.url, *map(str, words)]


def environment(suite):
    """State of imports goes into the suite's folder."""
    return {**os.environ, "XDG_STATE_HOME": str(suite.data / "state")}


def run(suite, verb, *words, code=0):
    done = subprocess.run(command(suite, verb, *words), capture_output=True, text=True,
                          timeout=120 * SLOW, env=environment(suite))
    if hasattr(suite, "client"):
        suite.client.close()  # it may have been idle for longer than the server keeps it
    assert code is None or done.returncode == code, done
    return done


def run_json(suite, verb, *words, code=0):
    return json.loads(run(suite, verb, *words, "--json", code=code).stdout)


def verify(folder, code=None, blob=None):
    """What `vicinal verify` says of a data folder that nothing runs on.  code: its exit code, if it matters."""
    words = [] if blob is None else ["--blob", blob]
    done = subprocess.run([str(BIN / "vicinal"), "verify", str(folder), "--json", *words], capture_output=True, text=True,
                          timeout=120 * SLOW)
    assert done.returncode in (0, 1, 2), done
    assert code is None or done.returncode == code, done
    return json.loads(done.stdout)


def write_npy(path, rows, kind="<f4"):
    """kind: "<f4", "<f2" or "<i4"."""
    letter = {"<f4": "f", "<f2": "e", "<i4": "i"}[kind]
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({len(rows)}, {len(rows[0])}), }}"
    header += " " * (63 - (len(header) + 10) % 64) + "\n"
    with open(path, "wb") as out:
        out.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        for row in rows:
            out.write(struct.pack(f"<{len(row)}{letter}", *row))


def compress_file(path):
    """path.zst, by the library that the program itself uses."""
    library = ctypes.CDLL("libzstd.so.1")
    library.ZSTD_compressBound.restype = library.ZSTD_compress.restype = ctypes.c_size_t
    library.ZSTD_compressBound.argtypes = [ctypes.c_size_t]
    library.ZSTD_compress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t,
                                      ctypes.c_int]
    data = open(path, "rb").read()
    room = ctypes.create_string_buffer(library.ZSTD_compressBound(len(data)))
    size = library.ZSTD_compress(room, len(room), data, len(data), 3)
    with open(f"{path}.zst", "wb") as out:
        out.write(room.raw[:size])
