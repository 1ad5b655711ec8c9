"""The files of a mix: Parquet for train and test, a ledger of every row, a report of every count, and a data card."""

import hashlib
import json
from pathlib import Path

from utils import environment, hub
from utils.data import chat_format

FILES = ["train.parquet", "test.parquet", "ledger.parquet", "report.json", "README.md"]
PAIR = ["source", "prompt", "chosen", "rejected"]
LEDGER = ["source", "row", "rating", "reason", "told", "twin", "item", "match", "split"]


def check_place(sources, base, folder, repo_id: str, token: str | None) -> list:
    """Check what would stop a mix later, as lines of `preflight`: the base's licence, the disk, the right to push.

    `sources` are found, `base` is of `hub.describe_repository`, and an empty `repo_id` pushes nothing.
    """
    from utils import preflight

    size_gb = sum({source.origin.commit: source.download_gb for source in sources if source.origin}.values())
    # What is downloaded, and the same rows again, uncompressed, as they are read and as they are examined
    places = [(5 * size_gb, hub.cache_folder(), "sources and benchmarks"), (size_gb, folder, "the mix")]
    lines = [preflight.Check("licence", base.may_read, f"{base.name}: {base.licence}", hub.way_in(base.name))]
    identity = hub.hub_identity(token) if repo_id else None
    return lines + preflight.check_disk(places) + preflight.check_writing(identity, [repo_id] if repo_id else [])


def own_repository(repo_id: str, token: str | None) -> str:
    """Return the repository to push to: as named, or orpo-mix under the name of the token's owner."""
    identity = None if repo_id else hub.hub_identity(token)
    return repo_id or f"{identity['name'] if identity else 'you'}/orpo-mix"


def mix_report(ledger, sources, benchmarks, tokenizer, base, parameters: dict) -> dict:
    """Count what became of every row, of each source and of all, beside commits, licences, parameters and versions.

    `sources` and `benchmarks` are those asked for, also those out of reach; `base` has the tokenizer's name and commit.
    """
    counted = {"repository": base.name, "revision": base.commit, "fingerprint": chat_format.fingerprint(tokenizer)}
    if base.commit is None:  # a folder's path is nobody else's business
        counted["repository"] = Path(base.name).name
    items = ledger["item"].dropna().str.rsplit(" ", n=1).str[0]  # of the rows that hold one, whatever dropped them
    return {
        "sources": {source.name: _count_source(ledger[ledger.source == source.name], source) for source in sources},
        "benchmarks": {it.name: _count_benchmark(int((items == it.name).sum()), it) for it in benchmarks},
        "tokenizer": counted,
        "parameters": parameters,
        "versions": environment.versions(),
    }


def _count_source(lines, source) -> dict:
    origin = source.origin
    repository = source.repository if origin is None or origin.commit else Path(source.repository).name
    entry = {"repository": repository, "rule": source.rule, "published": source.published}
    if source.left_out:
        return entry | {"left_out": source.left_out}
    entry |= {"revision": origin.commit, "host": origin.host, "licence": origin.licence or "not stated"}
    entry |= {"taken": int((lines.pair >= 0).sum()), "expected": source.expected, "rows": len(lines)}
    entry |= {split: int((lines.split == split).sum()) for split in ("train", "test")}
    entry["dropped"] = {reason: int(number) for reason, number in lines.reason.value_counts().items()}
    if len(lines) != entry["train"] + entry["test"] + sum(entry["dropped"].values()):
        raise ValueError(f"Rows of {source.name} vanished: {len(lines)} came in, and {entry} are accounted for.")
    return entry


def _count_benchmark(rows: int, benchmark) -> dict:
    entry = {"repository": benchmark.repository, "split": benchmark.split}
    if benchmark.left_out:
        return entry | {"left_out": benchmark.left_out}
    entry |= {"revision": benchmark.origin.commit, "host": benchmark.origin.host}
    return entry | {"items": len(benchmark.rows), "rows": rows}


def write_mix(folder: Path, pairs, ledger, report: dict) -> dict:
    """Write the files of a mix, replacing those of another, and return `report` of `mix_report` with totals and sha256.

    `pairs` are those that the ledger's column `pair` points into.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").unlink(missing_ok=True)  # it is written last: a mix without one is not whole
    sha256 = {}
    for split in ("train", "test"):
        path = folder / f"{split}.parquet"
        chosen = pairs.select(ledger.pair[ledger.split == split].sort_values())
        chosen.select_columns(PAIR).to_parquet(path)
        sha256[path.name] = _sha256(path)
    ledger[LEDGER].to_parquet(folder / "ledger.parquet", index=False)
    sources = [entry for entry in report["sources"].values() if "rows" in entry]
    totals = {key: sum(entry[key] for entry in sources) for key in ("rows", "train", "test")}
    report = {"totals": totals, **report, "sha256": sha256}
    (folder / "README.md").write_text(data_card(report))
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def data_card(report: dict) -> str:
    """Write a data card from a report, on the template `data_card.md`; returns Markdown with YAML front matter."""
    from huggingface_hub import DatasetCard, DatasetCardData

    splits = [{"split": split, "path": f"{split}.parquet"} for split in ("train", "test")]
    # datasets reads a folder from its cache as long as these lines of the card are the same: so they name the bytes.
    bytes_of = ", ".join(f"{name} {digest}" for name, digest in report["sha256"].items())
    data = DatasetCardData(
        source_datasets=[entry["repository"] for entry in report["sources"].values() if entry.get("revision")],
        license="other",
        license_name="those-of-the-sources",
        task_categories=["text-generation"],
        tags=["preference", "orpo", "dpo"],
        configs=[{"config_name": "default", "description": f"sha256: {bytes_of}", "data_files": splits}],
    )
    template = Path(__file__).with_name("data_card.md")
    return str(DatasetCard.from_template(data, str(template), title="A mix of preference pairs", report=report))


def find_report(dataset: str, commit: str | None, token: str | None = None) -> dict | None:
    """Find the report of a mix beside its data, in a folder or on the Hub; `None` if they are no mix of this course."""
    from huggingface_hub import hf_hub_download

    path = Path(dataset) / "report.json"
    if commit is not None:
        try:
            with hub.in_one_sentence(dataset, "dataset", commit):
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
    if report["tokenizer"].get("fingerprint") != chat_format.fingerprint(tokenizer):
        return False
    files = [Path(dataset) / name for name in report["sha256"]]
    unchanged = all(_sha256(path) == report["sha256"][path.name] for path in files if path.exists())
    return unchanged and report["parameters"].get("MAX_LENGTH", max_length + 1) <= max_length


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def push_mix(folder: Path, repo_id: str, token: str | None, private: bool = True) -> str:
    """Upload a mix as a data set in one commit, and return the commit, 40 hex digits; raises as `hub` does."""
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder} holds no whole mix: it has no {', '.join(missing)}. Write the mix first.")
    hub.create_repository(repo_id, token, private, "dataset")
    return hub.commit_files(folder, repo_id, FILES, token, replaces=FILES, repo_type="dataset")
