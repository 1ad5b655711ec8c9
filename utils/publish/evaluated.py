"""What notebook 06 does around its questions: finds the three models, checks that they fit, and updates their cards."""

import json
from dataclasses import dataclass
from pathlib import Path

from utils import environment, hub, preflight
from utils.publish import card
from utils.publish import models as merged_models
from utils.train import base as bases
from utils.train import fit, keep, memory, model_loading


@dataclass
class Models:
    """Base, adapter and merged model of one run, and what goes with them."""

    adapter: Path
    run: dict  # contents of run.json
    held_out: list[dict]
    base: bases.Base
    merged: bases.Base | None
    repositories: dict[str, str]  # "adapter" and "merged" -> where notebook 05 pushes them
    identity: dict | None  # of `hub.hub_identity`; `None` if nothing is to be pushed

    def __str__(self) -> str:
        merged = self.merged.name if self.merged else "none: notebook 05 makes it, or set MERGED"
        sources = len({pair.get("source") for pair in self.held_out})
        return (
            f"base     {self.base.name} @ {self.base.commit}\nadapter  {self.adapter}\nmerged   {merged}\n"
            f"pairs    {len(self.held_out)} held out, from {sources} sources"
        )


def find_models(artifacts, token, adapter: str, merged: str, push: bool, more: dict) -> Models:
    """Find what to compare without downloading any weights; `""` looks in the artifacts.

    `more` is notebook 06's `MORE`. Raises `FileNotFoundError` if there is no adapter, or no held-out pairs with it.
    """
    folder, run, held_out = keep.find_adapter(adapter or None, Path(artifacts) / "run", token)
    if more["pairs"]:
        held_out = json.loads(Path(more["pairs"]).read_text())
    if not held_out:
        raise FileNotFoundError(
            f'{folder} came without held-out pairs, as a published adapter does. Set MORE["pairs"] to the '
            "held_out.json of its run, or to a file in the same form with pairs it was not trained on."
        )
    base_name = more["base_model"] or run["recipe"]["base_model"]
    base = bases.describe_base(base_name, run["revisions"]["base_model"], token)
    if not merged and (Path(artifacts) / "merged" / "config.json").exists():
        merged = str(Path(artifacts) / "merged")
    found = bases.describe_base(merged, None, token) if merged else None
    identity = hub.hub_identity(token) if push else None
    owner = identity["name"] if identity else "you"
    merged_repo = more["merged_repo"] or merged_models.published_as(merged, base.name, owner)
    repositories = {"adapter": more["adapter_repo"] or f"{merged_repo}-adapter"}
    if found:
        repositories["merged"] = merged_repo
    return Models(folder, run, held_out, base, found, repositories, identity)


def check_models(models: Models, precision: str, batch_size: int, push: bool, token) -> str:
    """Show what would stop the evaluation, stop at a red line, and return the precision: "whole" or "4-bit".

    "auto" takes the models whole, in 16 bits on a GPU, if they fit.
    """
    found = [models.base, models.merged] if models.merged else [models.base]
    checks = [line for it in found for line in fit.check_base(it)]
    preflight.stop_if_red(checks)  # of a base that cannot be read, nothing below can be said
    shape = models.base.skeleton, environment.find_device().dtype, batch_size, models.run["recipe"]["max_length"]
    needed_gb = {"whole": scoring_gb(False, *shape), "4-bit": scoring_gb(True, *shape)}
    mend = 'set PRECISION = "auto" or a smaller BATCH_SIZE, or take a GPU with more memory'
    precision, memory_check = merged_models.choose_precision(precision, needed_gb, mend)
    disk = [(it.download_gb, hub.cache_folder(), "models") for it in found]
    repositories = list(models.repositories.values()) if push else []
    merged_models.show_checks([*checks, memory_check], disk, models.identity, repositories, models.base.name)
    for repo_id in repositories:
        hub.describe_repository(repo_id, token=token)  # stops if notebook 05 has not made it
    return precision


def scoring_gb(four_bit: bool, skeleton, dtype: str, rows: int, tokens: int) -> float:
    """Predict the memory of scoring in GB (10^9 bytes): the weights, and the logits of `rows` answers in one pass."""
    width = memory.DTYPE_BYTES[dtype]
    in_fp32 = max(rows, 2)  # lm-eval's log-probabilities of a batch; here it is one row, twice
    logits = tokens * skeleton.config.vocab_size * (rows * width + in_fp32 * 4) / 1e9
    return model_loading.weights_gb(skeleton, four_bit, width) + logits


def fetch_merged(models: Models, token) -> Path:
    """Download the merged model; raises `ValueError` if it was merged from another adapter."""
    folder = bases.fetch_base(models.merged.name, models.merged.commit, token)
    merged_models.check_merged_from(folder, models.adapter)
    return folder


def write_cards(models: Models, results: dict, folder, push: bool, token) -> dict[str, str]:
    """Write the cards of adapter and merged model with the results, and return repository -> commit if pushed.

    A merged model without `merge.json`, notebook 05's proof, gets no card; one from the Hub gets it in `folder`.
    """
    homes, parity, pushed = {"adapter": models.adapter}, {}, {}
    if models.merged:
        merged = bases.fetch_base(models.merged.name, models.merged.commit, token)
        parity = merged_models.read_proof(merged)
        if parity:
            homes["merged"] = merged if models.merged.commit is None else Path(folder) / "merged"
    for name, home in homes.items():
        repo_id = models.repositories[name]
        home.mkdir(exist_ok=True)
        card.write_card(home, repo_id, models.run, parity if name == "merged" else None, results)
        print(home / "README.md")
        if push:
            pushed[repo_id] = hub.commit_files(home, repo_id, ["README.md"], token)
            print(f"{hub.page(repo_id)} @ {pushed[repo_id]}")
    print("pushed" if pushed else "Nothing was pushed: set PUSH_TO_HUB = True to update the cards.")
    return pushed
