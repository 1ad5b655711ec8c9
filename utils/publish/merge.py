"""From adapter to published model: what is checked before a merge, written beside it, and compared after the push.

The merge itself is two lines of notebook 05. Left out: merging into quantised weights.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from utils import environment, hub
from utils.publish import card, models
from utils.train import base as bases
from utils.train import fit, keep

LICENCES = ["LICENSE*", "USE_POLICY*"]
TEXT_FILES = ["README.md", card.CURVES, *LICENCES, "tokenizer*.json", "special_tokens_map.json", "chat_template.jinja"]
ADAPTER_FILES = ["adapter_model.safetensors", "adapter_config.json", "run.json", *TEXT_FILES]
MERGED_FILES = ["model*.safetensors", "model.safetensors.index.json", "config.json", "generation_config.json"]
MERGED_FILES += [models.PROOF, *TEXT_FILES]


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
    token: str | None

    @property
    def found(self) -> dict[str, str]:
        """What the notebook's `MORE` left open."""
        base = {"base_model": self.base.name, "base_revision": self.base.commit or ""}
        return base | {"merged_folder": str(self.folder)}


def check_merge(adapter: str, artifacts, hub_repo: str, private: bool, more: dict) -> MergePlan:
    """Find the adapter and its base, show what would stop the merge or the push, stop at a red line, fetch the base.

    The repositories are made here, still empty: the surest test of a token is to use it. `more` is the notebook's.
    """
    token = environment.find_token("HF_TOKEN")
    adapter, run, held_out = keep.find_adapter(adapter or None, Path(artifacts) / "run", token)
    commit = more["base_revision"] or run["revisions"]["base_model"]
    base = bases.describe_base(more["base_model"] or run["recipe"]["base_model"], commit, token)
    print(f"adapter  {adapter}\nbase     {base.name} @ {base.commit}")
    talks = [pair["prompt"] + pair["chosen"] for pair in held_out[:8]]
    if not talks:  # a published adapter comes without them
        talks = [[{"role": "user", "content": text}] for text in environment.course_prompts()]
    folder = environment.artifacts_folder(artifacts, more["merged_folder"] or "merged")
    merged_repo = hub_repo or models.published_as(None, base.name, "you")
    adapter_repo = more["adapter_repo"] or f"{merged_repo}-adapter"
    disk = [(base.download_gb, hub.cache_folder(), "the base"), (base.size_gb, folder, "the merged model")]
    identity, repositories = None, []
    if hub_repo:
        identity, repositories = hub.hub_identity(token), [adapter_repo, merged_repo]
        disk.append((base.size_gb, tempfile.gettempdir(), "its read-back"))
    checks = fit.check_base(base) + fit.check_merging(base, environment.find_device())
    models.show_checks(checks, disk, identity, repositories, base.name)
    for repo_id in repositories:
        hub.create_repository(repo_id, token, private)
    bases.fetch_base(base.name, base.commit, token)  # every file compared with the Hub's list
    return MergePlan(adapter, run, base, talks, folder, merged_repo, adapter_repo, bool(hub_repo), token)


def compare_predictions(reference, candidate) -> dict[str, float]:
    """Compare two models' log-probabilities at the same positions, of shape (positions, vocabulary).

    `kl` is the mean Kullback-Leibler divergence of the candidate from the reference in nats, `max_kl` that at the worst
    position, and `top1` the share of positions at which both prefer the same token.
    """
    kl = (reference.exp() * (reference - candidate)).sum(-1)
    same = reference.argmax(-1) == candidate.argmax(-1)
    return {"kl": kl.mean().item(), "max_kl": kl.max().item(), "top1": same.float().mean().item()}


def document_merge(plan: MergePlan, parity: dict[str, float]) -> None:
    """Write `merge.json` beside the merged model; beside it and the adapter, licence, curves and card."""
    published = {"adapter": plan.adapter_repo, "merged": plan.merged_repo} if plan.push else {}
    models.write_proof(plan.folder, plan.adapter, plan.base, published | parity)
    for folder, repo_id, result in (
        (plan.adapter, plan.adapter_repo, None),
        (plan.folder, plan.merged_repo, parity),
    ):
        copy_licence(plan.base.name, plan.base.commit, folder, plan.token)
        card.draw_curves(plan.adapter.parent, folder)
        card.write_card(folder, repo_id, plan.run, result)


def copy_licence(base_model: str, revision: str | None, folder: Path, token: str | None = None) -> None:
    """Copy the base's licence files, which a model trained from it must carry, into a folder."""
    from huggingface_hub import snapshot_download

    source = Path(base_model)
    if not source.is_dir():
        source = Path(snapshot_download(base_model, revision=revision, token=token, allow_patterns=LICENCES))
    for pattern in LICENCES:
        for path in source.glob(pattern):
            shutil.copyfile(path, folder / path.name)


def push_adapter(plan: MergePlan) -> dict[str, str]:
    """Push the adapter's files that are on the list, read them back, and return repository -> commit; else nothing."""
    if not plan.push:
        print('Nothing was pushed: set HUB_REPO = "your-name/..." to publish.')
        return {}
    commit = hub.commit_files(plan.adapter, plan.adapter_repo, ADAPTER_FILES, plan.token, replaces=ADAPTER_FILES)
    with tempfile.TemporaryDirectory() as fresh:
        verify_push(plan.adapter, plan.adapter_repo, commit, ADAPTER_FILES, plan.token, fresh)
    return {plan.adapter_repo: commit}


def read_back(plan: MergePlan, commit: str, target) -> None:
    """Download the merged model that was pushed as `commit` into an empty folder, and compare every file."""
    verify_push(plan.folder, plan.merged_repo, commit, MERGED_FILES, plan.token, target)


def verify_push(folder: Path, repo_id: str, commit: str, allow: list[str], token, target=None, kind="model") -> None:
    """Compare the hash of every file with what the Hub lists, and download the commit into `target` to do so there.

    Raises `ValueError` naming the files that differ, or are missing on either side.
    """
    from huggingface_hub import snapshot_download

    folders = [folder]
    if target:
        folders.append(Path(target))
        with hub.in_one_sentence(repo_id, revision=commit):
            snapshot_download(repo_id, revision=commit, token=token, local_dir=target, allow_patterns=allow)
    listed = {entry.rfilename: entry for entry in hub.describe_repository(repo_id, kind, commit, token).files}
    names = {path.name for folder in folders for path in folder.iterdir()} | listed.keys()
    wrong = [
        name
        for name in sorted(names)
        if hub.matches(name, allow)
        and not (name in listed and all(hub.is_as_listed(folder / name, listed[name]) for folder in folders))
    ]
    if wrong:
        raise ValueError(
            f"{repo_id} at {commit} does not hold what was pushed: {', '.join(wrong)}. Push again, or choose an empty "
            "repository."
        )
    print(f"{hub.page(repo_id, kind)} @ {commit}: every file is what was sent")
