"""What is known of a base before it is loaded: the Hub's word, its layers, and whether its files are whole."""

import json
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, T5Config

from utils import hub as hub_access
from utils.practice import stand_ins
from utils.train import base as bases
from utils.train import model_loading


def edit_config(**changes):
    """A change for `put`: other values in config.json."""

    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def test_a_base_is_described_before_it_is_downloaded(hub):
    before = len(hub.requests)
    base = bases.describe_base(stand_ins.BASE_MODEL)
    size = hub.files(stand_ins.BASE_MODEL)["model.safetensors"]["size"] / 1e9
    assert base.commit == hub_access.describe_repository(stand_ins.BASE_MODEL).commit
    assert (base.host, base.licence, base.gate) == ("practice hub at 127.0.0.1", "llama3", "not gated")
    assert base.may_download and base.trouble is None and base.skeleton.config.model_type == "llama"
    assert base.size_gb == pytest.approx(size)
    read = [path for method, path, _ in hub.requests[before:] if "/resolve/" in path and method == "GET"]
    assert all(path.endswith("config.json") for path in read)


def test_pickles_are_no_weights(put):
    def pickled(folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    put("learner/pickled", pickled)
    base = bases.describe_base("learner/pickled")
    assert base.size_gb == base.download_gb == 0 and base.trouble is None


def test_fault_a_gated_base_names_the_page_and_the_mirror(hub, put):
    repo = "meta-llama/Meta-Llama-3-8B"
    put(repo, lambda folder: (folder / "README.md").write_text("---\nlicense: llama3\n---\n"), gated=True)
    for token in (None, "practice-read"):
        base = bases.describe_base(repo, token=token)
        assert not base.may_download and "no access" in base.gate and base.skeleton is None
        assert f"{hub.url}/{repo}" in base.trouble and "NousResearch/Meta-Llama-3-8B" in base.trouble
    assert base.licence == "llama3" and len(base.commit) == 40
    hub.accept(repo, "learner")
    base = bases.describe_base(repo, token="practice-read")
    assert base.may_download and base.gate == "gated, and you have access" and base.skeleton is not None
    assert not bases.describe_base(repo).may_download


def test_fault_a_base_with_code_is_refused_and_nothing_runs(put, tmp_path):
    ran = tmp_path / "ran"

    def with_code(folder):
        code = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.EvilModel"}
        edit_config(model_type="evil", auto_map=code)(folder)
        (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').write('it ran')\n")

    put("learner/with-code", with_code)
    base = bases.describe_base("learner/with-code")
    assert base.skeleton is None and "brings code of its own" in base.trouble and not ran.exists()


@pytest.mark.parametrize(
    "name, change, trouble",
    [
        ("learner/unknown", edit_config(model_type="llama-17"), "an architecture that transformers knows"),
        (
            "learner/no-config",
            lambda folder: (folder / "config.json").unlink(),
            "an architecture that transformers knows",
        ),
        ("learner/t5", lambda folder: T5Config().save_pretrained(folder), "a t5 is not a causal language model"),
        ("learner/torn", lambda folder: (folder / "config.json").write_text('{"model'), "config.json cannot be read"),
    ],
    ids=["unknown architecture", "no configuration", "no causal model", "no JSON"],
)
def test_a_base_that_cannot_be_read_says_why(put, name, change, trouble):
    put(name, change)
    base = bases.describe_base(name)
    assert base.skeleton is None and trouble in base.trouble


# --- before loading --------------------------------------------------------------------------------------------


def test_a_skeleton_has_the_layers_and_no_weights(small_base):
    model = bases.skeleton(AutoConfig.from_pretrained(small_base))
    assert all(weight.device.type == "meta" for weight in model.parameters())
    assert model.num_parameters() == AutoModelForCausalLM.from_pretrained(small_base).num_parameters()
    names = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
    assert (bases.context_length(model), bases.linear_layers(model)) == (
        8192,
        names,
    )  # neither the head nor the embeddings


def test_a_model_that_does_not_continue_text_is_refused():
    with pytest.raises(ValueError, match="a t5 is not a causal language model"):
        bases.skeleton(T5Config())


@pytest.fixture
def base_of_its_own(hub, small_base, tmp_path):
    """A repository with the small base that a test may break, and its folder."""
    folder = tmp_path / "base"
    shutil.copytree(small_base, folder)
    hub.add_repo("learner/breakable", exist_ok=True)

    def publish() -> str:
        return hub.commit_folder("learner/breakable", folder)

    return folder, publish


def test_fault_a_bit_flipped_on_the_way_down_is_found_and_mended_by_a_second_run(hub, base_of_its_own):
    folder, publish = base_of_its_own
    with open(folder / "model.safetensors", "r+b") as file:  # other weights: not in the cache yet
        file.seek(-1, 2)
        file.write(b"\x01")
    commit = publish()
    hub.inject("model.safetensors", flip=True, method="GET")
    with pytest.raises(ValueError, match="model.safetensors of learner/breakable did not arrive as the Hub lists it"):
        bases.fetch_base("learner/breakable", commit)
    fetched = bases.fetch_base("learner/breakable", commit)
    assert (fetched / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("local", [False, True])
def test_fault_truncated_weights_are_named(base_of_its_own, local):
    folder, publish = base_of_its_own
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    name, commit = (str(folder), None) if local else ("learner/breakable", publish())
    with pytest.raises(
        ValueError, match="model.safetensors of .* is truncated or damaged where it comes from"
    ) as error:
        bases.fetch_base(name, commit)
    assert type(error.value.__cause__).__name__ == "SafetensorError"


def test_a_whole_base_is_fetched_without_its_pickles(hub, base_of_its_own):
    folder, publish = base_of_its_own
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    fetched = bases.fetch_base("learner/breakable", publish())
    assert (fetched / "tokenizer.json").exists() and not (fetched / "pytorch_model.bin").exists()
    assert bases.fetch_base(str(folder), None) == folder
    commit = hub_access.describe_repository(stand_ins.BASE_MODEL).commit
    model_loading.load_base(str(bases.fetch_base(stand_ins.BASE_MODEL, commit)), torch.float32)
