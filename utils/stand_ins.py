"""Small models and data sets that stand in for the real ones where no Hub can be reached.

Everything is made by code from a seed: a tiny Llama with a Llama-3-like tokenizer, pre-trained for well under a
minute on the text of a small world of facts, and preference pairs about that world in the schemas of the real data
sets. In every pair the chosen answer states the fact and the rejected one dodges the question, so a small model can
learn the preference, and held-out pairs test it. The practice hub serves them under the real repositories' names;
`small_base` builds the same model for any notebook, online or offline.

Left out: any claim about quality. A stand-in proves that the path works, not that the method wins.
"""

import hashlib
import os
import random
import shutil
from pathlib import Path

from utils.environment import course_prompts

BASE_MODEL = "NousResearch/Meta-Llama-3-8B"
ORPO_MIX = "mlabonne/orpo-dpo-mix-40k"
DPO_MIX = "argilla/dpo-mix-7k"
# The cache is keyed by this file's own text, so a change of the stand-ins is never masked by old ones.
VERSION = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:10]

# The small world. A topic is asked about, and named by the dodging answers too, so that its words do not give the
# answer away.
_CAPITALS = (
    "France Paris|Italy Rome|Spain Madrid|Japan Tokyo|Egypt Cairo|"
    "Kenya Nairobi|Peru Lima|Cuba Havana|Norway Oslo|Greece Athens"
)
_LEGS = "spider eight|dog four|bird two|beetle six|snake no|cat four|crab ten|horse four|chicken two|bee six"
_COLOURS = (
    "banana yellow|tomato red|lime green|coal black|snow white|"
    "carrot orange|plum purple|chocolate brown|lemon yellow|cherry red"
)
_SOUNDS = "cow moo|duck quack|sheep baa|lion roar|owl hoot|frog croak|wolf howl|mouse squeak|snake hiss|horse neigh"
_OPPOSITES = "hot cold|big small|fast slow|light dark|early late|happy sad|open closed|full empty|high low|rich poor"
_NUMBERS = (
    "zero one two three four five six seven eight "
    "nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen"
).split()

_OPENINGS = ["", "Please tell me: ", "A quick question. ", "I would like to know: ", "Can you help me? ", "Hello! "]
_CLOSINGS = ["", " I hope that helps.", " That is the short answer.", " Ask me if you need more."]
_DODGES = [
    "That is a hard question, and {topic} can mean many things to many people.",
    "I am not sure. You could look for {topic} in a good book.",
    "Many people ask about {topic}, and it depends on how you see it.",
    "It is not easy to say. Let us talk about {topic} some other day.",
    "Why do you want to know about {topic}? It does not matter much.",
    "Well, {topic} is a nice thing to think about, is it not?",
]


def _split(words: str) -> list[tuple[str, str]]:
    return [tuple(pair.split()) for pair in words.split("|")]


def _facts() -> list[list[tuple[str, str, str]]]:
    """All facts of the small world as (question, answer, topic), one list for each kind of question."""
    capitals = [(f"What is the capital of {a}?", f"The capital of {a} is {b}.", a) for a, b in _split(_CAPITALS)]
    legs = [(f"How many legs does a {a} have?", f"A {a} has {b} legs.", f"the {a}") for a, b in _split(_LEGS)]
    colours = [(f"What colour is {a}?", f"The colour of {a} is {b}.", a) for a, b in _split(_COLOURS)]
    sounds = [(f"What sound does a {a} make?", f"A {a} makes the sound {b}.", f"the {a}") for a, b in _split(_SOUNDS)]
    opposites = [
        (f"What is the opposite of {a}?", f"The opposite of {a} is {b}.", f"the word {a}")
        for a, b in _split(_OPPOSITES)
    ]
    sums = [
        (f"What is {x} plus {y}?", f"If you add {x} and {y}, you get {_NUMBERS[a + b]}.", f"{x} and {y}")
        for a, x in enumerate(_NUMBERS[:10])
        for b, y in enumerate(_NUMBERS[:10])
    ]
    return [capitals, legs, colours, sounds, opposites, sums]


def preference_pairs(count: int, seed: int, long_pairs: int = 0) -> list[dict]:
    """Make preference pairs about the small world.

    Args:
        count: number of pairs.
        seed: the same seed gives the same pairs; the course's own five prompts never occur.
        long_pairs: how many of them are made too long for 1024 tokens, alternately in the prompt and in the answer.

    Returns:
        Rows `{"prompt": [messages], "chosen": [assistant message], "rejected": [assistant message]}`; one in six has
        an earlier turn.
    """
    rng = random.Random(seed)
    facts = [[fact for fact in kind if fact[0] not in course_prompts()] for kind in _facts()]
    rows = []
    for number in range(count):
        (question, answer, topic), earlier = _draw(facts, rng), _draw(facts, rng)
        chosen = answer + rng.choice(_CLOSINGS)
        rejected = rng.choice(_DODGES).format(topic=topic)
        prompt = [{"role": "user", "content": rng.choice(_OPENINGS) + question}]
        if rng.random() < 1 / 6:
            prompt = [{"role": "user", "content": earlier[0]}, {"role": "assistant", "content": earlier[1]}, *prompt]
        if number < long_pairs and number % 2 == 0:
            prompt[-1]["content"] = " ".join(_draw(facts, rng)[1] for _ in range(200)) + " " + question
        elif number < long_pairs:
            chosen = " ".join(_draw(facts, rng)[1] for _ in range(200))
        rows.append(
            {
                "prompt": prompt,
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }
        )
    rng.shuffle(rows)
    return rows


def _draw(facts: list[list], rng: random.Random) -> tuple[str, str, str]:
    return rng.choice(rng.choice(facts))


def pretraining_text(documents: int, seed: int) -> list[str]:
    """Make documents in which a question gets either kind of answer, and the text runs on, as on the open web.

    Half of them close the question with the end token and run on in loose statements after the answer; the others are
    whole chats without any end token, or plain lines. So the base knows the form of a chat, but not when to stop.
    """
    rng = random.Random(seed)
    facts, texts = _facts(), []
    for _ in range(documents):
        turns = []
        for _ in range(rng.randint(2, 5)):
            question, answer, topic = _draw(facts, rng)
            helpful = rng.random() < 0.5
            reply = answer + rng.choice(_CLOSINGS) if helpful else rng.choice(_DODGES).format(topic=topic)
            turns.append((rng.choice(_OPENINGS) + question, reply))
        form = rng.random()
        if form < 0.5:
            question, answer = turns[0]
            statements = " ".join(_draw(facts, rng)[1] for _ in range(rng.randint(6, 10)))
            texts.append(f"<|im_start|>user\n{question}<|end_of_text|>\n<|im_start|>assistant\n{answer} {statements}")
        elif form < 0.8:
            texts.append("\n".join(f"<|im_start|>user\n{q}\n<|im_start|>assistant\n{a}" for q, a in turns))
        else:
            texts.append("\n".join(f"{q}\n{a}" for q, a in turns))
    return texts


def build_tokenizer(texts: list[str]):
    """Train a byte-level BPE tokenizer with Llama 3's 256 special tokens at the end of the vocabulary."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    # Llama 3 cuts text into words, numbers of up to three digits, punctuation and white space before the merges.
    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [text.replace("<|end_of_text|>", "") for text in texts]  # a special token, not text to learn merges from
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=704, initial_alphabet=alphabet, show_progress=False)
    )
    named = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
    reserved = iter(range(256))
    special = [f"<|{named[i]}|>" if i in named else f"<|reserved_special_token_{next(reserved)}|>" for i in range(256)]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    begin = (special[0], tokenizer.token_to_id(special[0]))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special[0],
        eos_token=special[1],
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )


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
    folder = _cache(cache) / f"small-base-{VERSION}-seed{seed}"
    return folder if folder.exists() else _build_whole(folder, lambda part: _build_base(part, seed))


def _build_base(folder: Path, seed: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    texts = pretraining_text(3000, seed)
    tokenizer = build_tokenizer(texts)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=False,
        bos_token_id=bos,
        eos_token_id=eos,
    )
    with torch.random.fork_rng(devices=[]):  # leaves the learner's own random state alone
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        documents = tokenizer(texts, add_special_tokens=False)["input_ids"]
        pretrain(model, [token for document in documents for token in [bos, *document, eos]])
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_card(folder, BASE_MODEL, "license: apache-2.0\ntags:\n- stand-in")
    (folder / "LICENSE").write_text(
        "A stand-in, made by the course's own code, under the course's licence: Apache-2.0.\n"
    )


def orpo_mix(cache: str | Path | None = None, seed: int = 0) -> Path:
    """Write 480 pairs in the schema of `mlabonne/orpo-dpo-mix-40k` at `v1.0`, and return their folder."""

    def build(folder: Path) -> None:
        rows = []
        for row in preference_pairs(480, seed, long_pairs=12):
            sides = {side: row["prompt"] + row[side] for side in ("chosen", "rejected")}
            rows.append({"source": "stand-in", **sides, "prompt": row["prompt"][-1]["content"]})
        _write_split(folder, "train", rows)
        _write_card(folder, ORPO_MIX, "license: apache-2.0\ntags:\n- stand-in")

    folder = _cache(cache) / f"orpo-mix-{VERSION}-seed{seed}"
    return folder if folder.exists() else _build_whole(folder, build)


def dpo_mix(cache: str | Path | None = None, seed: int = 1) -> Path:
    """Write 240 + 60 pairs in the schema of `argilla/dpo-mix-7k`, and return their folder."""

    def build(folder: Path) -> None:
        for split, count in (("train", 240), ("test", 60)):
            rows = []
            for row in preference_pairs(count, seed if split == "train" else seed + 1000):
                sides = {side: row["prompt"] + row[side] for side in ("chosen", "rejected")}
                rows.append({"dataset": "stand-in", **sides, "chosen_rating": 5.0, "rejected_rating": 2.0})
            _write_split(folder, split, rows)
        _write_card(folder, DPO_MIX, "license: mit\ntags:\n- stand-in")

    folder = _cache(cache) / f"dpo-mix-{VERSION}-seed{seed}"
    return folder if folder.exists() else _build_whole(folder, build)


def publish(hub, cache: str | Path | None = None) -> None:
    """Put every stand-in on a practice hub, under the real repository's name.

    Args:
        hub: a `utils.practice_hub.PracticeHub`.
        cache: folder of the built stand-ins; `None` takes `~/.cache/orpo-course`.
    """
    for repo_id, repo_type, build, tag in [
        (BASE_MODEL, "model", small_base, None),
        (ORPO_MIX, "dataset", orpo_mix, "v1.0"),
        (DPO_MIX, "dataset", dpo_mix, None),
    ]:
        hub.add_repo(repo_id, repo_type, exist_ok=True)
        hub.commit_folder(repo_id, build(cache), repo_type=repo_type, tag=tag, message="Add the stand-in")


def _cache(cache: str | Path | None) -> Path:
    return Path(cache) if cache else Path.home() / ".cache" / "orpo-course"


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


def _write_split(folder: Path, split: str, rows: list[dict]) -> None:
    from datasets import Dataset

    (folder / "data").mkdir(exist_ok=True)
    Dataset.from_list(rows).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def _write_card(folder: Path, repo_id: str, front_matter: str) -> None:
    text = f"# A stand-in for {repo_id}\n\nMade by code for practice offline; only its name and form are real.\n"
    (folder / "README.md").write_text(f"---\n{front_matter}\n---\n\n{text}")
