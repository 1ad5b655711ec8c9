"""The files of a mix: Parquet for train and test, a ledger of every row, a report of every count, and a data card.

Left out: what is in the mix, see `mixing`.
"""

import hashlib
import json
from pathlib import Path

from utils import hub as hub_access
from utils.data import chat_format

FILES = ["train.parquet", "test.parquet", "ledger.parquet", "report.json", "README.md"]
PAIR = ["source", "prompt", "chosen", "rejected"]
LEDGER = ["source", "row", "rating", "reason", "told", "twin", "item", "match", "split"]


def count(ledger, chosen, origins: dict, lost: dict[str, str]) -> dict[str, dict]:
    """Count for each source what became of its rows.

    Args:
        ledger: of `utils.data.mix`, with its column `split`.
        chosen: `utils.data.sources.Source`, those in the ledger and those that could not be reached.
        origins: source -> `utils.data.loading.Origin`.
        lost: source that could not be reached -> why.

    Returns:
        source -> repository, revision, host, licence, rule, and the counts: rows in, taken by the rule and expected to
            be, train, test, dropped by reason.
    """
    counts = {}
    for source in chosen:
        origin, lines = origins.get(source.name), ledger[ledger.source == source.name]
        repository = source.repository if origin is None or origin.commit else Path(source.repository).name
        entry = {"repository": repository, "rule": source.rule, "published": source.published}
        if source.name in lost:
            counts[source.name] = entry | {"left_out": lost[source.name]}
            continue
        dropped = {reason: int(number) for reason, number in lines.reason.value_counts().items()}
        entry |= {"revision": origin.commit, "host": origin.host, "licence": origin.licence}
        entry |= {"taken": int((lines.pair >= 0).sum()), "expected": origin.expected}
        entry |= {split: int((lines.split == split).sum()) for split in ("train", "test")}
        counts[source.name] = entry | {"rows": len(lines), "dropped": dropped}
        assert len(lines) == entry["train"] + entry["test"] + sum(dropped.values()), f"rows of {source.name} vanished"
    return counts


def count_items(ledger, benchmarks, items: dict, origins: dict, lost: dict[str, str]) -> dict[str, dict]:
    """Count for each benchmark its items, and the rows that hold one of them, for whatever reason they are dropped.

    Args:
        ledger: of `utils.data.mix`, with its column `item`.
        benchmarks: `utils.data.benchmark_items.Benchmark`.
        items: benchmark -> its items.
        origins, lost: see `count`.
    """
    names = ledger["item"].dropna().str.rsplit(" ", n=1).str[0]
    counts = {}
    for benchmark in benchmarks:
        entry = {"repository": benchmark.repository, "split": benchmark.split}
        if benchmark.name in items:
            origin = origins[benchmark.name]
            entry |= {"revision": origin.commit, "host": origin.host, "items": len(items[benchmark.name])}
            counts[benchmark.name] = entry | {"rows": int((names == benchmark.name).sum())}
        else:
            counts[benchmark.name] = entry | {"left_out": lost[benchmark.name]}
    return counts


def write_mix(folder: Path, pairs, ledger, report: dict) -> dict:
    """Write the files of a mix.

    Args:
        folder: where to; what is there is replaced.
        pairs: `datasets.Dataset` that the ledger's column `pair` points into.
        ledger: of `utils.data.mix`, with its column `split`.
        report: with `sources` of `count`, `benchmarks` of `count_items`, `tokenizer` (repository and revision),
            `parameters` (among them MAX_LENGTH and NEAR_DUPLICATE), and whatever else should be known of the mix.

    Returns:
        The report, with the counts of all sources together and the sha256 of the data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").unlink(missing_ok=True)  # it is written last: a mix without one is not whole
    sha256 = {}
    for split in ("train", "test"):
        chosen = pairs.select(ledger.pair[ledger.split == split].sort_values())
        path = folder / f"{split}.parquet"
        chosen.select_columns(PAIR).to_parquet(path)
        sha256[path.name] = _sha256(path)
    ledger[LEDGER].to_parquet(folder / "ledger.parquet", index=False)
    sources = [entry for entry in report["sources"].values() if "rows" in entry]
    totals = {key: sum(entry[key] for entry in sources) for key in ("rows", "train", "test")}
    report = {"totals": totals, **report, "sha256": sha256}
    if report["tokenizer"]["revision"] is None:  # a folder's path is nobody else's business
        report["tokenizer"] = report["tokenizer"] | {"repository": Path(report["tokenizer"]["repository"]).name}
    (folder / "README.md").write_text(data_card(report))
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def data_card(report: dict, title: str = "A mix of preference pairs") -> str:
    """Write a data card from a report, on the template `data_card.md`; returns Markdown with YAML front matter."""
    from huggingface_hub import DatasetCard, DatasetCardData

    splits = [{"split": split, "path": f"{split}.parquet"} for split in ("train", "test")]
    # datasets reads a folder from its cache as long as these lines of the card are the same: so they name the bytes.
    bytes_of = ", ".join(f"{name} {digest}" for name, digest in report["sha256"].items())
    data = DatasetCardData(
        source_datasets=[entry["repository"] for entry in report["sources"].values() if entry.get("revision")],
        license="other",
        task_categories=["text-generation"],
    )
    data["license_name"], data["tags"] = "those-of-the-sources", ["preference", "orpo", "dpo"]
    data["configs"] = [{"config_name": "default", "description": f"sha256: {bytes_of}", "data_files": splits}]
    template = Path(__file__).with_name("data_card.md")
    return str(DatasetCard.from_template(data, str(template), title=title, report=report))


def find_report(dataset: str, commit: str | None, token: str | None = None) -> dict | None:
    """Find the report of a mix beside its data.

    Args:
        dataset: folder that `write_mix` wrote, or Hub id that `push_mix` wrote to.
        commit: of the Hub data set.
        token: Hub token.

    Returns:
        The report, or `None` if the data are none of this course's mixes.
    """
    from huggingface_hub import hf_hub_download

    path = Path(dataset) / "report.json"
    if commit is not None:
        try:
            with hub_access.in_one_sentence(dataset, "dataset", commit):
                path = Path(hf_hub_download(dataset, "report.json", repo_type="dataset", revision=commit, token=token))
        except FileNotFoundError:
            return None
    try:
        report = json.loads(path.read_text()) if path.is_file() else None
    except ValueError:  # somebody else's file of this name
        return None
    return report if isinstance(report, dict) and {"totals", "sources", "sha256"} <= report.keys() else None


def is_judged(report: dict, dataset: str, tokenizer, max_length: int) -> bool:
    """Say whether a mix's pairs were judged by this tokenizer and fit into the window; a changed file was not."""
    told = report["tokenizer"].get("fingerprint"), report["parameters"].get("MAX_LENGTH", max_length + 1)
    if told[0] != chat_format.fingerprint(tokenizer) or told[1] > max_length:
        return False
    files = [Path(dataset) / name for name in report["sha256"]]
    return all(_sha256(path) == report["sha256"][path.name] for path in files if path.exists())


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def push_mix(folder: Path, repo_id: str, token: str | None, private: bool = True) -> str:
    """Upload a mix as a data set in one commit, and return the commit, 40 hex digits.

    Raises:
        FileNotFoundError: if the folder holds no whole mix; see `utils.hub.in_one_sentence` for the others.
    """
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder} holds no whole mix: it has no {', '.join(missing)}. Write the mix first.")
    hub_access.create_repository(repo_id, token, private, "dataset")
    return hub_access.commit_files(folder, repo_id, FILES, token, replaces=FILES, repo_type="dataset")
