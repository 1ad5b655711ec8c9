"""Xet between the practice hub and the real client: bytes arrive, come back, are sent once, and are checked.

The client runs in processes of its own: this one has imported huggingface_hub with Xet switched off.
"""

import hashlib
import json
import os
import random
import struct
import subprocess
import sys
import urllib.error
import urllib.request

import pyarrow
import pytest

from utils.practice.hub import HubError, PracticeHub
from utils.practice.storage import BOOKEND, ENTRY, HAS_SHA256, SHARD_HEAD, SHARD_TAG, XetStorage, _unpack

pytest.importorskip("hf_xet")

REPO = "learner/tiny"
SETUP = """
import hashlib, random, sys
from pathlib import Path
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
api, repo = HfApi(), "learner/tiny"
weights = random.Random(0).randbytes(2_000_000)
edited = weights[:1_000_000] + b"something else" + weights[1_000_000:]
up = lambda name, data: api.upload_file(repo_id=repo, path_in_repo=name, path_or_fileobj=data)
down = lambda name: Path(hf_hub_download(repo, name)).read_bytes()
"""


@pytest.fixture
def hub(tmp_path):
    with PracticeHub(tmp_path / "hub") as hub:
        hub.add_repo(REPO)
        yield hub


@pytest.fixture
def client(hub, tmp_path):
    """Run a script with the real client, and return what it printed; `home` is the machine, so to say."""

    def run(script, home="home", fails=None, **environment):
        environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": "practice-write", "HF_HOME": str(tmp_path / home)}
        environment |= {"HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # else seconds
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
        command = [sys.executable, "-c", SETUP + script]
        done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, cwd=tmp_path)
        if fails is None:
            assert done.returncode == 0, done.stderr[-3000:]
        else:
            assert done.returncode != 0 and fails in done.stderr, done.stderr[-3000:]
        return done.stdout.strip()

    return run


def asked(hub, method, part):
    """The answers to requests of a method whose path has a part."""
    return [status for verb, path, status in hub.requests if verb == method and part in path]


# --- round trips -------------------------------------------------------------------------------------------

LIBRARIES = """
import torch
from datasets import Dataset, load_dataset
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

torch.manual_seed(0)
adapter = {f"layers.{i}.lora_{ab}.weight": torch.randn(256, 64) for i in range(4) for ab in "AB"}
adapter |= {"half": torch.randn(7, 33).bfloat16(), "empty": torch.zeros(0)}
save_file(adapter, "adapter_model.safetensors")
api.upload_file(repo_id=repo, path_in_repo="adapter_model.safetensors", path_or_fileobj="adapter_model.safetensors")
assert api.get_paths_info(repo, "adapter_model.safetensors")[0].xet_hash
again = load_file(hf_hub_download(repo, "adapter_model.safetensors"))
assert set(again) == set(adapter) and all(torch.equal(again[name], value) for name, value in adapter.items())

config = LlamaConfig(vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=4,
                     num_attention_heads=4, num_key_value_heads=2)
model = LlamaForCausalLM(config).bfloat16()
model.save_pretrained("merged", max_shard_size="150KB")
words = {f"word{i}": i for i in range(500)} | {"[UNK]": 500, "<s>": 501, "</s>": 502}
core = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
core.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="[UNK]")
tokenizer.save_pretrained("merged")
print(len(list(Path("merged").glob("*.safetensors"))))
api.create_repo("learner/merged")
api.upload_folder(repo_id="learner/merged", folder_path="merged")
assert all(bool(row.xet_hash) == bool(row.lfs) for row in api.list_repo_tree("learner/merged"))
again = AutoModelForCausalLM.from_pretrained("learner/merged", dtype=torch.bfloat16).state_dict()
assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())
assert AutoTokenizer.from_pretrained("learner/merged")("word7 word499 other").input_ids == [7, 499, 500]
copy = Path(snapshot_download("learner/merged"))
for path in Path("merged").iterdir():
    assert (copy / path.name).read_bytes() == path.read_bytes(), path

rows = {"prompt": [f"prompt {i}" for i in range(50)], "chosen": [[{"role": "assistant", "content": "x"}]] * 50}
Dataset.from_dict(rows).push_to_hub("learner/mix")
assert load_dataset("learner/mix", split="train").to_dict() == rows
"""


def test_weights_tokenizer_and_data_come_back_bit_for_bit(hub, client):
    shards = int(client(LIBRARIES))
    assert shards > 1
    files = hub.files(REPO) | hub.files("learner/merged") | hub.files("learner/mix", "dataset")
    large = {path: file for path, file in files.items() if file["lfs"]}
    assert len(large) == shards + 2 and all(file["sha256"] in hub.xet.hashes for file in large.values())
    for path, file in large.items():  # what Xet brought lies there whole, too
        assert hashlib.sha256(hub.object_path(file["sha256"]).read_bytes()).hexdigest() == file["sha256"], path
    for method, part in (("POST", "/xorbs/"), ("POST", "/shards"), ("GET", "/reconstructions/"), ("GET", "/xorbs/")):
        assert set(asked(hub, method, part)) <= {200, 206} and asked(hub, method, part), (method, part)
    assert not asked(hub, "PUT", "") and not asked(hub, "POST", "/lfs/")
    assert not [path for path in large if asked(hub, "GET", f"/resolve/main/{path}")]
    assert max(status for _, _, status in hub.requests) < 500


def test_what_one_way_brings_the_other_way_fetches(hub, client):
    plain = {"HF_HUB_DISABLE_XET": "1"}
    client("up('xet.bin', weights); up('empty.bin', b'')")
    assert asked(hub, "POST", "/shards") == [200] and not asked(hub, "PUT", "/lfs/")
    hub.requests.clear()
    client("assert down('xet.bin') == weights; up('lfs.bin', edited); assert down('lfs.bin') == edited", **plain)
    assert not [path for _, path, _ in hub.requests if path.startswith("/xet/") or "xet-" in path]
    assert asked(hub, "PUT", "/lfs/") == [200] and len(asked(hub, "GET", "/resolve/")) == 2
    hub.requests.clear()
    script = "assert down('lfs.bin') == edited; assert down('empty.bin') == b''; assert down('xet.bin') == weights"
    client(script, home="another machine")
    assert asked(hub, "GET", "/resolve/") == [200] and len(asked(hub, "GET", "/reconstructions/")) == 1
    hub.requests.clear()
    client("up('again.bin', edited); assert down('again.bin') == edited", home="a third")  # now Xet knows it as well
    assert asked(hub, "POST", "/shards") and not asked(hub, "GET", "/resolve/")


def test_the_first_version_of_the_protocol_and_a_restart(hub, client, tmp_path):
    first = {f"HF_XET_CLIENT_{api}_API_VERSION": "1" for api in ("RECONSTRUCTION", "SHARD")}
    client("up('a.bin', weights); assert down('a.bin') == weights", **first)
    assert asked(hub, "POST", "/v1/shards") and asked(hub, "GET", "/v1/reconstructions/")
    hub.stop()
    with PracticeHub(tmp_path / "hub", port=hub.port) as again:
        assert (again.xet.hashes, again.xet.key) == (hub.xet.hashes, hub.xet.key)
        client("assert down('a.bin') == weights", home="other")
        assert asked(again, "GET", "/reconstructions/") == [200]


def test_a_wiped_hub_at_the_same_address_gets_everything_again(hub, client, tmp_path):
    client("up('a.bin', weights)")
    hub.stop()
    with PracticeHub(tmp_path / "wiped", port=hub.port) as wiped:  # the client remembers what it sent to an address
        wiped.add_repo(REPO)
        client("up('a.bin', weights)")
        assert "a.bin" in wiped.files(REPO)


# --- each chunk once ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("home", ["home", "another machine"])
def test_what_the_hub_has_is_not_sent_again(hub, client, home):
    def held():
        return sum(path.stat().st_size for path in hub.folder.glob("xet/xorbs/*") if not path.suffix)

    client("up('a.bin', weights)")
    first = held()
    client("up('b.bin', edited); assert down('b.bin') == edited", home=home)
    assert first >= 2_000_000 and 0 < held() - first < 300_000
    hub.requests.clear()
    client("up('c.bin', edited)", home=home)
    assert not asked(hub, "POST", "/v1/xorbs/") and "c.bin" in hub.files(REPO)


# --- faults ------------------------------------------------------------------------------------------------


def test_a_flipped_bit_on_the_way_up_is_refused_and_the_next_attempt_heals(hub, client):
    hub.inject("/xorbs/", flip=True, method="POST")
    client("up('a.bin', weights)", fails="400")
    assert asked(hub, "POST", "/shards") == [400] and "a.bin" not in hub.files(REPO) and not hub.xet.hashes
    client("up('a.bin', weights); assert down('a.bin') == weights")


def test_a_flipped_bit_on_the_way_down_shows_in_the_sha256_only(hub, client):
    client("up('a.bin', weights)")
    hub.inject("/xorbs/", flip=True, method="GET")
    found = client("print(hashlib.sha256(down('a.bin')).hexdigest(), len(down('a.bin')))").split()
    assert found[0] != hub.files(REPO)["a.bin"]["sha256"] and found[1] == "2000000"


def test_dropped_connections_and_503_are_tried_again(hub, client):
    hub.inject("/v1/xorbs/", drop=True)
    hub.inject("/shards", status=503)
    hub.inject("/reconstructions/", status=503)
    client("up('a.bin', weights)")
    hub.inject("/v1/xorbs/", drop=True, method="GET")
    client("assert down('a.bin') == weights")
    assert asked(hub, "POST", "/v1/xorbs/") == [0, 200] and asked(hub, "POST", "/shards") == [503, 200]
    assert asked(hub, "GET", "/reconstructions/") == [503, 200] and len(asked(hub, "GET", "/v1/xorbs/")) == 2


# --- who may do what ---------------------------------------------------------------------------------------


def ask(hub, path, token=None, body=None, method=None, kind="application/octet-stream"):
    headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(hub.url + path, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.headers, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.loads(error.read())


def test_tokens_open_what_they_are_for(hub):
    status, headers, answer = ask(hub, f"/api/models/{REPO}/xet-write-token/main", "practice-write")
    assert status == 200 and answer["casUrl"] == headers["X-Xet-Cas-Url"] and answer["exp"] > 1e9
    assert answer["accessToken"] == headers["X-Xet-Access-Token"]
    storage = answer["casUrl"].removeprefix(hub.url)
    read = ask(hub, f"/api/models/{REPO}/xet-read-token/main")[2]["accessToken"]
    for path in ("/v1/shards", "/v2/shards", f"/v1/xorbs/default/{'0' * 64}"):
        assert ask(hub, storage + path, None, b"x")[0] == 401
        for token in (read, "xet-read:practice-write", "xet-write:practice-read", "xet-write:"):
            assert ask(hub, storage + path, token, b"x")[0] == 403
    assert ask(hub, f"{storage}/v2/reconstructions/{'0' * 64}")[0] == 401
    for path in ("/v2/reconstructions/", "/v1/chunks/default/", "/v1/xorbs/default/"):
        assert ask(hub, f"{storage}{path}{'0' * 64}", read)[0] == 404
    assert ask(hub, f"{storage}/v1/xorbs/default/..%2F..%2Fkey", read)[0] == 400
    assert ask(hub, f"/xet/another/v1/chunks/default/{'0' * 64}", read)[0] == 404


def test_tokens_are_refused_like_the_repository(hub):
    hub.add_repo("learner/gated", gated=True)
    hub.add_repo("learner/private", private=True)
    for repo, kind, token, status in (
        (REPO, "write", None, 401),
        (REPO, "write", "practice-read", 403),
        (REPO, "read", "nonsense", 401),
        ("learner/gated", "read", None, 401),
        ("learner/private", "read", None, 401),
        ("learner/private", "read", "practice-read", 200),
        ("learner/none", "read", "practice-read", 404),
    ):
        assert ask(hub, f"/api/models/{repo}/xet-{kind}-token/main", token)[0] == status
    assert ask(hub, f"/api/models/{REPO}/xet-read-token/nowhere")[1]["X-Error-Code"] == "RevisionNotFound"


def test_a_commit_of_bytes_that_never_came_is_refused(hub):
    file = {"key": "lfsFile", "value": {"path": "a.bin", "algo": "sha256", "oid": "0" * 64, "size": 3}}
    lines = json.dumps({"key": "header", "value": {"summary": "s"}}) + "\n" + json.dumps(file)
    path = f"/api/models/{REPO}/commit/main"
    status, _, answer = ask(hub, path, "practice-write", lines.encode(), kind="application/x-ndjson")
    assert status == 400 and "a.bin" in answer["error"] and "a.bin" not in hub.files(REPO)


# --- the formats -------------------------------------------------------------------------------------------


def digest(number):
    """A hash made of a number, as bytes and as Xet writes it."""
    return struct.pack("<4Q", number, 0, 0, 0), f"{number:016x}" + "0" * 48


def packed(scheme, data):
    """A chunk in a xorb; scheme 2 sorts the bytes by their place in a word first."""
    body = b"".join(data[part::4] for part in range(4)) if scheme == 2 else data
    body = pyarrow.compress(body, codec="lz4", asbytes=True) if scheme else body
    return b"\0" + len(body).to_bytes(3, "little") + bytes([scheme]) + len(data).to_bytes(3, "little") + body


def shard_of(name, data, terms):
    """A shard with one file."""
    sha256 = struct.pack("<4Q", *struct.unpack(">4Q", hashlib.sha256(data).digest()))
    head = SHARD_HEAD.pack(SHARD_TAG, 2, 0) + ENTRY.pack(name, HAS_SHA256, len(terms), 0, 0)
    terms = b"".join(ENTRY.pack(xorb, 0, 0, *span) for xorb, *span in terms)
    return head + terms + ENTRY.pack(sha256, 0, 0, 0, 0) + BOOKEND + BOOKEND


@pytest.fixture
def storage(hub):
    return XetStorage(hub.folder / "other", hub.store)


@pytest.fixture
def made(storage):
    """A file of five terms over two xorbs, every compression and size modulo 4 among its chunks: (name, data)."""
    random.seed(0)
    chunks = [random.randbytes(50) * 4 + bytes(number) for number in range(12)]
    (one, one_name), (two, two_name), (name, name_text) = digest(1), digest(2), digest(3)
    for xorb, number in ((one_name, 0), (two_name, 6)):
        data = b"".join(packed(index % 3, chunk) for index, chunk in enumerate(chunks[number : number + 6], number))
        assert storage.add_xorb(xorb, data + b"XETBLOB and what else a footer holds")
    terms = [(one, 0, 6), (two, 1, 3), (one, 2, 3), (two, 0, 6), (two, 5, 6)]
    data = b"".join(chunk for xorb, start, end in terms for chunk in chunks[6 * (xorb == two) :][start:end])
    storage.add_shard(shard_of(name, data, terms))
    return name_text, data


def test_every_compression_is_unpacked_and_the_file_kept(storage, made, hub):
    name, data = made
    sha256 = hashlib.sha256(data).hexdigest()
    assert storage.hashes == {sha256: name} and hub.object_path(sha256).read_bytes() == data
    xorb = digest(1)[1]
    assert not storage.add_xorb(xorb, b"something else") and storage.xorb_path(xorb).read_bytes()[:1] == b"\0"


def unpacked(raw):
    """The chunks of a xorb, or of a part of it."""
    while raw:
        end = 8 + int.from_bytes(raw[1:4], "little")
        yield _unpack(raw[:end], int.from_bytes(raw[5:8], "little"))
        raw = raw[end:]


@pytest.mark.parametrize("version", [1, 2])
def test_a_range_is_made_of_the_chunks_that_it_touches(storage, made, version):
    name, data = made
    size = len(data)
    ranges = [(0, None), (0, 0), (size - 1, None), (0, 10 * size), (200, 200), (201, 1000)]
    ranges += [tuple(sorted(random.choices(range(size), k=2))) for _ in range(50)]
    for first, last in ranges:
        answer, found = storage.reconstruction(name, "at/", first, last), []
        for term in answer["terms"]:
            xorb = term["hash"]
            fetches = [(fetch["url"], fetch["range"], fetch["url_range"]) for fetch in answer["fetch_info"][xorb]]
            if version == 2:
                fetches = [(f["url"], r["chunks"], r["bytes"]) for f in answer["xorbs"][xorb] for r in f["ranges"]]
            url, span = next((url, span) for url, covered, span in fetches if covered == term["range"])
            chunks = list(unpacked(storage.xorb_path(xorb).read_bytes()[span["start"] : span["end"] + 1]))
            assert url == f"at/{xorb}" and len(chunks) == term["range"]["end"] - term["range"]["start"]
            assert sum(map(len, chunks)) == term["unpacked_length"]
            found += chunks
        offset, length = answer["offset_into_first_range"], size if last is None else last + 1 - first
        assert offset < len(found[0]) and b"".join(found)[offset:][:length] == data[first:][:length]
    with pytest.raises(HubError, match=f"{size} bytes") as error:
        storage.reconstruction(name, "at/", size)
    assert error.value.status == 416


@pytest.mark.parametrize(
    ("xorb", "why"),
    [
        (None, "No such file"),
        (b"", "sha256"),
        (packed(0, b"right"), None),
        (packed(0, b"wrong"), "sha256"),
        (packed(1, b"right")[:-9], "[Ll][Zz]4"),
        (packed(0, b"right").replace(b"\0\x05\0\0\0", b"\0\x05\0\0\x07"), "compression 7"),
    ],
    ids=["never sent", "empty", "right", "wrong", "truncated", "unknown compression"],
)
def test_chunks_that_do_not_make_up_the_file_are_refused_and_forgotten(storage, xorb, why):
    (part, part_name), (name, _) = digest(1), digest(2)
    if xorb is not None:
        storage.add_xorb(part_name, xorb)
    shard = shard_of(name, b"right", [(part, 0, 1)])
    if why is None:
        storage.add_shard(shard)
    else:
        with pytest.raises(HubError, match=why):
            storage.add_shard(shard)
    assert storage.xorb_path(part_name).exists() == bool(storage.hashes) == (why is None)


def test_what_is_no_shard_is_refused(storage):
    shard = shard_of(digest(1)[0], b"", [])
    storage.add_shard(shard)
    without = shard.replace(struct.pack("<2I", HAS_SHA256, 0), bytes(8))
    for wrong in (b"", b"x" * 200, shard[:-100], shard.replace(b"\x02", b"\x03", 1), without):
        with pytest.raises(HubError, match="Not a shard"):
            storage.add_shard(wrong)
