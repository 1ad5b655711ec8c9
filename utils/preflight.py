"""What can be known before hours are spent, as a table of green and red with the fix beside each red.

Notebook 00 shows it for the run that you plan; 03 and 05 show it again and stop at a red line that would stop them
later. Left out: what only the work itself can tell, such as a network that fails halfway.
"""

from dataclasses import dataclass, replace

from utils import environment, figures
from utils.train import base as bases
from utils.train import memory, profiles, recipes

ROOM = {"cuda": 0.92, "cpu": 0.7}  # share of the memory that a run may take: the rest is the system's
EVALUATION = 5 / 3  # five passes over the pairs held out, forward only: a third of the work
SESSION_HOURS = 12  # the longest that Colab's FAQ promises to a free session
GREEN, RED = "#b8e0d2", "#f5c6b0"  # tints of Okabe and Ito's: told apart by colour-blind readers, and by the words


class NotReady(RuntimeError):
    """A red line of the preflight that would stop the notebook later; the message names each, with its fix."""


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, whether it is fine, what was found, and what would mend it."""

    name: str
    fine: bool
    found: str
    mend: str = ""
    stops: bool = True  # red: whether the notebook must not go on


def check_base(base) -> list[Check]:
    """Check that a base may be downloaded, is a causal language model, and comes without code and pickles.

    Args:
        base: a `utils.train.base.Base`.
    """
    lines = [Check("licence", base.may_download, f"{base.name}: {base.licence}, {base.gate}", base.trouble or "")]
    if not base.may_download:
        return lines
    trouble = base.trouble
    if trouble is None and not base.size_gb:
        trouble = "its weights are pickles only, which may hold code"
    found = trouble or f"{base.skeleton.config.model_type}, {base.size_gb:.2f} GB of safetensors"
    mend = "choose a base that continues text, such as a Llama, Qwen, Mistral or Phi, with weights in safetensors"
    return [*lines, Check("base", trouble is None, f"{base.name}: {found}", mend)]


def check_training(recipe, base, device, profile, trainer: str = "trl") -> list[Check]:
    """Check memory and time of a training run against the device, and say which profiles would fit.

    Args:
        recipe: a `utils.train.recipes.Recipe`.
        base: a `utils.train.base.Base`; if it cannot be read, there is nothing to predict.
        device: a `utils.environment.Device`.
        profile: a `utils.train.profiles.Profile`.
        trainer: a key of `profiles.COMPUTES`.
    """
    model = base.skeleton
    if model is None:
        return []
    recipe, _ = recipes.fit_to_base(recipe, {}, *bases.limits(model))
    computes = profiles.COMPUTES[trainer]
    budgets = memory.budgets(model, recipe, profiles.PROFILES, computes)
    own = replace(profile, dtype=device.dtype)  # which computes what the device can, whatever the profile is made for
    needed = sum(memory.budgets(model, recipe, {"own": own}, computes)["own"].values())
    fitting = [
        name
        for name, parts in budgets.items()
        if sum(parts.values()) <= ROOM["cuda"] * profiles.PROFILES[name].memory_gb
    ]
    larger = f"take a GPU of profile {' or '.join(fitting)}" if fitting else "take a smaller base: no profile holds it"
    billions = model.num_parameters() / 1e9
    needs_gpu = device.kind == "cpu" and billions > 0.5
    found = f"{device.name}, {device.memory_gb:.0f} GB, {device.dtype}, profile {profile.name}"
    lines = [Check("device", not needs_gpu, found, f"{larger}; in Colab, Runtime > Change runtime type")]
    room = ROOM[device.kind] * device.memory_gb
    others = budgets.keys() - {"cpu"} if device.kind == "cuda" else ()
    here = [name for name in budgets if name in others and sum(budgets[name].values()) <= room]
    mend = f"set PROFILE = {here[-1]!r}, which takes fewer pairs at once" if here else larger
    found = f"{needed:.2f} GB predicted, {room:.1f} GB usable"
    lines.append(Check("memory", needed <= room, found, f"{mend}, or set a smaller MAX_LENGTH"))
    return [*lines, _check_time(recipe, billions, device, profile, larger)]


def _check_time(recipe, billions: float, device, profile, larger: str) -> Check:
    hours = predicted_hours(recipe, billions, profile)
    if hours is None:
        found = "not known yet, for NUM_PAIRS takes all of your data; notebook 03 measures it before it trains"
        return Check("time", True, found)
    found = f"{_in_words(hours)}, estimated; notebook 03 measures it before it trains"
    if device.kind == "cpu":
        return Check("time", hours <= SESSION_HOURS, found, larger)
    evaluated = EVALUATION * recipe.num_eval_pairs
    pairs = (recipe.num_pairs * recipe.num_epochs + evaluated) * SESSION_HOURS / hours - evaluated
    fewer = max(0, int(pairs / recipe.num_epochs))
    mend = f"set NUM_PAIRS = {fewer} to stay within {SESSION_HOURS} h, the most that a free Colab session lasts"
    return Check("time", hours <= SESSION_HOURS, found, mend, stops=False)


def predicted_hours(recipe, billions: float, profile) -> float | None:
    """Predict the hours of a run from those of the default run on Llama 3 8B, in proportion to weights and tokens.

    Args:
        recipe: a `utils.train.recipes.Recipe`.
        billions: weights of the base, in 10^9.
        profile: a `utils.train.profiles.Profile`.

    Returns:
        Hours, evaluation included, or `None` if the number of pairs is not known yet.
    """
    if recipe.num_pairs is None:
        return None
    pairs = recipe.num_pairs * recipe.num_epochs + EVALUATION * recipe.num_eval_pairs
    return profile.hours * pairs / 1000 * (billions / 8.03) * (recipe.max_length / 1024)


def check_merging(base, device) -> list[Check]:
    """Check that the whole base fits into memory in 16 bits."""
    if base.skeleton is None:
        return []
    needed, room = base.skeleton.num_parameters() * 2 / 1e9, ROOM[device.kind] * device.memory_gb
    fitting = [name for name, profile in profiles.PROFILES.items() if needed <= ROOM["cuda"] * profile.memory_gb]
    ram = f"a machine without a GPU and with {needed / ROOM['cpu']:.0f} GB of RAM"
    mend = (
        f"merge on {' or '.join([f'a GPU of profile {name}' for name in fitting[:1]] + [ram])}, or take a smaller base"
    )
    found = f"{needed:.2f} GB in bf16, {room:.1f} GB usable on {device.name}"
    return [Check("memory to merge", needed <= room, found, mend)]


def check_rows(source: str, rows: int, taken: int, expected: int | None) -> Check:
    """Compare how many rows a source's rule took with how many it took when the mix was published; never stops."""
    found = f"{taken:,} of {rows:,} rows taken"
    if expected is None:
        return Check(source, True, f"{found}; nothing is published to compare with", stops=False)
    mend = "the source has changed, or the rule is another one: look at its card and history before you go on"
    return Check(
        source, taken == expected, f"{found}, {expected:,} expected ({taken - expected:+,})", mend, stops=False
    )


def check_disk(needs: list[tuple[float, object, str]]) -> list[Check]:
    """Check each disk for all that will be written to it.

    Args:
        needs: (GB, folder, what it is).

    Returns:
        One line for each disk.
    """
    disks: dict = {}
    for needed_gb, folder, what in needs:
        disk, free_gb = environment.find_disk(folder)
        disks.setdefault(disk, (free_gb, []))[1].append((needed_gb, what))
    lines = []
    for free_gb, parts in disks.values():
        needed_gb = sum(size for size, _ in parts)
        found = f"{needed_gb:.2f} GB for {', '.join(what for _, what in parts)}; {free_gb:.1f} GB free"
        mend = (
            f"free {max(0.1, needed_gb - free_gb):.1f} GB here, or take a machine with a larger disk; a new Colab "
            "machine is empty, so first put what you trained on Drive or into KEEP_REPO"
        )
        lines.append(Check("disk", needed_gb <= free_gb, found, mend))
    return lines


def check_writing(identity: dict | None, repo_ids: list[str], base_model: str | None = None) -> list[Check]:
    """Check that a token may write, and that the repositories may have these names.

    Args:
        identity: of `utils.hub.hub_identity`.
        repo_ids: the repositories to be written; none needs no token.
        base_model: of a model to be published, whose licence may ask for a name; `None` for anything else.
    """
    if not repo_ids:
        return [Check("token", True, "not needed: nothing is written to the Hub")]
    settings = "make one with the role write at https://huggingface.co/settings/tokens, and store it as HF_TOKEN"
    if identity is None:
        return [Check("token", False, "no token that the Hub knows", settings)]
    found = f"{identity['name']}, role {identity['role']}"
    lines = [Check("token", identity["role"] != "read", found, f"this one may only read: {settings}")]
    return lines + [_check_name(repo_id, identity, base_model) for repo_id in repo_ids]


def _check_name(repo_id: str, identity: dict, base_model: str | None) -> Check:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    namespaces, name = identity["namespaces"], repo_id.split("/")[-1]
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        return Check("repository", False, f"{repo_id!r}: {str(error).splitlines()[0]}", f"take {namespaces[0]}/a-name")
    if repo_id.count("/") != 1:
        return Check("repository", False, f"{repo_id!r} has no owner", f"take {namespaces[0]}/{name}")
    if repo_id.split("/")[0] not in namespaces:
        found = f"{identity['name']} cannot write to {repo_id}"
        return Check("repository", False, found, f"choose one under {'/ or '.join(namespaces)}/")
    licence = base_model and bases.llama_licence(base_model)
    first = "Llama-3" if licence == "llama3" else "Llama"
    if licence and not name.startswith(first):
        mend = f"the base's licence asks for a name like {namespaces[0]}/{first}-{name}"
        return Check("repository", False, f"{repo_id} does not begin with {first}", mend)
    return Check("repository", True, repo_id)


def as_table(checks: list[Check]):
    """Return checks as a table of green and red, with the fix beside each red."""
    rows = [
        {
            "check": line.name,
            "fine": "yes" if line.fine else "no",
            "found": line.found,
            "what would mend it": "" if line.fine else line.mend,
        }
        for line in checks
    ]
    return figures.as_table(rows).map(
        lambda fine: f"color: black; background-color: {GREEN if fine == 'yes' else RED}", subset=["fine"]
    )


def stop_if_red(checks: list[Check]) -> None:
    """Stop before hours are lost, if a red line would stop the notebook later.

    Raises:
        NotReady: with one sentence for each such line.

    Example:
        >>> stop_if_red([Check("disk", True, "1 GB for the base, 50 GB free")])
    """
    red = [line for line in checks if not line.fine and line.stops]
    if red:
        raise NotReady(" ".join(f"{line.name.capitalize()}: {line.found}. What to do: {line.mend}." for line in red))


def _in_words(hours: float) -> str:
    return "under a minute" if hours < 1 / 60 else f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.1f} h"
