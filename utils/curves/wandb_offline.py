"""Reads an offline W&B run from disk: the rows that were logged, the run's configuration, its name and its end.

wandb has no public reader for a run that was never uploaded, and its internal one comes and goes between
releases, so this reads the `run-*.wandb` file itself. The file is W&B's 7-byte header, then a LevelDB log
(https://github.com/google/leveldb/blob/main/doc/log_format.md): blocks of 32 KiB counted from the start of
the file, in which a record is one chunk or several, each behind a 7-byte header (checksum, length, type).
Unlike LevelDB's own, the checksum is zlib's plain CRC-32 of type and data, neither CRC-32C nor masked. Each
record is a protobuf message, decoded with the class that wandb ships.

Left out: everything else in the file (summary, system metrics, console output, artifacts), the files beside
it (a logged table or image comes back as the JSON that points to its file), writing, syncing, and files too
large for memory. Of a run that was killed, or still goes on, the file holds what the client had flushed,
which can be some seconds old.
"""

import json
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE_HEADER = b":W&B" + struct.pack("<HB", 0xBEE1, 0)  # name, magic number, format version
BLOCK_SIZE = 32 * 1024
CHUNK_HEADER = struct.Struct("<IHB")  # checksum, length, type
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read_history(run: str | Path) -> list[dict[str, Any]]:
    """Reads the rows that `wandb.log` wrote, in order.

    Args:
        run: a `.wandb` file, or the folder that holds one (`wandb/offline-run-...`, `wandb/latest-run`).

    Returns:
        One dict per row, with W&B's `_step`, `_runtime` (seconds since the start) and `_timestamp` (seconds
        since 1970) beside the logged keys. A dict that was logged is a dict again. Numbers are as W&B wrote
        them, so 3.0 reads as 3 (and -0.0 as 0); a dict without keys is not in the file at all.

    Raises:
        FileNotFoundError: there is no such file, or the folder does not hold exactly one run.
        ValueError: the file does not start as W&B's do, or is damaged. A torn end, as a killed run leaves it,
            only warns, and the rows before it are returned (a wrong length in the last block looks the same).

    Example:
        >>> rows = read_history("wandb/latest-run")  # doctest: +SKIP
        >>> margins = [row.get("train/rewards/margins") for row in rows]  # doctest: +SKIP
    """
    rows = []
    for record in _records(_find(run)):
        if record.WhichOneof("record_type") == "history":
            rows.append({})
            for item in record.history.item:
                _store(rows[-1], item)
    return rows


def read_config(run: str | Path) -> dict[str, Any]:
    """Reads the run's configuration, as it was after the last change that the file holds.

    Args:
        run: as for `read_history`.

    Returns:
        The configuration without `_wandb`, the client's notes about itself.

    Raises:
        FileNotFoundError, ValueError: as `read_history`.

    Example:
        >>> read_config("wandb/latest-run")["learning_rate"]  # doctest: +SKIP
        8e-05
    """
    config: dict[str, Any] = {}
    for record in _records(_find(run)):
        kind = record.WhichOneof("record_type")
        if kind in ("run", "config"):
            for item in (record.run.config if kind == "run" else record.config).update:
                _store(config, item)
    config.pop("_wandb", None)
    return config


def describe(run: str | Path) -> dict[str, Any]:
    """Reads what the run is called, and whether it came to its end.

    Args:
        run: as for `read_history`.

    Returns:
        `{"name": str, "group": str, "state": "finished", "failed", or None if the file holds no end}`.

    Raises:
        FileNotFoundError, ValueError: as `read_history`.

    Example:
        >>> describe("wandb/latest-run")["state"]  # doctest: +SKIP
        'finished'
    """
    about = {"name": "", "group": "", "state": None}
    for record in _records(_find(run)):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            about |= {"name": record.run.display_name, "group": record.run.run_group}
        elif kind == "exit":
            about["state"] = "failed" if record.exit.exit_code else "finished"
    return about


def _store(tree: dict[str, Any], item: Any) -> None:
    """Puts an item (`key` or `nested_key`, and `value_json`) into nested dicts."""
    *parents, name = item.nested_key or [item.key]
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[name] = json.loads(item.value_json)


def _find(run: str | Path) -> Path:
    """Returns the run's `.wandb` file."""
    path = Path(run)
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"There is no file {path}: pass a .wandb file, or the folder of one run")
        return path
    files = sorted(path.glob("run-*.wandb"))
    if len(files) != 1:
        raise FileNotFoundError(
            f"{path} holds {len(files)} files named run-*.wandb, not one: pass a .wandb file, or the folder "
            "of one run, such as wandb/latest-run"
        )
    return files[0]


def _records(path: Path) -> Iterator[Any]:
    """Yields every whole record of the file as `wandb.proto.wandb_internal_pb2.Record`."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    if not data.startswith(FILE_HEADER):
        raise ValueError(
            f"{path} starts with {data[: len(FILE_HEADER)]!r}, not with {FILE_HEADER!r}: it is not the "
            ".wandb file of a run, or its format is newer than this reader"
        )
    chunks: list[bytes] = []  # of the record being read
    position = whole = len(FILE_HEADER)  # the next chunk; the end of the last whole record
    while position + CHUNK_HEADER.size <= len(data):
        block_end = (position // BLOCK_SIZE + 1) * BLOCK_SIZE
        if position + CHUNK_HEADER.size > block_end:  # no room for a header: the writer padded the block
            position = block_end
            continue
        checksum, length, kind = CHUNK_HEADER.unpack_from(data, position)
        start = position + CHUNK_HEADER.size
        end = start + length
        if len(data) < end <= block_end:  # torn
            break
        in_order = kind in ((MIDDLE, LAST) if chunks else (FULL, FIRST))
        if end > block_end or checksum != zlib.crc32(data[start - 1 : end]) or not in_order:
            raise ValueError(
                f"{path} is damaged at byte {position}: the chunk there has a wrong checksum, length or "
                "place. Copy the file again from where the run was written, or cut it to "
                f"{whole} bytes to read the records before"
            )
        chunks.append(data[start:end])
        position = end
        if kind in (FULL, LAST):
            yield Record.FromString(b"".join(chunks))
            chunks, whole = [], end
    tail = data[whole:]
    if tail.strip(b"\0"):  # an end of nothing but padding is whole
        warnings.warn(f"{path} ends in a torn record: its last {len(tail)} bytes were not read", stacklevel=3)
