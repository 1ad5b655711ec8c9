"""A chat with one model, or with two side by side, in which answers grow and can be stopped; also a Space's `app.py`.

It imports nothing of the course, so that a copy runs elsewhere: as a program it reads `models.json` next to itself.
"""

import json
import threading
from bisect import bisect_left
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path


@dataclass(frozen=True)
class Side:
    """One column of the chat: its `title`, a causal language `model`, and a `tokenizer` with a chat template."""

    title: str
    model: object
    tokenizer: object


def load_side(title: str, name: str, revision: str | None = None, four_bit: bool = False, tokenizer=None) -> Side:
    """Load a model and its tokenizer, in 4 bits or whole, never with remote code and never from a pickle.

    `tokenizer` is that of the other side, taken instead of its own: Llama 3's base has no chat template. Raises
    `MemoryError` if there is a GPU, and it has no room for the whole model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    has_gpu, dtype = torch.cuda.is_available(), torch.float32
    if has_gpu:
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    options = {"revision": revision, "dtype": dtype, "device_map": "auto"}
    if four_bit:
        nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype, "bnb_4bit_use_double_quant": True}
        options["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, **nf4)
    model = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True, trust_remote_code=False, **options)
    if has_gpu and {"cpu", "disk"} & set(getattr(model, "hf_device_map", {}).values()):
        raise MemoryError(f"{name} does not fit on the GPU beside what is there: end other runtimes or load one model.")
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    return Side(title, model.eval(), tokenizer)


def context_length(model) -> int:
    """Return how many tokens, prompt and answer together, a model reads."""
    return getattr(model.config, "max_position_embeddings", None) or 1024


def fit_prompt(tokenizer, messages: list[dict], room: int) -> tuple[list[int], int]:
    """Return the tokens of a prompt, and how many messages were left out to fit `room` tokens: the earliest turns.

    A system message always stays, and so does the last message; `ValueError` says if these alone do not fit.
    """
    system = [message for message in messages if message["role"] == "system"]
    talk = [message for message in messages if message["role"] != "system"]
    starts = [*range(0, len(talk) - 1, 2), len(talk) - 1]  # a question goes with its answer

    def prompt(start):
        text = tokenizer.apply_chat_template(system + talk[start:], add_generation_prompt=True, tokenize=False)
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    first = bisect_left(starts, True, key=lambda start: len(prompt(start)) <= room)
    if first < len(starts):
        return prompt(starts[first]), starts[first]
    what = "with the system prompt it" if system else "it"
    raise ValueError(
        f"This is too long: {what} has {len(prompt(-1)):,} tokens, and {max(room, 0):,} fit. Shorten the message, or "
        "leave less room for the answer."
    )


def stream_answer(
    side: Side,
    messages: list[dict],
    temperature: float = 0.0,
    max_new_tokens: int = 256,
    window: int | None = None,
    stop: threading.Event | None = None,
):
    """Answer a conversation, and yield the text again and again as it grows.

    The model runs in a thread of its own. It ends at the end token, at `max_new_tokens`, when another thread sets
    `stop`, and when nobody takes the text any more (`close` of the generator), within a token of it. At temperature 0
    it takes the most likely token. `window` holds prompt and answer, in tokens. Raises as `fit_prompt`, and
    `RuntimeError` if the model fails.
    """
    import torch
    from transformers import GenerationConfig, StoppingCriteriaList, TextIteratorStreamer

    model, tokenizer, text = side.model, side.tokenizer, ""
    failures, left = [], threading.Event()
    room = (window or context_length(model)) - max_new_tokens
    ids = torch.tensor([fit_prompt(tokenizer, messages, room)[0]], device=model.device)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    drawn = {"do_sample": False}
    if temperature > 0:  # from all tokens
        drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = GenerationConfig(max_new_tokens=max_new_tokens, **ends, **drawn)
    given = {"attention_mask": torch.ones_like(ids), "streamer": streamer, "generation_config": config}

    def stopped(tokens, scores, **kwargs):
        ended = left.is_set() or (stop is not None and stop.is_set())
        return torch.full((len(tokens),), ended, device=tokens.device)

    def generate():
        try:
            model.generate(ids, **given, stopping_criteria=StoppingCriteriaList([stopped]))
        except Exception as error:  # it must not vanish with the thread
            failures.append(error)
        finally:
            streamer.on_finalized_text("", stream_end=True)  # so that nobody waits for ever

    thread = threading.Thread(target=generate, name="answer", daemon=True)
    thread.start()
    try:
        for piece in streamer:
            text += piece
            yield text
    finally:
        left.set()
    thread.join()
    for error in failures:
        what = f"{type(error).__name__}: {str(error).split(chr(10))[0]}"
        raise RuntimeError(f"The model failed ({what}). Ask for a shorter answer, or begin a new chat.") from error


def plain_messages(history: list[dict]) -> list[dict]:
    """Return a Gradio history as a tokenizer wants it, each message one text.

    >>> plain_messages([{"role": "user", "content": [{"type": "text", "text": "Hi!"}], "options": None}])
    [{'role': 'user', 'content': 'Hi!'}]
    """
    plain = []
    for message in history:
        parts = message["content"] if isinstance(message["content"], list) else [{"text": message["content"]}]
        plain.append({"role": message["role"], "content": "".join(part.get("text", "") for part in parts)})
    return plain


def build_app(sides: list[Side], window: int, examples: list[str], title: str):
    """Build a `gradio.ChatInterface` for one side and, if there is another, its talk in a second column.

    One text box feeds both, and their answers grow together; stop, retry, undo and clear mean both.
    """
    import gradio

    stops = {}  # of the answers that are being written, by the visitor's session

    def end(request: gradio.Request):
        stops.get(request.session_hash, threading.Event()).set()

    def reply(side, history, system, *settings):
        text = ""
        if system.strip():
            history = [{"role": "system", "content": system}, *history]
        try:
            for text in stream_answer(side, history, *settings):
                yield text
            if not text.strip():
                yield "*(The model ended at once.)*"
        except (ValueError, RuntimeError) as error:  # a sentence each
            yield f"{text}\n\n**{error}**".strip()

    def answer(message, history, request: gradio.Request, system, temperature, max_new_tokens, *other):
        stop = stops[request.session_hash] = threading.Event()
        turn = {"role": "user", "content": message}
        settings = (system, temperature, int(max_new_tokens), window, stop)
        talks = [plain_messages(past[: len(history)]) + [turn] for past in (history, *other)]
        streams = [reply(side, talk, *settings) for side, talk in zip(sides, talks, strict=True)]
        texts = [""] * len(sides)
        try:
            for newest in zip_longest(*streams):  # word by word in turn, each from a thread of its own
                texts = [old if new is None else new for old, new in zip(texts, newest, strict=True)]
                beside = [talk + [{"role": "assistant", "content": texts[1]}] for talk in talks[1:]]
                yield (texts[0], *beside) if beside else texts[0]
        finally:
            for stream in streams:
                stream.close()

    chats = [gradio.Chatbot(label=side.title, height=460, buttons=["copy_all"], render=False) for side in sides]
    with gradio.Blocks(title=title, analytics_enabled=False, fill_width=True) as app:
        gradio.Markdown(f"# {title}")
        with gradio.Row():
            place = gradio.Column(min_width=320)
            with gradio.Column(min_width=320):
                for chat in chats[1:]:
                    chat.render()
                system = gradio.Textbox(label="System prompt", placeholder="None", lines=1, max_lines=6)
                with gradio.Row():
                    temperature = gradio.Slider(0, 1.5, value=0, step=0.1, label="Temperature", info="0 is greedy")
                    most = max(32, min(1024, window // 2))
                    longest = gradio.Slider(16, most, value=min(256, most), step=8, label="Answer", info="in tokens")
        box = gradio.Textbox(label="Your message", placeholder="Write here", max_lines=8, submit_btn=True, render=False)
        with place:
            gradio.ChatInterface(
                answer,
                chatbot=chats[0],
                textbox=box,
                additional_inputs=[system, temperature, longest, *chats[1:]],
                additional_outputs=chats[1:],
                examples=[[example] for example in examples] or None,
                cache_examples=False,
                validator=lambda text: gradio.validate(bool(text.strip()), "Write a message first."),
                analytics_enabled=False,
                fill_height=False,
                api_name="chat",
            )
            # ChatInterface's own stop button cancels the event, which Gradio shows as an error in a second column
            gradio.Button("Stop", size="sm").click(end, queue=False, api_visibility="private")
        for other in chats[1:]:
            chats[0].clear(list, None, other, api_visibility="private")
            chats[0].undo(lambda past: past[:-2], other, other, api_visibility="private")
    return app


def start_app(app, **options):
    """Launch an app for this machine alone, with fonts that it has, so that a page asks nothing of the internet."""
    import gradio

    theme = gradio.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return app.launch(theme=theme, share=False, ssr_mode=False, footer_links=[], **options)


def main() -> None:
    """Serve the models that `models.json` beside this file names, as a Space does."""
    given = json.loads(Path(__file__).with_name("models.json").read_text())
    sides = []
    for model in given["models"]:
        sides.append(load_side(**model, four_bit=given["four_bit"], tokenizer=sides[0].tokenizer if sides else None))
    start_app(build_app(sides, given["window"], given["examples"], given["title"]))


if __name__ == "__main__":
    main()
