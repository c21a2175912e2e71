"""Sets of vectors for bench/engine.py: read from files, or drawn.

What is drawn looks like embeddings of text do: clusters of very different sizes, a few strong
directions and many weak ones, and queries of which some lie between two clusters.
"""
import pathlib

import numpy

QUERIES = 1000
NEIGHBOURS = 100
CLUSTERS = 1000
K = 10


class Data:
    """paths: of the files, for engines in other processes; truth: a set of numbers for each query."""

    def __init__(self, name, base, queries, truth, metric="cosine"):
        self.name, self.metric = name, metric
        self.paths = {"base": base, "queries": queries, "truth": truth}
        self.base = numpy.ascontiguousarray(numpy.load(base), dtype=numpy.float32)
        self.queries = numpy.ascontiguousarray(numpy.load(queries), dtype=numpy.float32)
        self.truth = [frozenset(map(int, row[:K])) for row in numpy.load(truth)]


def unit(rows):
    return rows / numpy.linalg.norm(rows, axis=1, keepdims=True)


def sample(chance, count, centres, weights, spread, noise):
    """Points around centres that are chosen by weight."""
    chosen = chance.choice(len(centres), count, p=weights)
    rows = centres[chosen] + noise * spread * chance.standard_normal((count, centres.shape[1]), dtype=numpy.float32)
    return unit(rows), chosen


def nearest(base, queries):
    out = numpy.empty((len(queries), NEIGHBOURS), numpy.int32)
    for at in range(0, len(queries), 50):
        scores = queries[at:at + 50] @ base.T
        part = numpy.argpartition(-scores, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        for i, numbers in enumerate(part):
            out[at + i] = numbers[numpy.lexsort((numbers, -scores[i, numbers]))]
    return out


def draw(rows, dimension, folder, seed=1):
    """The paths of (base, queries, truth), unit vectors, nearest by inner product."""
    chance = numpy.random.default_rng(seed)
    spread = (numpy.arange(dimension, dtype=numpy.float32) + 4) ** numpy.float32(-0.5)
    spread /= numpy.linalg.norm(spread)
    turn, _ = numpy.linalg.qr(chance.standard_normal((dimension, dimension), dtype=numpy.float32))
    centres = numpy.float32(0.7) * spread * chance.standard_normal((CLUSTERS, dimension), dtype=numpy.float32)
    weights = (numpy.arange(CLUSTERS) + 5.0) ** -0.9
    weights /= weights.sum()
    base, _ = sample(chance, rows, centres, weights, spread, numpy.float32(0.75))
    queries, chosen = sample(chance, QUERIES, centres, weights, spread, numpy.float32(0.9))
    between = chance.random(QUERIES) < 0.3
    queries[between] = unit(queries[between] + unit(centres[chance.permutation(chosen[between])]))
    base, queries = base @ turn, queries @ turn
    paths = [str(pathlib.Path(folder) / f"{rows}x{dimension}-{part}.npy") for part in ("base", "queries", "truth")]
    for path, part in zip(paths, (base, queries, nearest(base, queries))):
        numpy.save(path, part)
    return paths
