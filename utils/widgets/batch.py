"""Draws a collated batch as HTML, each token coloured by its role in the loss."""

import html

# Colours of Okabe and Ito at 30 %: told apart by colour-blind readers, legible under black text.
COLOURS = {"prompt": "#e5e5e5", "chosen": "#b8dcee", "rejected": "#f5d3ae", "padding": "#ffffff"}
BOTH = f"linear-gradient({COLOURS['chosen']} 50%, {COLOURS['rejected']} 50%)"


def show_batch(batch: dict, tokenizer, rows: int = 1, max_tokens: int = 160):
    """Draw the first pairs of a batch of TRL's collator, or of a packed row of `train.fused_orpo.PackingCollator`.

    Grey is masked in the odds-ratio term (label -100), white is padding. A packed row has no padding: what both answers
    begin with stands once, in the prefix. Long prompts are cut at the front; `max_tokens` is of each side.
    """
    packed = "branches" in batch
    colours = {**COLOURS, "both": BOTH}
    del colours["padding" if packed else "both"]
    styles = {role: _style(colour) for role, colour in colours.items()}
    legend = "".join(f'<span style="{style};margin-right:1em">{role}</span>' for role, style in styles.items())
    lines = [f"<p>{legend}</p>"]
    sides = _packed_sides(batch, rows, max_tokens) if packed else _padded_sides(batch, rows, max_tokens)
    for title, cut, tokens in sides:
        spans = [
            f'<span style="{styles[role]}" title="{where}, id {token}">{_visible(tokenizer.decode([token]))}</span>'
            for role, where, token in tokens
        ]
        lines.append(f"<p>{title}<br>{'&hellip; ' if cut else ''}{''.join(spans)}</p>")
    from IPython.display import HTML

    return HTML(f'<div style="font-family:monospace;line-height:1.7">{"".join(lines)}</div>')


def _padded_sides(batch: dict, rows: int, max_tokens: int):
    """Yield (title, whether its front is cut, [(role, hint, token id)]) for each side of each pair."""
    for row in range(min(rows, len(batch["chosen_input_ids"]))):
        for side in ("chosen", "rejected"):
            parts = [batch[f"{side}_{key}"][row].tolist() for key in ("input_ids", "labels", "attention_mask")]
            tokens = []
            for token, label, mask in zip(*parts, strict=True):
                role = "padding" if not mask else "prompt" if label == -100 else side
                tokens.append((role, role, token))
            roles = [role for role, _, _ in tokens]
            start = max(0, roles.index(side) - max_tokens // 2) if side in roles else 0
            yield f"<b>{side}</b>", start > 0, tokens[start : start + max_tokens]


def _packed_sides(batch: dict, rows: int, max_tokens: int):
    """Yield the same for the prefix and the two answers of each pair of a packed row."""
    ids, positions = batch["input_ids"][0].tolist(), batch["position_ids"][0].tolist()
    for pair in range(min(rows, len(batch["pairs"]))):
        prefix, chosen, rejected, roles = _packed_pair(batch, pair)
        shown = min(len(prefix), max_tokens // 2)
        parts = (
            ("prefix", "which both answers see", prefix, prefix[len(prefix) - shown :]),
            ("chosen", "which sees the prefix", chosen, chosen[: max_tokens - shown]),
            ("rejected", "which sees the prefix, and not the chosen answer", rejected, rejected[: max_tokens - shown]),
        )
        for name, sees, places, drawn in parts:
            title = f"<b>{name}</b> from position {positions[places[0]]} on, {sees}" if places else f"no {name}"
            tokens = [(roles[place], f"{roles[place]}, position {positions[place]}", ids[place]) for place in drawn]
            yield title, name == "prefix" and shown < len(prefix), tokens


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


def _style(colour: str) -> str:
    return f"color:#000;background:{colour};border:1px solid #bbb;padding:0 1px"


def _visible(text: str) -> str:
    return html.escape(text).replace(" ", "&middot;").replace("\n", "&crarr;<br>")
