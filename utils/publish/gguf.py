"""Writes a Llama as one GGUF file, the form that llama.cpp and Ollama read, and reads it back to prove nothing lost.

As llama.cpp's own converter does it: its names for the tensors, norms in 32 bits, everything else in the bits it has,
and the rows of the query and key projections in the other order of their rotary embedding. Left out: quantising, which
is `llama-quantize`'s, other architectures, tokenizers other than Llama 3's, and the scaled rotary embedding of 3.1.
"""

import json
import logging
import math
from contextlib import ExitStack, contextmanager
from pathlib import Path

# How Llama 3 cuts text before it looks for tokens; llama.cpp knows it by the name llama-bpe.
LLAMA_3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
KINDS = {"BF16": "MOSTLY_BF16", "F16": "MOSTLY_F16", "F32": "ALL_F32"}  # of weights, and llama.cpp's names for a file


def gguf_problem(folder) -> str | None:
    """Say why the model of a folder cannot be written here, or return `None` if it can."""
    try:
        _read_model(Path(folder))
    except (ValueError, FileNotFoundError) as error:
        return str(error)


def write_gguf(folder, path) -> Path:
    """Write the model of a folder, with its tokenizer and chat template, as one GGUF file; holds one tensor at a time.

    The name of the file without `.gguf` is the model's.

    Raises:
        ValueError: for another architecture, a scaled rotary embedding, a bias or another tokenizer, naming it.
        FileNotFoundError: if the folder has no configuration.
    """
    import gguf

    folder, path = Path(folder), Path(path)
    settings, tokenizer = _read_model(folder)
    writer = gguf.GGUFWriter(path, "llama")
    with _tensors(folder, settings) as tensors:
        _describe(writer, path.stem, settings, {entry.kind for entry in tensors.values() if entry.matrix})
        _add_tokenizer(writer, folder, settings, tokenizer)
        for name, entry in tensors.items():
            size = entry.numel * entry.bits.itemsize
            writer.add_tensor_info(name, entry.shape, entry.bits, size, raw_dtype=entry.target)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in tensors.values():
            writer.write_tensor_data(entry.read())
    writer.close()
    return path


def read_gguf(folder, path) -> dict:
    """Read a GGUF file with the `gguf` package's reader, and compare every tensor and token with the folder it is of.

    It undoes the order of rows that `write_gguf` made, so it proves that nothing was lost, not that the order is
    llama.cpp's: in `tests/publish/test_gguf.py`, llama.cpp itself reads the file and answers.

    Returns:
        `{"tensors": number, "weights": number, "tokens": number, "metadata": {key: value}}`; metadata without lists.

    Raises:
        ValueError: naming the tensors that are missing, too many or not equal, or saying that the tokens differ.
    """
    import gguf
    import numpy

    folder = Path(folder)
    settings, tokenizer = _read_model(folder)
    reader = gguf.GGUFReader(path)
    found = {tensor.name: tensor for tensor in reader.tensors}
    with _tensors(folder, settings) as tensors:
        wrong = sorted(found.keys() ^ tensors.keys())
        for name in found.keys() & tensors.keys():
            entry, data = tensors[name], found[name].data.reshape(-1)
            same = found[name].tensor_type == entry.target and data.nbytes == entry.numel * entry.bits.itemsize
            if same:
                same = numpy.array_equal(entry.undo(data.view(entry.bits).reshape(entry.shape)), entry.source())
            if not same:
                wrong.append(name)
        if wrong:
            raise ValueError(f"{path} does not hold the model of {folder}: {', '.join(wrong)}. Write it again.")
        weights = sum(entry.numel for entry in tensors.values())
    metadata = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    if metadata.get("tokenizer.ggml.tokens") != [text for text, _ in _tokens(tokenizer, settings["vocab_size"])]:
        raise ValueError(f"{path} does not hold the tokens of {folder}. Write it again.")
    plain = {key: value for key, value in metadata.items() if not isinstance(value, list)}
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


class _Tensor:
    """One tensor of the model: where it comes from, and how it goes into the file."""

    def __init__(self, file, name: str, heads: int | None):
        import gguf
        import numpy

        view = file.get_slice(name)  # which reads no weights yet
        self.file, self.name, self.heads = file, name, heads
        self.kind, self.shape = view.get_dtype(), tuple(view.get_shape())
        if self.kind not in KINDS:
            raise ValueError(f"{name} is stored as {self.kind}: save the model in bf16, as notebook 05 does.")
        self.matrix = len(self.shape) > 1
        self.target = gguf.GGMLQuantizationType[self.kind if self.matrix else "F32"]
        self.bits = numpy.dtype("uint32" if self.target.name == "F32" else "uint16")  # numpy knows no bf16
        self.numel = math.prod(self.shape)

    def source(self):
        """Return the bits that the file should give back, as integers."""
        import torch

        tensor = self.file.get_tensor(self.name)
        tensor = tensor if self.matrix else tensor.float()
        return tensor.view(getattr(torch, self.bits.name)).numpy()

    def read(self):
        """Return what is written: rows of a query or key head go from (two halves) to (neighbouring pairs)."""
        import numpy

        return numpy.ascontiguousarray(self._swap(self.source(), 2, -1))

    def undo(self, data):
        """Return the rows in the order of transformers again."""
        return self._swap(data, -1, 2)

    def _swap(self, data, outer: int, inner: int):
        if not self.heads:
            return data
        return data.reshape(self.heads, outer, inner, data.shape[1]).swapaxes(1, 2).reshape(data.shape)


@contextmanager
def _tensors(folder: Path, settings: dict):
    """Yield the tensors of a folder under llama.cpp's names, as `_Tensor`, without loading them."""
    import gguf
    from safetensors import safe_open

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, settings["num_hidden_layers"])
    heads = {"q_proj": settings["num_attention_heads"], "k_proj": settings["num_key_value_heads"]}
    with ExitStack() as stack:
        found = {}
        for shard in sorted(folder.glob("model*.safetensors")):
            file = stack.enter_context(safe_open(shard, "pt"))
            for name in file.keys():
                new = names.get_name(name, try_suffixes=(".weight",))
                if new is None:
                    raise ValueError(f"{name} of {folder} has no place in a llama GGUF: use convert_hf_to_gguf.py.")
                found[new] = _Tensor(file, name, heads.get(name.split(".")[-2]))
        if not found:
            raise FileNotFoundError(f"There is no model*.safetensors in {folder}: run notebook 05 first.")
        yield found


def _read_model(folder: Path) -> tuple[dict, dict]:
    """Return configuration and tokenizer of a folder, if they are of a Llama that this file knows how to write."""
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"There is no config.json in {folder}: run notebook 05 first, or name its folder.")
    settings = json.loads((folder / "config.json").read_text())
    rope = settings.get("rope_parameters") or {"rope_theta": settings.get("rope_theta", 10000.0)}
    scaled = (settings.get("rope_scaling") or rope).get("rope_type", "default") != "default"
    tool = "use llama.cpp's convert_hf_to_gguf.py."
    if settings.get("architectures") != ["LlamaForCausalLM"]:
        raise ValueError(f"{folder} holds a {settings.get('architectures')}, and only Llama is written here: {tool}")
    if scaled or settings.get("attention_bias") or settings.get("mlp_bias"):
        raise ValueError(f"{folder} has a scaled rotary embedding or a bias, which is not written here: {tool}")
    settings["rope_theta"] = rope["rope_theta"]
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    cut = tokenizer.get("pre_tokenizer") or {}
    words = [part.get("pattern", {}).get("Regex") for part in cut.get("pretokenizers", [])]
    if tokenizer["model"]["type"] != "BPE" or LLAMA_3_WORDS not in words:
        raise ValueError(f"The tokenizer of {folder} is not Llama 3's (byte-level BPE, llama-bpe): {tool}")
    return settings, tokenizer


def _describe(writer, name: str, settings: dict, kinds: set[str]) -> None:
    import gguf

    head = settings.get("head_dim") or settings["hidden_size"] // settings["num_attention_heads"]
    kind = KINDS[kinds.pop()] if len(kinds) == 1 else "GUESSED"
    writer.add_type("model")
    writer.add_name(name)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType[kind])
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


def _add_tokenizer(writer, folder: Path, settings: dict, tokenizer: dict) -> None:
    import gguf

    logging.getLogger("gguf.vocab").setLevel(logging.ERROR)  # it wonders about pairs of texts, which a chat has none of
    texts, kinds = zip(*_tokens(tokenizer, settings["vocab_size"]), strict=True)
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name for byte-level BPE
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(list(texts))
    writer.add_token_types(list(kinds))
    gguf.SpecialVocab(folder, load_merges=True, n_vocab=len(texts)).add_to_gguf(writer, quiet=True)
