"""The engines that are measured: ours, in a process of its own, and the public libraries that install
from PyPI, in this one.

Each has `name`, `efforts` (rising), `build(base, metric)` → seconds, `bytes_per_vector`, and
`run(effort)` → Round: every query once, alone, in order.  A library's times are told without what
calling it from Python costs at least (`call_s`: a search among ten vectors), for ours has no such
call: so the comparison does not flatter ours.
"""
import json
import os
import pathlib
import subprocess
import tempfile
import time

import numpy

K = 10
THREADS = 2  # of a build


class Round:
    """One pass over all queries."""

    def __init__(self, recall, seconds):
        self.recall, self.seconds = recall, seconds  # seconds: of each query

    @property
    def qps(self):
        return len(self.seconds) / float(numpy.sum(self.seconds))

    def at(self, share):
        return float(numpy.quantile(self.seconds, share))


def resident_bytes():
    """Of this process."""
    pages = int(pathlib.Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Peer:
    """A library in this process.  Subclasses: make(base, metric, threads) → index; set(effort);
    ask(vector) → ids."""

    efforts = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)
    metrics = ("cosine", "ip", "l2")

    def __init__(self, data):
        self.data, self.index, self.call_s = data, None, 0.0

    def build(self):
        self.index = self.make(self.data.base[:K], self.data.metric, 1)  # it is loaded now
        self.set(K)
        self.call_s = min(self.times(self.data.queries[:200]))
        before, began = resident_bytes(), time.perf_counter()
        self.index = self.make(self.data.base, self.data.metric, THREADS)
        took = time.perf_counter() - began
        self.bytes_per_vector = max(0, resident_bytes() - before) / len(self.data.base)
        return took

    def times(self, queries, found=None):
        out = numpy.empty(len(queries))
        for i, query in enumerate(queries):
            began = time.perf_counter_ns()
            ids = self.ask(query)
            out[i] = (time.perf_counter_ns() - began) * 1e-9
            if found is not None:
                found.append(ids)
        return out

    def run(self, effort):
        found = []
        self.set(effort)
        seconds = self.times(self.data.queries, found)
        right = sum(len(truth.intersection(map(int, numpy.asarray(ids).ravel()[:K])))
                    for truth, ids in zip(self.data.truth, found))
        return Round(right / (K * len(found)), numpy.maximum(seconds - self.call_s, 1e-9))


class Hnswlib(Peer):
    name = "hnswlib M16 efC200"

    def make(self, base, metric, threads):
        import hnswlib

        index = hnswlib.Index(space=metric, dim=base.shape[1])
        index.init_index(max_elements=len(base), M=16, ef_construction=200, random_seed=1)
        index.add_items(base, num_threads=threads)
        index.set_num_threads(1)
        return index

    def set(self, effort):
        self.index.set_ef(max(effort, K))

    def ask(self, query):
        return self.index.knn_query(query, k=K)[0]


class Faiss(Peer):
    """Cosine as an inner product of unit vectors."""

    def rows(self, base, metric):
        import faiss

        faiss.omp_set_num_threads(THREADS)
        rows = numpy.ascontiguousarray(base, dtype=numpy.float32)
        if metric == "cosine":
            rows = rows / numpy.maximum(numpy.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        return faiss, rows, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT

    def ask(self, query):
        return self.index.search(query[None], K)[1]


class FaissHnswSq8(Faiss):
    name = "FAISS HNSW32 SQ8"

    def make(self, base, metric, threads):
        faiss, rows, kind = self.rows(base, metric)
        index = faiss.IndexHNSWSQ(rows.shape[1], faiss.ScalarQuantizer.QT_8bit, 32, kind)
        index.hnsw.efConstruction = 200
        index.train(rows)
        index.add(rows)
        faiss.omp_set_num_threads(1)
        return index

    def set(self, effort):
        self.index.hnsw.efSearch = effort


class FaissIvf(Faiss):
    """An inverted file whose candidates are measured again.  Of wide searches more of them are, or
    high recall would not be reached."""

    efforts = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 320)

    def make(self, base, metric, threads):
        faiss, rows, kind = self.rows(base, metric)
        if len(rows) < 1000:
            index = faiss.IndexFlat(rows.shape[1], kind)
        else:
            lists = int(4 * len(rows) ** 0.5)
            index = faiss.index_factory(rows.shape[1], f"IVF{lists},{self.code(rows.shape[1])}", kind)
            index.train(rows)
        index.add(rows)
        faiss.omp_set_num_threads(1)
        return index

    def set(self, effort):
        import faiss

        if isinstance(self.index, faiss.IndexFlat):
            return
        faiss.extract_index_ivf(self.index).nprobe = effort
        if isinstance(self.index, faiss.IndexRefineFlat):
            self.index.k_factor = 8 if effort < 96 else 16 if effort < 192 else 32


class FaissIvfFlat(FaissIvf):
    name = "FAISS IVF-Flat"

    def code(self, dimension):
        return "Flat"


class FaissIvfPqFastScan(FaissIvf):
    name = "FAISS IVF-PQ fast scan + refine"

    def code(self, dimension):
        return f"PQ{dimension // 4}x4fs,RFlat"


class FaissIvfRabitq(FaissIvf):
    """Without fast scan: asked for one query at a time it is the faster one."""

    name = "FAISS IVF-RaBitQ + refine"

    def code(self, dimension):
        return "RaBitQ,RFlat"


class Usearch(Peer):
    name = "usearch f16 M16"

    def make(self, base, metric, threads):
        from usearch.index import Index

        index = Index(ndim=base.shape[1], metric={"cosine": "cos", "ip": "ip", "l2": "l2sq"}[metric], dtype="f16",
                      connectivity=16, expansion_add=200)
        index.add(numpy.arange(len(base)), base, threads=threads)
        return index

    def set(self, effort):
        self.index.expansion_search = effort

    def ask(self, query):
        return self.index.search(query, K, threads=1).keys


class SvsFloat16(Peer):
    """Scalable Vector Search; its own codes (LVQ, LeanVec) refuse processors that are not Intel's."""

    name = "SVS Vamana R64 float16"

    def make(self, base, metric, threads):
        import svs

        rows = base
        if metric == "cosine":
            rows = rows / numpy.maximum(numpy.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        kind = svs.DistanceType.L2 if metric == "l2" else svs.DistanceType.MIP
        parameters = svs.VamanaBuildParameters(alpha=1.2 if metric == "l2" else 0.95, graph_max_degree=64,
                                               window_size=128)
        index = svs.Vamana.build(parameters, rows.astype(numpy.float16), kind, num_threads=threads)
        index.num_threads = 1
        return index

    def set(self, effort):
        self.index.search_window_size = max(effort, K)

    def ask(self, query):
        return self.index.search(query[None].astype(numpy.float32), K)[0]


class Ours:
    """A graph is searched as a restart finds it: written to a folder, opened again, its vectors in the file."""

    name = "Vicinal"
    efforts = Peer.efforts
    metrics = Peer.metrics
    call_s = 0.0

    def __init__(self, data, program, index="hnsw"):
        self.data, self.program, self.index, self.process = data, program, index, None
        self.folder = tempfile.TemporaryDirectory(prefix="vicinal-bench-")
        if index != "hnsw":
            self.name = f"{self.name} {index}"
            self.efforts = FaissIvf.efforts

    def build(self):
        paths = self.data.paths
        self.process = subprocess.Popen(
            [self.program, "--base", paths["base"], "--queries", paths["queries"], "--truth", paths["truth"],
             "--metric", self.data.metric, "--k", str(K), "--threads", str(THREADS), "--serve", "--index", self.index,
             *(["--keep", self.folder.name] if self.index == "hnsw" else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        built = self.answer()
        self.bytes_per_vector = built["bytes_per_vector"]
        return built["build_s"]

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.program} has ended")
        return json.loads(line)

    def run(self, effort):
        self.process.stdin.write(f"{effort}\n")
        self.process.stdin.flush()
        told = self.answer()
        return Told(told)

    def close(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait(30)
        self.folder.cleanup()


class Told(Round):
    """A round that was measured elsewhere."""

    def __init__(self, told):
        super().__init__(told["recall"], ())
        self.told = told

    @property
    def qps(self):
        return self.told["qps"]

    def at(self, share):
        return self.told["p50_us" if share == 0.5 else "p99_us"] * 1e-6


PEERS = {"hnswlib": Hnswlib, "faiss-hnsw": FaissHnswSq8, "faiss-ivfpq": FaissIvfPqFastScan,
         "faiss-ivfflat": FaissIvfFlat, "faiss-ivfrabitq": FaissIvfRabitq, "usearch": Usearch,
         "svs": SvsFloat16}
