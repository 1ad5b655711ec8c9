"""Finds what notebook 05 made, on this machine or on the Hub, and the base that it was made from.

Left out: loading and downloading, see `bases` and `chat_app`.
"""

import hashlib
import json
from pathlib import Path

from utils import hub as hub_access
from utils.train import base as bases

PROOF = "merge.json"  # beside a merged model


def find_merged(given: str | None, artifacts) -> str:
    """Return the folder or Hub id of the merged model, without downloading anything.

    Args:
        given: folder or Hub id; `None` takes what notebook 05 wrote into the artifacts.
        artifacts: folder that notebook 05 was given.

    Raises:
        FileNotFoundError: saying which notebook makes it.
    """
    folder = Path(artifacts) / "merged" if given is None else Path(given)
    if (folder / "config.json").exists():
        return str(folder)
    if given is None or folder.exists():
        raise FileNotFoundError(
            f"There is no merged model in {folder} (no config.json). Run 05_merge_and_push first; if you gave it a "
            "folder as MERGED, set MODEL to that; if it ran on another machine, set ARTIFACTS to the same Drive "
            "folder, or MODEL to the repository that it pushed."
        )
    return given


def record_merge(merged, adapter, base, about: dict) -> None:
    """Write beside a merged model, as `merge.json`, what it was made from, for the notebooks after 05.

    Args:
        merged, adapter: their folders.
        base: of `utils.train.base.describe_base`; nothing is written of one that is a folder.
        about: where both are published, and how well the merge was proven.
    """
    made_from = {"base_model": base.name if base.commit else None, "base_commit": base.commit}
    proof = about | made_from | {"adapter_sha256": _hash(adapter)}
    (Path(merged) / PROOF).write_text(json.dumps(proof, indent=2) + "\n")


def check_merged_from(merged, adapter) -> None:
    """Compare an adapter with the one that a merged model was made from, as far as `merge.json` tells.

    Raises:
        ValueError: if it was another one, as after a second training without a second merge.
    """
    proof = Path(merged) / PROOF
    made_from = json.loads(proof.read_text()).get("adapter_sha256") if proof.exists() else None
    if made_from and made_from != _hash(adapter):
        raise ValueError(f"{merged} was merged from another adapter than {adapter}: run notebook 05 again.")


def base_of(model: str, commit: str | None, run_folder, token: str | None = None) -> tuple[str, str | None]:
    """Return the base that a merged model was made from, and its commit, if that is known.

    Told by `merge.json` of notebook 05, else by the model's card, which names no commit, else by the record of the run.

    Args:
        model: folder or Hub id, as of `find_merged`.
        commit: of the Hub repository; `None` for a folder.
        run_folder: of notebook 03; its record knows a base that is a folder, which nothing that is published names.
        token: Hub token for a private repository.

    Raises:
        ValueError: if none of them names it, saying what to set.
    """
    from huggingface_hub import ModelCard

    proof, card = (_file(model, name, commit, token) for name in (PROOF, "README.md"))
    made_from = json.loads(proof.read_text()) if proof else {}
    if made_from.get("base_model"):
        return made_from["base_model"], made_from["base_commit"]
    named = ModelCard.load(card).data.get("base_model") if card else None
    if isinstance(named, str):
        return named, None
    record = Path(run_folder) / "run.json"
    if record.exists():
        run = json.loads(record.read_text())
        return run["recipe"]["base_model"], run["revisions"]["base_model"]
    raise ValueError(f"Neither {model} nor {record} names its base: set BASE_MODEL to its name or folder.")


def published_as(model: str, base: str, owner: str) -> str:
    """Return the repository that notebook 05 pushes a merged model to, as it wrote beside the model, or by default.

    Args:
        model: folder, or a Hub id, which is returned as it is.
        base: the name of its base.
        owner: whose namespace is the default.
    """
    if not Path(model).is_dir():
        return model
    proof = Path(model) / PROOF
    return json.loads(proof.read_text())["merged"] if proof.exists() else f"{owner}/{bases.model_name(base)}"


def _hash(adapter) -> str:
    with open(Path(adapter) / "adapter_model.safetensors", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(model: str, name: str, commit: str | None, token: str | None) -> Path | None:
    """Return a small file of a folder or of a Hub repository at a commit, or `None` if it is not there."""
    from huggingface_hub import HfApi, hf_hub_download

    if commit is None:
        return Path(model) / name if (Path(model) / name).exists() else None
    with hub_access.in_one_sentence(model, revision=commit):
        if not HfApi(token=token).file_exists(model, name, revision=commit):
            return None
        return Path(hf_hub_download(model, name, revision=commit, token=token))
