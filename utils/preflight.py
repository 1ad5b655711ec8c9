"""What can be known before hours are spent, as a table of green and red with the fix beside each red."""

from dataclasses import dataclass

from utils import environment, figures, hub

ROOM = {"cuda": 0.92, "cpu": 0.7}  # share of the memory that a run may take: the rest is the system's
GREEN, RED = "#b8e0d2", "#f5c6b0"  # tints of Okabe and Ito's: told apart by colour-blind readers, and by the words


class NotReady(RuntimeError):
    """A red line that would stop the notebook later; the message names each, with its fix, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, whether it is fine, what was found, and what would fix it."""

    name: str
    fine: bool
    found: str
    mend: str = ""
    stops: bool = True  # red: whether the notebook must not go on


def check_disk(needs: list[tuple[float, object, str]]) -> list[Check]:
    """Check each disk for all that will be written to it; `needs` are (GB, folder, what it is)."""
    disks = {}
    for needed_gb, folder, what in needs:
        disk, free_gb = environment.find_disk(folder)
        disks.setdefault(disk, (free_gb, []))[1].append((needed_gb, what))
    lines = []
    for free_gb, parts in disks.values():
        needed_gb = sum(size for size, _ in parts)
        found = f"{needed_gb:.2f} GB for {', '.join(what for _, what in parts)}; {free_gb:.1f} GB free"
        mend = (
            f"free {max(0.1, needed_gb - free_gb):.1f} GB here, or take a machine with a larger disk; a new Colab "
            "machine is empty, so first put what you trained on Drive, or into the keep_repo of notebook 03"
        )
        lines.append(Check("disk", needed_gb <= free_gb, found, mend))
    return lines


def check_writing(identity: dict | None, repo_ids: list[str], base_model: str | None = None) -> list[Check]:
    """Check that a token may write, and that the repositories may have these names, as a base's licence may ask."""
    if not repo_ids:
        return [Check("token", True, "not needed: nothing is written to the Hub")]
    settings = f"{hub.NEW_TOKEN}, and store it as HF_TOKEN"
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
    licence = base_model and hub.llama_licence(base_model)
    first = "Llama-3" if licence == "llama3" else "Llama"
    if licence and not name.startswith(first):
        mend = f"the base's licence asks for a name like {namespaces[0]}/{first}-{name}"
        return Check("repository", False, f"{repo_id} does not begin with {first}", mend)
    return Check("repository", True, repo_id)


def as_table(checks: list[Check]):
    """Return checks as a table of green and red, with the fix beside each red."""
    rows = []
    for line in checks:
        fine, mend = ("yes", "") if line.fine else ("no", line.mend)
        rows.append({"check": line.name, "fine": fine, "found": line.found, "what would fix it": mend})
    colours = {"yes": f"color: black; background-color: {GREEN}", "no": f"color: black; background-color: {RED}"}
    return figures.as_table(rows).map(colours.get, subset=["fine"])


def stop_if_red(checks: list[Check]) -> None:
    """Raise `NotReady`, with one sentence for each red line that would stop the notebook later."""
    red = [line for line in checks if not line.fine and line.stops]
    if red:
        raise NotReady(" ".join(f"{line.name.capitalize()}: {line.found}. What to do: {line.mend}." for line in red))
