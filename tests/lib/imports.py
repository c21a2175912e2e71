"""A client of imports, for tests: rows in the binary form, and uploads that go on after failures."""
import json
import struct


def binary_row(identity, vector=None, text=None, metadata=None):
    """One row as common/model/bulk.h has it."""
    name = identity.encode()
    words = text.encode() if text is not None else b""
    fields = json.dumps(metadata).encode() if metadata is not None else b""
    numbers = struct.pack(f"<{len(vector)}f", *vector) if vector is not None else b""
    flags = (vector is not None) | (text is not None) << 1 | (metadata is not None) << 2
    size = 16 + len(numbers) + len(name) + len(words) + len(fields)
    padded = (size + 3) // 4 * 4
    return struct.pack("<IHHII", padded, len(name), flags, len(words), len(fields)) + \
        numbers + name + words + fields + bytes(padded - size)


def npy(rows, kind="<f4"):
    """A two-dimensional .npy file."""
    letter = {"<f4": "f", "<f2": "e"}[kind]
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({len(rows)}, {len(rows[0])}), }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + \
        b"".join(struct.pack(f"<{len(row)}{letter}", *row) for row in rows)


class Upload:
    """upload = Upload(door, "c", format="ndjson"); upload.put(data); upload.finish()"""

    def __init__(self, door, collection, **settings):
        self.door, self.base = door, f"/v1/collections/{collection}/imports"
        answer = door.post(self.base, settings)
        assert answer.status == 201, answer
        self.path = f"{self.base}/{answer.body['id']}"
        self.offset = answer.body["offset"]

    def part(self, data, final=False, offset=None):
        """One part, as it is answered."""
        at = self.offset if offset is None else offset
        answer = self.door.request("PUT", f"{self.path}/data?offset={at}" + ("&final=true" if final else ""), data,
                                   {"Content-Type": "application/octet-stream"})
        if answer.status == 200:
            self.offset = answer.body["offset"]
        return answer

    def look(self):
        answer = self.door.get(self.path)
        assert answer.status == 200, answer
        return answer.body

    def put(self, data, size=1 << 20):
        """All of it in parts of about that size; the last answer, which is that of the end."""
        while True:
            piece = data[self.offset:self.offset + size]
            final = self.offset + len(piece) == len(data)
            answer = self.part(piece, final)
            assert answer.status == 200, answer
            if final:
                assert answer.body["state"] == "succeeded", answer
                return answer.body
