"""The data of a run: vectors, records, queries and the true neighbours.

With fewer rows than the set has, the first ones are written to files of their own and the truth is
computed anew, exactly.
"""
import base64
import io
import itertools
import json
import pathlib

import numpy
import zstandard

TOP_K = 10


class Dataset:
    """paths: of the files that `vicinal import` and `vicinal bench` read."""

    def __init__(self, folder, rows=None, scratch=None):
        folder = pathlib.Path(folder)
        self.vectors_path = folder / "docs-100k.npy"
        self.records_path = folder / "docs-100k.jsonl.zst"
        self.queries_path = folder / "queries-2k.npy"
        self.truth_path = folder / "truth-2k.npy"
        self.vectors = numpy.load(self.vectors_path, mmap_mode="r")
        self.queries = numpy.load(self.queries_path).astype(numpy.float32)
        self.rows = min(rows or len(self.vectors), len(self.vectors))
        self.records = self.read_records()
        if self.rows < len(self.vectors):
            self.cut(pathlib.Path(scratch))
        # As JSON arrays; made here, not while a clock runs.
        self.query_texts = ["[" + ",".join("%.8f" % number for number in query) + "]"
                            for query in self.queries.tolist()]
        self.truth = [frozenset(map(str, row[:TOP_K])) for row in numpy.load(self.truth_path)]

    def read_records(self):
        with open(self.records_path, "rb") as file:
            stream = zstandard.ZstdDecompressor().stream_reader(file)
            lines = io.TextIOWrapper(stream, encoding="utf-8")
            return [json.loads(line) for line in itertools.islice(lines, self.rows)]

    def cut(self, scratch):
        self.vectors_path = scratch / "vectors.npy"
        self.records_path = scratch / "records.jsonl"
        self.truth_path = scratch / "truth.npy"
        vectors = numpy.ascontiguousarray(self.vectors[:self.rows])
        numpy.save(self.vectors_path, vectors)
        with open(self.records_path, "w", encoding="utf-8") as file:
            for record in self.records:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        base = vectors.astype(numpy.float32)
        truth = [numpy.argsort(-(self.queries[i:i + 100] @ base.T), axis=1, kind="stable")[:, :100]
                 for i in range(0, len(self.queries), 100)]
        numpy.save(self.truth_path, numpy.concatenate(truth).astype(numpy.int32))
        self.vectors = vectors

    @property
    def dimension(self):
        return self.vectors.shape[1]

    def base64(self, row):
        """A vector as both servers take it: little-endian float32."""
        return base64.b64encode(self.vectors[row].astype("<f4").tobytes()).decode()

    def metadata(self, row):
        return {key: value for key, value in self.records[row].items() if key not in ("id", "text")}

    def recall(self, answers):
        """Mean over {query number: ids of its answer}."""
        if not answers:
            return None
        return sum(len(self.truth[i].intersection(ids)) for i, ids in answers.items()) / (
            TOP_K * len(answers))
