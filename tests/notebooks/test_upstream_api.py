"""What the course takes from other libraries still exists in the installed versions.

Every keyword and attribute that the notebooks and helpers use on the packages below is found in their source by `ast`,
followed through variables as far as that goes, and compared with what is installed: a renamed keyword breaks one test
here, which names the place, and not every notebook. Whether a value still means the same is for the tests that run.
"""

import ast
import copy
import dataclasses
import importlib
import importlib.metadata
import inspect
import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = set(
    "trl transformers peft bitsandbytes datasets wandb huggingface_hub papermill lm_eval gradio gradio_client".split()
)
FILES = [*sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")), *sorted((ROOT / "utils").rglob("*.py"))]

# Names in angle brackets are small real objects, see `real` below. What the course calls its variables tells what they
# hold where no import does, as in the arguments of a function. A name that is assigned a literal is taken for that.
CALLED = {
    **{"tokenizer": "<tokenizer>", "small_tokenizer": "<tokenizer>", "model": "<model>", "config": "<config>"},
    **{"trainer": "<trainer>", "state": "<state>", "wandb_run": "wandb.Run"},
}
RETURNS = {
    "transformers.AutoTokenizer.from_pretrained": "<tokenizer>",
    "transformers.AutoModelForCausalLM.from_pretrained": "<base>",
    "transformers.AutoConfig.from_pretrained": "<config>",
    "transformers.AutoConfig.for_model": "<config>",
    "peft.get_peft_model": "<model>",
    "peft.PeftModel.from_pretrained": "<model>",
    "<model>.merge_and_unload": "<base>",
    "trl.experimental.orpo.ORPOTrainer": "<trainer>",
    "datasets.load_dataset": "datasets.Dataset",
    "datasets.Dataset.from_list": "datasets.Dataset",
    "wandb.init": "wandb.Run",
    "huggingface_hub.HfApi.repo_info": "huggingface_hub.ModelInfo",
    "huggingface_hub.HfApi.model_info": "huggingface_hub.ModelInfo",
    "huggingface_hub.HfApi.create_commit": "huggingface_hub.CommitInfo",
}
ATTRIBUTES = {"wandb.Run.settings": "wandb.Settings", "wandb.run": "wandb.Run"}
# Where a **kwargs leads. A keyword that only disappears in one counts as unknown: it would be ignored, or fail later.
KWARGS_GO_TO = {
    "transformers.AutoModelForCausalLM.from_pretrained": ["transformers.PreTrainedModel.from_pretrained"],
    "transformers.AutoModel.from_pretrained": ["transformers.PreTrainedModel.from_pretrained"],
    "transformers.AutoModelForCausalLM.from_config": ["transformers.PreTrainedModel._from_config"],
    "transformers.AutoTokenizer.from_pretrained": ["transformers.PreTrainedTokenizerBase.from_pretrained"],
    "transformers.AutoConfig.from_pretrained": ["transformers.PreTrainedConfig.from_pretrained"],
    "transformers.AutoConfig.for_model": ["transformers.LlamaConfig"],  # the course asks for "llama"
    "transformers.PreTrainedTokenizerFast": [
        "transformers.PreTrainedTokenizerFast.__init__",
        "transformers.PreTrainedTokenizerBase.__init__",
        "transformers.PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES",
    ],
    "transformers.GenerationConfig": ["transformers.GenerationConfig.__init__"],
    "transformers.TextIteratorStreamer": ["transformers.PreTrainedTokenizerBase.decode"],
    "<model>.generate": ["<base>.generate", "transformers.GenerationConfig.__init__"],
    "<base>.generate": ["transformers.GenerationConfig.__init__"],
    "datasets.get_dataset_config_names": ["datasets.DownloadConfig"],
    "huggingface_hub.ModelCard.from_template": ["publish/card.md"],  # its variables
    "huggingface_hub.DatasetCard.from_template": ["data/data_card.md"],
    "huggingface_hub.SpaceCard.from_template": ["publish/space_card.md"],
}
# What the finder cannot follow: streams are no `Dataset`, papermill takes the traits of nbclient, a card takes any key.
ELSEWHERE = {("datasets.Dataset.shuffle", "buffer_size"), ("papermill.execute_notebook", "config")}
ELSEWHERE |= {("huggingface_hub.DatasetCardData", key) for key in ("configs", "license_name", "tags")}


class Use(NamedTuple):
    """A keyword or an attribute (`name`) of something upstream (`owner`)."""

    owner: str
    name: str
    keyword: bool = False


class Finder(ast.NodeVisitor):
    """Collects the uses in one source, reading it from top to bottom as Python would."""

    def __init__(self):
        self.uses: set[Use] = set()
        self.scopes: list[dict[str, str]] = [{}]  # variable -> upstream path; "" is what comes from elsewhere
        self.dictionaries: dict[str, list[str]] = {}  # variable -> its keys, for f(**variable)

    def path(self, node: ast.AST) -> str | None:
        """The upstream path that an expression stands for, "" for something else that is known, or None."""
        if isinstance(node, ast.Name):
            for scope in reversed(self.scopes):
                if node.id in scope:
                    return scope[node.id]
            return CALLED.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.path(node.value)
            path = f"{owner}.{node.attr}" if owner else owner
            return ATTRIBUTES.get(path, path)
        if isinstance(node, ast.Call):
            path = self.path(node.func)
            is_class = path and path.split(".")[-1][0].isupper()  # an instance goes by its class
            return RETURNS.get(path, path if is_class or path == "" else None)
        if isinstance(node, ast.IfExp):
            return self.path(node.body)
        literals = (ast.Constant, ast.JoinedStr, ast.Dict, ast.List, ast.Set, ast.Tuple, ast.DictComp, ast.ListComp)
        return "" if isinstance(node, literals) else None

    def bind(self, name: str, path: str | None) -> None:
        self.scopes[-1].pop(name, None)
        if path is not None:
            self.scopes[-1][name] = path

    def visit_Import(self, node):
        for alias in node.names:
            top = alias.name.split(".")[0]
            path = alias.name if alias.asname else top
            self.bind(alias.asname or top, path if top in PACKAGES else "")
            if top in PACKAGES and "." in alias.name:
                self.uses.add(Use(*alias.name.rsplit(".", 1)))

    def visit_ImportFrom(self, node):
        package = (node.module or "").split(".")[0]
        for alias in node.names if package != "utils" else ():
            path = f"{node.module}.{alias.name}" if package in PACKAGES else ""
            self.bind(alias.asname or alias.name, path)
            if path:
                self.uses.add(Use(node.module, alias.name))

    def visit_FunctionDef(self, node):
        self.scopes.append({})
        self.generic_visit(node)
        self.scopes.pop()

    def visit_ClassDef(self, node):
        bases = [path for path in map(self.path, node.bases) if path]
        self.generic_visit(node)
        self.bind(node.name, bases[0] if bases else "")  # a subclass is made as its first upstream base is

    def visit_Assign(self, node):
        self.generic_visit(node)
        path = self.path(node.value) if node.value else None
        for target in getattr(node, "targets", None) or [node.target]:
            if isinstance(target, ast.Name):
                self.bind(target.id, path)
                if isinstance(node.value, ast.Dict):
                    self.dictionaries[target.id] = constants(node.value)

    visit_AnnAssign = visit_Assign

    def visit_Attribute(self, node):
        self.generic_visit(node)
        if owner := self.path(node.value):
            self.uses.add(Use(owner, node.attr))

    def visit_Call(self, node):
        self.generic_visit(node)
        path = self.path(node.func)
        for keyword in node.keywords if path else ():
            if keyword.arg:
                names = [keyword.arg]
            elif isinstance(keyword.value, ast.Dict):
                names = constants(keyword.value)
            else:
                names = self.dictionaries.get(ast.unparse(keyword.value), [])
            self.uses |= {Use(path, name, keyword=True) for name in names}


def constants(node: ast.Dict) -> list[str]:
    return [key.value for key in node.keys if isinstance(key, ast.Constant)]


def defined_in_classes(source: str) -> set[str]:
    """Names of the attributes and methods of all classes in some code."""
    names = set()
    for owner in ast.walk(ast.parse(source)):
        for node in owner.body if isinstance(owner, ast.ClassDef) else ():
            names |= {ast.unparse(target) for target in getattr(node, "targets", [])} | {getattr(node, "name", "")}
    return names


def uses_in(source: str) -> set[Use]:
    finder = Finder()
    finder.visit(ast.parse(source))
    return finder.uses


def source_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text
    cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return "\n".join(TransformerManager().transform_cell(cell) for cell in cells)


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> dict:
    """Small real objects, in place of those that the course downloads: they have whatever instances have."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    from utils.data import chat_format
    from utils.practice import stand_ins

    untouched = stand_ins.llama_3_tokenizer(stand_ins.pretraining_text(100, seed=0))
    tokenizer = chat_format.prepare_tokenizer(copy.deepcopy(untouched))
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=1, **sizes)
    adapter = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM(config), adapter)
    options = {"report_to": "none", "bf16": False, "use_cpu": True, "gradient_checkpointing": False, "max_steps": 1}
    options |= {"eval_strategy": "steps", "save_strategy": "no", "logging_steps": 1, "remove_unused_columns": False}
    arguments = ORPOConfig(output_dir=str(tmp_path_factory.mktemp("upstream")), disable_tqdm=True, **options)
    pairs = Dataset.from_list(stand_ins.preference_pairs(2, seed=0))
    trainer = ORPOTrainer(model, args=arguments, train_dataset=pairs, eval_dataset=pairs, processing_class=tokenizer)
    models = {"<base>": LlamaForCausalLM(config), "<model>": model, "<config>": config}
    # What the course sets on the other tokenizer proves nothing
    return models | {"<tokenizer>": untouched, "<trainer>": trainer, "<state>": trainer.state}


def resolve(path: str, real: dict):
    """Return what a path names: from a real object or a package on, attribute by attribute, or module by module."""
    if path in real:
        return real[path]
    owner, _, name = path.rpartition(".")
    if not owner:
        return importlib.import_module(name)
    found = resolve(owner, real)
    if not hasattr(found, name) and inspect.ismodule(found):
        return importlib.import_module(path)
    return getattr(found, name)


def has_attribute(owner, name: str) -> bool:
    """Whether a module, an object, or the instances of a class have an attribute."""
    if hasattr(owner, name):
        return True
    if inspect.ismodule(owner):
        try:
            return bool(importlib.import_module(f"{owner.__name__}.{name}"))
        except ModuleNotFoundError:
            return False
    if not inspect.isclass(owner):
        return False
    classes = [cls for cls in owner.__mro__ if cls.__module__ != "builtins"]
    annotated = any(name in vars(cls).get("__annotations__", {}) for cls in classes)
    set_inside = re.compile(rf"\bself\.{name}\b\s*(:[^=\n]+)?=(?!=)")
    return annotated or any(set_inside.search(source_if_any(cls)) for cls in classes)


def source_if_any(thing) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):  # compiled
        return ""


def has_keyword(function, path: str, name: str, real: dict) -> bool:
    """Whether a callable takes a keyword by name, itself or where its **kwargs go."""
    if not inspect.isroutine(function) and not inspect.isclass(function) and hasattr(function, "forward"):
        function = function.forward  # calling a model
    parameters = inspect.signature(function).parameters
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if name in parameters and parameters[name].kind in by_name:
        return True
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return False
    if inspect.isroutine(function) and name in taken_from_kwargs(function):
        return True
    for further in KWARGS_GO_TO.get(path, []):
        if further.endswith(".md"):
            if re.search(rf"{{[{{%][^}}]*\b{name}\b", (ROOT / "utils" / further).read_text()):
                return True
            continue
        target = resolve(further, real)
        if name in target if isinstance(target, list) else has_keyword(target, further, name, real):
            return True
    return False


def taken_from_kwargs(function) -> set[str]:
    pattern = r'kwargs\.(?:pop|get)\(\s*"(\w+)"|"(\w+)" in kwargs|kwargs\["(\w+)"\]'
    return {"".join(groups) for groups in re.findall(pattern, source_if_any(function))}


def complaint(use: Use, real: dict) -> str | None:
    """Say what the installed version does not have of what the course uses; None if it has it."""
    package = use.owner.split(".")[0]
    module = type(real[package]).__module__.split(".")[0] if package in real else package
    version = f"{module} {importlib.metadata.version(module)}"
    try:
        owner = resolve(use.owner, real)
    except (AttributeError, ImportError) as error:
        return f"{version} has no {use.owner} ({error})"
    if use.keyword:
        return None if has_keyword(owner, use.owner, use.name, real) else f"{version}: {use.owner} takes no {use.name}="
    return None if has_attribute(owner, use.name) else f"{version}: {use.owner} has no {use.name}"


NOT_SHOWN = {  # what the course uses where the search does not see whose it is
    "<trainer>": "get_batch_loss_metrics training_step compute_loss_context_manager get_train_dataloader",
    "<trainer>.args": "to_sanitized_dict fp16",
    "<state>": "log_history global_step max_steps save_to_json",
    "wandb.Run": "offline settings url",
    "huggingface_hub.HfApi": "repo_info model_info whoami list_repo_tree upload_folder create_repo auth_check",
    "huggingface_hub.hf_api.ModelInfo": "sha tags siblings gated",
    "huggingface_hub.hf_api.RepoSibling": "rfilename size",
    "huggingface_hub.hf_api.RepoFile": "path lfs",
    "huggingface_hub.hf_api.BlobLfsInfo": "sha256",
    "papermill.PapermillExecutionError": "source ename evalue",
    "<model>.save_pretrained": "save_embedding_layers=",
    "<base>.save_pretrained": "max_shard_size=",
    "<model>.merge_and_unload": "safe_merge=",
}
RENAMED = [  # code, and what must be found wrong with it
    ("from trl.experimental.orpo import ORPOConfig\nORPOConfig(lambda_=1)", "ORPOConfig takes no lambda_="),
    ("from trl.experimental.orpo import CPOTrainer", "trl.experimental.orpo has no CPOTrainer"),
    ("from peft import LoraConfig as Lora\nLora(rank=8)", "peft.LoraConfig takes no rank="),
    ("from transformers import AutoModel as A\nA.from_pretrained(b, use_safetensor=1)", "takes no use_safetensor="),
    ("import wandb\ncommon = {'projekt': 'x'}\nwandb.init(**common)", "wandb.init takes no projekt="),
    ("from huggingface_hub import HfApi\napi = HfApi()\napi.upload_dir(x)", "HfApi has no upload_dir"),
    ("def f(model, x):\n    return model(x, targets=x)", "<model> takes no targets="),
    ("trainer.train(resume=True)", "<trainer>.train takes no resume="),
    ("from tokenizers import Tokenizer\ntokenizer = Tokenizer(m)\ntokenizer.pre_tokenizer = p", None),  # no PACKAGE
    ("from transformers import AutoTokenizer\nAutoTokenizer.from_pretrained(base, token=t, revision=r)", None),
]


def test_what_the_course_uses_exists_and_what_does_not_is_found(real):
    sources = {path.relative_to(ROOT).as_posix(): source_of(path) for path in FILES}
    own = set().union(*map(defined_in_classes, sources.values()))  # a subclass of the trainer has them
    used = {(use, place) for place, source in sources.items() for use in uses_in(source)}
    seen = {use.owner.split(".")[0] for use, _ in used}
    assert seen >= PACKAGES, f"the search sees nothing of {sorted(PACKAGES - seen)}"
    for owner, names in NOT_SHOWN.items():
        used |= {(Use(owner, name.rstrip("="), name.endswith("=")), "somewhere") for name in names.split()}
    problems = []
    for use, place in sorted(used):
        if (
            (use.owner, use.name) in ELSEWHERE or ".measured" in use.owner or use.name == "measured"
        ):  # which `train.guard` adds
            continue
        if use.owner != "<trainer>" or use.name not in own:
            problem = complaint(use, real)
            problems += [f"{place}: {problem}"] if problem else []
    assert not problems, "\n".join(problems)

    for source, message in RENAMED:
        found = [problem for use in uses_in(source) if (problem := complaint(use, real))]
        assert [message in problem for problem in found] == [True] * (message is not None), (source, found)


def metric_names(text: str) -> set[str]:
    """The trainer's metrics that a source or a template names in quotes."""
    return set(re.findall(r"""["'](?:eval_)?((?:rewards|logps|logits)/\w+|nll_loss|log_odds_\w+)["']""", text))


def test_the_trainer_measures_what_the_course_names(real):
    used = set().union(*(metric_names(source_of(path)) for path in FILES))
    used |= metric_names((ROOT / "utils" / "publish" / "card.md").read_text(encoding="utf-8"))
    assert {"nll_loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"} <= used
    trainer = real["<trainer>"]
    batch = next(iter(trainer.get_train_dataloader()))
    sides = {f"{side}_{key}" for side in ("chosen", "rejected") for key in ("input_ids", "labels", "attention_mask")}
    assert sides | {"prompt"} <= set(batch), f"the collator's batch has {sorted(batch)}"
    loss, metrics = trainer.get_batch_loss_metrics(trainer.model, trainer._prepare_inputs(dict(batch)))
    assert loss.isfinite() and used <= set(metrics), f"not measured: {sorted(used - set(metrics))}"

    trainer.train()
    logged = set().union(*trainer.state.log_history)
    wanted = {"loss", "eval_loss", "step", "epoch"} | used | {f"eval_{name}" for name in used}
    assert wanted <= logged, f"not logged: {sorted(wanted - logged)}"


def test_the_defaults_that_the_notebooks_warn_of(real, tmp_path):
    import trl
    from transformers import TrainerCallback, TrainingArguments

    from utils.curves.figures import live_curves

    for kind in (TrainingArguments, type(real["<trainer>"].args)):
        defaults = {field.name: field.default for field in dataclasses.fields(kind)}
        assert defaults["logging_nan_inf_filter"] is True
    arguments = type(real["<trainer>"].args)(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    assert arguments.bf16 is True, "TRL no longer turns bf16 on by itself"
    assert defaults["disable_dropout"] is True, "lora_dropout is no longer inert: see recipes/course-llama3.yaml"
    assert not hasattr(trl, "ORPOTrainer"), "ORPO has left trl.experimental: import it from there, and drop the filter"
    called = {name for name in dir(TrainerCallback) if name.startswith("on_")}
    own = {name for name in dir(live_curves()) if name.startswith("on_")}
    assert {"on_log", "on_train_end"} <= own == called, "a callback that nobody calls"
