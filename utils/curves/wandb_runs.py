"""Reads a W&B run, from its folder on disk or from the server; leaves out writing, summaries and system metrics.

wandb has no public reader for a run that was never uploaded, so `read_offline` reads the `run-*.wandb` file itself: a
7-byte header, then a LevelDB log (https://github.com/google/leveldb/blob/main/doc/log_format.md) of protobuf messages.
Blocks of 32 KiB count from the start of the file, and the checksum is zlib's plain CRC-32 of type and data.
"""

import json
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

FILE_HEADER = b":W&B" + struct.pack("<HB", 0xBEE1, 0)  # name, magic number, format version
BLOCK_SIZE = 32 * 1024
CHUNK_HEADER = struct.Struct("<IHB")  # checksum, length, type
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
# wandb's own patience is 20 retries, minutes in all: right for a run that must not lose a row, not for a reader.
PATIENCE = {
    "x_graphql_retry_max": 2,
    "x_graphql_retry_wait_min_seconds": 1.0,
    "x_graphql_retry_wait_max_seconds": 2.0,
    "x_graphql_timeout_seconds": 8.0,
}
ANSWER_SECONDS = 20  # with all retries, for any question but those for the history
INSTEAD = 'Or read the run from its folder, for example RUN = "artifacts/run".'


@dataclass(frozen=True)
class WandbRun:
    """A run as W&B knows it; `state` is W&B's word (running, finished, crashed, ...), or `None` if a file has no end.

    A row holds the logged keys, as nested as they were logged, and W&B's own `_step`, `_runtime` and `_timestamp`.
    """

    name: str
    state: str | None
    config: dict
    rows: list[dict]


def run_path(text: str) -> str | None:
    """Return "entity/project/run_id" if the text is the path or the address of a run at W&B, else `None`.

    >>> run_path("https://wandb.ai/you/orpo/runs/8qk2d1xz?nw=nwuseryou")
    'you/orpo/8qk2d1xz'
    >>> print(run_path("you/orpo/8qk2d1xz"), run_path("you/Llama-3-8B-ORPO"), run_path("/content/artifacts/run"))
    you/orpo/8qk2d1xz None None
    """
    text = text.strip().rstrip("/")
    if "://" in text:
        found = re.search("/([^/]+)/([^/]+)/runs/([^/]+)", unquote(urlsplit(text).path))
    else:
        found = re.fullmatch(r"([\w-][\w.-]*)/([\w-][\w. -]*)/(?:runs/)?((?!runs$)[\w-]+)", text)
    return "/".join(found.groups()) if found else None


def read_offline(path: str | Path) -> WandbRun:
    """Read a `.wandb` file, or the folder that holds one; a torn end, as a killed run leaves it, only warns.

    Raises FileNotFoundError if that is not exactly one file, ValueError if it is not W&B's or is damaged.
    """
    path, name, state, values, rows = Path(path), "", None, {}, []
    files = sorted(path.glob("run-*.wandb")) if path.is_dir() else [path]
    if len(files) != 1 or not files[0].exists():
        raise FileNotFoundError(
            f"{path} is not one run ({len(files)} files run-*.wandb): name a file, or one such as wandb/latest-run."
        )
    for record in _records(files[0]):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            rows.append(_store({}, record.history.item))
        elif kind == "run":
            name = record.run.display_name
            _store(values, record.run.config.update)
        elif kind == "config":
            _store(values, record.config.update)
        elif kind == "exit":
            state = "failed" if record.exit.exit_code else "finished"
    values.pop("_wandb", None)  # the client's notes about itself
    return WandbRun(name, state, values, rows)


def _store(tree: dict, items) -> dict:
    for item in items:
        *parents, name = item.nested_key or [item.key]
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = json.loads(item.value_json)
    return tree


def _records(path: Path) -> Iterator:
    """Yield every whole record of the file."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    if not data.startswith(FILE_HEADER):
        raise ValueError(f"{path} does not start as a W&B run does: {data[: len(FILE_HEADER)]!r}.")
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
                f"{path} is damaged at byte {position}: copy it again from where the run was written, or cut it to "
                f"{whole} bytes to read what comes before."
            )
        chunks.append(data[start:end])
        position = end
        if kind in (FULL, LAST):
            yield Record.FromString(b"".join(chunks))
            chunks, whole = [], end
    tail = data[whole:]
    if tail.strip(b"\0"):  # an end of nothing but padding is whole
        warnings.warn(f"{path} ends in a torn record: its last {len(tail)} bytes were not read", stacklevel=4)


def read_online(path: str, key: str | None = None) -> WandbRun:
    """Read "entity/project/run_id" from the server that wandb is set up for; of a run that goes on, the rows so far.

    Raises PermissionError without a key that the server takes, FileNotFoundError if the key sees no such run, and
    ConnectionError if the last row did not come.
    """
    import wandb

    if not key:
        raise PermissionError(
            f"W&B shows the run {path} only to an API key: put yours into Colab's secrets, or into the environment, as "
            f"WANDB_API_KEY. {INSTEAD}"
        )
    settings = wandb.setup().settings
    try:
        with patch.multiple(settings, **PATIENCE):
            api = wandb.Api(api_key=key, timeout=ANSWER_SECONDS)  # keeps a copy of the settings
        run = api.run(path)
        # `history` would sample, and a cached export may be older than the run. A row comes twice where a page holds
        # rows that W&B has exported to its files and later ones that it has not.
        rows = {row["_step"]: row for row in run.scan_history(use_cache=False)}
    except Exception as error:  # of several families; what counts is the first cause
        raise _explain(error, path, settings.base_url, key) from None
    return WandbRun(run.name, run.state, run.config, [_plain(row) for row in rows.values()])


def _plain(value):
    """Make numbers of the texts "NaN", "Infinity" and "-Infinity", which JSON lacks, and drop keys without a value."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def _explain(error: Exception, path: str, server: str, key: str) -> OSError:
    """Tell a learner what happened, from whatever wandb raised, without the key."""
    from wandb.apis.public.runs import RunNotFoundError
    from wandb.errors import AuthenticationError

    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__
    status = getattr(getattr(cause, "response", None), "http_status", None)
    reason = (str(cause).strip().rpartition("\n")[2] or type(cause).__name__).replace(key, "(the key)")
    # A key is refused in many ways: by the client that finds it malformed, with a status, or by an account of nobody.
    bad_key = cause is error or status == 403 or "invalid credentials" in reason
    if status == 401 or bad_key and isinstance(error, AuthenticationError):
        kind, told = PermissionError, f"refuses the API key for {path} ({reason}): copy it again into WANDB_API_KEY."
    elif isinstance(cause, RunNotFoundError) or status in (403, 404):
        kind, told = FileNotFoundError, f"has no run {path}, or this key may not see it: copy its page's address."
    else:
        kind, told = ConnectionError, f"did not give the whole of {path} ({reason}): check the network, and try again."
    return kind(f"W&B at {server} {told} {INSTEAD}")
