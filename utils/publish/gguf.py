"""Writes a Llama as one GGUF file, the form that llama.cpp and Ollama read, and reads it back to prove nothing lost.

As llama.cpp's own converter does it: its names for the tensors, norms in 32 bits, everything else in the bits it has,
and the rows of the query and key projections in the other order of their rotary embedding. Left out: quantising, which
is `llama-quantize`'s, other architectures, tokenizers other than Llama 3's, and the scaled rotary embedding of 3.1.
"""

import json
import logging
from pathlib import Path
from typing import NamedTuple

# How Llama 3 cuts text before it looks for tokens; llama.cpp knows it by the name llama-bpe.
LLAMA_3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
OTHER_TOOL = "use llama.cpp's convert_hf_to_gguf.py."
FORMATS = {"torch.bfloat16": "BF16", "torch.float16": "F16", "torch.float32": "F32"}  # as llama.cpp calls them


def gguf_problem(folder) -> str | None:
    """Say why the model of a folder cannot be written here, or return `None` if it can."""
    try:
        _read_model(Path(folder))
    except (ValueError, FileNotFoundError) as error:
        return str(error)


def write_gguf(folder, path) -> Path:
    """Write the model of a folder, with its tokenizer and chat template, as one GGUF file, named like the model.

    The weights stay on the disk, but for the query and key projections. Raises `ValueError` for what it cannot write.
    """
    import gguf

    folder, path = Path(folder), Path(path)
    settings, tokenizer = _read_model(folder)
    tensors = _tensors(folder, settings)
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, path.stem, settings)
    _describe_tokenizer(writer, folder, _tokens(tokenizer, settings["vocab_size"]))
    most = tensors["token_embd.weight"].kind
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if most == "F32" else f"MOSTLY_{most}"])
    for name, it in tensors.items():  # llama.cpp has the rows of a head as neighbouring pairs, not as two halves
        bits = _as_integers(_swap(it.tensor, it.heads, 2, -1)).numpy()
        writer.add_tensor(name, bits, raw_dtype=gguf.GGMLQuantizationType[it.kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_gguf(folder, path) -> dict:
    """Read a GGUF file with the `gguf` package's reader, and compare every tensor and token with the folder it is of.

    It undoes the order of rows that `write_gguf` made, so it proves that nothing was lost, not that the order is
    llama.cpp's: in `tests/publish/test_gguf.py`, llama.cpp itself reads the file and answers. Returns the numbers of
    `tensors`, `weights` and `tokens`, and the `metadata` without lists. Raises `ValueError` naming what differs.
    """
    import gguf
    import torch

    folder = Path(folder)
    settings, tokenizer = _read_model(folder)
    reader = gguf.GGUFReader(path)
    found = {entry.name: entry for entry in reader.tensors}
    tensors = _tensors(folder, settings)
    wrong = sorted(found.keys() ^ tensors.keys())
    for name in found.keys() & tensors.keys():
        it = tensors[name]
        same = found[name].tensor_type.name == it.kind and found[name].n_bytes == it.tensor.nbytes
        if same:
            read = torch.tensor(found[name].data.view("uint8")).view(it.tensor.dtype).reshape(it.tensor.shape)
            same = torch.equal(_as_integers(_swap(read, it.heads, -1, 2)), _as_integers(it.tensor))
        if not same:
            wrong.append(name)
    if wrong:
        raise ValueError(f"{path} does not hold the model of {folder}: {', '.join(wrong)}. Write it again.")
    metadata = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    if metadata.get("tokenizer.ggml.tokens") != [text for text, _ in _tokens(tokenizer, settings["vocab_size"])]:
        raise ValueError(f"{path} does not hold the tokens of {folder}. Write it again.")
    plain = {key: value for key, value in metadata.items() if not isinstance(value, list)}
    weights = sum(it.tensor.numel() for it in tensors.values())
    return {"tensors": len(found), "weights": weights, "tokens": settings["vocab_size"], "metadata": plain}


def modelfile(gguf_name: str, tokenizer, window: int) -> str:
    """Write Ollama's Modelfile: the file, the course's chat template in Ollama's language, and where an answer ends.

    The begin token is left to llama.cpp, which the GGUF file tells to add it.
    """
    end = tokenizer.eos_token
    turn = "<|im_start|>{{ .Role }}\n{{ .Content }}" + end + "\n"
    template = "{{ range .Messages }}" + turn + "{{ end }}<|im_start|>assistant\n"
    lines = [f"FROM ./{gguf_name}", f'TEMPLATE """{template}"""', f'PARAMETER stop "{end}"']
    return "\n".join([*lines, f"PARAMETER num_ctx {window}", "PARAMETER temperature 0", ""])


def _read_model(folder: Path) -> tuple[dict, dict]:
    """Return configuration and tokenizer of a folder, if they are of a Llama that this file knows how to write."""
    settings = json.loads((folder / "config.json").read_text())
    rope = settings.get("rope_parameters") or {"rope_theta": settings.get("rope_theta", 10000.0)}
    scaled = (settings.get("rope_scaling") or rope).get("rope_type", "default") != "default"
    if settings.get("architectures") != ["LlamaForCausalLM"]:
        raise ValueError(
            f"{folder} holds a {settings.get('architectures')}, and only Llama is written here: {OTHER_TOOL}"
        )
    if scaled or settings.get("attention_bias") or settings.get("mlp_bias"):
        raise ValueError(f"{folder} has a scaled rotary embedding or a bias, which is not written here: {OTHER_TOOL}")
    settings["rope_theta"] = rope["rope_theta"]
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    cut = tokenizer.get("pre_tokenizer") or {}
    words = [part.get("pattern", {}).get("Regex") for part in cut.get("pretokenizers", [])]
    if tokenizer["model"]["type"] != "BPE" or LLAMA_3_WORDS not in words:
        raise ValueError(f"The tokenizer of {folder} is not Llama 3's (byte-level BPE, llama-bpe): {OTHER_TOOL}")
    return settings, tokenizer


class _Tensor(NamedTuple):
    tensor: object  # mapped from its file, not loaded; norms in 32 bits
    heads: int | None  # whose rows change their order
    kind: str  # of `FORMATS`


def _tensors(folder: Path, settings: dict) -> dict[str, _Tensor]:
    """Return the tensors of a folder under llama.cpp's names."""
    import gguf
    from safetensors import safe_open

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, settings["num_hidden_layers"])
    heads = {"q_proj": settings["num_attention_heads"], "k_proj": settings["num_key_value_heads"]}
    found = {}
    for shard in sorted(folder.glob("model*.safetensors")):
        with safe_open(shard, "pt") as file:
            for name in file.keys():
                new, tensor = names.get_name(name, try_suffixes=(".weight",)), file.get_tensor(name)
                if tensor.dim() == 1:
                    tensor = tensor.float()
                kind = FORMATS.get(str(tensor.dtype))
                if new is None or kind is None:
                    raise ValueError(f"{name} of {folder}, {tensor.dtype}, has no place here: {OTHER_TOOL}")
                found[new] = _Tensor(tensor, heads.get(name.split(".")[-2]), kind)
    return found


def _swap(tensor, heads: int | None, outer: int, inner: int):
    """Swap the two numbers that count the rows within each head; a tensor without heads stays as it is."""
    if heads is None:
        return tensor
    return tensor.view(heads, outer, inner, tensor.shape[-1]).transpose(1, 2).reshape(tensor.shape)


def _as_integers(tensor):
    """Return the same bits as integers: numpy knows no bfloat16, and equal bits are more than equal numbers."""
    import torch

    return tensor.view(torch.int32 if tensor.itemsize == 4 else torch.int16)


def _describe(writer, name: str, settings: dict) -> None:
    head = settings.get("head_dim") or settings["hidden_size"] // settings["num_attention_heads"]
    writer.add_type("model")
    writer.add_name(name)
    writer.add_vocab_size(settings["vocab_size"])
    writer.add_context_length(settings["max_position_embeddings"])
    writer.add_embedding_length(settings["hidden_size"])
    writer.add_block_count(settings["num_hidden_layers"])
    writer.add_feed_forward_length(settings["intermediate_size"])
    writer.add_head_count(settings["num_attention_heads"])
    writer.add_head_count_kv(settings["num_key_value_heads"])
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(settings["rope_theta"])
    writer.add_layer_norm_rms_eps(settings["rms_norm_eps"])


def _tokens(tokenizer: dict, rows: int) -> list[tuple[str, int]]:
    """List (text, llama.cpp's type) of every row of the embeddings; rows without a token are marked unused."""
    from gguf import TokenType

    found = {i: (text, TokenType.NORMAL) for text, i in tokenizer["model"]["vocab"].items()}
    for token in tokenizer["added_tokens"]:
        kind = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        found[token["id"]] = (token["content"], kind)
    return [found.get(i, (f"[PAD{i}]", TokenType.UNUSED)) for i in range(rows)]


def _describe_tokenizer(writer, folder: Path, tokens: list[tuple[str, int]]) -> None:
    import gguf

    logging.getLogger("gguf.vocab").setLevel(logging.ERROR)  # it wonders about pairs of texts, which a chat has none of
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name for byte-level BPE
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    gguf.SpecialVocab(folder, load_merges=True, n_vocab=len(tokens)).add_to_gguf(writer, quiet=True)
