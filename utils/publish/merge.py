"""From adapter to published model: proof of the merge, the licence, the push, and the check of what arrived.

The merge itself is two lines and stands in notebook 05, the card is `model_card`'s. Left out: merging into quantised
weights, and any file that is not on the list.
"""

from fnmatch import fnmatch
from pathlib import Path

from utils import hub as hub_access

TEXT_FILES = [
    "README.md",
    "curves.png",
    "LICENSE*",
    "USE_POLICY*",
    "tokenizer*.json",
    "special_tokens_map.json",
    "chat_template.jinja",
]
ADAPTER_FILES = ["adapter_model.safetensors", "adapter_config.json", "run.json", *TEXT_FILES]
MERGED_FILES = [
    "model*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "merge.json",
    *TEXT_FILES,
]


def log_probabilities(model, tokenizer, conversations: list[list[dict]]):
    """Run a model over whole conversations, one at a time.

    Args:
        model: a causal language model.
        tokenizer: prepared by `utils.data.chat_format.prepare_tokenizer`.
        conversations: message lists.

    Returns:
        Log-probabilities of every next token, float32 on the CPU, of shape (positions of all conversations,
        vocabulary).
    """
    import torch

    model.eval()
    rows = []
    with torch.no_grad():
        for messages in conversations:
            inputs = tokenizer.apply_chat_template(
                messages,
                add_generation_prompt=messages[-1]["role"] != "assistant",
                return_tensors="pt",
                return_dict=True,
            )
            rows.append(model(**inputs.to(model.device)).logits[0].float().log_softmax(-1).cpu())
    return torch.cat(rows)


def compare(reference, candidate) -> dict[str, float]:
    """Compare the predictions of two models at the same positions.

    Args:
        reference, candidate: log-probabilities of shape (positions, vocabulary).

    Returns:
        `kl`: mean Kullback-Leibler divergence of the candidate from the reference in nats; `max_kl`: at the worst
            position; `top1`: share of positions at which both prefer the same token.
    """
    kl = (reference.exp() * (reference - candidate)).sum(-1)
    same = reference.argmax(-1) == candidate.argmax(-1)
    return {"kl": kl.mean().item(), "max_kl": kl.max().item(), "top1": same.float().mean().item()}


def plot_divergences(divergences: dict[str, float], allowed: float | None = None):
    """Draw KL divergences in nats a token as bars on a logarithmic axis, with a dashed line at the most allowed.

    Returns:
        (figure, alt text).
    """
    from utils.figures import SEQUENCE, new_figure

    figure, (axis,) = new_figure(width=6.0, height=0.6 + 0.55 * len(divergences))
    values = [max(value, 1e-9) for value in divergences.values()]  # a merge may be exact, and zero has no logarithm
    bars = axis.barh(list(divergences), values, color=SEQUENCE[: len(values)])
    axis.bar_label(bars, fmt="%.1e", padding=4)
    if allowed is not None:
        axis.axvline(allowed, color="black", linestyle="--")
    axis.set(xscale="log", xlabel="KL divergence (nats a token)", xlim=(min(values) / 5, max(values) * 20))
    text = "; ".join(f"{name} {value:.1e}" for name, value in divergences.items())
    return figure, f"KL divergence in nats a token: {text}" + (f"; allowed {allowed}" if allowed is not None else "")


def copy_licence(base_model: str, revision: str | None, folder: Path, token: str | None = None) -> list[str]:
    """Copy the base's licence files, which a model trained from it must carry, into a folder; return their names."""
    import shutil

    from huggingface_hub import hf_hub_download, list_repo_files

    local = Path(base_model)
    names = (
        [path.name for path in local.iterdir()]
        if local.is_dir()
        else list_repo_files(base_model, revision=revision, token=token)
    )
    names = [name for name in names if fnmatch(name, "LICENSE*") or fnmatch(name, "USE_POLICY*")]
    for name in names:
        source = local / name if local.is_dir() else hf_hub_download(base_model, name, revision=revision, token=token)
        shutil.copyfile(source, folder / name)
    return names


def push(folder: Path, repo_id: str, allow: list[str], token: str | None, private: bool = True) -> str:
    """Upload the files of a folder that are on a list, as one commit; the repository is made if it is not there.

    Args:
        folder: local folder.
        repo_id: "namespace/name".
        allow: patterns of file names: `ADAPTER_FILES` or `MERGED_FILES`.
        token: Hub token that may write.
        private: visibility of a repository that is made now.

    Returns:
        The commit, 40 hex digits.
    """
    hub_access.create_repository(repo_id, token, private)
    return hub_access.commit_files(folder, repo_id, allow, token, replaces=allow)


def pull_and_verify(
    folder: Path, repo_id: str, revision: str, allow: list[str], token: str | None, target: Path
) -> Path:
    """Download a commit afresh and compare the sha256 of every file with what was pushed, and with what the Hub lists.

    Args:
        folder: what was pushed.
        repo_id, revision: where to.
        allow: patterns it was pushed with.
        token: Hub token that may read.
        target: empty folder for the download.

    Returns:
        `target`.

    Raises:
        ValueError: naming the files that differ, or are missing on either side.
    """
    from huggingface_hub import HfApi, snapshot_download

    with hub_access.in_one_sentence(repo_id, revision=revision):
        files = HfApi(token=token).model_info(repo_id, revision=revision, files_metadata=True).siblings
        snapshot_download(repo_id, revision=revision, token=token, local_dir=target, allow_patterns=allow)
    listed = {entry.rfilename: entry for entry in files if hub_access.matches(entry.rfilename, allow)}
    sent = {path.name for path in folder.iterdir() if hub_access.matches(path.name, allow)}
    wrong = [
        name
        for name in sorted(sent | listed.keys())
        if name not in listed
        or not hub_access.is_as_listed(folder / name, listed[name])
        or not hub_access.is_as_listed(Path(target) / name, listed[name])
    ]
    if wrong:
        raise ValueError(
            f"{repo_id} at {revision} does not hold what was pushed: {', '.join(wrong)}. Push again, or choose an "
            "empty repository."
        )
    return Path(target)
