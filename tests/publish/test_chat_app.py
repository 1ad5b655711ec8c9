"""The chat: answers that grow, end and can be stopped, and the app in a real browser.

The tuned side is the small base after a few seconds of training on chats, so that it ends its turns; the base does not.
"""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gradio_client import Client
from support import browser

from utils.data import chat_format
from utils.practice import stand_ins
from utils.publish import chat_app

QUESTION = "What is the capital of France?"
ASKED = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def folder(small_base, tokenizer, tmp_path_factory) -> Path:
    """A tuned model as notebook 05 leaves it: weights, tokenizer and chat template in a folder."""
    from transformers import AutoModelForCausalLM

    options = {"use_safetensors": True, "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(small_base, dtype=torch.float32, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    talks = [pair["prompt"] + pair["chosen"] for pair in stand_ins.preference_pairs(160, seed=3)]
    for start in range(0, len(talks), 8):
        texts = tokenizer.apply_chat_template(talks[start : start + 8], tokenize=False)
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    target = tmp_path_factory.mktemp("tuned") / "merged"
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def sides(folder, small_base) -> list[chat_app.Side]:
    tuned = chat_app.load_side("tuned", str(folder))
    return [tuned, chat_app.load_side("base", str(small_base), tokenizer=tuned.tokenizer)]


@pytest.fixture
def slow(sides):
    """Both models take 20 ms more for a token, as large ones do."""
    hooks = [side.model.register_forward_pre_hook(lambda *_: time.sleep(0.02)) for side in sides]
    yield
    for hook in hooks:
        hook.remove()


def answering() -> int:
    """Count the threads in which a model writes."""
    return sum(thread.name == "answer" for thread in threading.enumerate())


def wait_for(condition, seconds: float = 10.0) -> float:
    """Wait until a condition holds, and return the seconds that it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"not within {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - started


# Streaming


def test_the_saved_tokenizer_asks_as_in_training(sides, tokenizer):
    pair = stand_ins.preference_pairs(1, seed=5)[0]
    assert sides[0].tokenizer.chat_template == chat_format.CHAT_TEMPLATE
    ids, left_out = chat_app.fit_prompt(sides[0].tokenizer, pair["prompt"], 8192)
    trained = tokenizer.apply_chat_template(pair["prompt"] + pair["chosen"], return_dict=True)["input_ids"]
    assert ids == trained[: len(ids)] and left_out == 0
    assert len(ids) == chat_format.pair_lengths(pair, tokenizer)[0]
    assert ids.count(tokenizer.bos_token_id) == 1


def test_an_answer_grows_to_what_generate_returns(sides):
    side = sides[0]
    texts = list(chat_app.stream_answer(side, ASKED, 0, 60))
    assert len(texts) > 4 and all(new.startswith(old) for old, new in zip(texts, texts[1:], strict=False))
    ids = torch.tensor([chat_app.fit_prompt(side.tokenizer, ASKED, 8192)[0]])
    output = side.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=60, do_sample=False)
    assert texts[-1] == side.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    assert output[0, -1] == side.tokenizer.eos_token_id
    endless = list(chat_app.stream_answer(sides[1], ASKED, 0, 60))[-1]  # of the base, cut at the limit
    assert len(side.tokenizer(endless, add_special_tokens=False)["input_ids"]) == 60


def test_stop_and_nobody_reading_end_the_thread(sides, slow):
    stop, seen = threading.Event(), 0
    for _ in chat_app.stream_answer(sides[1], ASKED, 0, 1000, stop=stop):
        seen += 1
        if seen == 3:
            stop.set()
            pressed = time.monotonic()
    assert time.monotonic() - pressed < 1 and 3 <= seen < 10
    assert answering() == 0
    stream = chat_app.stream_answer(sides[1], ASKED, 0, 1000)
    next(stream)
    assert answering() == 1
    stream.close()
    wait_for(lambda: answering() == 0, 2)


def test_a_failure_of_the_model_is_a_sentence(sides):
    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nAnd more.")

    hook = sides[0].model.register_forward_pre_hook(fails)
    try:
        with pytest.raises(RuntimeError, match=r"^The model failed \(OutOfMemoryError: CUDA out of memory\.\)\. Ask "):
            list(chat_app.stream_answer(sides[0], ASKED))
    finally:
        hook.remove()
    assert list(chat_app.stream_answer(sides[0], ASKED, 0, 60))  # and it goes on


def test_temperature_draws_from_all_tokens(sides, monkeypatch):
    """Many bases come with a generation_config.json: here, with one that would leave a single token."""
    monkeypatch.setattr(sides[0].model.generation_config, "top_k", 1)
    torch.manual_seed(0)
    greedy = {list(chat_app.stream_answer(sides[0], ASKED, 0, 20))[-1] for _ in range(2)}
    drawn = {list(chat_app.stream_answer(sides[0], ASKED, 1.5, 20))[-1] for _ in range(4)}
    assert len(greedy) == 1 and len(drawn) > 1


def test_the_earliest_turns_give_way(sides):
    tokenizer = sides[0].tokenizer
    talk = [{"role": role, "content": f"turn {n}"} for n in range(20) for role in ("user", "assistant")]
    messages = [{"role": "system", "content": "Be brief."}, *talk, *ASKED]
    whole, none = chat_app.fit_prompt(tokenizer, messages, 8192)
    ids, left_out = chat_app.fit_prompt(tokenizer, messages, 100)
    text = tokenizer.decode(ids)
    assert none == 0 and len(ids) <= 100 < len(whole)
    assert left_out % 2 == 0 and f"turn {left_out // 2 - 1}" not in text and f"turn {left_out // 2}" in text
    assert "Be brief." in text and QUESTION in text
    longer, fewer = chat_app.fit_prompt(tokenizer, messages, 100 + len(whole) - len(ids))
    assert fewer <= left_out and len(longer) >= len(ids)


def test_a_message_that_does_not_fit_alone_is_refused_with_the_numbers(sides):
    tokens = len(chat_app.fit_prompt(sides[0].tokenizer, ASKED, 8192)[0])
    assert chat_app.fit_prompt(sides[0].tokenizer, ASKED, tokens)[1] == 0
    with pytest.raises(ValueError, match=f"too long: it has {tokens} tokens, and {tokens - 1} fit"):
        chat_app.fit_prompt(sides[0].tokenizer, ASKED, tokens - 1)
    with pytest.raises(ValueError, match="too long: with the system prompt it has"):
        chat_app.fit_prompt(sides[0].tokenizer, [{"role": "system", "content": "Be brief."}, *ASKED], tokens)


def test_a_model_that_spills_over_the_gpu_is_refused(sides, monkeypatch):
    """Answering from there would take minutes; the placement stands here for a GPU that is full."""
    from transformers import AutoModelForCausalLM

    placed = SimpleNamespace(hf_device_map={"model.embed_tokens": 0, "lm_head": 0}, eval=lambda: None)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *args, **options: placed)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: True)
    assert chat_app.load_side("t", "a/model", tokenizer=sides[0].tokenizer).title == "t"
    for place in ("cpu", "disk"):
        placed.hf_device_map["lm_head"] = place
        with pytest.raises(MemoryError, match="a/model does not fit on the GPU"):
            chat_app.load_side("t", "a/model", tokenizer=sides[0].tokenizer)


def test_four_bits(folder):
    import bitsandbytes

    side = chat_app.load_side("tuned", str(folder), four_bit=True)
    assert any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in side.model.modules())
    assert list(chat_app.stream_answer(side, ASKED, 0, 8))[-1].strip()


# The app


@pytest.fixture(scope="module")
def url(sides):
    """Both sides in an app that reads 2,048 tokens."""
    app = chat_app.build_app(sides, 2048, [QUESTION], "Llama-3-8B-ORPO beside its base")
    _, address, _ = chat_app.start_app(app, prevent_thread_lock=True, quiet=True)
    yield address
    app.close()


def test_the_app_answers_a_program_with_both_talks(sides, url):
    texts = [list(chat_app.stream_answer(side, ASKED, 0, 24))[-1] for side in sides]
    client = Client(url, verbose=False)
    reply, talk = client.predict(QUESTION, "", 0, 24, [], api_name="/chat")
    assert [reply, chat_app.plain_messages(talk)[-1]["content"]] == texts
    system = {"role": "system", "content": "You are a pirate."}
    expected = list(chat_app.stream_answer(sides[0], [system, *ASKED], 0, 24))[-1]
    fresh = Client(url, verbose=False)
    assert fresh.predict(QUESTION, "You are a pirate.", 0, 24, [], api_name="/chat")[0] == expected


def test_the_file_alone_is_a_spaces_app(folder, tmp_path):
    shutil.copy(chat_app.__file__, tmp_path / "app.py")
    models = [{"title": "tuned", "name": str(folder), "revision": None}]  # one side alone
    settings = {"title": "T", "models": models, "four_bit": False, "window": 512, "examples": [QUESTION]}
    (tmp_path / "models.json").write_text(json.dumps(settings))
    command = [sys.executable, "-u", "app.py"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as space:
        try:
            lines = []
            for line in space.stdout:
                lines.append(line)
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    break
            assert found, "".join(lines)
            assert Client(found[0], verbose=False).predict(QUESTION, "", 0, 24, api_name="/chat")
        finally:
            space.terminate()


# The app in a browser


@pytest.fixture(scope="module")
def chromium():
    with browser.open_browser() as opened:
        yield opened


class Page:
    """The chat in a tab of its own."""

    def __init__(self, chromium, url):
        self.tab = chromium.new_context(viewport={"width": 1280, "height": 860}).new_page()
        self.requests, self.errors = [], []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.goto(url)
        self.box = self.tab.locator("textarea").first
        self.box.wait_for()
        self.submit = self.tab.locator("button.submit-button")
        self.stop = self.tab.get_by_role("button", name="Stop", exact=True)

    def send(self, text: str) -> None:
        self.box.fill(text)
        self.box.press("Enter")

    def answers(self) -> list[str]:
        """The last answer of each side, as it stands on the page."""
        sides = [log.locator("[data-testid=bot]") for log in self.tab.locator("[role=log]").all()]
        return [side.last.inner_text().strip() if side.count() else "" for side in sides]

    def talks(self) -> list[int]:
        """The number of messages on each side."""
        logs = self.tab.locator("[role=log]").all()
        return [log.locator("[data-testid=bot], [data-testid=user]").count() for log in logs]

    def wait(self, messages: int) -> None:
        """Wait until both talks have so many messages, the last one complete."""
        wait_for(lambda: self.talks() == [messages, messages])
        self.submit.wait_for(timeout=30_000)


@pytest.fixture
def page(chromium, url):
    opened = Page(chromium, url)
    yield opened
    opened.tab.context.close()
    assert not opened.errors, opened.errors


def test_both_answers_grow_and_nothing_leaves_this_machine(page, url, slow):
    page.send(QUESTION)
    wait_for(lambda: all(page.answers()))
    first = page.answers()
    wait_for(lambda: len(page.answers()[1]) > len(first[1]) + 40)
    assert all(new.startswith(old) for old, new in zip(first, page.answers(), strict=True))
    page.wait(2)
    assert len(page.answers()[0]) < len(page.answers()[1])
    assert page.requests and not [it for it in page.requests if not it.startswith((url, "data:", "blob:"))]


def test_stop_ends_both(page, slow):
    page.send(QUESTION)
    wait_for(lambda: len(page.answers()[1]) > 30)
    assert answering() >= 1
    page.stop.click()
    assert wait_for(lambda: answering() == 0, 2) < 2
    page.wait(2)
    stopped = page.answers()
    time.sleep(1)
    assert page.answers() == stopped and len(stopped[1]) < 600
    assert page.tab.get_by_text("Error", exact=True).count() == 0
    page.send("What colour is snow?")
    wait_for(lambda: page.talks() == [4, 4])
    page.stop.click()
    wait_for(lambda: answering() == 0, 2)
    page.wait(4)


def test_a_message_of_20000_characters_is_survived(page, sides):
    page.send("snow " * 4000)
    page.wait(2)
    tokens = len(chat_app.fit_prompt(sides[0].tokenizer, [{"role": "user", "content": "snow " * 4000}], 99999)[0])
    for text in page.answers():
        assert f"it has {tokens:,} tokens, and 1,792 fit" in text
    page.send(QUESTION)
    page.wait(4)
    assert "too long" not in page.answers()[0] and page.answers()[0]


def test_an_example_undo_and_clear_mean_both_sides_and_nothing_empty_is_sent(page):
    page.send("   \n ")
    page.tab.get_by_text("Write a message first.").wait_for()
    assert page.talks() == [0, 0] and answering() == 0
    page.tab.get_by_role("button", name=QUESTION).click()
    page.wait(2)
    once = page.answers()
    page.send("What colour is snow?")
    page.wait(4)
    page.tab.get_by_role("button", name="Undo").click()
    wait_for(lambda: page.talks() == [2, 2])
    assert page.answers() == once and page.box.input_value() == "What colour is snow?"
    page.tab.get_by_role("button", name="Clear").first.click()
    wait_for(lambda: page.talks() == [0, 0])
