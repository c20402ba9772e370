"""A second reader of index files and logs, written from docs/FORMAT.md alone.

It shares no line with vecidx, so what both understand is what the page says.  Slow
and plain on purpose: NumPy, and a loop over rows where that reads better.
"""

import hashlib
import struct
import zlib
from dataclasses import dataclass

import numpy as np

PARAMETERS = [
    "dim", "metric", "dtype", "quantization", "M", "ef_construction", "seed", "n", "u", "d",
    "entry", "next_id", "unproven", "flags", "vector_bytes", "link_bytes", "upper_bytes",
    "local_dim"]
L2, IP, COSINE, HAMMING, JACCARD = range(5)
FLOAT32, FLOAT16, BFLOAT16, INT8, UINT8, BITS = range(6)
AUTO = 3
ROWS_ARE_BYTES = 2                                    # among the flags
VALUES = ["<f4", "<f2", "<u2", "i1", "u1", "u1"]      # bfloat16 as its bits, bits packed
NO_ENTRY = 0x7FFFFFFF
PADDING, TWIN, FILLER, SLOT = 0xFFFFFFFF, 0xFFFFFFFE, 0x80000000, 0x7FFFFFFF
KINDS = {1: "vectors", 2: "links", 3: "levels", 4: "upper links", 5: "upper places", 6: "ids",
         7: "norms", 8: "twins", 9: "tombstones", 16: "codes", 17: "codec", 18: "rank codes",
         19: "tuned", 20: "names"}


class Refused(Exception):
    """The file is not as the page says."""


def expect(holds, what):
    if not holds:
        raise Refused(what)


def pad(x, y):
    return -(-x // y) * y


def _crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# ---- the container ------------------------------------------------------------------


@dataclass
class Entry:
    kind: int
    required: bool
    offset: int
    length: int
    crc: int
    name: str


def read_head(data):
    """(parameter bytes, entries)"""
    expect(data[:8] == b"\x89VIDX\r\n\x1a", "the mark")
    expect(len(data) >= 328, "shorter than a head")
    order, version, head_length, n = struct.unpack_from("<4I", data, 8)
    expect(order == 0x0A0B0C0D, "byte order")
    expect(version == 1, "version")
    expect(n <= 64 and head_length == 328 + 64 * n and head_length <= len(data), "head length")
    crc, zero = struct.unpack_from("<2I", data, head_length - 8)
    expect(crc == crc32c(data[:head_length - 8]) and zero == 0, "checksum of the head")
    length, p = struct.unpack_from("<QI", data, 24)
    expect(length == len(data), "length of the file")
    expect(p <= 256 and not any(data[36:64]) and not any(data[64 + p:320]), "reserved bytes")
    entries, end = [], head_length
    for i in range(n):
        entry, end = read_entry(data, 320 + 64 * i, end)
        expect(entry.kind not in {e.kind for e in entries}, "a kind twice")
        entries.append(entry)
    expect(end == length, "end of the last section")
    return data[64:64 + p], entries


def read_entry(data, at, end):
    kind, flags, offset, length, crc = struct.unpack_from("<2I2QI", data, at)
    expect(flags in (0, 1) and not any(data[at + 28:at + 40]), "flags, reserved bytes")
    name = data[at + 40:at + 64]
    text = name.rstrip(b"\0")
    expect(len(text) < 24 and all(0x20 <= c <= 0x7E for c in text), "name")
    expect(offset % 64 == 0 and offset >= end, "offset")
    expect(offset <= len(data) and length <= len(data) - offset, "a section beyond the file")
    expect(not any(data[end:offset]), "bytes between sections")
    expect(crc == crc32c(data[offset:offset + length]), f"checksum of {text}")
    return Entry(kind, flags == 1, offset, length, crc, text.decode("ascii")), offset + length


# ---- an index -----------------------------------------------------------------------


def read_parameters(block):
    expect(len(block) % 8 == 0, "length of the parameters")
    numbers = list(struct.unpack(f"<{len(block) // 8}Q", block))
    expect(not any(numbers[len(PARAMETERS):]), "a parameter not known")
    numbers += [0] * (len(PARAMETERS) - len(numbers))
    p = dict(zip(PARAMETERS, numbers, strict=False))
    limits = {"dim": (1, 65536), "metric": (0, 4), "dtype": (0, 5), "M": (2, 127),
              "ef_construction": (1, 65536), "n": (0, 2**31 - 2), "u": (0, 2**31 - 2),
              "d": (0, p["n"]), "next_id": (0, 2**63), "flags": (0, 3),
              "local_dim": (0, 2**32 - 1)}
    for name, (least, most) in limits.items():
        expect(least <= p[name] <= most, name)
    expect(p["quantization"] in (0, 1, 2, 3), "quantization")
    is_bits = p["dtype"] == BITS
    expect(is_bits == (p["metric"] in (HAMMING, JACCARD)), "a metric of the dtype")
    expect(not is_bits or p["quantization"] == 0, "quantization of bits")
    are_bytes = p["flags"] & ROWS_ARE_BYTES != 0
    expect(not are_bytes or (p["quantization"], p["metric"]) == (AUTO, L2) and p["dtype"] < INT8,
           "vectors as bytes")
    p["stored"] = UINT8 if are_bytes else p["dtype"]
    value_bytes = np.dtype(VALUES[p["stored"]]).itemsize
    bytes_in = -(-p["dim"] // 8) if is_bits else value_bytes * p["dim"]
    expect(p["vector_bytes"] == pad(bytes_in, 64), "length of a vector")
    expect(p["upper_bytes"] == pad(4 * p["M"], 64), "length of a row of upper links")
    expect((p["entry"] == NO_ENTRY) == (p["n"] == p["d"]), "entry")
    return p


class File:
    """An index file: parameters, sections as arrays, rows by slot."""

    def __init__(self, data):
        block, self.entries = read_head(data)
        self.parameters = p = read_parameters(block)
        self.n = n = p["n"]
        self._sections = {e.kind: data[e.offset:e.offset + e.length] for e in self.entries}
        for e in self.entries:
            expect(not e.required or KINDS.get(e.kind) == e.name, f"required section {e.kind}")
        self.codec = Codec(self._sections[17], p) if 17 in self._sections else None
        groups = -(-2 * p["M"] // 32)
        self.group_bytes = 128 + 4 * self.codec.m if self.codec and self.codec.m else 0
        self.groups_at = pad(8 * p["M"], 64)
        link_bytes = self.groups_at + groups * self.group_bytes
        expect(p["link_bytes"] == link_bytes, "length of a row of links")

        self.is_whole = p["dtype"] in (INT8, UINT8)
        self.are_bytes = p["stored"] != p["dtype"]
        expect(not self.are_bytes or (self.codec is not None and self.codec.is_lossless),
               "a codec of vectors as bytes")
        values = np.dtype(VALUES[p["stored"]])
        vectors = self._take(1, values, p["vector_bytes"] // values.itemsize)
        if p["dtype"] == BITS:
            vectors = np.unpackbits(vectors, axis=1)
        expect(not vectors[:, p["dim"]:].any(), "behind the vectors")
        if p["stored"] == BFLOAT16:
            vectors = (vectors.astype(np.uint32) << 16).view(np.float32)
        self.vectors = vectors[:, :p["dim"]].astype(np.float32)
        expect(np.isfinite(self.vectors).all(), "vectors")
        if self.is_whole and p["metric"] == COSINE:
            expect(self.vectors.any(axis=1).all(), "a vector of zeros")
        self.link_rows = self._take(2, "u1", link_bytes)
        ids_end, groups_at = 8 * p["M"], self.groups_at
        expect((self.link_rows[:, ids_end:groups_at] == 0xFF).all(), "behind the links")
        self.links = np.ascontiguousarray(self.link_rows[:, :ids_end]).view("<u4")
        self.levels = self._take(3, "u1", 1)[:, 0]
        expect((self.levels <= 15).all(), "levels")
        upper = self._take(4, "<u4", p["upper_bytes"] // 4, p["u"])
        expect((upper[:, p["M"]:] == PADDING).all(), "behind the upper links")
        self.upper = upper[:, :p["M"]]
        self.places = self._take(5, "<u4", 1)[:, 0]
        before = np.concatenate([[0], np.cumsum(self.levels, dtype=np.int64)])
        expect((self.places == before[:-1]).all() and before[-1] == p["u"], "places")
        self.ids = self._take(6, "<i8", 1)[:, 0]
        expect((self.ids >= 0).all() and (self.ids < p["next_id"]).all(), "ids")
        expect(not p["flags"] & 1 or (self.ids == np.arange(n)).all(), "ids by slot")
        has_norms = p["metric"] == COSINE and not self.is_whole
        expect((7 in self._sections) == has_norms, "norms")
        self.norms = self._take(7, "<f4", 1)[:, 0] if has_norms else None
        expect(self.norms is None or (self.norms > 0).all(), "norms above 0")
        self.twins = self._take(8, "<u4", 1)[:, 0] if 8 in self._sections else np.zeros(n, "<u4")
        self.deleted = self._tombstones()
        live = self.ids[~self.deleted]
        expect(len(np.unique(live)) == len(live), "an id twice")
        # Beside rank codes, and where rows are shorter than float32, no plane of codes is needed.
        ranks = self.codec is not None and self.codec.has_ranks
        self.has_codes = self.codec is not None and not ranks and not self.are_bytes and (
            p["dtype"] == FLOAT32 or self.codec.m == 0 or p["metric"] == IP)
        expect(ranks or (16 in self._sections) == self.has_codes, "codes")
        if self.has_codes:
            codes = self._take(16, "u1", self.codec.row_bytes)
            if self.codec.flips is not None:
                codes = unpack_halves(codes)
            expect(not codes[:, self.codec.c:].any(), "behind the codes")
            self.codes = codes[:, :self.codec.c]
        self.ranks = self._take(18, "u1", 128) if ranks else None

    def tuned(self):
        """{k: (rows, queries, points)} of section 19."""
        data, at, curves = self._sections.get(19, b""), 0, {}
        while at < len(data):
            k, n, rows, queries = struct.unpack_from("<2I2Q", data, at)
            points = [struct.unpack_from("<I2f", data, at + 24 + 16 * i) for i in range(n)]
            expect(n > 0 and k not in curves and points[0][0] >= k, "a curve")
            curves[k] = rows, queries, points
            at += 24 + 16 * n
        expect(at == len(data), "length of section 19")
        return curves

    def names(self):
        """{id: name} of section 20."""
        data = self._sections[20]
        n, = struct.unpack_from("<Q", data)
        ids = struct.unpack_from(f"<{n}q", data, 8)
        ends = struct.unpack_from(f"<{n}Q", data, 8 + 8 * n)
        text = data[8 + 16 * n:]
        expect((ends[-1] if n else 0) == len(text), "length of section 20")
        return {i: bytes(text[begin:end]).decode()
                for i, begin, end in zip(ids, (0, *ends), ends, strict=False)}

    def _take(self, kind, dtype, width, rows=None):
        rows = self.n if rows is None else rows
        expect(kind in self._sections, f"section {kind} missing")
        data = self._sections[kind]
        expect(len(data) == rows * width * np.dtype(dtype).itemsize, f"length of section {kind}")
        return np.frombuffer(data, dtype).reshape(rows, width)

    def _tombstones(self):
        if 9 not in self._sections:
            expect(self.parameters["d"] == 0, "tombstones missing")
            return np.zeros(self.n, bool)
        data = self._sections[9]
        expect(len(data) == 8 * -(-self.n // 64), "length of tombstones")
        bits = np.unpackbits(np.frombuffer(data, "u1"), bitorder="little")
        expect(not bits[self.n:].any() and bits.sum() == self.parameters["d"], "tombstones")
        return bits[:self.n].astype(bool)

    def rows(self):
        """{id: the row as it was added}, up to rounding under cosine."""
        rows = self.vectors if self.norms is None else self.vectors * self.norms[:, None]
        return {int(self.ids[s]): rows[s] for s in np.flatnonzero(~self.deleted)}

    def is_node(self, slot):
        return self.links[slot, 0] != TWIN

    def links_of(self, slot, layer=0):
        """(chosen, fillers), slots; the three runs are checked."""
        row = self.links[slot] if layer == 0 else self.upper[self.places[slot] + layer - 1]
        if row[0] == TWIN:
            expect((row[1:] == PADDING).all(), "a row of links of no node")
            return [], []
        runs = np.where(row == PADDING, 2, (row & FILLER) >> 31)
        expect((np.diff(runs.astype(int)) >= 0).all(), "runs of links out of order")
        to = row & SLOT
        real = to[runs < 2]
        expect((real < self.n).all() and (real != slot).all(), "a link that leads nowhere")
        expect((self.levels[real] >= layer).all(), "a link to a row not on the layer")
        expect(all(self.is_node(s) for s in real), "a link to a row that is no node")
        return to[runs == 0].tolist(), to[runs == 1].tolist()

    def chain(self, node):
        """The slots equal to a node, in the order of their chain."""
        found, slot = [], int(self.twins[node])
        while slot != 0:
            found.append(slot - 1)
            expect(slot <= self.n and len(found) <= self.n, "a chain that does not end")
            slot = int(self.twins[slot - 1])
        return found

    def entry(self):
        """(layer, slot), or None."""
        entry = self.parameters["entry"]
        return None if entry == NO_ENTRY else (entry >> 32, entry & 0xFFFFFFFF)

    def distances(self, query):
        """To every slot, in float64."""
        query, rows = np.asarray(query, np.float64), self.vectors.astype(np.float64)
        if self.parameters["metric"] in (L2, HAMMING):      # of bits: unpacked
            return ((rows - query) ** 2).sum(axis=1)
        if self.parameters["metric"] == JACCARD:
            either = np.maximum(rows, query).sum(axis=1)
            return np.abs(rows - query).sum(axis=1) / np.maximum(either, 1)
        if self.parameters["metric"] == COSINE:
            query = query / np.linalg.norm(query)
            if self.is_whole:
                rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return 1 - rows @ query

    def search(self, query, ef):
        """A plain best-first walk: what the graph is for.  (distance, slot), rising."""
        if self.entry() is None:
            return []
        distance = self.distances(query)
        layer, here = self.entry()
        for on in range(layer, 0, -1):
            better = True
            while better:
                nearer = min([here, *sum(self.links_of(here, on), [])], key=lambda s: distance[s])
                better, here = distance[nearer] < distance[here], nearer
        seen, expanded, pool = {here}, set(), [here]
        while todo := [s for s in pool if s not in expanded]:
            expanded.add(todo[0])
            fresh = set(sum(self.links_of(todo[0]), [])) - seen
            seen |= fresh
            pool = sorted([*pool, *fresh], key=lambda s: (distance[s], s))[:ef]
        found = [slot for node in pool for slot in [node, *self.chain(node)]]
        return sorted((distance[s], int(self.ids[s])) for s in found if not self.deleted[s])

    # ---- codes ------------------------------------------------------------------

    def unit_row(self, slot):
        """What codes are made of."""
        row = self.vectors[slot]
        if not self.is_whole or self.parameters["metric"] != COSINE:
            return row
        wide = row.astype(np.float64)
        return (wide * (1 / np.sqrt((wide ** 2).sum()))).astype(np.float32)

    def code_of(self, slot):
        if self.has_codes:
            return self.codes[slot]
        return np.clip(np.floor(self.codec.code(self.unit_row(slot)) + np.float32(0.5)), 0,
                       255).astype(np.uint8)

    def squared(self, slot, end):
        """The squared distance of two codes, or, without, that of the vectors in their unit."""
        if self.has_codes:
            return float(((self.codes[slot].astype(int) - self.codes[end].astype(int)) ** 2).sum())
        one, other = self.unit_row(slot).astype(float), self.unit_row(end).astype(float)
        return float(((one - other) ** 2).sum()) / float(self.codec.step) ** 2

    def coordinates(self, slot):
        """What sketches are made of: those of the code, or those that ranks stand for."""
        if self.ranks is not None:
            return 16 * unpack_ranks(self.ranks[slot]) - 120
        return self.codec.coordinates(self.code_of(slot))

    def stored_sketches(self, slot):
        """(A, B, bits) of the row's links."""
        m, n = self.codec.m, 2 * self.parameters["M"]
        a, b, bits = [], [], []
        for g in range(-(-n // 32)):
            at = self.groups_at + g * self.group_bytes
            group = self.link_rows[slot, at:at + self.group_bytes]
            a.append(group[:64].view("<f2"))
            b.append(group[64:128].view("<f2"))
            tables = group[128:].reshape(m // 4, 16)
            halves = np.concatenate([tables & 15, tables >> 4], axis=1)     # table, link
            bits.append((halves.T[:, :, None] >> np.arange(4) & 1).reshape(32, m))
        return np.concatenate(a)[:n], np.concatenate(b)[:n], np.concatenate(bits)[:n]

    def sketch(self, slot, end):
        """(A, B, bits) of a link, by computation."""
        u, v = self.coordinates(slot), self.coordinates(end)
        m, e = self.codec.m, v - u
        if self.ranks is not None:
            squared = float((e ** 2).sum())
        else:
            squared = self.squared(slot, end)
        length = int(np.abs(e[:m]).sum())
        along = int(np.where(e[:m] > 0, u[:m], -u[:m]).sum())
        f = squared / length if length else 0.0
        unit = float(self.codec.edge_unit)
        return (squared + 2 * f * along) / unit, -512 * f / unit, e[:m] > 0


def unpack_halves(rows):
    """Values 0 to 15, 128 to each 64 bytes."""
    lines = rows.reshape(len(rows), -1, 64)
    return np.concatenate([lines & 15, lines >> 4], axis=2).reshape(len(rows), -1)


def mix(y, flips):
    """What makes the dimensions of a piece spread alike."""
    p = 1 << (len(y).bit_length() - 1)
    root = np.float32(np.sqrt(p))
    for signs in flips:
        y = y * signs
        y[:p] = hadamard(y[:p]) / root
        if p < len(y):
            y[-p:] = hadamard(y[-p:]) / root
    return y


def unpack_ranks(row):
    """Levels 0 to 15 of the 256 coordinates."""
    halves = row.reshape(2, 64)
    return np.concatenate([halves & 15, halves >> 4], axis=1).reshape(256).astype(int)


class Codec:
    def __init__(self, data, parameters):
        expect(len(data) >= 64, "codec cut short")
        dim, self.c, self.k, self.m, ranks, lossless = struct.unpack_from("<6I", data)
        (self.step, self.inverse, self.R, self.unit, self.per_code,
         self.edge_unit) = np.frombuffer(data, "<f4", 6, 24)
        is_ip = parameters["metric"] == IP
        expect(parameters["quantization"] != 0, "a codec not asked for")
        expect(dim == parameters["dim"] and self.c == dim + is_ip, "dim of the codec")
        expect((self.k, self.m) in ((0, 0), (64, 64), (256, 128)), "coordinates")
        expect(self.m == 0 or parameters["quantization"] == AUTO, "sketches not asked for")
        expect(ranks == (self.k == 256) and lossless in (0, 1), "words of the codec")
        expect(not any(data[48:64]) and self.step > 0 and (self.m == 0 or self.edge_unit > 0),
               "numbers of the codec")
        self.has_ranks, self.is_lossless, self.is_ip = ranks == 1, lossless == 1, is_ip
        width = pad(self.c, 64)
        halves = 2 * self.c if parameters["quantization"] == 2 else 0
        expect(not halves or (self.k == 0 and lossless == 0), "a codec of half bytes")
        expect(len(data) == 64 + 4 * (self.c + halves) + 8 * self.k + self.k * width,
               "length of the codec")
        self.row_bytes = -(-self.c // 128) * 64 if halves else width
        self.low, rest = np.frombuffer(data, "<f4", self.c, 64), 64 + 4 * (self.c + halves)
        self.flips = None
        if halves:
            self.flips = np.frombuffer(data, "<f4", halves, 64 + 4 * self.c).reshape(2, self.c)
            expect((np.abs(self.flips) == 1).all(), "flips")
        self.center = np.frombuffer(data, "<f4", self.k, rest)
        self.signs = np.frombuffer(data, "<f4", self.k, rest + 4 * self.k)
        expect((np.abs(self.signs) == 1).all(), "signs")
        directions = np.frombuffer(data, "i1", self.k * width, rest + 8 * self.k)
        self.directions = directions.reshape(self.k, width)[:, :self.c].astype(int)

    def code(self, row):
        """What a row becomes, before rounding: halves go up, then 0 to 255, or 0 to 15."""
        row = np.asarray(row, np.float32)
        if self.is_ip:
            left = float(self.R) ** 2 - float((row.astype(np.float64) ** 2).sum())
            row = np.append(row, np.float32(np.sqrt(max(left, 0))))
        y = (row - self.low) * self.inverse
        if self.flips is not None:                 # the middle of a level is its number
            pieces = [slice(at, at + 4096) for at in range(0, self.c, 4096)]
            return np.concatenate([mix(y[p], self.flips[:, p]) for p in pieces]) + 7.5
        return y

    def coordinates(self, code):
        raw = self.directions @ code.astype(int)
        x = (raw.astype(np.float32) - self.center) * self.unit * self.signs
        parts = x.reshape(1, 64) if self.k == 64 else x.reshape(2, 128)
        mixed = np.concatenate([hadamard(part) for part in parts])
        whole = np.floor(mixed + np.float32(2048.5)).astype(int) - 2048
        return np.clip(whole, -2048, 2047)


def hadamard(x):
    """Sums and differences of halves, then of their halves; float32 throughout."""
    if len(x) == 1:
        return x
    one, other = np.split(x, 2)
    return np.concatenate([hadamard(one + other), hadamard(one - other)])


# ---- a log --------------------------------------------------------------------------


def name_of(index_bytes):
    """The name by which a log knows an index file."""
    return struct.pack("<Q", len(index_bytes)) + hashlib.blake2b(
        index_bytes[:65536], digest_size=16).digest()


def read_log(data, index_bytes):
    """[(kind, number, payload), ...] from the place that names the index on."""
    expect(len(data) >= 64 and data[:8] == b"\x89VXLOG\r\n", "mark of the log")
    version, row_bytes, _, before = struct.unpack_from("<2I2Q", data, 8)
    zero, crc = struct.unpack_from("<2I", data, 56)
    expect(version == 1 and zero == 0 and crc == zlib.crc32(data[:60]), "head of the log")
    name, names = name_of(index_bytes), [data[32:56]]
    records, at, number = [], 64, before
    while (record := _record(data, at, number + 1, crc)) is not None:
        kind, payload = record
        number += 1
        at += 40 + len(payload)
        records.append((kind, number, payload))
        names.append(payload if kind == 3 else None)
    expect(name in names, "the log of another index")
    last = len(names) - 1 - names[::-1].index(name)
    return row_bytes, records[last:]


def _record(data, at, number, seed):
    """(kind, payload) of a whole, sound record of this number, or None."""
    if len(data) < at + 40 or data[at:at + 4] != b"\x89VXR":
        return None
    kind, found, _, n, body, head = struct.unpack_from("<I3Q2I", data, at + 4)
    payload = data[at + 40:at + 40 + n]
    sound = (found == number and len(payload) == n and zlib.crc32(payload) == body
             and zlib.crc32(data[at:at + 36], seed) == head)
    return (kind, payload) if sound else None


def replay(rows, log, row_bytes, dtype=FLOAT32):
    """{id: row} after the records of a log of an index of a dtype."""
    values = np.dtype(VALUES[dtype] if dtype in (INT8, UINT8) else "<f4")
    rows = dict(rows)
    for kind, _, payload in log:
        if kind == 1:
            n = len(payload) // (row_bytes + 8)
            vectors = np.frombuffer(payload, values, n * row_bytes // values.itemsize)
            vectors = vectors.reshape(n, -1)
            rows.update(zip(np.frombuffer(payload, "<i8", n, n * row_bytes).tolist(), vectors,
                            strict=True))
        elif kind == 2:
            for id in np.frombuffer(payload, "<i8").tolist():
                rows.pop(id, None)
    return rows
