"""Keeping a run on the Hub and finding it again, with the real Hub client on the practice hub and a real trainer."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from utils.train import checks as training_checks
from utils.train import keep as keeping

WRITE = "practice-write"
STEPS, SAVE_STEPS = 6, 2
PAIRS = [
    {
        "source": "notes",
        "prompt": [{"role": "user", "content": "Kept?"}],
        "chosen": [{"role": "assistant", "content": "Kept."}],
        "rejected": [{"role": "assistant", "content": "Who knows."}],
    }
]
RESUMING = {
    "adapter_config.json",
    "adapter_model.safetensors",
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
}


def trainer(output_dir, *callbacks):
    """A trainer of six steps on a Llama of one layer with LoRA, whose dropout needs the random state."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "vocab_size": 32}
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **sizes))
    lora = LoraConfig(r=4, lora_dropout=0.3, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    rows = torch.randint(0, 32, (24, 8))
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        max_steps=STEPS,
        save_steps=SAVE_STEPS,
        save_total_limit=2,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        disable_tqdm=True,
        report_to="none",
        use_cpu=True,
    )
    data = [{"input_ids": row, "labels": row} for row in rows]
    return Trainer(get_peft_model(model, lora), arguments, train_dataset=data, callbacks=list(callbacks))


def weights(trained) -> dict:
    return {name: value.detach().clone() for name, value in trained.model.named_parameters() if "lora_" in name}


def kept(hub, repo_id) -> set[str]:
    """The files of a repository."""
    return set(hub.files(repo_id)) - {".gitattributes"}


def checkpoint_files(step) -> set[str]:
    return {f"checkpoints/checkpoint-{step}/{name}" for name in RESUMING}


class Disconnects(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt


class Waits(TrainerCallback):
    """Lets every upload end before the next step, and notes what the repository then holds."""

    def __init__(self, hub, repo_id, keeper):
        self.hub, self.repo_id, self.keeper, self.seen = hub, repo_id, keeper, {}

    def on_step_begin(self, args, state, control, **kwargs):
        if self.keeper.upload is not None:
            self.keeper.upload.result()
            self.seen[state.global_step] = kept(self.hub, self.repo_id)


@pytest.fixture(scope="module")
def interrupted(hub, tmp_path_factory):
    """A repository with the checkpoint of step 4, kept by a run that a disconnect ended at step 5."""
    folder = tmp_path_factory.mktemp("first-machine") / "checkpoints"
    keeper = keeping.keep_checkpoints("learner/interrupted", WRITE)
    with pytest.raises(KeyboardInterrupt):
        trainer(folder, keeper, Disconnects()).train()
    keeper.upload.result()
    assert (folder / "checkpoint-4" / "training_args.bin").exists()
    return "learner/interrupted"


def test_another_machine_ends_with_the_adapter_of_a_run_that_was_not_interrupted(hub, interrupted, tmp_path):
    assert kept(hub, interrupted) == checkpoint_files(4)
    assert hub.repos["model", interrupted]["private"]
    whole = trainer(tmp_path / "whole")
    whole.train()
    folder = tmp_path / "second-machine" / "checkpoints"
    fetched = keeping.fetch_checkpoints(interrupted, folder, WRITE)
    assert fetched == folder / "checkpoint-4" and {path.name for path in fetched.iterdir()} == RESUMING
    assert [path.name for path in folder.iterdir()] == ["checkpoint-4"]
    keeper = keeping.keep_checkpoints("learner/resumed", WRITE)
    resumed = trainer(folder, keeper)
    resumed.train(resume_from_checkpoint=training_checks.newest_checkpoint(folder, {}))
    assert resumed.state.global_step == STEPS
    expected, found = weights(whole), weights(resumed)
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    assert kept(hub, "learner/resumed") == checkpoint_files(6)  # training waited for the last upload


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_fetched_pickle_runs_no_code(interrupted, tmp_path, name):
    folder = keeping.fetch_checkpoints(interrupted, tmp_path / "checkpoints", WRITE)

    class Attack:
        def __reduce__(self):
            return Path.touch, (tmp_path / "harmed",)

    torch.save({"state": Attack()}, folder / name)
    with pytest.raises(pickle.UnpicklingError):
        trainer(tmp_path / "checkpoints").train(resume_from_checkpoint=str(folder))
    assert not (tmp_path / "harmed").exists()
    torch.load(folder / name, weights_only=False)
    assert (tmp_path / "harmed").exists()  # it would have, had transformers let it


def test_an_upload_that_fails_stops_nothing_and_the_next_save_gets_through(hub, tmp_path, capsys):
    repo_id = "learner/fails-once"
    hub.inject(f"{repo_id}/commit/main", status=500)
    keeper = keeping.keep_checkpoints(repo_id, WRITE)
    waits = Waits(hub, repo_id, keeper)
    trained = trainer(tmp_path, keeper, waits)
    trained.train()
    assert trained.state.global_step == STEPS
    assert waits.seen == {2: set(), 3: set(), 4: checkpoint_files(4), 5: checkpoint_files(4)}
    assert kept(hub, repo_id) == checkpoint_files(6)
    told = [line for line in capsys.readouterr().out.splitlines() if "not kept" in line]
    safe = tmp_path / "checkpoint-2"
    assert told == [f"{safe} is safe here, but not kept in {repo_id} (ConnectionError); a later save tries again."]


@pytest.fixture
def run_folder(tmp_path):
    """What notebook 03 leaves, among files that must stay where they are."""
    folder = tmp_path / "artifacts" / "run"
    trained = trainer(folder / "checkpoints")
    trained.model.save_pretrained(folder / "adapter")
    trained.state.save_to_json(str(folder / "trainer_state.json"))
    (folder / "adapter" / "tokenizer.json").write_text("{}")
    (folder / "adapter" / "chat_template.jinja").write_text("{{ messages }}")
    for place in (folder, folder / "adapter"):
        (place / "run.json").write_text('{"seed": 42}')
        for name in ("training_args.bin", "optimizer.pt", "secrets.env"):
            (place / name).write_bytes(b"not for the Hub")
    (folder / "held_out.json").write_text(json.dumps(PAIRS))
    for name in ("wandb/run-1/files/config.json", "checkpoints/checkpoint-1/trainer_state.json"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def with_checkpoint(hub, run_folder):
    """A private repository that holds a checkpoint already."""
    repo_id = f"learner/run-{len(hub.repos)}"
    hub.add_repo(repo_id, private=True)
    (run_folder / "sent" / "checkpoints" / "checkpoint-4").mkdir(parents=True)
    (run_folder / "sent" / "checkpoints" / "checkpoint-4" / "trainer_state.json").write_text("{}")
    hub.commit_folder(repo_id, run_folder / "sent")
    return repo_id


KEPT_RUN = {
    "run.json",
    "trainer_state.json",
    "held_out.json",
    *(f"adapter/{name}" for name in ("adapter_model.safetensors", "adapter_config.json", "README.md", "run.json")),
    *(f"adapter/{name}" for name in ("tokenizer.json", "chat_template.jinja")),
}


def test_a_run_is_kept_by_a_list_in_one_commit_beside_its_checkpoint(hub, run_folder, with_checkpoint):
    before = HfApi(token=WRITE).list_repo_commits(with_checkpoint)
    commit = keeping.push_run(run_folder, with_checkpoint, WRITE)
    after = HfApi(token=WRITE).list_repo_commits(with_checkpoint)
    assert [entry.commit_id for entry in after] == [commit, *(entry.commit_id for entry in before)]
    assert kept(hub, with_checkpoint) == KEPT_RUN | {"checkpoints/checkpoint-4/trainer_state.json"}


def test_a_public_repository_is_refused(hub, run_folder, tmp_path, capsys):
    hub.add_repo("learner/public")
    with pytest.raises(PermissionError, match="learner/public is there already, and public"):
        keeping.push_run(run_folder, "learner/public", WRITE)
    trainer(tmp_path / "checkpoints", keeping.keep_checkpoints("learner/public", WRITE)).train()
    assert "not kept in learner/public (PermissionError)" in capsys.readouterr().out
    assert kept(hub, "learner/public") == set()


def test_the_adapter_is_found_in_all_its_forms(hub, run_folder, tmp_path):
    adapter, elsewhere = run_folder / "adapter", tmp_path / "elsewhere" / "run"
    record = {"seed": 42}
    assert keeping.find_adapter(None, run_folder) == (adapter, record, PAIRS)
    assert keeping.find_adapter(str(run_folder), elsewhere) == (adapter, record, PAIRS)
    assert keeping.find_adapter(str(adapter), elsewhere) == (adapter, record, PAIRS)

    commit = keeping.push_run(run_folder, "learner/kept-run", WRITE)
    folder, run, pairs = keeping.find_adapter("learner/kept-run", elsewhere, WRITE)
    assert folder == elsewhere.parent / f"learner--kept-run-{commit[:8]}" / "adapter"
    assert (run, pairs) == (record, PAIRS)
    for name in KEPT_RUN:
        assert (folder.parent / name).read_bytes() == (run_folder / name).read_bytes()

    api = HfApi(token=WRITE)
    api.create_repo("learner/published", private=True)
    api.upload_folder(repo_id="learner/published", folder_path=adapter, ignore_patterns=["*.env"])
    folder, run, pairs = keeping.find_adapter("learner/published", elsewhere, WRITE)
    assert run == record and pairs == []
    came = {path.name for path in folder.iterdir() if path.is_file()}
    assert came == {name.split("/")[1] for name in KEPT_RUN if "/" in name}  # and none of the pickles

    (folder / "README.md").write_text("the card that notebook 05 writes")
    assert keeping.find_adapter("learner/published", elsewhere, WRITE)[0] == folder  # again, and no harm in it
    adapter.joinpath("run.json").write_text('{"seed": 43}')
    (run_folder / "run.json").write_text('{"seed": 43}')
    keeping.push_run(run_folder, "learner/kept-run", WRITE)
    assert keeping.find_adapter("learner/kept-run", elsewhere, WRITE)[1] == {"seed": 43}


@pytest.mark.parametrize("given", [None, "learner/no-such-run", "somebody/private", "/no/such/folder", "no-such-run"])
def test_what_is_not_there_is_told_in_one_sentence(hub, tmp_path, given):
    hub.add_repo("somebody/private", private=True, exist_ok=True)
    with pytest.raises(FileNotFoundError, match="03_train_with_orpo.*Drive.*keep_repo") as told:
        keeping.find_adapter(given, tmp_path / "run", WRITE)
    assert "\n" not in str(told.value) and (given or str(tmp_path)) in str(told.value)
    if given is not None:
        with pytest.raises(FileNotFoundError, match="03_train_with_orpo first"):
            keeping.fetch_checkpoints(given, tmp_path / "checkpoints", WRITE)


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "held_out.json"])
def test_a_bit_flipped_in_a_run_is_found_and_comes_anew(hub, run_folder, tmp_path, name):
    repo_id = f"learner/flipped-run-{name.split('.')[-1]}"
    keeping.push_run(run_folder, repo_id, WRITE)
    hub.inject(f"{repo_id}/resolve/.*{name}", flip=True)
    with pytest.raises(ValueError, match=name):
        keeping.find_run(repo_id, tmp_path / "elsewhere" / "run", WRITE)
    found = keeping.find_run(repo_id, tmp_path / "elsewhere" / "run", WRITE)
    assert (found / name).read_bytes() == (run_folder / name).read_bytes()


def test_a_new_run_never_goes_on_from_an_earlier_ones_checkpoint(hub, interrupted, tmp_path):
    keeping.forget_checkpoints(interrupted, WRITE)
    assert keeping.fetch_checkpoints(interrupted, tmp_path, WRITE) is None
    keeping.forget_checkpoints(interrupted, WRITE)  # nothing left to delete is no error


def test_the_adapters_record_holds_no_prompt_and_no_path(tmp_path):
    (tmp_path / "adapter").mkdir()
    config = {"base_model_name_or_path": "/home/ada/my base", "r": 16}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    record = {
        "recipe": {"base_model": "/home/ada/my base", "dataset": "/home/ada/pairs.jsonl"},
        "revisions": {"base_model": None, "dataset": None},
        "report": {"examined": 1, "examples": {"empty answer": "a prompt of ada's"}},
    }
    keeping.write_record(tmp_path, record)
    assert json.loads((tmp_path / "run.json").read_text()) == record
    for name in ("run.json", "adapter_config.json"):
        text = (tmp_path / "adapter" / name).read_text()
        assert "/home/ada" not in text and "a prompt of" not in text and "my base" in text
    assert keeping.find_adapter(None, tmp_path)[1] == record  # the next notebook here still finds the base
    assert keeping.find_adapter(str(tmp_path / "adapter"), tmp_path)[1] == record
