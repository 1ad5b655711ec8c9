"""What is known of a base before it is loaded: what the Hub says, its layers without weights, and its files, whole.

Left out: loading it, see `model_loading`.
"""

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from utils import hub as hub_access
from utils.hub import llama_licence as llama_licence

WEIGHTS = "model*.safetensors"  # what transformers loads; a second copy under another name is not fetched
SMALL_FILES = ["*.json", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class Base:
    """What is known of a base before anything large is downloaded."""

    name: str
    commit: str | None  # `None` for a local folder
    host: str
    licence: str
    gate: str  # a sentence
    may_download: bool
    download_gb: float  # what is not on this machine yet, in GB (10^9 bytes)
    size_gb: float  # its weights in safetensors
    skeleton: object | None  # the model without its weights, see `skeleton`; `None` if it cannot be had
    trouble: str | None  # why not; for a gated one, the way in


def model_name(base_model: str) -> str:
    """Name the model that is trained from a base, as the licence of Llama 3 wants it.

    Example:
        >>> model_name("NousResearch/Meta-Llama-3-8B"), model_name("microsoft/phi-2")
        ('Llama-3-8B-ORPO', 'phi-2-ORPO')
    """
    return f"{Path(base_model).name.removeprefix('Meta-').replace(' ', '-')}-ORPO"


def describe_base(base_model: str, revision: str | None = None, token: str | None = None) -> Base:
    """Look up what the Hub says of a base before anything large is downloaded; errors as `hub.in_one_sentence`."""
    from huggingface_hub import try_to_load_from_cache

    facts = hub_access.describe_repository(base_model, revision=revision, token=token)
    commit, host, licence = facts.commit, facts.host, facts.licence
    if commit is None:
        size = sum(path.stat().st_size for path in Path(base_model).glob(WEIGHTS)) / 1e9
        found = _read_skeleton(base_model, None, None)
        return Base(base_model, None, host, "see the folder", "local", True, 0.0, size, *found)
    sizes = {file.rfilename: file.size or 0 for file in facts.files if fnmatch(file.rfilename, WEIGHTS)}
    size = sum(sizes.values()) / 1e9
    if not facts.may_read:
        gate = "gated, and you have no access yet"
        return Base(base_model, commit, host, licence, gate, False, size, size, None, hub_access.way_in(base_model))
    gate = "gated, and you have access" if facts.gated else "not gated"
    cached = {name for name in sizes if isinstance(try_to_load_from_cache(base_model, name, revision=commit), str)}
    missing = sum(size for name, size in sizes.items() if name not in cached) / 1e9
    found = _read_skeleton(base_model, commit, token)
    return Base(base_model, commit, host, licence, gate, True, missing, size, *found)


def skeleton(config):
    """Build a causal language model without its weights, in seconds; `ValueError` for another kind of model."""
    import torch
    from transformers import AutoModelForCausalLM

    if config.get_text_config() is not config:
        raise ValueError(f"a {config.model_type} reads more than text, which the course does not train")
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except ValueError as error:
        raise ValueError(f"a {config.model_type} is not a causal language model that transformers knows") from error


def linear_layers(model) -> list[str]:
    """Name the linear layers that LoRA can be put on: the last part of each name, without the output head."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    names = (
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    )
    return list(dict.fromkeys(name.split(".")[-1] for name in names))


def context_length(model) -> int | None:
    """Return the most tokens that a base reads, or `None` if it sets no bound."""
    return getattr(model.config, "max_position_embeddings", None)


def fit_modules(model, wanted) -> tuple[str, ...]:
    """Return the names that get LoRA: those wanted, or all linear layers for "all-linear" or if one is missing."""
    names = linear_layers(model)
    return tuple(wanted) if wanted != "all-linear" and set(wanted) <= set(names) else tuple(names)


def fetch_base(base_model: str, revision: str | None, token: str | None = None) -> Path:
    """Download a base into the cache, compare every file with the Hub's list, and return the folder.

    Raises `ValueError` naming a file that is truncated or is not as listed (it is deleted), or `ConnectionError`.
    """
    from huggingface_hub import HfApi, snapshot_download
    from safetensors import SafetensorError, safe_open

    folder, files = Path(base_model), []
    if not folder.is_dir():
        with hub_access.in_one_sentence(base_model, revision=revision):
            files = HfApi(token=token).model_info(base_model, revision=revision, files_metadata=True).siblings
            wanted = [WEIGHTS, *SMALL_FILES]
            folder = Path(snapshot_download(base_model, revision=revision, token=token, allow_patterns=wanted))
    for entry in files:
        path = folder / entry.rfilename
        if path.exists() and not hub_access.is_as_listed(path, entry):
            path.resolve().unlink()
            raise ValueError(
                f"{entry.rfilename} of {base_model} did not arrive as the Hub lists it. It was deleted: run this cell "
                "again to fetch it afresh."
            )
    for path in sorted(folder.glob(WEIGHTS)):
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(
                f"{path.name} of {base_model} is truncated or damaged where it comes from ({error}). Choose another "
                "revision or another copy of this base."
            ) from error
    return folder


def _read_skeleton(base_model: str, commit: str | None, token: str | None):
    """Return (skeleton, `None`), or (`None`, why it cannot be had)."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from transformers import AutoConfig

    hub_errors = httpx.HTTPError, HfHubHTTPError, LocalEntryNotFoundError
    try:
        config = AutoConfig.from_pretrained(base_model, revision=commit, token=token, trust_remote_code=False)
    except ValueError as error:
        if "custom code" in str(error) or "trust_remote_code" in str(error):
            return None, "it brings code of its own, and the course never runs a repository's code"
        return None, f"no config.json names an architecture that transformers knows ({str(error).split('. ')[0]})"
    except OSError as error:
        if isinstance(error.__cause__ or error.__context__, hub_errors):
            raise ConnectionError(f"config.json of {base_model} could not be fetched: run this cell again.") from error
        return None, f"its config.json cannot be read ({str(error).splitlines()[0]})"
    try:
        return skeleton(config), None
    except ValueError as error:
        return None, str(error)
