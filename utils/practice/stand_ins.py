"""Test models and made-up data sets, which the practice hub serves under the real names.

The models are made here from a seed, in less than a minute each: real architecture, one million weights, a tokenizer
like the real one's, pre-trained on the text of `small_world`. The data sets are files in `data/practice`.

Left out: any claim about quality. A test model proves that the path works, not that the method wins.
"""

import hashlib
import inspect
import os
import shutil
from pathlib import Path

from utils.practice.small_world import END_TOKEN, pretraining_text
from utils.practice.small_world import preference_pairs as preference_pairs

BASE_MODEL = "NousResearch/Meta-Llama-3-8B"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M"
ORPO_MIX = "mlabonne/orpo-dpo-mix-40k"
DPO_MIX = "argilla/dpo-mix-7k"
TAGS = {ORPO_MIX: "v1.0"}
DATA = Path(__file__).parents[2] / "data" / "practice"
CACHE = Path.home() / ".cache" / "orpo-course"

# How a tokenizer cuts text into words, numbers, punctuation and white space before the merges.
GPT_2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA_3_WORDS = (  # numbers of up to three digits
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SMOLLM2_WORDS = GPT_2_WORDS.replace(r" ?\p{N}+", r"\p{N}")  # digit by digit
_SMOLLM2_SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <repo_name> <reponame> <file_sep> <filename> <gh_stars> <issue_start> "
    "<issue_comment> <issue_closed> <jupyter_start> <jupyter_text> <jupyter_code> <jupyter_output> <jupyter_script> "
    "<empty_output>"
)


def llama_3_tokenizer(texts: list[str]):
    """Train a byte-level BPE tokenizer with Llama 3's 256 special tokens at the end of the vocabulary."""
    named = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
    reserved = iter(range(256))
    special = [f"<|{named[i]}|>" if i in named else f"<|reserved_special_token_{next(reserved)}|>" for i in range(256)]
    names = {"bos_token": special[0], "eos_token": special[1], "model_max_length": 8192}
    return finish_tokenizer(byte_level(texts, LLAMA_3_WORDS), special, begins=True, **names)


def smollm2_tokenizer(texts: list[str]):
    """Train a tokenizer like SmolLM2's: the end token begins and is unknown too, no token pads, and no row is spare."""
    special, end = _SMOLLM2_SPECIAL.split(), "<|endoftext|>"
    core = byte_level([text.replace("<|im_start|>", "") for text in texts], _SMOLLM2_WORDS, 768 - len(special))
    return finish_tokenizer(core, special, bos_token=end, eos_token=end, unk_token=end, model_max_length=8192)


def byte_level(texts: list[str], words: str, size: int = 704):
    """Train so many byte-level tokens on texts that the regular expression `words` cuts first."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    bytes_as_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    cut_into_words = pre_tokenizers.Split(Regex(words), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut_into_words, bytes_as_letters])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    # The end token is no text to learn merges from
    tokenizer.train_from_iterator([text.replace(END_TOKEN, "") for text in texts], trainer)
    return tokenizer


def finish_tokenizer(core, special: list[str], ordinary: list[str] = (), begins: bool = False, **names):
    """Add tokens after the vocabulary, write the begin token before every text if it `begins`, and name the rest."""
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    core.add_tokens([AddedToken(token, normalized=False) for token in ordinary])
    if begins:
        begin = (names["bos_token"], core.token_to_id(names["bos_token"]))
        core.post_processor = processors.TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **names)


def pretrain(model, token_ids: list[int], steps: int, learning_rate: float = 5e-3) -> None:
    """Pre-train a small model on one long row of tokens, in batches of 16 windows of 128."""
    import torch
    from tqdm.auto import tqdm

    row = torch.tensor(token_ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in tqdm(range(steps), desc="Pre-training a small base"):
        starts = torch.randint(0, len(row) - 129, (16,)).tolist()
        windows = torch.stack([row[start : start + 128] for start in starts])
        loss = model(windows, labels=windows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


def small_base() -> Path:
    """Build the small base model, or find it in the cache, and return its folder.

    A Llama of one million weights with grouped-query attention and an untied head, in bf16 safetensors. The first
    call takes about half a minute on two cores.
    """
    rope = {"rope_type": "default", "rope_theta": 500000.0}
    shape = {"num_hidden_layers": 4, "num_key_value_heads": 1, "max_position_embeddings": 8192, "rope_parameters": rope}
    return small_model(BASE_MODEL, "llama3", llama_3_tokenizer, "llama", shape, documents=3000, steps=250)


def small_smollm2() -> Path:
    """Build a small SmolLM2 the way of `small_base`: a Llama whose head is the embedding itself."""
    rope = {"rope_type": "default", "rope_theta": 100000.0}
    shape = {"num_key_value_heads": 1, "max_position_embeddings": 8192, "rope_parameters": rope}
    shape["tie_word_embeddings"] = True
    return small_model(SMOLLM2, "apache-2.0", smollm2_tokenizer, "llama", shape)


MODELS = {BASE_MODEL: small_base, SMOLLM2: small_smollm2}


def small_model(repo_id, licence, train_tokenizer, architecture, shape, documents=1500, steps=160) -> Path:
    """Return the folder of a test model; it is built if the cache has none that this very code made."""
    code = [Path(__file__).with_name(f"{name}.py").read_text() for name in ("stand_ins", "small_world")]
    code += [inspect.getsource(train_tokenizer), architecture, repr(shape), licence, f"{documents} {steps}"]
    version = hashlib.sha256("\n".join(code).encode()).hexdigest()[:10]
    folder = CACHE / f"{repo_id.replace('/', '--')}-{version}"
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.{os.getpid()}.part")  # an interrupted build is never taken for a whole
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _build_model(part, train_tokenizer, architecture, shape, documents, steps)
        (part / "LICENSE").write_text(f"A stand-in, made by the course's own code, under the licence {licence}.\n")
        text = f"# A stand-in for {repo_id}\n\nMade by code for practice offline; only its name and form are real.\n"
        (part / "README.md").write_text(f"---\nlicense: {licence}\ntags:\n- stand-in\n---\n\n{text}")
        try:
            part.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(part)
    return folder


def _build_model(folder: Path, train_tokenizer, architecture: str, shape: dict, documents: int, steps: int):
    """Pre-train a small model of an architecture, and save it with its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    texts = pretraining_text(documents, seed=0)
    tokenizer = train_tokenizer(texts)
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    common = {"vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2}
    common |= {"num_attention_heads": 2, "tie_word_embeddings": False, "eos_token_id": end}
    common["bos_token_id"] = end if begin is None else begin  # Qwen's model names one, though its tokenizer does not
    texts = [text.replace(END_TOKEN, tokenizer.eos_token) for text in texts]
    with torch.random.fork_rng(devices=[]):  # leaves the learner's own random state alone
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **common | shape))
        tokenized = tokenizer(texts, add_special_tokens=False)["input_ids"]
        first = [] if begin is None else [begin]
        pretrain(model, [token for document in tokenized for token in [*first, *document, end]], steps)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def data_sets(folder: Path = DATA) -> dict[str, Path]:
    """Return the folder of each made-up data set by its name on the Hub."""
    return {path.parent.relative_to(folder).as_posix(): path.parent for path in sorted(folder.glob("*/*/README.md"))}


def put(hub, repo_id: str, folder: Path, repo_type: str) -> None:
    """Put the files of a folder on a practice hub, with the tag that the real repository has."""
    hub.add_repo(repo_id, repo_type, exist_ok=True)
    hub.commit_folder(repo_id, folder, repo_type, TAGS.get(repo_id), "Add the stand-in")


def publish(hub) -> None:
    """Put all that the series asks for on a practice hub, under the real names."""
    for repo_id, build in MODELS.items():
        put(hub, repo_id, build(), "model")
    for repo_id, folder in data_sets().items():
        put(hub, repo_id, folder, "dataset")
