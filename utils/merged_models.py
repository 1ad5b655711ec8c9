"""Finds what notebook 05 made, on this machine or on the Hub, the base that it was made from, and the memory they take.

Left out: loading and downloading, see `bases` and `chat_app`.
"""

import json
import re
from pathlib import Path

from utils import bases, hub_access


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


def base_of(model: str, commit: str | None, run_folder, token: str | None = None) -> tuple[str, str | None]:
    """Return the base that a merged model was made from, and its commit, as its card or the record of its run say.

    Args:
        model: folder or Hub id, as of `find_merged`.
        commit: of the Hub repository; `None` for a folder.
        run_folder: of notebook 03; its record knows a base that is a folder, which no card names.
        token: Hub token for a private repository.

    Raises:
        ValueError: if neither names it, saying what to set.
    """
    from huggingface_hub import ModelCard, hf_hub_download

    card, record = Path(model) / "README.md", Path(run_folder) / "run.json"
    if commit is not None:
        with hub_access.in_one_sentence(model, revision=commit):
            card = Path(hf_hub_download(model, "README.md", revision=commit, token=token))
    if card.exists():
        content = ModelCard.load(card)
        if isinstance(name := content.data.get("base_model"), str):
            row = re.search(rf"^\| Base \| {re.escape(name)} at `([0-9a-f]{{40}})`", content.text, re.MULTILINE)
            return name, row[1] if row else None
    if record.exists():
        run = json.loads(record.read_text())
        return run["recipe"]["base_model"], run["revisions"]["base_model"]
    raise ValueError(f"Neither the card of {model} nor {record} names its base: set BASE_MODEL to its name or folder.")


def published_as(model: str, base: str, owner: str) -> str:
    """Return the repository that notebook 05 pushes a merged model to, as it wrote beside the model, or by default.

    Args:
        model: folder, or a Hub id, which is returned as it is.
        base: the name of its base.
        owner: whose namespace is the default.
    """
    if not Path(model).is_dir():
        return model
    proof = Path(model) / "merge.json"
    return json.loads(proof.read_text())["merged"] if proof.exists() else f"{owner}/{bases.model_name(base)}"


def memory_gb(skeleton, four_bit: bool, bytes_each: int = 2) -> float:
    """Return the memory that the weights of a model take, in GB (10^9 bytes).

    In 4 bits only the linear layers shrink, not the embeddings and the output head: NF4 with doubly quantised scales
    takes 0.516 bytes a weight (4.127 bits, QLoRA, arXiv 2305.14314, section 3).

    Args:
        skeleton: of `utils.bases.skeleton`.
        four_bit: whether the linear layers are stored as NF4.
        bytes_each: of a weight that stays whole: 2 in 16 bits, 4 in 32.
    """
    import torch

    layers = [module for module in skeleton.modules() if isinstance(module, torch.nn.Linear)]
    linear = sum(module.weight.numel() for module in layers if module is not skeleton.get_output_embeddings())
    whole = skeleton.num_parameters() - (linear if four_bit else 0)
    return (whole * bytes_each + linear * 0.516 * four_bit) / 1e9
