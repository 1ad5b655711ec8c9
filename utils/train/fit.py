"""What can be known of a run before hours are lost: `check_run` looks everything up once, and stops at what is red."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

from utils import environment, preflight
from utils import hub as hub_access
from utils.train import base as bases
from utils.train import memory, profiles

EVALUATION = 5 / 3  # five passes over the pairs held out, forward only: a third of the work
SESSION_HOURS = 12  # the longest that Colab's FAQ promises to a free session
WARNINGS = {  # what the card of the data warns of, for the record and the model's card
    "Anthropic/hh-rlhf": "The card of Anthropic/hh-rlhf warns against supervised training of dialogue agents on it, "
    "and the first term of ORPO's loss is supervised training: what is trained on it can be harmful. Study it, and "
    "do not publish it as an assistant."
}
COURSE_DATA = "mlabonne/orpo-dpo-mix-40k@v1.0"  # in whose place a mix of notebook 02 is taken


@dataclass(frozen=True)
class Plan:
    """What a run is made of, looked up before it starts.

    `device`, `dtype` (of torch), `profile`, `micro_batch` pairs x `accumulation` passes = `effective_batch`; `base` (a
    `base.Base`: `name`, `commit`, `host`, `licence`, `skeleton`, ...); `data` (`name`, `commit`, `host`, `licence`, and
    `mix`, the report of notebook 02 or `None`); `token` of the Hub or `None`; `max_length` and `target_modules` as
    this base can have them; `more`, what else was given, such as `seed`.
    """

    device: environment.Device
    dtype: object
    profile: profiles.Profile
    micro_batch: int
    accumulation: int
    base: bases.Base
    data: SimpleNamespace
    token: str | None
    folder: Path
    keep_repo: str
    trainer: str
    num_pairs: int | None
    num_eval_pairs: int
    num_epochs: float
    effective_batch: int
    max_length: int
    lora_r: int
    target_modules: tuple[str, ...]
    more: dict

    @property
    def name(self) -> str:
        """The name under which W&B shows the run."""
        return bases.model_name(self.base.name)

    @property
    def commits(self) -> dict[str, str | None]:
        """The commits of base and data; `None` for what lies on this machine."""
        return {"base_model": self.base.commit, "dataset": self.data.commit}


def check_run(
    base_model: str,
    dataset: str,
    folder,
    num_pairs: int | None = 1000,
    num_eval_pairs: int = 200,
    max_length: int = 1024,
    num_epochs: float = 1.0,
    trainer: str = "trl",
    *,
    effective_batch: int = 8,
    lora_r: int = 16,
    target_modules="all-linear",
    profile: str = "auto",
    keep_repo: str = "",
    use_mix: bool = True,
    publish: bool = False,
    stop: bool = True,
    **more,
) -> Plan:
    """Look up base, data, device and rights, show one table of what is fine, and return the `Plan` of the run.

    Nothing large is downloaded. `dataset` is a Hub id, "id@revision", folder or file; the course's own gives way to a
    mix in `folder/../mix`, unless `use_mix` is false. With `keep_repo` the private repository is made; with `publish`
    merging and a push are checked too. `more` is kept for the record, so a notebook may pass `**MORE`.

    A red line raises `preflight.NotReady`, but a long time on a GPU only warns. Without `stop` nothing red stops,
    except a base that cannot be read.
    """
    import torch
    from IPython.display import display

    folder, token = Path(folder), environment.find_token("HF_TOKEN")
    device = environment.find_device()
    chosen, why = profiles.choose_profile(device, profile)
    accumulation = profiles.accumulation(chosen, effective_batch, trainer)
    base = bases.describe_base(base_model, token=token)
    mix = folder.parent / "mix"
    takes_mix = use_mix and dataset == COURSE_DATA and (mix / "report.json").is_file()
    data = describe_data(str(mix) if takes_mix else dataset, token)
    wanted_modules = target_modules
    if base.skeleton is not None:
        max_length = min(max_length, bases.context_length(base.skeleton) or max_length)
        target_modules = bases.fit_modules(base.skeleton, target_modules)
    plan = Plan(
        device=device,
        dtype=getattr(torch, device.dtype),
        profile=chosen,
        micro_batch=effective_batch // accumulation,
        accumulation=accumulation,
        base=base,
        data=data,
        token=token,
        folder=folder,
        keep_repo=keep_repo,
        trainer=trainer,
        num_pairs=num_pairs,
        num_eval_pairs=num_eval_pairs,
        num_epochs=num_epochs,
        effective_batch=effective_batch,
        max_length=max_length,
        lora_r=lora_r,
        target_modules=tuple(target_modules),
        more=more,
    )
    downloads = base.download_gb, hub_access.cache_folder(), "the base"
    writes = lora_r / 16, folder, "checkpoints and adapter of an 8B base"
    found = f"{plan.micro_batch} pairs x {accumulation} passes = {effective_batch} pairs a step; {chosen.name}: {why}"
    found_data = f"{data.name} @ {data.commit or 'as it is'} ({data.host}), licence {data.licence}"
    checks = [preflight.Check("data", not data.warning, found_data, data.warning, stops=False)]
    checks += [preflight.Check("step", True, f"{found}; {device.dtype}: {device.dtype_reason}")]
    merged = 2 * base.size_gb, folder.parent, "the merged model and its read-back"
    checks += check_base(base) + preflight.check_disk([downloads, writes, merged] if publish else [downloads, writes])
    checks += check_training(plan, base, device, chosen, trainer)
    checks += check_modules(base, wanted_modules)
    identity = hub_access.hub_identity(token) if keep_repo or publish else None
    if publish:
        owner = identity["name"] if identity else "you"
        checks += check_merging(base, device)
        checks += preflight.check_writing(identity, [f"{owner}/{plan.name}"], base.name)
    else:
        checks += preflight.check_writing(identity, [keep_repo] if keep_repo else [])
    display(preflight.as_table(checks))
    preflight.stop_if_red(checks if stop else check_base(base))
    if keep_repo:
        hub_access.create_repository(keep_repo, token)  # the surest test of a token is to use it
    return plan


def describe_data(dataset: str, token: str | None = None) -> SimpleNamespace:
    """Look up which commit "id@revision" means today, where it is, its licence, and its report if it is a mix."""
    from utils.data import mix_files

    name, _, revision = (dataset, "", "") if Path(dataset).exists() else dataset.partition("@")
    found = hub_access.describe_repository(name, "dataset", revision or None, token)
    mix = mix_files.find_report(name, found.commit, token)
    return SimpleNamespace(
        name=name, commit=found.commit, host=found.host, licence=found.licence, mix=mix, warning=WARNINGS.get(name, "")
    )


def check_base(base) -> list[preflight.Check]:
    """Check that a base may be downloaded, is a causal language model, and comes without code and pickles."""
    found = f"{base.name} @ {base.commit or 'as it is'} ({base.host}): {base.licence}, {base.gate}"
    lines = [preflight.Check("licence", base.may_download, found, base.trouble or "")]
    if not base.may_download:
        return lines
    trouble = base.trouble
    if trouble is None and not base.size_gb:
        trouble = "its weights are pickles only, which may hold code"
    found = trouble or f"{base.skeleton.config.model_type}, {base.size_gb:.2f} GB of safetensors"
    mend = "choose a base that continues text, such as a Llama, Qwen, Mistral or Phi, with weights in safetensors"
    return [*lines, preflight.Check("base", trouble is None, f"{base.name}: {found}", mend)]


def check_modules(base, wanted) -> list[preflight.Check]:
    """Check that a base has the linear layers that LoRA is wanted on, since PEFT would leave out one it lacks."""
    if base.skeleton is None or wanted == "all-linear":
        return []
    known = bases.linear_layers(base.skeleton)
    missing = [name for name in wanted if name not in known]
    found = f"no {', '.join(missing)}" if missing else ", ".join(wanted)
    mend = f"set target_modules to 'all-linear', or to some of {', '.join(known)}"
    return [preflight.Check("LoRA", not missing, f"{base.name}: {found}", mend)]


def check_training(run, base, device, profile, trainer: str = "trl") -> list[preflight.Check]:
    """Check memory and time of a `Plan` against the device, and say which profiles would fit."""
    model = base.skeleton
    if model is None:
        return []
    computes = profiles.COMPUTES[trainer]
    budgets = memory.budgets(model, run, profiles.PROFILES, computes)
    own = replace(profile, dtype=device.dtype)  # which computes what the device can, whatever the profile is made for
    needed = sum(memory.budgets(model, run, {"own": own}, computes)["own"].values())
    fitting = [
        name
        for name, parts in budgets.items()
        if sum(parts.values()) <= preflight.ROOM["cuda"] * profiles.PROFILES[name].memory_gb
    ]
    larger = f"take a GPU of profile {' or '.join(fitting)}" if fitting else "take a smaller base: no profile holds it"
    billions = model.num_parameters() / 1e9
    needs_gpu = device.kind == "cpu" and billions > 0.5
    found = f"{device.name}, {device.memory_gb:.0f} GB, {device.dtype}, profile {profile.name}"
    mend = f"{larger}; in Colab, Runtime > Change runtime type"
    lines = [preflight.Check("device", not needs_gpu, found, mend)]
    room = preflight.ROOM[device.kind] * device.memory_gb
    others = budgets.keys() - {"cpu"} if device.kind == "cuda" else ()
    here = [name for name in budgets if name in others and sum(budgets[name].values()) <= room]
    mend = f"set the profile in MORE to {here[-1]!r}, which takes fewer pairs at once" if here else larger
    found = f"{needed:.2f} GB predicted, {room:.1f} GB usable"
    lines.append(preflight.Check("memory", needed <= room, found, f"{mend}, or set a smaller MAX_LENGTH"))
    return [*lines, _check_time(run, billions, device, profile, larger)]


def _check_time(run, billions: float, device, profile, larger: str) -> preflight.Check:
    hours = predicted_hours(run, billions, profile)
    if hours is None:
        found = "not known yet, for NUM_PAIRS takes all of your data; notebook 03 measures it before it trains"
        return preflight.Check("time", True, found)
    found = f"{_hours_in_words(hours)}, estimated; notebook 03 measures it before it trains"
    if device.kind == "cpu":
        return preflight.Check("time", hours <= SESSION_HOURS, found, larger)
    evaluated = EVALUATION * run.num_eval_pairs
    pairs = (run.num_pairs * run.num_epochs + evaluated) * SESSION_HOURS / hours - evaluated
    fewer = max(0, int(pairs / run.num_epochs))
    mend = f"set NUM_PAIRS = {fewer} to stay within {SESSION_HOURS} h, the most that a free Colab session lasts"
    return preflight.Check("time", hours <= SESSION_HOURS, found, mend, stops=False)


def predicted_hours(run, billions: float, profile) -> float | None:
    """Predict the hours of a run, with evaluation, from those of the default run on Llama 3 8B, in proportion.

    Proportional to weights (`billions`) and tokens; `None` if the number of pairs is not known yet.
    """
    if run.num_pairs is None:
        return None
    pairs = run.num_pairs * run.num_epochs + EVALUATION * run.num_eval_pairs
    return profile.hours * pairs / 1000 * (billions / 8.03) * (run.max_length / 1024)


def check_merging(base, device) -> list[preflight.Check]:
    """Check that the whole base fits into memory in 16 bits."""
    if base.skeleton is None:
        return []
    needed, room = base.skeleton.num_parameters() * 2 / 1e9, preflight.ROOM[device.kind] * device.memory_gb
    gpus = [
        f"a GPU of profile {name}"
        for name, profile in profiles.PROFILES.items()
        if needed <= preflight.ROOM["cuda"] * profile.memory_gb
    ]
    ram = f"a machine without a GPU and with {needed / preflight.ROOM['cpu']:.0f} GB of RAM"
    mend = f"merge on {' or '.join([*gpus[:1], ram])}, or take a smaller base"
    found = f"{needed:.2f} GB in bf16, {room:.1f} GB usable on {device.name}"
    return [preflight.Check("memory to merge", needed <= room, found, mend)]


def _hours_in_words(hours: float) -> str:
    return "under a minute" if hours < 1 / 60 else f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.1f} h"
