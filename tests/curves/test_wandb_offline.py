"""The offline W&B reader, on files that the installed wandb client writes here."""

import json
import math
import os
import struct
import subprocess
import sys
import zlib

import pytest

from utils.curves.wandb_runs import read_offline

# A process of its own: no client service, environment or atexit hook is left behind for other tests.
WRITE_A_RUN = """
import json, sys, wandb
folder, job = sys.argv[1], json.load(sys.stdin)
run = wandb.init(mode="offline", dir=folder, project="course", config=job["config"],
                 settings=wandb.Settings(console="off", x_disable_stats=True))
run.config.update(job["update"], allow_val_change=True)
for row in job["rows"]:
    run.log(row)
run.finish()
"""
CONFIG = {"learning_rate": 8e-5, "beta": 0.1, "lora": {"r": 16, "targets": ["q_proj", "v_proj"]}}
UPDATE = {"beta": 0.25, "max_length": 1024}
NUMBER_OF_ROWS = 240
BIG_ROW = 150
BIG = "z" * 100_000  # several blocks of 32 KiB; the client stores it twice, in the summary and in the history
BLOCK = 32 * 1024
HEADER = b":W&B\xe1\xbe\0"


def logged_rows() -> list[dict]:
    """What is logged: scalars whose digits matter, keys with slashes and dots, NaN, text, lists, dicts."""
    rows = []
    for i in range(NUMBER_OF_ROWS):
        row = {
            "train/loss": 2.0 / (i + 3),
            "train/rewards/margins": math.sin(i) * 1e-3,
            "train/grad.norm": 1e300 / (i + 1) if i % 2 else 5e-324 * i,
            "train/global_step": i,
            "note": f"row {i:03d} é",
        }
        if i % 10 == 0:
            row |= {"eval/loss": float("nan"), "eval/worst": float("-inf"), "eval/best": float("inf")}
            row |= {"list": [1, 2.5, None, "a"], "nested": {"a": {"b": i}, "c.d": [{"e": i}]}, "flag": i > 99}
        rows.append(row)
    rows[BIG_ROW]["big"] = BIG
    return rows


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """The folder of one finished offline run."""
    folder = tmp_path_factory.mktemp("wandb")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    job = json.dumps({"config": CONFIG, "update": UPDATE, "rows": logged_rows()})
    command = [sys.executable, "-c", WRITE_A_RUN, str(folder)]
    subprocess.run(command, input=job, text=True, check=True, timeout=120, env=environment, cwd=folder)
    return next(folder.glob("wandb/offline-run-*"))


@pytest.fixture(scope="module")
def run_file(run_folder):
    return next(run_folder.glob("run-*.wandb"))


@pytest.fixture
def damaged(tmp_path):
    """Writes bytes to a `.wandb` file and returns its path."""

    def write(data: bytes):
        path = tmp_path / "run-damaged.wandb"
        path.write_bytes(data)
        return path

    return write


def read_history(path) -> list[dict]:
    return read_offline(path).rows


def text(rows: list[dict]) -> list[str]:
    """Rows as JSON lines, so that NaN equals NaN."""
    return [json.dumps(row, sort_keys=True) for row in rows]


def flip(data: bytes, position: int, mask: int = 1) -> bytes:
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


def test_history_is_what_was_logged(run_file):
    rows = read_history(run_file)
    expected = logged_rows()
    assert [row["_step"] for row in rows] == list(range(NUMBER_OF_ROWS))
    for got, logged in zip(rows, expected, strict=True):
        assert set(got) == set(logged) | {"_step", "_runtime", "_timestamp"}
        for key, value in logged.items():
            if isinstance(value, float) and math.isnan(value):
                assert math.isnan(got[key]), key
            else:
                assert got[key] == value, key


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        (lambda data: len(data) - 1, NUMBER_OF_ROWS),  # the exit record
        (lambda data: data.index(b"row 010"), 10),
        (lambda data: data.index(b"row 011") + 3, 11),
        (lambda data: data.index(b"z" * 1000) + 10, BIG_ROW),  # in the first chunk of the big value
        (lambda data: (data.rindex(b"z" * 1000) // BLOCK) * BLOCK, BIG_ROW),  # between two of its chunks
        (lambda data: (data.rindex(b"z" * 1000) // BLOCK) * BLOCK + 3, BIG_ROW),  # in a chunk's header
        (lambda data: data.rindex(b"z" * 1000) + 990, BIG_ROW),  # in its last chunk
        (lambda data: 10, 0),
    ],
)
def test_torn_tail_keeps_the_whole_rows(run_file, damaged, where, rows):
    data = run_file.read_bytes()
    path = damaged(data[: where(data)])
    with pytest.warns(UserWarning, match=r"run-damaged\.wandb ends in a torn record: its last \d+ b") as warned:
        torn = read_history(path)
    assert len(warned) == 1
    assert text(torn) == text(read_history(run_file))[:rows]


@pytest.mark.filterwarnings("ignore:.*torn record")
def test_every_cut_gives_a_prefix(run_file, damaged):
    data, full = run_file.read_bytes(), text(read_history(run_file))
    lengths = []
    for end in range(len(data), 6, -len(data) // 40):
        rows = text(read_history(damaged(data[:end])))
        assert rows == full[: len(rows)]
        lengths.append(len(rows))
    assert lengths[0] == NUMBER_OF_ROWS
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) > 10


@pytest.mark.parametrize(
    ("offset", "mask"),
    [(0, 1), (4, 1), (5, 0x80), (6, 2), (7, 1), (20_000, 0x80)],
    ids=["checksum", "shorter", "longer than the block", "type", "first byte", "data"],
)
def test_a_flipped_bit_names_the_file_and_the_byte(run_file, damaged, offset, mask):
    data = run_file.read_bytes()
    chunk = (data.index(b"z" * 1000) // BLOCK + 1) * BLOCK  # a block that one chunk of the big value fills
    assert data[chunk + 7 : chunk + 1007] == b"z" * 1000
    path = damaged(flip(data, chunk + offset, mask))
    with pytest.raises(ValueError, match=rf"run-damaged\.wandb is damaged at byte {chunk}:"):
        read_history(path)


def test_a_wrong_header_is_refused(run_file, damaged):
    data = run_file.read_bytes()
    for wrong in (b"", data[:6], flip(data, 0), flip(data, 5), flip(data, 6), b"PK\3\4" + data):
        with pytest.raises(ValueError, match=r"run-damaged\.wandb does not start as"):
            read_history(damaged(wrong))


def chunk(data: bytes, kind: int) -> bytes:
    """One chunk of the log: type 1 is a full record, 2, 3 and 4 the first, middle and last part of one."""
    return struct.pack("<IHB", zlib.crc32(bytes([kind]) + data), len(data), kind) + data


def record(key: str, value: str) -> bytes:
    """A history record with `key` in place of the `nested_key` that today's client writes."""
    from wandb.proto.wandb_internal_pb2 import Record

    message = Record()
    item = message.history.item.add()
    item.key, item.value_json = key, json.dumps(value)
    return message.SerializeToString()


@pytest.mark.parametrize("left", range(10))
def test_the_end_of_a_block(damaged, left, recwarn):
    """The first record leaves 0 to 9 bytes of its block: under 7 are padding, 7 hold a chunk without data."""
    fill = "f" * (BLOCK - 7 - 7 - left - len(record("a", "f" * 30_000)) + 30_000)
    start, second = HEADER + chunk(record("a", fill), 1), record("b", "second")
    assert len(start) == BLOCK - left
    room = left - 7
    end = b"\0" * left + chunk(second, 1) if room < 0 else chunk(second[:room], 2) + chunk(second[room:], 4)
    assert read_history(damaged(start + end)) == [{"a": fill}, {"b": "second"}]
    assert read_history(damaged(start + b"\0" * min(left, 6))) == [{"a": fill}]  # ends in padding
    assert not recwarn.list


@pytest.mark.parametrize("kinds", [(3,), (4,), (0,), (5,), (1, 4), (2, 1), (2, 2), (2, 3, 0)])
def test_chunks_in_a_wrong_order_are_refused(damaged, kinds):
    chunks = [chunk(record("a", "text"), kind) for kind in kinds]
    position = len(HEADER) + sum(map(len, chunks[:-1]))
    whole = position if kinds[0] == 1 else len(HEADER)
    with pytest.raises(ValueError, match=f"damaged at byte {position}:.* cut it to {whole} bytes"):
        read_history(damaged(HEADER + b"".join(chunks)))
