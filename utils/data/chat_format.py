"""How messages become tokens: the chat template, the pad token, the lengths of a pair, and a picture of a batch.

The template is ChatML with one change: a turn is closed by the base's own end token, and the marker `<|im_start|>` is
ordinary text. So no token is added, no embedding is resized, and the tuned model stops where the base always stopped.
Left out: tools and images.
"""

import hashlib
import html
import json
import re
from functools import lru_cache

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n<|im_start|>assistant\n' }}{% endif %}"
)

# Colours of Okabe and Ito at 30 %: told apart by colour-blind readers, legible under black text.
ROLE_COLOURS = {"prompt": "#e5e5e5", "chosen": "#b8dcee", "rejected": "#f5d3ae", "padding": "#ffffff"}
PACKED_COLOURS = {role: colour for role, colour in ROLE_COLOURS.items() if role != "padding"}
PACKED_COLOURS["both"] = f"linear-gradient({ROLE_COLOURS['chosen']} 50%, {ROLE_COLOURS['rejected']} 50%)"


def prepare_tokenizer(tokenizer, embedding_rows: int | None = None):
    """Give a tokenizer the course's chat template and a pad token of its own, and return it.

    Args:
        tokenizer: of a base model; changed in place.
        embedding_rows: of the base; see `choose_pad_token`.

    Raises:
        ValueError: see `choose_pad_token`.
    """
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.add_special_tokens({"pad_token": choose_pad_token(tokenizer, embedding_rows)})
    tokenizer.padding_side = "right"
    return tokenizer


def choose_pad_token(tokenizer, embedding_rows: int | None = None) -> str:
    """Choose a pad token that is not the end token, which would be masked and never learnt, and that has a row already.

    Its own, else a special token that text never holds, else a new one, if the embeddings have more rows than the
    tokenizer has tokens, as Phi-2's have: nothing is resized.

    Args:
        tokenizer: of a base model; left as it is.
        embedding_rows: `vocab_size` of the base's configuration; `None` if it is not known.

    Raises:
        ValueError: if there is no end token, or if every special token is taken, and there is no row to spare.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"{tokenizer.name_or_path} has no end token, so no answer could ever stop. Choose another base model."
        )
    if tokenizer.pad_token in tokenizer.get_vocab() and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return tokenizer.pad_token
    taken = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    special = {
        i: str(token) for i, token in sorted(tokenizer.added_tokens_decoder.items()) if token.special and i not in taken
    }
    for wanted in ("pad", "reserved", "unk", "empty"):  # SmolLM2 has <empty_output>, for notebooks
        for token in special.values():
            if wanted in token:
                return token
    if embedding_rows is not None and len(tokenizer) < embedding_rows:
        return "<|pad|>"
    raise ValueError(
        f"{tokenizer.name_or_path} has no spare special token to pad with (it has {sorted(special.values())}), and its "
        f"{len(tokenizer)} tokens leave no row of the embeddings free. Choose a base that has one or the other."
    )


def render_pair(pair: dict, tokenizer) -> dict[str, str]:
    """Write a pair as the three texts that are tokenized: prompt with the answer's header, answers with end token.

    Raises `ValueError` if the template does not begin a conversation with its prompt.
    """
    prompt = tokenizer.apply_chat_template(pair["prompt"], tokenize=False, add_generation_prompt=True)
    texts = {"prompt": prompt}
    for side in ("chosen", "rejected"):
        whole = tokenizer.apply_chat_template(pair["prompt"] + pair[side], tokenize=False)
        if not whole.startswith(prompt):
            raise ValueError(
                f"The chat template of {tokenizer.name_or_path} writes a prompt in another way if an "
                "answer follows, so no answer can be cut out: use the course's template."
            )
        texts[side] = whole[len(prompt) :]
    return texts


def pair_lengths(pair: dict, tokenizer) -> tuple[int, int, int]:
    """Count the tokens of a pair's prompt, chosen and rejected answer, as the trainer sees them."""
    texts = render_pair(pair, tokenizer)
    whole = [texts["prompt"], texts["prompt"] + texts["chosen"], texts["prompt"] + texts["rejected"]]
    prompt, chosen, rejected = (len(ids) for ids in tokenizer(whole, add_special_tokens=False)["input_ids"])
    return prompt, chosen - prompt, rejected - prompt


def batch_lengths(pairs: list[dict], tokenizer) -> list[tuple[int, int, int]]:
    """Count what `pair_lengths` counts for many pairs at once, each text once.

    The end token closes every turn and cuts the text before it is tokenized, so the tokens of a talk are those of its
    turns added up; a prompt need not be counted again with each answer.

    Args:
        pairs, tokenizer: see `pair_lengths`.
    """
    begin, end = tokenizer.bos_token or "", tokenizer.eos_token
    texts = [f"{end}\n<|im_start|>assistant\n"]  # after an end token, so that it is cut as in the talk; one less counts
    for pair in pairs:
        for place, message in enumerate(pair["prompt"] + pair["chosen"] + pair["rejected"]):
            turn = f"<|im_start|>{message['role']}\n{message['content'].strip()}{end}"
            texts.append(f"{end}\n{turn}" if place else f"{end}{begin}{turn}")
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # what its file, or an earlier call, asked for; transformers sets both anew in each call
    backend.no_padding()
    encoded = backend.encode_batch_fast(texts, add_special_tokens=False)
    counts = iter([len(tokens) - 1 for tokens in encoded])
    header, lengths = next(counts), []
    for pair in pairs:
        prompt = sum(next(counts) for _ in pair["prompt"])
        lengths.append((prompt + header, next(counts) - header, next(counts) - header))
    return lengths


def length_problem(
    pair: dict, tokenizer, max_length: int, truncate_answers: bool = False, lengths: tuple | None = None
) -> str | None:
    """Say why a pair does not fit into the window, or `None` if it does; `lengths` as of `pair_lengths`.

    A prompt that fills the window alone leaves an empty answer, whose mean log-probability is 0 / 0: the stock
    trainer logs loss 0 and margin NaN and trains on. A cut answer teaches the model to stop nowhere.
    """
    prompt, chosen, rejected = lengths or pair_lengths(pair, tokenizer)
    if prompt >= max_length:
        return "prompt too long"
    if prompt + max(chosen, rejected) > max_length and not truncate_answers:
        return "answer too long"
    return None


def special_text_problem(pair: dict, special: re.Pattern) -> str | None:
    """Say that a message holds the text of a special token, or return `None`.

    The tokenizer makes the token of such a text: a `</s>` in a lesson on HTML would end the answer there.

    Args:
        pair: see `pair_lengths`.
        special: of `special_text`.
    """
    texts = [message["content"] for part in ("prompt", "chosen", "rejected") for message in pair[part]]
    return "text of a special token" if any(special.search(text) for text in texts) else None


def special_text(tokenizer) -> re.Pattern:
    """Return a pattern that finds the text of any special token."""
    return _special_text(tokenizer, len(tokenizer))


@lru_cache(maxsize=8)
def _special_text(tokenizer, tokens: int) -> re.Pattern:  # made again if tokens are added
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return re.compile("|".join(map(re.escape, special)) or r"(?!)")


def fingerprint(tokenizer) -> str:
    """Name what decides how the tokenizer counts, so that lengths counted elsewhere can be trusted; 64 hex digits."""
    facts = [sorted(tokenizer.get_vocab().items()), tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def show_batch(batch: dict, tokenizer, rows: int = 1, max_tokens: int = 160) -> str:
    """Draw the first rows of a collated batch as HTML, each token coloured by its role.

    Args:
        batch: of TRL's collator: `{chosen,rejected}_{input_ids,labels,attention_mask}`, each of shape (pairs, tokens);
            or a packed row of `fused_orpo.PackingCollator`, drawn as it lies: prefix, chosen, rejected, next prefix.
        tokenizer: to write the tokens out.
        rows: pairs to draw.
        max_tokens: tokens to draw of each side; long prompts are cut at the front.

    Returns:
        HTML with a legend. Grey is masked in the odds-ratio term (label -100), white is padding. A packed row has no
        padding; what both answers begin with, but for its last token, stands once, in the prefix, in both colours.
    """
    colours = PACKED_COLOURS if "branches" in batch else ROLE_COLOURS
    draw = _draw_packed if "branches" in batch else _draw_padded
    legend = "".join(f'<span style="{_style(role)};margin-right:1em">{role}</span>' for role in colours)
    lines = [f"<p>{legend}</p>", *draw(batch, tokenizer, rows, max_tokens)]
    return f'<div style="font-family:monospace;line-height:1.7">{"".join(lines)}</div>'


def _draw_padded(batch: dict, tokenizer, rows: int, max_tokens: int) -> list[str]:
    lines = []
    for row in range(min(rows, len(batch["chosen_input_ids"]))):
        for side in ("chosen", "rejected"):
            ids, labels, mask = (
                batch[f"{side}_{key}"][row].tolist() for key in ("input_ids", "labels", "attention_mask")
            )
            roles = [
                "padding" if not m else "prompt" if label == -100 else side
                for m, label in zip(mask, labels, strict=True)
            ]
            start = max(0, roles.index(side) - max_tokens // 2) if side in roles else 0
            spans = [
                f'<span style="{_style(role)}" title="{role}, id {i}">{_visible(tokenizer.decode([i]))}</span>'
                for i, role in list(zip(ids, roles, strict=True))[start : start + max_tokens]
            ]
            lines.append(f"<p><b>{side}</b><br>{'&hellip; ' * bool(start)}{''.join(spans)}</p>")
    return lines


def _draw_packed(batch: dict, tokenizer, rows: int, max_tokens: int) -> list[str]:
    ids, positions = (batch[key][0].tolist() for key in ("input_ids", "position_ids"))
    lines = []
    for pair in range(min(rows, len(batch["pairs"]))):
        prefix, chosen, rejected, roles = _packed_pair(batch, pair)
        shown = min(len(prefix), max_tokens // 2)
        parts = (
            ("prefix", "which both answers see", prefix, slice(len(prefix) - shown, None)),
            ("chosen", "which sees the prefix", chosen, slice(max_tokens - shown)),
            ("rejected", "which sees the prefix, and not the chosen answer", rejected, slice(max_tokens - shown)),
        )
        for name, sees, places, drawn in parts:
            spans = [
                f'<span style="{_style(roles[place])}" title="{roles[place]}, position {positions[place]}, '
                f'id {ids[place]}">{_visible(tokenizer.decode([ids[place]]))}</span>'
                for place in places[drawn]
            ]
            start = "&hellip; " * (name == "prefix" and shown < len(prefix))
            title = f"<b>{name}</b> from position {positions[places[0]]} on, {sees}" if places else f"no {name}"
            lines.append(f"<p>{title}<br>{start}{''.join(spans)}</p>")
    return lines


def _packed_pair(batch: dict, pair: int) -> tuple[list[int], list[int], list[int], dict[int, str]]:
    """Find the places in the row of a pair's prefix and of its two answers, and the role of each place."""
    places, roles, sides = batch["places"].tolist(), {}, []
    for side, branch in zip(("chosen", "rejected"), batch["branches"][2 * pair : 2 * pair + 2].tolist(), strict=True):
        scored = {place for place, weight in zip(places, batch[side].tolist(), strict=True) if weight > 0}
        sides.append(list(dict.fromkeys(branch)))  # without the last place, repeated
        for before, place in zip([None, *sides[-1]], sides[-1], strict=False):
            if before in scored:  # for predicting this place
                roles[place] = "both" if roles.get(place) == "chosen" else side
            else:
                roles.setdefault(place, "prompt")
    chosen, rejected = sides
    shared = len(set(chosen) & set(rejected))
    return chosen[:shared], chosen[shared:], rejected[shared:], roles


def _style(role: str) -> str:
    return f"color:#000;background:{(ROLE_COLOURS | PACKED_COLOURS)[role]};border:1px solid #bbb;padding:0 1px"


def _visible(text: str) -> str:
    return html.escape(text).replace(" ", "&middot;").replace("\n", "&crarr;<br>")
