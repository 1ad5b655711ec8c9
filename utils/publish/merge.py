"""From adapter to published model: what is checked before a merge, written beside it, and compared after the push.

The merge itself is two lines of notebook 05. Left out: merging into quantised weights.
"""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from utils import environment, hub, preflight
from utils.publish import card
from utils.train import base as bases
from utils.train import fit, keep

PROOF = "merge.json"  # beside a merged model: what it was made from
TEXT_FILES = ["README.md", card.CURVES, "LICENSE*", "USE_POLICY*", "tokenizer*.json", "special_tokens_map.json"]
TEXT_FILES.append("chat_template.jinja")
ADAPTER_FILES = ["adapter_model.safetensors", "adapter_config.json", "run.json", *TEXT_FILES]
MERGED_FILES = ["model*.safetensors", "model.safetensors.index.json", "config.json", "generation_config.json"]
MERGED_FILES += [PROOF, *TEXT_FILES]


@dataclass(frozen=True)
class MergePlan:
    """What notebook 05 merges, and where the results go."""

    adapter: Path
    run: dict  # contents of run.json
    base: bases.Base
    talks: list[list[dict]]  # conversations that the adapter was not trained on
    folder: Path  # of the merged model
    merged_repo: str
    adapter_repo: str
    push: bool
    private: bool
    token: str | None

    @property
    def found(self) -> dict[str, str]:
        """What the notebook's `MORE` left open."""
        base = {"base_model": self.base.name, "base_revision": self.base.commit or ""}
        return base | {"merged_folder": str(self.folder)}


def check_merge(adapter: str, artifacts, hub_repo: str, private: bool, more: dict) -> MergePlan:
    """Find the adapter and its base, show what would stop the merge or the push, stop at a red line, fetch the base.

    The repositories are made here, still empty: the surest test of a token is to use it. `more` is the notebook's.

    Raises:
        FileNotFoundError: if there is no adapter, saying which notebook makes it.
        NotReady: see `preflight.stop_if_red`.
    """
    from IPython.display import display

    token, device = environment.find_token("HF_TOKEN"), environment.find_device()
    adapter, run, held_out = keep.find_adapter(adapter or None, Path(artifacts) / "run", token)
    commit = more["base_revision"] or run["revisions"]["base_model"]
    base = bases.describe_base(more["base_model"] or run["recipe"]["base_model"], commit, token)
    talks = [pair["prompt"] + pair["chosen"] for pair in held_out[:8]]
    if not talks:  # a published adapter comes without them
        talks = [[{"role": "user", "content": text}] for text in environment.course_prompts()]
    folder = environment.artifacts_folder(artifacts, more["merged_folder"] or "merged")
    merged_repo = hub_repo or f"you/{bases.model_name(base.name)}"
    adapter_repo = more["adapter_repo"] or f"{merged_repo}-adapter"
    push = bool(hub_repo)
    print(f"adapter  {adapter}\nbase     {base.name} @ {base.commit}")
    checks = fit.check_base(base) + fit.check_merging(base, device)
    needs = [(base.download_gb, hub.cache_folder(), "the base"), (base.size_gb, folder, "the merged model")]
    if push:
        needs.append((base.size_gb, tempfile.gettempdir(), "its read-back"))
    checks += preflight.check_disk(needs)
    repositories = [adapter_repo, merged_repo] if push else []
    identity = hub.hub_identity(token) if push else None
    checks += preflight.check_writing(identity, repositories, base.name)
    display(preflight.as_table(checks))
    preflight.stop_if_red(checks)
    for repo_id in repositories:
        hub.create_repository(repo_id, token, private)
    bases.fetch_base(base.name, base.commit, token)  # every file compared with the Hub's list
    return MergePlan(adapter, run, base, talks, folder, merged_repo, adapter_repo, push, private, token)


def compare_predictions(reference, candidate) -> dict[str, float]:
    """Compare two models' log-probabilities at the same positions, of shape (positions, vocabulary).

    Returns:
        `kl`: mean Kullback-Leibler divergence of the candidate from the reference in nats; `max_kl`: at the worst
            position; `top1`: share of positions at which both prefer the same token.
    """
    kl = (reference.exp() * (reference - candidate)).sum(-1)
    same = reference.argmax(-1) == candidate.argmax(-1)
    return {"kl": kl.mean().item(), "max_kl": kl.max().item(), "top1": same.float().mean().item()}


def document_merge(plan: MergePlan, parity: dict[str, float]) -> None:
    """Write `merge.json` beside the merged model; beside it and the adapter, licence, curves and card."""
    published = {"adapter": plan.adapter_repo, "merged": plan.merged_repo} if plan.push else {}
    record_merge(plan.folder, plan.adapter, plan.base, published | parity)
    for folder, repo_id, result in (
        (plan.adapter, plan.adapter_repo, None),
        (plan.folder, plan.merged_repo, parity),
    ):
        copy_licence(plan.base.name, plan.base.commit, folder, plan.token)
        drawn = card.draw_curves(plan.adapter.parent, folder)
        (folder / "README.md").write_text(card.model_card(repo_id, plan.run, result, has_curves=drawn))


def push_adapter(plan: MergePlan) -> dict[str, str]:
    """Push the adapter's files that are on the list, read them back, and return repository -> commit; else nothing."""
    if not plan.push:
        print('Nothing was pushed: set HUB_REPO = "your-name/..." to publish.')
        return {}
    commit = push_files(plan.adapter, plan.adapter_repo, ADAPTER_FILES, plan.token, plan.private)
    with tempfile.TemporaryDirectory() as fresh:
        pull_and_verify(plan.adapter, plan.adapter_repo, commit, ADAPTER_FILES, plan.token, fresh)
    print(f"{hub.page(plan.adapter_repo)} @ {commit}: every file is what was sent")
    return {plan.adapter_repo: commit}


def read_back(plan: MergePlan, commit: str, target) -> Path:
    """Download the merged model that was pushed as `commit` into an empty folder, and compare every file."""
    folder = pull_and_verify(plan.folder, plan.merged_repo, commit, MERGED_FILES, plan.token, target)
    print(f"{hub.page(plan.merged_repo)} @ {commit}: every file is what was sent")
    return folder


def copy_licence(base_model: str, revision: str | None, folder: Path, token: str | None = None) -> list[str]:
    """Copy the base's licence files, which a model trained from it must carry, into a folder; return their names."""
    from huggingface_hub import hf_hub_download, list_repo_files

    local = Path(base_model)
    if local.is_dir():
        names = [path.name for path in local.iterdir()]
    else:
        names = list_repo_files(base_model, revision=revision, token=token)
    names = [name for name in names if fnmatch(name, "LICENSE*") or fnmatch(name, "USE_POLICY*")]
    for name in names:
        source = local / name if local.is_dir() else hf_hub_download(base_model, name, revision=revision, token=token)
        shutil.copyfile(source, folder / name)
    return names


def push_files(folder: Path, repo_id: str, allow: list[str], token: str | None, private: bool = True) -> str:
    """Upload the files of a folder that are on a list, as one commit, and return it; old ones on the list go."""
    hub.create_repository(repo_id, token, private)
    return hub.commit_files(folder, repo_id, allow, token, replaces=allow)


def pull_and_verify(folder: Path, repo_id: str, revision: str, allow: list[str], token, target) -> Path:
    """Download a commit, and compare the sha256 of every file with what was pushed and with what the Hub lists.

    Raises:
        ValueError: naming the files that differ, or are missing on either side.
    """
    from huggingface_hub import HfApi, snapshot_download

    with hub.in_one_sentence(repo_id, revision=revision):
        files = HfApi(token=token).model_info(repo_id, revision=revision, files_metadata=True).siblings
        snapshot_download(repo_id, revision=revision, token=token, local_dir=target, allow_patterns=allow)
    listed = {entry.rfilename: entry for entry in files if hub.matches(entry.rfilename, allow)}
    sent = {path.name for path in folder.iterdir() if hub.matches(path.name, allow)}
    wrong = [
        name
        for name in sorted(sent | listed.keys())
        if name not in listed
        or not hub.is_as_listed(folder / name, listed[name])
        or not hub.is_as_listed(Path(target) / name, listed[name])
    ]
    if wrong:
        raise ValueError(
            f"{repo_id} at {revision} does not hold what was pushed: {', '.join(wrong)}. Push again, or choose an "
            "empty repository."
        )
    return Path(target)


def find_merged(given: str, artifacts) -> str:
    """Return the folder or Hub id of the merged model, without a download; `""` takes what notebook 05 wrote.

    Raises:
        FileNotFoundError: saying which notebook makes it.
    """
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


def record_merge(merged, adapter, base, about: dict) -> None:
    """Write beside a merged model, as `merge.json`, what it was made from; of a base in a folder, nothing.

    `about` says where both are published, and how well the merge was proven.
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

    Told by `merge.json`, else by the model's card, which names no commit, else by the record of the run in
    `run_folder`, which alone knows a base that is a folder. `commit` is that of the model; `None` for a folder.

    Raises:
        ValueError: if none of them names it, saying what to set.
    """
    from huggingface_hub import ModelCard

    proof, readme = (_file(model, name, commit, token) for name in (PROOF, "README.md"))
    made_from = json.loads(proof.read_text()) if proof else {}
    if made_from.get("base_model"):
        return made_from["base_model"], made_from["base_commit"]
    named = ModelCard.load(readme).data.get("base_model") if readme else None
    if isinstance(named, str):
        return named, None
    record = Path(run_folder) / "run.json"
    if record.exists():
        run = json.loads(record.read_text())
        return run["recipe"]["base_model"], run["revisions"]["base_model"]
    raise ValueError(f'Neither {model} nor {record} names its base: set MORE["base_model"] to its name or folder.')


def published_as(model: str, base: str, owner: str) -> str:
    """Return the repository of a merged model: its Hub id, what notebook 05 wrote beside it, or `owner`'s default."""
    if not Path(model).is_dir():
        return model
    proof = Path(model) / PROOF
    recorded = json.loads(proof.read_text()).get("merged") if proof.exists() else None
    return recorded or f"{owner}/{bases.model_name(base)}"


def _hash(adapter) -> str:
    with open(Path(adapter) / "adapter_model.safetensors", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(model: str, name: str, commit: str | None, token: str | None) -> Path | None:
    """Return a small file of a folder or of a Hub repository at a commit, or `None` if it is not there."""
    from huggingface_hub import HfApi, hf_hub_download

    if commit is None:
        return Path(model) / name if (Path(model) / name).exists() else None
    with hub.in_one_sentence(model, revision=commit):
        if not HfApi(token=token).file_exists(model, name, revision=commit):
            return None
        return Path(hf_hub_download(model, name, revision=commit, token=token))
