"""Reads a W&B run from the server: its rows, configuration, name and state, through wandb's public API.

It asks no questions and does not wait for long: what stands in the way (no key, a refused key, an unknown run, no
network, a server error) is one exception that says what to do. Left out: writing, lists of runs, summaries, files and
system metrics. The server is the one that wandb is set up for, whatever address a run's URL names.
"""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

# wandb's own patience is 20 retries, minutes in all: for a run that must not lose a row, not for somebody who reads.
PATIENCE = {
    "x_graphql_retry_max": 2,
    "x_graphql_retry_wait_min_seconds": 1.0,
    "x_graphql_retry_wait_max_seconds": 2.0,
    "x_graphql_timeout_seconds": 8.0,
}
ANSWER_SECONDS = 20  # with all retries, for any question but those for the history
INSTEAD = 'Or read the run from its folder, for example RUN = "artifacts/run".'


@dataclass(frozen=True)
class OnlineRun:
    """A run as the server knows it; `state` is W&B's word: running, finished, crashed, failed, killed, pending."""

    name: str
    group: str | None
    state: str
    config: dict[str, Any]
    rows: list[dict[str, Any]]


def run_path(text: str) -> str | None:
    """Return "entity/project/run_id" if the text is the path or the URL of a run, and `None` for anything else.

    A relative folder of three plain names reads as a run's path too: look for the folder first.

    Example:
        >>> run_path("https://wandb.ai/you/orpo/runs/8qk2d1xz?nw=nwuseryou")
        'you/orpo/8qk2d1xz'
        >>> print(run_path("you/orpo/8qk2d1xz"), run_path("you/Llama-3-8B-ORPO"), run_path("/content/artifacts/run"))
        you/orpo/8qk2d1xz None None
    """
    text = text.strip().rstrip("/")
    if "://" in text:
        found = re.search("/([^/]+)/([^/]+)/runs/([^/]+)", unquote(urlsplit(text).path))
    else:
        found = re.fullmatch(r"([\w-][\w.-]*)/([\w-][\w. -]*)/(?:runs/)?((?!runs$)[\w-]+)", text)
    return "/".join(found.groups()) if found else None


def read_run(path: str, key: str | None = None) -> OnlineRun:
    """Read a run with all its rows, in order; of a run that still goes on, the rows so far.

    Args:
        path: "entity/project/run_id", as `run_path` returns it.
        key: the W&B API key.

    Returns:
        The run. Rows are like `wandb_offline.read_history`'s, their keys sorted; a key without a value (`None`) is left
        out, for in W&B's exports it looks like one that was not logged.

    Raises:
        FileNotFoundError: there is no such run, or this key may not see it.
        PermissionError: there is no key, or the server refuses it.
        ConnectionError: no network, a server error, or either of them before the last row had come.

    Example:
        >>> run = read_run("you/orpo/8qk2d1xz", find_token("WANDB_API_KEY"))  # doctest: +SKIP
        >>> run.rows[-1]["train/loss"]  # doctest: +SKIP
        1.8421
    """
    import wandb

    if not key:
        raise PermissionError(
            f"W&B shows the run {path} only to an API key, and there is none. Put the key from your W&B settings into "
            f"Colab's secrets, or into the environment, as WANDB_API_KEY. {INSTEAD}"
        )
    settings = wandb.setup().settings
    usual = {name: getattr(settings, name) for name in PATIENCE}
    try:
        try:
            _set(settings, PATIENCE)
            api = wandb.Api(api_key=key, timeout=ANSWER_SECONDS)  # keeps a copy of the settings
        finally:
            _set(settings, usual)
        run = api.run(path)
        # `history` would sample, and a cached export may be older than the run. A row comes twice where a page holds
        # rows that W&B has exported to its files and later ones that it has not.
        rows = {row["_step"]: row for row in run.scan_history(use_cache=False)}
    except Exception as error:  # of several families; what counts is the first cause
        raise _explain(error, path, settings.base_url, key) from None
    return OnlineRun(run.name, run.group, run.state, run.config, [_plain(row) for row in rows.values()])


def _set(settings: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(settings, name, value)


def _plain(value: Any) -> Any:
    """Make numbers of the texts "NaN", "Infinity" and "-Infinity", for JSON has none, and drop keys without a value."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in sorted(value.items()) if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def _explain(error: Exception, path: str, server: str, key: str) -> OSError:
    """Return the exception that tells a learner what happened, from whatever wandb raised."""
    from wandb.apis.public.runs import RunNotFoundError
    from wandb.errors import AuthenticationError

    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__
    status = getattr(getattr(cause, "response", None), "http_status", None)
    reason = (str(cause).strip().rpartition("\n")[2] or type(cause).__name__).replace(key, "(the key)")
    # A key is refused in many ways: by the client that finds it malformed, with a status, or by an account of nobody.
    bad_key = cause is error or status == 403 or "invalid credentials" in reason
    if status == 401 or bad_key and isinstance(error, AuthenticationError):
        return PermissionError(
            f"W&B at {server} refuses the API key ({reason}), so {path} cannot be read. Copy the key anew from your "
            f"W&B settings into WANDB_API_KEY. {INSTEAD}"
        )
    if isinstance(cause, RunNotFoundError) or status in (403, 404):
        return FileNotFoundError(
            f"W&B at {server} has no run {path}, or this key may not see it. Copy the address of the run's page from "
            f"the browser. {INSTEAD}"
        )
    return ConnectionError(
        f"W&B at {server} did not give the whole of {path} ({reason}). Check the network, and try again in some "
        f"minutes. {INSTEAD}"
    )
