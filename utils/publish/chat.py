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
from utils.publish import chat_app, merge
from utils.train import base as bases
from utils.train import fit, model_loading

PRECISIONS = ("auto", "whole", "4-bit")


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

    Raises:
        FileNotFoundError: if there is no merged model, or a Space's model is not on the Hub.
        NotReady: see `preflight.stop_if_red`.
    """
    from IPython.display import display

    token, device = environment.find_token("HF_TOKEN"), environment.find_device()
    artifacts = Path(artifacts)
    merged = bases.describe_base(merge.find_merged(model, artifacts), token=token)
    named = more["base_model"], None
    if not more["base_model"]:
        named = merge.base_of(merged.name, merged.commit, artifacts / "run", token)
    base = bases.describe_base(*named, token)
    print(f"tuned  {merged.name}\nbase   {base.name} @ {base.commit}")
    models = [merged, base] if compare else [merged]
    checks = [check for it in models for check in fit.check_base(it)]
    preflight.stop_if_red(checks)
    room = preflight.ROOM[device.kind] * device.memory_gb
    needed = {kind: weights_gb(models, kind == "4-bit", device.kind) for kind in PRECISIONS[1:]}
    if precision == "auto":
        precision = "whole" if needed["whole"] < room else "4-bit"
    found = f"{needed[precision]:.2f} GB {precision}, {room:.1f} GB usable"
    mend = "set COMPARE = False, or take a machine with more memory"
    checks.append(preflight.Check("memory of the weights", needed[precision] < room, found, mend))
    identity = hub.hub_identity(token) if space_repo else None
    published = merge.published_as(merged.name, base.name, identity["name"] if identity else "you")
    folder = environment.artifacts_folder(artifacts, more["gguf_folder"] or ".")
    needs = [(sum(it.download_gb for it in models), hub.cache_folder(), "the models")]
    if write_gguf:
        needs.append((merged.size_gb, folder, "the GGUF file"))
    checks += preflight.check_disk(needs)
    checks += preflight.check_writing(identity, [space_repo] if space_repo else [])
    display(preflight.as_table(checks))
    preflight.stop_if_red(checks)
    commit = None
    if space_repo:
        commit = hub.describe_repository(published, token=token).commit
        hub.create_repository(space_repo, token, private, "space")
    places = {"space": artifacts / "space", "gguf": folder / f"{published.split('/')[-1]}.gguf"}
    four_bit = precision == "4-bit"
    return ChatPlan(merged, base, models, four_bit, published, commit, space_repo, token=token, **places)


def weights_gb(models: list, four_bit: bool, kind: str = "cuda") -> float:
    """Return what the weights of all models take in GB: whole, 16 bits each on a GPU and 32 on a CPU."""
    width = 2 if kind == "cuda" else 4
    return sum(model_loading.weights_gb(it.skeleton, four_bit, width) for it in models)


def load_sides(plan: ChatPlan) -> list[chat_app.Side]:
    """Load the models of a plan, each file compared with the Hub's list; both get the tuned model's tokenizer.

    What an earlier call loaded is let go of first: twice would not fit.
    """
    import torch

    plan.sides.clear()
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
    models = [{"title": plan.titles[0], "name": plan.published, "revision": plan.published_commit}]
    if len(plan.models) > 1 and plan.base.commit:  # a folder of this machine is not on the Hub
        models.append({"title": plan.titles[1], "name": plan.base.name, "revision": plan.base.commit})
    title = plan.name + (" beside its base" if len(models) > 1 else "")
    settings = {"title": title, "models": models, "four_bit": plan.four_bit, "window": window, "examples": examples}
    (plan.space / "models.json").write_text(json.dumps(settings, indent=2) + "\n")
    needs = [f"{name}=={version(name)}" for name in ("transformers", "accelerate", "bitsandbytes")]
    (plan.space / "requirements.txt").write_text("\n".join(["torch>=2.11", *needs]) + "\n")
    llama = bases.llama_licence(plan.base.name, plan.base.licence)
    gigabytes = weights_gb(plan.models[: len(models)], plan.four_bit)
    about = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",  # else Spaces take one that is too old
        app_file="app.py",
        models=[entry["name"] for entry in models],
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
    """Push the Space's files as one commit, compare what the Hub then lists, and return the commit, if one was asked.

    Raises:
        ValueError: naming the files that the Hub lists differently.
    """
    from huggingface_hub import HfApi

    if not plan.space_repo:
        print('Nothing was pushed: set SPACE_REPO = "your-name/..." to publish.')
        return None
    files = ["app.py", "*.json", "*.txt", "*.md"]
    commit = hub.commit_files(plan.space, plan.space_repo, files, plan.token, repo_type="space")
    with hub.in_one_sentence(plan.space_repo, "space", commit):
        about = {"revision": commit, "repo_type": "space", "files_metadata": True}
        listed = HfApi(token=plan.token).repo_info(plan.space_repo, **about).siblings
    listed = {entry.rfilename: entry for entry in listed}
    sent = sorted(plan.space.iterdir())
    wrong = [it.name for it in sent if it.name not in listed or not hub.is_as_listed(it, listed[it.name])]
    if wrong:
        raise ValueError(f"{plan.space_repo} @ {commit} does not hold what was sent: {', '.join(wrong)}. Push again.")
    print(f"{hub.page(plan.space_repo, 'space')} @ {commit}")
    return commit
