"""How messages become tokens: the chat template, the pad token, and the lengths of a pair."""

import hashlib
import json
import re
from functools import lru_cache

# ChatML, but a turn is closed by the base's own end token, and the marker `<|im_start|>` is ordinary text. So no token
# is added, no embedding is resized, and the tuned model stops where the base always stopped.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n<|im_start|>assistant\n' }}{% endif %}"
)


def prepare_tokenizer(tokenizer, embedding_rows: int | None = None):
    """Give a tokenizer, in place, the course's chat template and a pad token of its own, and return it."""
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.add_special_tokens({"pad_token": choose_pad_token(tokenizer, embedding_rows)})
    tokenizer.padding_side = "right"
    return tokenizer


def choose_pad_token(tokenizer, embedding_rows: int | None = None) -> str:
    """Choose a pad token that is not the end token, which would be masked and never learnt.

    Its own, if the vocabulary has it, else a special token that text never holds, else a new one, if the base has
    more `embedding_rows` than the tokenizer has tokens, so that nothing is resized. Otherwise raises `ValueError`.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"{tokenizer.name_or_path} has no end token, so no answer could ever stop. Choose another base model."
        )
    if tokenizer.pad_token in tokenizer.get_vocab() and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return tokenizer.pad_token
    taken = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    added = sorted(tokenizer.added_tokens_decoder.items())
    special = [str(token) for number, token in added if token.special and number not in taken]
    for wanted in ("pad", "reserved", "unk", "empty"):  # SmolLM2 has <empty_output>, for notebooks
        for token in special:
            if wanted in token:
                return token
    if embedding_rows is not None and len(tokenizer) < embedding_rows:
        return "<|pad|>"
    raise ValueError(
        f"{tokenizer.name_or_path} has no spare special token to pad with (it has {special}), and its "
        f"{len(tokenizer)} tokens leave no row of the embeddings free. Choose a base that has one or the other."
    )


def render_pair(pair: dict, tokenizer) -> dict[str, str]:
    """Write a pair as the three texts that are tokenized: prompt with the answer's header, answers with end token."""
    prompt = tokenizer.apply_chat_template(pair["prompt"], tokenize=False, add_generation_prompt=True)
    texts = {"prompt": prompt}
    for side in ("chosen", "rejected"):
        whole = tokenizer.apply_chat_template(pair["prompt"] + pair[side], tokenize=False)
        if not whole.startswith(prompt):
            raise ValueError(
                f"The chat template of {tokenizer.name_or_path} writes a prompt in another way if an answer follows, "
                "so no answer can be cut out: use the course's template."
            )
        texts[side] = whole[len(prompt) :]
    return texts


def pair_lengths(pair: dict, tokenizer) -> tuple[int, int, int]:
    """Count the tokens of a pair's prompt, chosen and rejected answer, as the trainer sees them."""
    return batch_lengths([pair], tokenizer)[0]


def batch_lengths(pairs: list[dict], tokenizer) -> list[tuple[int, int, int]]:
    """Count what `pair_lengths` counts for many pairs at once."""
    texts = []
    for pair in pairs:
        rendered = render_pair(pair, tokenizer)
        prompt = rendered["prompt"]
        texts += [prompt, prompt + rendered["chosen"], prompt + rendered["rejected"]]
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # what its file, or an earlier call, asked for; transformers sets both again in each call
    backend.no_padding()
    counts = [len(tokens) for tokens in backend.encode_batch_fast(texts, add_special_tokens=False)]
    triples = zip(counts[::3], counts[1::3], counts[2::3], strict=True)
    return [(prompt, chosen - prompt, rejected - prompt) for prompt, chosen, rejected in triples]


def length_problem(pair: dict, tokenizer, max_length: int, truncate_answers: bool = False) -> str | None:
    """Say why a pair does not fit into the window, or `None` if it does.

    A prompt that fills the window alone leaves an empty answer, whose mean log-probability is 0 / 0: the stock
    trainer logs loss 0 and margin NaN and trains on. A cut answer teaches the model to stop nowhere.
    """
    prompt, chosen, rejected = pair_lengths(pair, tokenizer)
    if prompt >= max_length:
        return "prompt too long"
    if prompt + max(chosen, rejected) > max_length and not truncate_answers:
        return "answer too long"
    return None


def special_text_problem(pair: dict, tokenizer) -> str | None:
    """Say that a message holds the text of a special token: a `</s>` in a lesson on HTML would end the answer there."""
    special = _special_text(tokenizer, len(tokenizer))
    texts = [message["content"] for part in ("prompt", "chosen", "rejected") for message in pair[part]]
    return "text of a special token" if any(special.search(text) for text in texts) else None


@lru_cache(maxsize=8)
def _special_text(tokenizer, tokens: int) -> re.Pattern:  # made again if tokens are added
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return re.compile("|".join(map(re.escape, special)) or r"(?!)")


def fingerprint(tokenizer) -> str:
    """Name what decides how the tokenizer counts, so that lengths counted elsewhere can be trusted; 64 hex digits."""
    facts = [sorted(tokenizer.get_vocab().items()), tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
