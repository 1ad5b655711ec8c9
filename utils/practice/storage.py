"""The Xet half of the practice hub's storage: what `hf_xet` sends arrives in pieces, is checked, kept and served.

The client cuts files into chunks of about 64 KiB, sends those that are new in packs ("xorbs"), then a list of the files
that they make up (a "shard"). Each file is put together at once and stored under its sha256 like any other, so that it
can be downloaded without Xet too. The formats are those of https://huggingface.co/docs/xet.

It leaves out upload grants (the client then posts its xorbs), keyed chunk hashes and deletion. It computes no Xet hash:
bytes are right when the whole file has the sha256 that its shard gives.
"""

import json
import os
import re
import secrets
import struct
import time
from itertools import islice
from pathlib import Path

from utils.practice.repositories import HubError

SHARD_TAG = bytes.fromhex("48465265706f4d6574614461746100556967456a7b815783a5bdd95ccdd14aa9")
SHARD_HEAD, SHARD_FOOT = struct.Struct("<32sQQ"), struct.Struct("<9Q32xQQ72xQ")
ENTRY, BOOKEND = struct.Struct("<32s4I"), b"\xff" * 32 + bytes(16)
HAS_CHECKS, HAS_SHA256 = 1 << 31, 1 << 30  # flags of a file in a shard: what follows its terms


class XetStorage:
    """Xorbs and the files made of them, in a folder.

    Args:
        folder: Where xorbs, the hashes of their chunks, and the terms of files lie; a restart loses nothing.
        store: Keeps the bytes of a whole file: `Repositories.store`.

    Attributes:
        hashes: Maps the sha256 of each file that is held to its Xet hash.
        key: Names this folder. Clients remember what they sent to an address: another folder must have another one.
    """

    def __init__(self, folder, store):
        self.folder, self.store, self.hashes = Path(folder), store, {}
        self._files, self._xorbs, self._chunks = {}, set(), {}  # only what files that are held consist of
        (self.folder / "files").mkdir(parents=True, exist_ok=True)
        (self.folder / "xorbs").mkdir(exist_ok=True)
        if not (self.folder / "key").is_file():
            _write(self.folder / "key", secrets.token_hex(8).encode())
        self.key = (self.folder / "key").read_text()
        for path in self.folder.glob("files/*.json"):
            self._remember(path.stem, json.loads(path.read_text()))

    def xorb_path(self, xorb):
        """Return where a xorb lies, or would lie."""
        if not re.fullmatch("[0-9a-f]{64}", xorb):
            raise HubError(400, f"Not a Xet hash: {xorb!r}")
        return self.folder / "xorbs" / xorb

    def add_xorb(self, xorb, data):
        """Keep a xorb and return whether it is new; one that files which are held consist of stays as it is."""
        path, new = self.xorb_path(xorb), xorb not in self._xorbs
        if new:
            _write(path, data)
        return new

    def add_shard(self, data):
        """Put each file of a shard together and keep it.

        Raises:
            HubError: If it is no shard, or the chunks do not make up a file with the sha256 that it gives.
        """
        try:
            files, blocks = _read_shard(data)
        except (StopIteration, ValueError, struct.error) as error:
            raise HubError(400, f"Not a shard: {error!r}") from error
        for name, file in files.items():
            try:
                self.store(self._read(file["terms"]), file["sha256"])
            except (HubError, ImportError, OSError, ValueError) as error:
                for xorb in {term[0] for term in file["terms"]} - self._xorbs:  # some of its bytes may be wrong
                    self.xorb_path(xorb).unlink(missing_ok=True)
                raise HubError(400, f"The chunks do not make up the file {name}: {error}") from error
        for xorb, block in blocks.items():
            _write(self.xorb_path(xorb).with_suffix(".chunks"), block)
        for name, file in files.items():
            _write(self.folder / "files" / f"{name}.json", json.dumps(file).encode())
            self._remember(name, file)

    def reconstruction(self, name, url, first=0, last=None):
        """Tell of which chunks a file, or a range of its bytes, consists, and where to fetch them.

        Args:
            name: The Xet hash of the file.
            url: The address that serves `xorb_path`, up to the xorb's hash.
            first: The first byte of the range.
            last: The last byte of the range; None means the end of the file.
        """
        if name not in self._files:
            raise HubError(404, f"No file with the Xet hash {name}")
        answer = {"offset_into_first_range": 0, "terms": [], "fetch_info": {}, "xorbs": {}}
        end = 0
        for xorb, start, places in self._places(self._files[name]["terms"]):
            wanted = []
            for number, (place, packed, size) in enumerate(places, start):
                begin, end = end, end + size
                if first < end and (last is None or begin <= last):
                    if not answer["terms"] and not wanted:
                        answer["offset_into_first_range"] = first - begin
                    wanted.append((number, place, place + packed, size))
            if wanted:
                chunks = {"start": wanted[0][0], "end": wanted[-1][0] + 1}
                span, size = {"start": wanted[0][1], "end": wanted[-1][2] - 1}, sum(chunk[3] for chunk in wanted)
                answer["terms"].append({"hash": xorb, "range": chunks, "unpacked_length": size})
                fetch = {"range": chunks, "url": url + xorb, "url_range": span}  # version 1 of the answer
                answer["fetch_info"].setdefault(xorb, []).append(fetch)
                fetch = {"url": url + xorb, "ranges": [{"chunks": chunks, "bytes": span}]}  # version 2
                answer["xorbs"].setdefault(xorb, []).append(fetch)
        if first >= end > 0:
            raise HubError(416, f"{name} has {end} bytes")
        return answer

    def known_chunks(self, chunk):
        """Return a shard with all chunks of the xorb that holds this one: the client need not send them again."""
        if chunk not in self._chunks:
            raise HubError(404, f"No chunk with the hash {chunk}")
        body = SHARD_HEAD.pack(SHARD_TAG, 2, SHARD_FOOT.size) + BOOKEND
        blocks, now = len(body), int(time.time())
        body += self.xorb_path(self._chunks[chunk]).with_suffix(".chunks").read_bytes() + BOOKEND
        end = len(body)
        tables = (end, 0) * 3  # the client builds its own look-up tables
        return body + SHARD_FOOT.pack(1, SHARD_HEAD.size, blocks, *tables, now, now + 86400, end)

    def _remember(self, name, file):
        xorbs = {term[0] for term in file["terms"]}
        for path in [self.xorb_path(xorb).with_suffix(".chunks") for xorb in xorbs - self._xorbs]:
            for entry in list(ENTRY.iter_unpack(path.read_bytes()))[1:] if path.is_file() else []:
                self._chunks[_hex(entry[0])] = path.stem
        self._xorbs |= xorbs
        self.hashes[file["sha256"]], self._files[name] = name, file

    def _places(self, terms):
        """Yield the xorb of each term, the number of its first chunk, and where in the xorb its chunks lie."""
        known = {}
        for xorb, start, stop in terms:
            if xorb not in known:
                known[xorb] = list(_chunk_places(self.xorb_path(xorb)))
            yield xorb, start, known[xorb][start:stop]

    def _read(self, terms):
        """Yield the bytes of the chunks that make up a file."""
        for xorb, _, places in self._places(terms):
            with open(self.xorb_path(xorb), "rb") as file:
                for place, packed, size in places:
                    file.seek(place)
                    yield _unpack(file.read(packed), size)


def _chunk_places(path):
    """Yield where each chunk of a xorb begins, its length there with its header of 8 bytes, and its size unpacked."""
    place = 0
    with open(path, "rb") as file:
        while len(header := file.read(8)) == 8 and header[0] == 0:  # no chunk has another version than 0
            packed, size = int.from_bytes(header[1:4], "little"), int.from_bytes(header[5:8], "little")
            yield place, 8 + packed, size
            place = file.seek(place + 8 + packed)


def _unpack(chunk, size):
    """Return the bytes of a chunk: plain, LZ4, or LZ4 over the first, second, third and fourth bytes of all words."""
    scheme, data = chunk[4], chunk[8:]
    if scheme > 2:
        raise ValueError(f"unknown compression {scheme}")
    if scheme == 0:
        return data
    import pyarrow  # datasets brings it

    data = pyarrow.decompress(data, size, codec="lz4", asbytes=True)
    if scheme == 1:
        return data
    words, begin = bytearray(size), 0
    for part in range(4):
        end = begin + len(range(part, size, 4))
        words[part::4] = data[begin:end]
        begin = end
    return bytes(words)


def _hex(digest):
    """Return a hash as Xet writes it: four little-endian numbers of 64 bits."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))


def _read_shard(data):
    """Return the files of a shard by Xet hash, each with sha256 and terms, and the entries of its xorbs' chunks."""
    if SHARD_HEAD.unpack(data[: SHARD_HEAD.size])[:2] != (SHARD_TAG, 2):
        raise ValueError("its tag or version is another")
    length = (len(data) - SHARD_HEAD.size) // ENTRY.size * ENTRY.size
    entries = ENTRY.iter_unpack(data[SHARD_HEAD.size :][:length])
    files, blocks = {}, {}
    while (head := next(entries))[0] != BOOKEND[:32]:
        terms = list(islice(entries, head[2]))
        list(islice(entries, len(terms) if head[1] & HAS_CHECKS else 0))
        if not head[1] & HAS_SHA256:
            raise ValueError("a file has no sha256")
        terms = [(_hex(term[0]), *term[3:]) for term in terms]
        files[_hex(head[0])] = {"sha256": _hex(next(entries)[0]), "terms": terms}
    while (head := next(entries))[0] != BOOKEND[:32]:
        blocks[_hex(head[0])] = b"".join(ENTRY.pack(*entry) for entry in [head, *islice(entries, head[2])])
    return files, blocks


def _write(path, data):
    """Write a file in one step, whatever other threads write to it meanwhile."""
    partial = path.with_name(f"{path.name}.{time.monotonic_ns()}-partial")
    partial.write_bytes(data)
    os.replace(partial, path)
