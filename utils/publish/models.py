"""Finds a merged model, what it was made from and its repository, and shows what would stop a notebook."""

import hashlib
import json
from pathlib import Path

from utils import environment, hub, preflight
from utils.train import base as bases

PROOF = "merge.json"  # beside a merged model: what it was made from, where it was published, how well it was proven


def find_merged(given: str, artifacts) -> str:
    """Return the folder or Hub id of the merged model, without a download; `""` takes what notebook 05 wrote."""
    folder = Path(given) if given else Path(artifacts) / "merged"
    if (folder / "config.json").exists():
        return str(folder)
    if not given or folder.exists():
        raise FileNotFoundError(
            f"There is no merged model in {folder} (no config.json). Run 05_merge_and_push first; if you gave it a "
            "merged_folder, set MODEL to that; if it ran on another machine, set ARTIFACTS to the same Drive "
            "folder, or MODEL to the repository that it pushed."
        )
    return given


def base_of(model: str, commit: str | None, run_folder, token: str | None = None) -> tuple[str, str | None]:
    """Return the base that a merged model was made from, and its commit, if that is known.

    Told by `merge.json`, else by the model's card, which names no commit, else by the record of the run in
    `run_folder`, which alone knows a base that is a folder; `ValueError` if by none of them.
    """
    from huggingface_hub import ModelCard, snapshot_download

    folder, record = Path(model), Path(run_folder) / "run.json"
    if commit:
        with hub.in_one_sentence(model, revision=commit):
            wanted = [PROOF, "README.md"]
            folder = Path(snapshot_download(model, revision=commit, token=token, allow_patterns=wanted))
    proof, card = read_proof(folder), folder / "README.md"
    if proof.get("base_model"):
        return proof["base_model"], proof["base_commit"]
    named = ModelCard.load(card).data.get("base_model") if card.exists() else None
    if isinstance(named, str):
        return named, None
    if record.exists():
        run = json.loads(record.read_text())
        return run["recipe"]["base_model"], run["revisions"]["base_model"]
    raise ValueError(f'Neither {model} nor {record} names its base: set MORE["base_model"] to its name or folder.')


def published_as(model: str | None, base: str, owner: str) -> str:
    """Return the repository of a merged model: its Hub id, what notebook 05 wrote beside it, or `owner`'s default."""
    if model and not Path(model).is_dir():
        return model
    recorded = read_proof(model).get("merged") if model else None
    return recorded or f"{owner}/{bases.model_name(base)}"


def write_proof(merged, adapter, base, about: dict) -> None:
    """Write beside a merged model what it was made from; of a base in a folder, nothing."""
    made_from = {"base_model": base.name if base.commit else None, "base_commit": base.commit}
    proof = about | made_from | {"adapter_sha256": _hash(adapter)}
    (Path(merged) / PROOF).write_text(json.dumps(proof, indent=2) + "\n")


def read_proof(merged) -> dict:
    """Return what `write_proof` wrote, or nothing."""
    proof = Path(merged) / PROOF
    return json.loads(proof.read_text()) if proof.exists() else {}


def check_merged_from(merged, adapter) -> None:
    """Raise `ValueError` if a model was merged from another adapter, as after a second training without a merge."""
    own = _hash(adapter)
    if read_proof(merged).get("adapter_sha256", own) != own:
        raise ValueError(f"{merged} was merged from another adapter than {adapter}: run notebook 05 again.")


def _hash(adapter) -> str:
    with open(Path(adapter) / "adapter_model.safetensors", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def choose_precision(asked: str, needed_gb: dict[str, float], mend: str) -> tuple[str, preflight.Check]:
    """Return "whole" or "4-bit", for "auto" whole if that fits, and the check of its memory."""
    device = environment.find_device()
    room = preflight.ROOM[device.kind] * device.memory_gb
    if asked == "auto":
        asked = "whole" if needed_gb["whole"] <= room else "4-bit"
    found = f"{needed_gb[asked]:.2f} GB {asked}, {room:.1f} GB usable on {device.name}"
    return asked, preflight.Check("memory", needed_gb[asked] <= room, found, mend)


def show_checks(checks: list, disk: list, identity: dict | None, repositories: list[str], base: str | None = None):
    """Show these checks, and those of the disks and of the token, as one table, and stop at a red line."""
    from IPython.display import display

    checks = checks + preflight.check_disk(disk) + preflight.check_writing(identity, repositories, base)
    display(preflight.as_table(checks))
    preflight.stop_if_red(checks)
