"""Small models and data sets that stand in for the real ones where no Hub can be reached.

Everything is made by code from a seed: tiny models with tokenizers like the real ones', pre-trained for well under a
minute on the text of `small_world`, and data sets in the real schemas, whose rows come from it too, from
`source_stand_ins` and from `benchmark_stand_ins`. The practice hub serves them under the real repositories' names;
`small_base` builds the same model for any notebook, online or offline.

Left out: any claim about quality. A stand-in proves that the path works, not that the method wins.
"""

import hashlib
import json
import os
import shutil
from functools import partial
from pathlib import Path

from utils.practice import benchmark_rows as benchmark_stand_ins
from utils.practice import rows as source_stand_ins
from utils.practice.benchmark_rows import BENCHMARKS
from utils.practice.rows import SOURCES, STACK_EXCHANGE, TRUTHY_DPO
from utils.practice.small_world import END_TOKEN, preference_pairs, pretraining_text

BASE_MODEL = "NousResearch/Meta-Llama-3-8B"
PHI = "microsoft/phi-2"
QWEN = "Qwen/Qwen2.5-0.5B"
LLAMA_2 = "NousResearch/Llama-2-7b-hf"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M"
ORPO_MIX = "mlabonne/orpo-dpo-mix-40k"
DPO_MIX = "argilla/dpo-mix-7k"
HH_RLHF = "Anthropic/hh-rlhf"
# What the series asks for by itself; the others are there to be chosen.
COURSE = (BASE_MODEL, SMOLLM2, ORPO_MIX, DPO_MIX, *(name for name in SOURCES if name != STACK_EXCHANGE), *BENCHMARKS)


def _version(*modules: str) -> str:
    code = b"".join((Path(__file__).parent / f"{name}.py").read_bytes() for name in modules)
    return hashlib.sha256(code).hexdigest()[:10]


# The cache is keyed by the text of the code, so a change of the stand-ins is never masked by old ones. Models, which
# take half a minute each, are not built again for a change of the rows.
VERSION = _version("stand_ins", "small_world")
DATA_VERSION = _version("stand_ins", "small_world", "rows", "benchmark_rows")

# How a tokenizer cuts text into words, numbers, punctuation and white space before the merges.
_GPT_2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA_3_WORDS = (  # numbers of up to three digits
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_WORDS = _LLAMA_3_WORDS.replace("{1,3}", "")  # digit by digit
_SMOLLM2_WORDS = _GPT_2_WORDS.replace(r" ?\p{N}+", r"\p{N}")  # digit by digit
_QWEN_SPECIAL = (
    "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start quad_end "
    "vision_start vision_end vision_pad image_pad video_pad"
)
_SMOLLM2_SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <repo_name> <reponame> <file_sep> <filename> <gh_stars> <issue_start> "
    "<issue_comment> <issue_closed> <jupyter_start> <jupyter_text> <jupyter_code> <jupyter_output> <jupyter_script> "
    "<empty_output>"
)
_QWEN_ORDINARY = "fim_prefix fim_middle fim_suffix fim_pad repo_name file_sep"  # not special in the real one either
_CHATML = (  # what Qwen2.5 ships, without its tools
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def llama_3_tokenizer(texts: list[str]):
    """Train a byte-level BPE tokenizer with Llama 3's 256 special tokens at the end of the vocabulary."""
    named = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
    reserved = iter(range(256))
    special = [f"<|{named[i]}|>" if i in named else f"<|reserved_special_token_{next(reserved)}|>" for i in range(256)]
    names = {"bos_token": special[0], "eos_token": special[1], "model_max_length": 8192}
    return _finish(_byte_level(texts, _LLAMA_3_WORDS), special, begins=True, **names)


def phi_tokenizer(texts: list[str]):
    """Train a tokenizer like Phi-2's: one token is begin, end and unknown, and runs of white space are tokens."""
    end = "<|endoftext|>"
    runs = [" " * length for length in range(31, 1, -1)] + ["\t" * length for length in range(9, 1, -1)]
    names = {"bos_token": end, "eos_token": end, "unk_token": end, "model_max_length": 2048}
    return _finish(_byte_level(texts, _GPT_2_WORDS), [end], runs, **names)


def qwen_tokenizer(texts: list[str]):
    """Train a tokenizer like Qwen2.5's: ChatML's marks are special tokens, none begins a text, and the end one pads."""
    from tokenizers import normalizers

    core = _byte_level([text.replace("<|im_start|>", "") for text in texts], _QWEN_WORDS)
    core.normalizer = normalizers.NFC()
    names = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "model_max_length": 131072}
    names["chat_template"] = _CHATML
    special, ordinary = ([f"<|{name}|>" for name in tokens.split()] for tokens in (_QWEN_SPECIAL, _QWEN_ORDINARY))
    return _finish(core, special, ["<tool_call>", "</tool_call>", *ordinary], **names)


def smollm2_tokenizer(texts: list[str]):
    """Train a tokenizer like SmolLM2's: the end token begins and is unknown too, no token pads, and no row is spare."""
    special, end = _SMOLLM2_SPECIAL.split(), "<|endoftext|>"
    core = _byte_level([text.replace("<|im_start|>", "") for text in texts], _SMOLLM2_WORDS, 768 - len(special))
    return _finish(core, special, bos_token=end, eos_token=end, unk_token=end, model_max_length=8192)


def llama_2_tokenizer(texts: list[str]):
    """Train a tokenizer like Llama 2's: words begin with `▁`, unknown characters become bytes, and no token pads."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    special = ["<unk>", "<s>", "</s>"]
    first = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    lines = [line for text in texts for line in text.replace(END_TOKEN, "").split("\n")]  # a line end stays a byte
    learner.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=768 - len(first), show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    numbered = {token: i for i, token in enumerate(first + sorted(learnt["vocab"], key=learnt["vocab"].get))}
    merges = [tuple(merge) for merge in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(numbered, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _finish(tokenizer, special, begins=True, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _byte_level(texts: list[str], words: str, size: int = 704):
    """Train so many byte-level tokens on texts that the regular expression `words` cuts first."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    bytes_as_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(words), "isolated"), bytes_as_letters]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [text.replace(END_TOKEN, "") for text in texts]  # a special token, not text to learn merges from
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def _finish(core, special: list[str], ordinary: list[str] = (), begins: bool = False, **names):
    """Add tokens behind the vocabulary, write the begin token before every text if it `begins`, and name the rest."""
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    core.add_tokens([AddedToken(token, normalized=False) for token in ordinary])
    if begins:
        begin = (names["bos_token"], core.token_to_id(names["bos_token"]))
        core.post_processor = processors.TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **names)


def pretrain(model, token_ids: list[int], steps: int = 200, learning_rate: float = 5e-3, progress=True) -> float:
    """Pre-train a small model on one long row of tokens, in batches of 16 windows of 128; return the last loss."""
    import torch
    from tqdm.auto import tqdm

    row = torch.tensor(token_ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in tqdm(range(steps), desc="Pre-training the small base", disable=not progress):
        starts = torch.randint(0, len(row) - 129, (16,)).tolist()
        windows = torch.stack([row[start : start + 128] for start in starts])
        loss = model(windows, labels=windows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    return loss.item()


def small_base(cache: str | Path | None = None, seed: int = 0) -> Path:
    """Build the small base model, or find it in the cache, and return its folder.

    A Llama of one million weights with grouped-query attention and an untied head, in bf16 safetensors. The first
    call takes about half a minute on two cores.

    Args:
        cache: folder to keep it in; `None` takes `~/.cache/orpo-course`.
        seed: seed of the text, the initial weights and the order of the batches.
    """
    rope = {"rope_type": "default", "rope_theta": 500000.0}
    shape = {"num_hidden_layers": 4, "num_key_value_heads": 1, "max_position_embeddings": 8192, "rope_parameters": rope}
    form = (llama_3_tokenizer, "llama", shape)
    return _small_model("small-base", cache, seed, BASE_MODEL, "apache-2.0", *form, documents=3000, steps=250)


def small_phi(cache: str | Path | None = None, seed: int = 0) -> Path:
    """Build a small Phi-2 the way of `small_base`: its head has a bias, and its embedding rows that no token uses."""
    shape = {"vocab_size": 832, "intermediate_size": 512, "max_position_embeddings": 2048}
    return _small_model("small-phi", cache, seed, PHI, "mit", phi_tokenizer, "phi", shape)


def small_qwen2(cache: str | Path | None = None, seed: int = 0) -> Path:
    """Build a small Qwen2.5 the way of `small_base`: its head is the embedding itself, and q, k and v have biases."""
    rope = {"rope_type": "default", "rope_theta": 1000000.0}
    shape = {"vocab_size": 768, "num_key_value_heads": 1, "rope_parameters": rope, "tie_word_embeddings": True}
    return _small_model("small-qwen2", cache, seed, QWEN, "apache-2.0", qwen_tokenizer, "qwen2", shape)


def small_llama2(cache: str | Path | None = None, seed: int = 0) -> Path:
    """Build a small Llama 2 the way of `small_base`; its context is an eighth of the real one's, so that it cuts."""
    shape = {"max_position_embeddings": 512}
    return _small_model("small-llama2", cache, seed, LLAMA_2, "apache-2.0", llama_2_tokenizer, "llama", shape)


def small_smollm2(cache: str | Path | None = None, seed: int = 0) -> Path:
    """Build a small SmolLM2 the way of `small_base`: a Llama whose head is the embedding itself."""
    rope = {"rope_type": "default", "rope_theta": 100000.0}
    shape = {"num_key_value_heads": 1, "max_position_embeddings": 8192, "rope_parameters": rope}
    shape["tie_word_embeddings"] = True
    return _small_model("small-smollm2", cache, seed, SMOLLM2, "apache-2.0", smollm2_tokenizer, "llama", shape)


def _small_model(
    name, cache, seed, repo_id, licence, train_tokenizer, architecture, shape, documents=1500, steps=160
) -> Path:
    def build(folder: Path) -> None:
        texts = pretraining_text(documents, seed)
        _build_model(folder, train_tokenizer(texts), architecture, shape, texts, seed, steps)
        _write_card(folder, repo_id, licence)
        text = f"A stand-in, made by the course's own code, under the licence {licence}.\n"
        (folder / "LICENSE").write_text(text)

    return _cached(name, cache, seed, build)


def _build_model(folder: Path, tokenizer, architecture: str, shape: dict, texts: list[str], seed: int, steps: int):
    """Pre-train a small model of an architecture on the texts, and save it with its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    common = {"vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2}
    common |= {"num_attention_heads": 2, "tie_word_embeddings": False, "eos_token_id": end}
    common["bos_token_id"] = end if begin is None else begin  # Qwen's model names one, though its tokenizer does not
    texts = [text.replace(END_TOKEN, tokenizer.eos_token) for text in texts]
    with torch.random.fork_rng(devices=[]):  # leaves the learner's own random state alone
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **common | shape))
        documents = tokenizer(texts, add_special_tokens=False)["input_ids"]
        first = [] if begin is None else [begin]
        pretrain(model, [token for document in documents for token in [*first, *document, end]], steps)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def orpo_mix(cache: str | Path | None = None, seed: int = 0) -> Path:
    """Write 480 pairs in the schema of `mlabonne/orpo-dpo-mix-40k` at `v1.0`, and return their folder."""

    def build(folder: Path) -> None:
        rows = []
        for row in preference_pairs(480, seed, long_pairs=12):
            sides = {side: row["prompt"] + row[side] for side in ("chosen", "rejected")}
            rows.append({"source": "stand-in", **sides, "prompt": row["prompt"][-1]["content"]})
        _write_split(folder, "data/train", rows)
        _write_card(folder, ORPO_MIX, "apache-2.0", rows_kept=len(rows))

    return _cached("orpo-mix", cache, seed, build, DATA_VERSION)


def dpo_mix(cache: str | Path | None = None, seed: int = 1) -> Path:
    """Write 240 + 60 pairs in the schema of `argilla/dpo-mix-7k`, and return their folder."""

    def build(folder: Path) -> None:
        splits = {"train": preference_pairs(240, seed), "test": preference_pairs(60, seed + 1000)}
        for split, pairs in splits.items():
            rows = []
            for row in pairs:
                sides = {side: row["prompt"] + row[side] for side in ("chosen", "rejected")}
                rows.append({"dataset": "stand-in", **sides, "chosen_rating": 5.0, "rejected_rating": 2.0})
            _write_split(folder, f"data/{split}", rows)
        _write_card(folder, DPO_MIX, "mit", rows_kept=len(splits["train"]))

    return _cached("dpo-mix", cache, seed, build, DATA_VERSION)


def hh_rlhf(cache: str | Path | None = None, seed: int = 3) -> Path:
    """Write 200 + 40 pairs in the schema of `Anthropic/hh-rlhf`, and return their folder."""
    speakers = {"user": "Human", "assistant": "Assistant"}

    def transcript(messages: list[dict]) -> str:
        return "".join(f"\n\n{speakers[message['role']]}: {message['content']}" for message in messages)

    def build(folder: Path) -> None:
        splits = {"train": preference_pairs(200, seed), "test": preference_pairs(40, seed + 1000)}
        for split, pairs in splits.items():
            sides = ("chosen", "rejected")
            rows = [{side: transcript(row["prompt"] + row[side]) for side in sides} for row in pairs]
            _write_split(folder, f"data/{split}", rows)
        _write_card(folder, HH_RLHF, "mit", rows_kept=len(splits["train"]))

    return _cached("hh-rlhf", cache, seed, build, DATA_VERSION)


def mix_source(repo_id: str, cache: str | Path | None = None, seed: int = source_stand_ins.SEED) -> Path:
    """Write the rows of a source that a mix is made from, and return their folder.

    Its card tells in `rows_kept` how many of them the mix's rule keeps.

    Args:
        repo_id: one of `utils.practice.rows.SOURCES`.
        cache: see `small_base`.
        seed: see `utils.practice.rows.rows`.
    """

    def build(folder: Path) -> None:
        source, rows = SOURCES[repo_id], source_stand_ins.rows(repo_id, seed)
        _write_split(folder, f"{source.folder}/train", rows)
        _write_card(folder, repo_id, source.licence, rows_kept=sum(map(source.keeps, rows)))

    return _cached(repo_id.split("/")[1].lower(), cache, seed, build, DATA_VERSION)


truthy_dpo = partial(mix_source, TRUTHY_DPO)


def benchmark(repo_id: str, cache: str | Path | None = None) -> Path:
    """Write the items of a benchmark, with the configurations that its card declares, and return their folder.

    Args:
        repo_id: one of `utils.practice.benchmark_rows.BENCHMARKS`.
        cache: see `small_base`.
    """

    def build(folder: Path) -> None:
        files = BENCHMARKS[repo_id]
        items = {split: benchmark_stand_ins.items(repo_id, split) for split in files.splits}
        if files.folder is None:
            lines = [json.dumps(item) + "\n" for split in items for item in items[split]]
            (folder / files.name).write_text("".join(lines))
            return _write_card(folder, repo_id, files.licence)
        for split in items:
            _write_split(folder, f"{files.folder}/{split}", items[split], files.int32)
        paths = [{"split": split, "path": f"{files.folder}/{split}-*"} for split in items]
        configs = [{"config_name": files.config, "data_files": paths}]
        if repo_id == benchmark_stand_ins.TRUTHFUL_QA:
            _write_split(folder, "multiple_choice/validation", benchmark_stand_ins.multiple_choice())
            paths = [{"split": "validation", "path": "multiple_choice/validation-*"}]
            configs.append({"config_name": "multiple_choice", "data_files": paths})
        _write_card(folder, repo_id, files.licence, configs=configs)

    return _cached(repo_id.split("/")[1].lower(), cache, 0, build, DATA_VERSION)


# Name on the Hub: its type, what builds the stand-in, and the tag that the real one has.
STAND_INS = {
    BASE_MODEL: ("model", small_base, None),
    PHI: ("model", small_phi, None),
    QWEN: ("model", small_qwen2, None),
    LLAMA_2: ("model", small_llama2, None),
    SMOLLM2: ("model", small_smollm2, None),
    ORPO_MIX: ("dataset", orpo_mix, "v1.0"),
    DPO_MIX: ("dataset", dpo_mix, None),
    HH_RLHF: ("dataset", hh_rlhf, None),
    **{name: ("dataset", partial(mix_source, name), None) for name in SOURCES},
    **{name: ("dataset", partial(benchmark, name), None) for name in BENCHMARKS},
}


def publish(hub, cache: str | Path | None = None, names: tuple[str, ...] = COURSE) -> None:
    """Put stand-ins on a practice hub, under the real repositories' names.

    Args:
        hub: a `utils.practice.hub.PracticeHub`.
        cache: folder of the built stand-ins; `None` takes `~/.cache/orpo-course`.
        names: which of `STAND_INS`.
    """
    for repo_id in names:
        repo_type, build, tag = STAND_INS[repo_id]
        hub.add_repo(repo_id, repo_type, exist_ok=True)
        hub.commit_folder(repo_id, build(cache), repo_type=repo_type, tag=tag, message="Add the stand-in")


def _cached(name: str, cache: str | Path | None, seed: int, build, version: str = VERSION) -> Path:
    """Return the folder of a stand-in, built now if the cache does not have it."""
    folder = (Path(cache) if cache else Path.home() / ".cache" / "orpo-course") / f"{name}-{version}-seed{seed}"
    return folder if folder.exists() else _build_whole(folder, build)


def _build_whole(folder: Path, build) -> Path:
    """Build beside the final folder and rename it, so that an interrupted build is never taken for a whole one."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    build(part)
    try:
        part.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(part)
    return folder


def _write_split(folder: Path, path: str, rows: list[dict], int32: tuple[str, ...] = ()) -> None:
    from datasets import Dataset, Value

    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    table = Dataset.from_list(rows)
    for column in int32:  # whole numbers are int64 otherwise
        table = table.cast_column(column, Value("int32"))
    table.to_parquet(folder / f"{path}-00000-of-00001.parquet")


def _write_card(folder: Path, repo_id: str, licence: str, **more) -> None:
    import yaml

    about = yaml.safe_dump({"license": licence, "tags": ["stand-in"], **more}, sort_keys=False)
    text = f"# A stand-in for {repo_id}\n\nMade by code for practice offline; only its name and form are real.\n"
    (folder / "README.md").write_text(f"---\n{about}---\n\n{text}")
