"""The GGUF file: written, read back equal, and read by code that is not ours."""

import json
import re
import shutil
import subprocess
import sys

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from utils.publish import gguf as gguf_files

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is two?"},
    {"role": "assistant", "content": "A number."},
    {"role": "user", "content": "Its double? Héllo 12345!"},
]


def load(folder, dtype=torch.float32, **options):
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, **options
    )


@pytest.fixture(scope="module")
def folder(small_base, tokenizer, tmp_path_factory):
    """The small base in bf16, in shards, with the course's template, as notebook 05 leaves a merged model."""
    model = load(small_base, torch.bfloat16)
    target = tmp_path_factory.mktemp("gguf") / "merged"
    model.save_pretrained(target, max_shard_size="1MB")
    tokenizer.save_pretrained(target)
    assert len(list(target.glob("model*.safetensors"))) > 1
    return target


@pytest.fixture(scope="module")
def written(folder):
    return gguf_files.write_gguf(folder, folder.parent / "Llama-3-8B-ORPO.gguf")


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the folder whose config.json or tokenizer.json a test changes."""
    target = tmp_path / "copy"
    shutil.copytree(folder, target)

    def change(name, **values):
        path = target / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        return target

    return change


def test_every_tensor_token_and_setting_is_read_back_equal(folder, written, tokenizer):
    proof, model = gguf_files.read_gguf(folder, written), load(folder)
    assert proof["weights"] == model.num_parameters() and proof["tensors"] == len(model.state_dict())
    assert proof["tokens"] == model.config.vocab_size
    metadata = proof["metadata"]
    assert metadata["general.architecture"] == "llama" and metadata["general.name"] == "Llama-3-8B-ORPO"
    assert metadata["llama.rope.freq_base"] == model.config.rope_parameters["rope_theta"]
    assert metadata["general.file_type"] == gguf.LlamaFileType.MOSTLY_BF16
    assert metadata["tokenizer.ggml.pre"] == "llama-bpe"
    assert metadata["tokenizer.chat_template"] == tokenizer.chat_template
    assert metadata["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert metadata["tokenizer.ggml.padding_token_id"] == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert metadata["tokenizer.ggml.add_bos_token"] is True
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    fields = gguf.GGUFReader(written).fields
    assert fields["tokenizer.ggml.merges"].contents() == [" ".join(pair) for pair in merges]


def test_transformers_reads_the_file_as_the_same_model(folder, written):
    """Its own reader knows names and order from llama.cpp, and not from us."""
    again, model = load(written.parent, gguf_file=written.name), load(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    inputs = tokenizer.apply_chat_template(TALK, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def test_llama_cpp_reads_the_file_and_answers_the_same(folder, written):
    """llama.cpp itself, in a process of its own."""
    script = f"""
import json, xllamacpp
given = xllamacpp.CommonParams()
given.model.path, given.n_ctx, given.n_parallel, given.cpuparams.n_threads = {str(written)!r}, 1024, 1, 1
server = xllamacpp.Server(given)
asked = dict(messages={TALK!r}, temperature=0, max_tokens=24)
print("ANSWER " + json.dumps(server.handle_chat_completions(asked)))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr[-2000:]
    reply = json.loads(re.search(r"^ANSWER (.*)$", run.stdout, re.MULTILINE)[1])
    model, tokenizer = load(folder), AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    inputs = tokenizer.apply_chat_template(TALK, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    length = inputs["input_ids"].shape[1]
    output = model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, length:]
    assert reply["usage"]["prompt_tokens"] == length
    answer = reply["choices"][0]["message"]["content"]
    assert answer.strip() == tokenizer.decode(output, skip_special_tokens=True).strip()


def test_a_single_changed_weight_is_noticed(folder, written, tmp_path):
    spoilt = tmp_path / "spoilt.gguf"
    shutil.copy(written, spoilt)
    (tensor,) = [it for it in gguf.GGUFReader(spoilt).tensors if it.name == "blk.1.attn_q.weight"]
    with open(spoilt, "r+b") as file:
        file.seek(tensor.data_offset + 11)
        byte = file.read(1)[0]
        file.seek(tensor.data_offset + 11)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(ValueError, match=r"does not hold the model of .*: blk\.1\.attn_q\.weight\. Write it again"):
        gguf_files.read_gguf(folder, spoilt)


def test_a_missing_tensor_and_other_tokens_are_noticed(copy, written):
    target = copy("config.json")
    text = (target / "tokenizer.json").read_text()
    (target / "tokenizer.json").write_text(text.replace("<|reserved_special_token_7|>", "<|another|>"))
    with pytest.raises(ValueError, match="does not hold the tokens"):
        gguf_files.read_gguf(target, written)
    shard = sorted(target.glob("model*.safetensors"))[-1]
    weights = load_file(shard)
    weights.pop("model.norm.weight")
    save_file(weights, shard, {"format": "pt"})
    with pytest.raises(ValueError, match="output_norm.weight"):
        gguf_files.read_gguf(target, written)


def test_what_it_does_not_know_is_refused_with_what_to_do(folder, copy, tmp_path):
    assert gguf_files.gguf_problem(folder) is None
    for file, values, sentence in [
        ("config.json", {"rope_scaling": {"rope_type": "llama3"}}, "scaled rotary embedding or a bias"),
        ("config.json", {"rope_scaling": None, "attention_bias": True}, "scaled rotary embedding or a bias"),
        ("config.json", {"architectures": ["Qwen2ForCausalLM"]}, "holds a .*Qwen2ForCausalLM.*only Llama"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "ByteLevel"}}, "is not Llama 3's"),
    ]:
        if file == "tokenizer.json":
            copy("config.json", architectures=["LlamaForCausalLM"], attention_bias=False)
        target = copy(file, **values)
        assert "convert_hf_to_gguf.py" in gguf_files.gguf_problem(target)
        with pytest.raises(ValueError, match=sentence):
            gguf_files.write_gguf(target, tmp_path / "none.gguf")
        assert not (tmp_path / "none.gguf").exists()


def test_rows_without_a_token_are_marked_unused(copy, tmp_path):
    target = copy("config.json")
    vocabulary = json.loads((target / "tokenizer.json").read_text())
    vocabulary["added_tokens"].pop()
    (target / "tokenizer.json").write_text(json.dumps(vocabulary))
    gguf_files.write_gguf(target, tmp_path / "padded.gguf")
    fields = gguf.GGUFReader(tmp_path / "padded.gguf").fields
    rows = json.loads((target / "config.json").read_text())["vocab_size"]
    assert fields["tokenizer.ggml.tokens"].contents()[-1] == f"[PAD{rows - 1}]"
    assert fields["tokenizer.ggml.token_type"].contents()[-1] == gguf.TokenType.UNUSED
    assert fields["tokenizer.ggml.token_type"].contents()[-2] == gguf.TokenType.CONTROL


def test_the_modelfile_asks_as_the_chat_template_does(tokenizer):
    """Ollama's template, filled in by hand, is the prompt without its begin token."""
    text = gguf_files.modelfile("m.gguf", tokenizer, 8192)
    template = re.search(r'TEMPLATE """(.*)"""', text, re.DOTALL)[1]
    before, turn, after = re.fullmatch(r"(.*){{ range \.Messages }}(.*){{ end }}(.*)", template, re.DOTALL).groups()
    turns = [turn.replace("{{ .Role }}", it["role"]).replace("{{ .Content }}", it["content"]) for it in TALK]
    prompt = tokenizer.apply_chat_template(TALK, add_generation_prompt=True, tokenize=False)
    assert tokenizer.bos_token + before + "".join(turns) + after == prompt
    assert text.startswith("FROM ./m.gguf\n") and f'PARAMETER stop "{tokenizer.eos_token}"' in text
