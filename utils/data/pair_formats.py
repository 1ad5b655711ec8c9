"""The four forms in which preference pairs are published, brought into the course's one.

That one is `{"source": str, "prompt": [messages], "chosen": [one assistant message], "rejected": [one assistant
message]}`. Left out: columns of other names than prompt, chosen, rejected and system.
"""

import re

FORMS = r"""A pair may stand in four forms:
1. message lists: chosen and rejected are [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}];
2. message lists with a prompt column, which is a message list or text, and answers of one message or the whole talk;
3. plain text: prompt, chosen and rejected are strings, and system may be one;
4. transcripts: chosen and rejected are strings like "\n\nHuman: ...\n\nAssistant: ..."."""
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


class NotAPair(ValueError):
    """A row of a known form whose two sides are no answers to one question; the message is the reason in few words."""


def to_pair(row: dict) -> dict:
    """Bring a row of one of the four `FORMS` into the course's form: the prompt is all before the last assistant turn.

    Beside whole conversations, a `prompt` column repeats what they begin with and is left aside: kept, it would be
    trained on twice.

    Args:
        row: with the columns `chosen` and `rejected`, and perhaps `prompt` and `system`.

    Raises:
        NotAPair: if the two sides do not answer the same prompt, or do not answer.
        ValueError: if the row has another form, naming the column, what it holds, and all columns.

    Example:
        >>> row = {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."}
        >>> to_pair(row)["prompt"]
        [{'role': 'user', 'content': 'Hi'}]
    """
    chosen, rejected = _conversation(row, "chosen"), _conversation(row, "rejected")
    if not chosen[-1]["role"] == rejected[-1]["role"] == "assistant":
        raise NotAPair("does not end with an answer")
    if chosen[:-1] != rejected[:-1]:
        raise NotAPair("prompts of the two sides differ")
    if len(chosen) < 2 or chosen[-2]["role"] != "user" or not chosen[-2]["content"].strip():
        raise NotAPair("no question before the answer")
    return {"source": source_of(row), "prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}


def _conversation(row: dict, side: str) -> list[dict]:
    """Read one side of a row as a list of messages, with the prompt in front."""
    prompt, answer = row.get("prompt"), row.get(side)
    if isinstance(answer, str):
        text = answer if not _is_transcript(prompt) or answer.startswith(prompt) else prompt + answer
        if _is_transcript(text):
            return _turns(text)
        if prompt is None and "prompt" in row:
            raise _refusal(row, "prompt", "is None")
        if prompt is None:
            raise _refusal(row, side, "is plain text that is no transcript, and there is no column prompt")
        answer = [{"role": "assistant", "content": answer}]
    messages = _messages(row, side, answer)
    if isinstance(prompt, str):
        if len(messages) > 1:
            return messages  # the whole conversation: the prompt repeats its question
        system = row.get("system")
        before = [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
        return [*before, {"role": "user", "content": prompt}, *messages]
    given = _messages(row, "prompt", prompt) if prompt is not None else []
    return messages if messages[: len(given)] == given else given + messages


def _messages(row: dict, column: str, value) -> list[dict]:
    if not isinstance(value, list) or not value:
        raise _refusal(row, column, f"is {value!r:.100}")
    for message in value:
        fields = [message.get(key) for key in ("role", "content")] if isinstance(message, dict) else [None]
        if not all(isinstance(text, str) for text in fields):
            raise _refusal(row, column, f"holds {message!r:.100}, not a role and a content that are text")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _is_transcript(text) -> bool:
    return isinstance(text, str) and text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def _turns(transcript: str) -> list[dict]:
    parts = re.split(r"(?:^|\n\n)(Human|Assistant):", "\n\n" + transcript.lstrip())[1:]
    return [
        {"role": _SPEAKERS[speaker], "content": text.strip()}
        for speaker, text in zip(parts[::2], parts[1::2], strict=True)
    ]


def _refusal(row: dict, column: str, what: str) -> ValueError:
    found = what if column in row else "is missing"
    return ValueError(f"column {column} {found}. The row has the columns {', '.join(sorted(row))}. {FORMS}")


def source_of(row: dict) -> str:
    """Name where a row comes from, as its own columns tell."""
    return str(row.get("source") or row.get("dataset") or "unnamed")
