"""Time and memory of mixing: 11,000, 22,000 and 44,000 rows that pass the rules, with everything on.

    python benchmarks/mixing.py [rows ...]

Each size runs in a process of its own, on two processes at most, over made-up text: words drawn by Zipf's law from a
lexicon of 30,000, as many in each prompt and answer as in 300 real pairs (`pair_lengths.json`, tokens of Llama 3's
tokenizer, 0.8 words each). The seven sources have their real shares and columns, and as many rows beside those that
pass as the real ones; one row in 30 repeats a prompt, one in 50 nearly, one in 500 holds an item of the made-up
benchmarks, which are as many and as long as the six real ones. Memory is the proportional set size (PSS) of all
processes together, sampled twenty times a second.
"""

import json
import multiprocessing
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.data import chat_format, loading, mix, overlap, sources
from utils.practice import stand_ins

SIZES = [11_000, 22_000, 44_000]
# Rows of each source, and how many pass its rule, on the Hub.
REAL = {
    "capybara": (7563, 2882),
    "intel-orca": (12859, 2299),
    "ultrafeedback": (60917, 22799),
    "math": (2418, 2181),
    "toxic": (541, 541),
    "prm": (7985, 7985),
    "truthy": (1016, 1016),
}
BENCHMARKS = {"gsm8k": 1319, "truthfulqa": 817, "arc": 1172, "hellaswag": 10042, "mmlu": 14042, "ifeval": 541}
ITEM_WORDS = 50


class Text:
    """Made-up text: words by Zipf's law, the frequent ones short."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)
        letters = np.random.default_rng(0)
        alphabet = list("etaoinshrdlucmfwypvbgkjqxz")
        weights = np.linspace(2, 0.1, 26) / np.linspace(2, 0.1, 26).sum()
        lengths = 2 + (np.log2(np.arange(1, 30_001)) / 2.4).astype(int)
        self.lexicon = np.array(["".join(letters.choice(alphabet, n, p=weights)) for n in lengths], dtype=object)
        self.odds = np.cumsum(1 / (np.arange(30_000) + 3))

    def words(self, count: int) -> str:
        """Write so many words in sentences of twelve."""
        drawn = self.lexicon[np.searchsorted(self.odds, self.random.random(count) * self.odds[-1])]
        drawn[11::12] = [word + "." for word in drawn[11::12]]
        return " ".join(drawn)


def write_sources(folder: Path, passing: int, seed: int = 0) -> dict[str, list[list[str]]]:
    """Write the seven sources as Parquet, a thousand rows at a time, and return the items of the benchmarks."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, total = Text(seed), sum(kept for _, kept in REAL.values())
    lengths = json.loads((ROOT / "benchmarks" / "pair_lengths.json").read_text())["pairs"]
    items = {name: [[text.words(ITEM_WORDS)] for _ in range(count)] for name, count in BENCHMARKS.items()}
    seen: list[str] = []

    def prompt_of(words: int) -> str:
        chance = text.random.random()
        if seen and chance < 1 / 30:
            return seen[text.random.integers(len(seen))].upper()
        if seen and chance < 1 / 30 + 1 / 50:
            return seen[text.random.integers(len(seen))] + " Thanks"
        prompt = text.words(words)
        if chance > 1 - 1 / 500:
            prompt += " " + items["mmlu"][text.random.integers(len(items["mmlu"]))][0]
        if len(seen) < 5000 and words > 30:
            seen.append(prompt)
        return prompt

    for source in sources.SEVEN:
        rows, kept = (round(count * passing / total) for count in REAL[source.name])
        (folder / source.name).mkdir()
        writer = None
        for start in range(0, rows, 1000):
            batch = []
            for number in range(start, min(start + 1000, rows)):
                words = [max(3, int(0.8 * tokens)) for tokens in lengths[number % len(lengths)]]
                batch.append(
                    _row(source, prompt_of(words[0]), text.words(words[1]), text.words(words[2]), number < kept)
                )
            table = pa.Table.from_pylist(batch)
            writer = writer or pq.ParquetWriter(folder / source.name / "train.parquet", table.schema)
            writer.write_table(table)
        writer.close()
    return items


def _row(source, prompt: str, chosen: str, rejected: str, passes: bool) -> dict:
    row = {}
    for ours, theirs in source.columns.items():
        row[theirs] = {"system": "Be brief.", "prompt": prompt, "chosen": chosen, "rejected": rejected}[ours]
    if "prompt" not in source.columns:
        for side in ("chosen", "rejected"):
            answer = {"role": "assistant", "content": row[side]}
            row[side] = [{"role": "user", "content": prompt}, answer]
    if source.rating:
        row[source.rating] = float(source.best if passes else 2)
    if source.unless:
        row[source.unless] = False
    return row


def mix_all(folder: Path, items: dict[str, list[list[str]]], seconds: dict[str, float]) -> dict:
    """Do what notebook 02 does from the sources on disk to the files of the mix; note the seconds of each step."""
    from transformers import AutoTokenizer

    started = time.perf_counter()

    def lap(step: str) -> None:
        nonlocal started
        now = time.perf_counter()
        seconds[step], started = seconds.get(step, 0.0) + now - started, now

    base = str(stand_ins.small_base())
    tokenizer = chat_format.prepare_tokenizer(AutoTokenizer.from_pretrained(base, trust_remote_code=False))
    lap("start")
    index = overlap.BenchmarkIndex(items)
    lap("index of the benchmarks")
    here = [replace(source, repository=str(folder / source.name)) for source in sources.SEVEN]
    loaded = loading.load_sources(loading.find_sources(here, None, False), None, 42, False)
    lap("loading")
    ledger = mix.start_ledger(loaded)
    lap("rules")
    ledger, pairs = mix.examine_rows(ledger, loaded, tokenizer, index)
    lap("examining")
    whole = ledger.prompt_tokens + ledger[["chosen_tokens", "rejected_tokens"]].max(axis=1)
    mix.drop_rows(ledger, ledger.prompt_tokens >= 4096, "prompt too long")  # of the stand-in's tokenizer, four a token
    mix.drop_rows(ledger, whole > 4096, "answer too long")
    mix.drop_rows(ledger, ledger["item"].notna(), "in a benchmark")
    mix.drop_copies(ledger, pairs, loaded, 0.8)
    lap("comparing")
    kept = ledger.reason.isna()
    for split, lines in (("train", ledger.hash >= 0.02), ("test", ledger.hash < 0.02)):
        chosen = pairs.select(ledger.pair[kept & lines].sort_values())
        chosen.select_columns(["source", "prompt", "chosen", "rejected"]).to_parquet(folder / f"{split}.parquet")
    lap("writing")
    return {
        "read": len(ledger),
        "examined": len(pairs),
        "kept": int(kept.sum()),
    } | ledger.reason.value_counts().to_dict()


def measure(passing: int) -> dict:
    """Mix so many rows, and return what it took."""
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        items = write_sources(folder, passing)
        size = sum(path.stat().st_size for path in folder.rglob("*.parquet")) / 1e9
        peak, done = [0.0], threading.Event()

        def watch() -> None:
            me = psutil.Process()
            while not done.wait(0.05):
                peak[0] = max(peak[0], sum(_memory_gb(process) for process in [me, *me.children(recursive=True)]))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        seconds: dict[str, float] = {}
        counts = mix_all(folder, items, seconds)
        done.set()
        watcher.join()
    return {"seconds": seconds, "peak_gb": peak[0], "parquet_gb": size, "counts": counts}


def _memory_gb(process) -> float:
    try:
        return process.memory_full_info().pss / 1e9
    except psutil.Error:  # it has just ended
        return 0.0


def main() -> None:
    """Print one line for each size."""
    context = multiprocessing.get_context("spawn")
    for passing in [int(size) for size in sys.argv[1:]] or SIZES:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            result = pool.submit(measure, passing).result()
        total = sum(result["seconds"].values())
        each = f"{1000 * total / passing:.2f} ms a row"
        print(f"{passing:,} rows: {total:.1f} s, {each}, {result['peak_gb']:.2f} GB at the peak")
        print("  " + ", ".join(f"{step} {taken:.1f} s" for step, taken in result["seconds"].items()))
        print("  " + ", ".join(f"{what} {count:,}" for what, count in result["counts"].items()))
        print(f"  {result['parquet_gb']:.2f} GB of Parquet", flush=True)


if __name__ == "__main__":
    main()
