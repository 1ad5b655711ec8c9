"""Notebook 07, run for real: the chat answers, the Space is on the hub, the GGUF file is the model."""

import json
import py_compile
import shutil
import sys
from pathlib import Path

import pytest
from huggingface_hub import SpaceCard

from utils.practice.course import NotebookFailed
from utils.publish import chat_app
from utils.publish import gguf as gguf_files


@pytest.fixture(scope="module")
def chat(course, recorded) -> tuple[dict, Path]:
    """What notebook 07 recorded in the course's own run, and the folder with what it made."""
    _, output = course
    return recorded["07"], output


def test_the_tuned_model_ends_and_stop_stops(chat):
    figures, _ = chat
    assert figures["tuned_stopped"] is True and figures["answer"].strip()
    assert figures["same_answer"] is True  # the app's, through its server, and the one that was streamed
    assert figures["stop_seconds"] < 2 and figures["threads_after_stop"] == 0


def test_the_space_was_pushed_private_and_is_complete(chat):
    figures, output = chat
    assert figures["space"] == "learner/Llama-3-8B-ORPO-chat" and len(figures["space_commit"]) == 40
    space = output / "space"
    assert sorted(path.name for path in space.iterdir()) == ["README.md", "app.py", "models.json", "requirements.txt"]
    assert (space / "app.py").read_bytes() == Path(chat_app.__file__).read_bytes()
    py_compile.compile(str(space / "app.py"), cfile=str(output / "app.pyc"), doraise=True)
    given = json.loads((space / "models.json").read_text())
    names = [model["name"] for model in given["models"]]
    assert names == ["learner/Llama-3-8B-ORPO", "NousResearch/Meta-Llama-3-8B"]
    assert all(len(model["revision"]) == 40 for model in given["models"])
    card = (space / "README.md").read_text()
    assert "sdk: gradio" in card and "app_file: app.py" in card and "license: llama3" in card
    python = f"{sys.version_info.major}.{sys.version_info.minor}"  # without it, Spaces take one too old
    assert SpaceCard(card).data.python_version == python and "suggested_hardware" not in card
    assert "Built with Meta Llama 3" in card and all(name in card for name in names)
    assert str(output) not in card + json.dumps(given)


def test_the_gguf_file_is_the_merged_model(chat):
    figures, output = chat
    proof = gguf_files.read_back(output / "merged", output / "Llama-3-8B-ORPO.gguf")
    assert proof["tensors"] == figures["gguf_tensors"] > 0
    assert "FROM ./Llama-3-8B-ORPO.gguf" in (output / "Modelfile").read_text()


def test_without_a_merged_model_it_names_notebook_05(run):
    with pytest.raises(NotebookFailed, match="no merged model .* Run 05_merge_and_push first"):
        run("07", PUSH_SPACE=False)


def test_one_model_from_a_folder_and_a_base_that_is_another(run, small_base, tokenizer, tmp_path):
    """A tuned model alone, in 4 bits, that llama.cpp's own converter would have to write."""
    folder = tmp_path / "my model"
    shutil.copytree(small_base, folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_bias": True}))
    given = {"MODEL": str(folder), "BASE_MODEL": str(small_base), "COMPARE": False, "FOUR_BIT": True}
    figures = run("07", PUSH_SPACE=False, MAX_NEW_TOKENS=12, GGUF=str(tmp_path / "large"), **given)
    assert figures["answer"] and figures["four_bit"] is True
    assert figures["base_stopped"] is None and figures["space"] is None
    assert figures["gguf_tensors"] == 0 and [path.name for path in (tmp_path / "large").iterdir()] == ["Modelfile"]
    settings = json.loads((tmp_path / "space" / "models.json").read_text())
    assert len(settings["models"]) == 1 and "beside" not in settings["title"]
