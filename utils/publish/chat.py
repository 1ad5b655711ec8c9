"""What notebook 07 does around the chat: finds and loads its models, publishes it as a Space, names other programs.

Left out: the chat itself, see `chat_app`, which is copied into a Space as it is.
"""

import gc
import json
import shutil
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from utils import environment, hub, preflight
from utils.publish import chat_app, merge, models
from utils.train import base as bases
from utils.train import fit, model_loading

SPACE_FILES = ["app.py", "models.json", "requirements.txt", "README.md"]


@dataclass(frozen=True)
class ChatPlan:
    """Which models talk, how they are loaded, and where the results go."""

    merged: bases.Base
    base: bases.Base
    models: list[bases.Base]  # those that are loaded, the merged one first
    four_bit: bool
    published: str  # repository of the merged model
    published_commit: str | None  # if a Space is to load it
    space_repo: str  # empty: nothing is pushed
    space: Path  # folder of the Space's files
    gguf: Path  # the file that may be written
    token: str | None
    sides: list[chat_app.Side] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The merged model's name without its owner."""
        return self.published.split("/")[-1]

    @property
    def served_from_hub(self) -> bool:
        """Whether the Hub has the merged model."""
        return bool(self.merged.commit or self.space_repo)

    def fetch_merged(self) -> Path:
        """Return the folder of the merged model's files."""
        return bases.fetch_base(self.merged.name, self.merged.commit, self.token).resolve()

    @property
    def titles(self) -> list[str]:
        """What is above each column."""
        return [f"tuned: {self.name}", f"base: {self.base.name.split('/')[-1]}"][: len(self.models)]


def check_chat(
    model: str, artifacts, compare: bool, precision: str, write_gguf: bool, space_repo: str, private: bool, more: dict
) -> ChatPlan:
    """Find the merged model and its base, show what would stop the chat or the push, and stop at a red line.

    A Space's repository is made here, still empty. `more` is the notebook's.
    """
    token, artifacts = environment.find_token("HF_TOKEN"), Path(artifacts)
    merged = bases.describe_base(models.find_merged(model, artifacts), token=token)
    named = more["base_model"], None
    if not more["base_model"]:
        named = models.base_of(merged.name, merged.commit, artifacts / "run", token)
    base = bases.describe_base(*named, token)
    print(f"tuned  {merged.name}\nbase   {base.name} @ {base.commit}")
    loaded = [merged, base] if compare else [merged]
    checks = [check for it in loaded for check in fit.check_base(it)]
    preflight.stop_if_red(checks)
    width = 2 if environment.find_device().kind == "cuda" else 4
    needed_gb = {kind: weights_gb(loaded, kind == "4-bit", width) for kind in ("whole", "4-bit")}
    mend = "set COMPARE = False, or take a machine with more memory"
    precision, memory_check = models.choose_precision(precision, needed_gb, mend)
    identity = hub.hub_identity(token) if space_repo else None
    published = models.published_as(merged.name, base.name, identity["name"] if identity else "you")
    folder = environment.artifacts_folder(artifacts, more["gguf_folder"] or ".")
    disk = [(sum(it.download_gb for it in loaded), hub.cache_folder(), "the models")]
    if write_gguf:
        disk.append((merged.size_gb, folder, "the GGUF file"))
    models.show_checks([*checks, memory_check], disk, identity, [space_repo] if space_repo else [])
    commit = None
    if space_repo:
        commit = hub.describe_repository(published, token=token).commit
        hub.create_repository(space_repo, token, private, "space")
    places = {"space": artifacts / "space", "gguf": folder / f"{published.split('/')[-1]}.gguf"}
    return ChatPlan(merged, base, loaded, precision == "4-bit", published, commit, space_repo, token=token, **places)


def weights_gb(loaded: list, four_bit: bool, width: int = 2) -> float:
    """Return what the weights of all models take in GB; whole, each takes `width` bytes."""
    return sum(model_loading.weights_gb(it.skeleton, four_bit, width) for it in loaded)


def load_sides(plan: ChatPlan) -> list[chat_app.Side]:
    """Load the models of a plan, each file compared with the Hub's list; both get the tuned model's tokenizer."""
    import torch

    plan.sides.clear()  # of an earlier call: twice would not fit
    gc.collect()
    torch.cuda.empty_cache()
    for title, it in zip(plan.titles, plan.models, strict=True):
        bases.fetch_base(it.name, it.commit, plan.token)
        tokenizer = plan.sides[0].tokenizer if plan.sides else None
        plan.sides.append(chat_app.load_side(title, it.name, it.commit, plan.four_bit, tokenizer))
    return plan.sides


def write_space(plan: ChatPlan, window: int, examples: list[str]) -> str:
    """Write the four files of a Space: the app, what it loads, what it needs, and its card, which is returned."""
    from huggingface_hub import SpaceCard, SpaceCardData

    shutil.rmtree(plan.space, ignore_errors=True)
    plan.space.mkdir(parents=True)
    shutil.copy(chat_app.__file__, plan.space / "app.py")
    entries = [{"title": plan.titles[0], "name": plan.published, "revision": plan.published_commit}]
    if len(plan.models) > 1 and plan.base.commit:  # a folder of this machine is not on the Hub
        entries.append({"title": plan.titles[1], "name": plan.base.name, "revision": plan.base.commit})
    title = plan.name + (" beside its base" if len(entries) > 1 else "")
    settings = {"title": title, "models": entries, "four_bit": plan.four_bit, "window": window, "examples": examples}
    (plan.space / "models.json").write_text(json.dumps(settings, indent=2) + "\n")
    needs = [f"{name}=={version(name)}" for name in ("transformers", "accelerate", "bitsandbytes")]
    (plan.space / "requirements.txt").write_text("\n".join(["torch>=2.11", *needs]) + "\n")
    llama = hub.llama_licence(plan.base.name, plan.base.licence)
    gigabytes = weights_gb(plan.models[: len(entries)], plan.four_bit)
    about = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",  # else Spaces take one that is too old
        app_file="app.py",
        models=[entry["name"] for entry in entries],
        license=(llama or plan.base.licence) if plan.base.commit else None,
    )
    if gigabytes > 5:  # more than the free hardware answers with in reasonable time
        about["suggested_hardware"] = "l4x1" if plan.four_bit else "a100-large"
    template = str(Path(__file__).with_name("space_card.md"))
    shown = {key: settings[key] for key in ("title", "models", "four_bit")}
    card = str(SpaceCard.from_template(about, template, **shown, gigabytes=gigabytes, llama=llama))
    (plan.space / "README.md").write_text(card)
    return card


def push_space(plan: ChatPlan) -> str | None:
    """Push the Space's files, if asked, as one commit, compare what the Hub then lists, and return the commit."""
    if not plan.space_repo:
        print('Nothing was pushed: set SPACE_REPO = "your-name/..." to publish.')
        return None
    commit = hub.commit_files(plan.space, plan.space_repo, SPACE_FILES, plan.token, repo_type="space")
    merge.verify_push(plan.space, plan.space_repo, commit, SPACE_FILES, plan.token, kind="space")
    return commit
