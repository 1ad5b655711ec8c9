"""The named sets of training values, each value with its source.

One line for each value that departs from `course-llama3`, or whose source is another. Left out: how a recipe is
combined with parameters, data and base, see `recipes`.
"""

from dataclasses import dataclass

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
PHI = ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2")
LABONNE = "Labonne 2024, huggingface.co/blog/mlabonne/orpo-llama-3"
PAPER = "the ORPO paper, arXiv 2403.07691"
LAZY = "the LazyORPO notebook"
AUTHORS = "the paper's code, github.com/xfactlab/orpo"
RUN_ORPO = f"{LAZY}, as {AUTHORS}, scripts/run_orpo.sh"
STACK_LLAMA = "TRL's stack_llama_2 example, github.com/huggingface/trl, examples/research_projects"
TODAY = "none is named: main, as it is today"
COURSE = "as course-llama3"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run learns; `sources` says where each departure from the defaults comes from."""

    name: str = "course-llama3"
    base_model: str = "NousResearch/Meta-Llama-3-8B"
    dataset: str = "mlabonne/orpo-dpo-mix-40k"
    dataset_revision: str | None = "v1.0"
    dataset_config: str | None = None
    dataset_split: str = "train"
    stream_rows: int | None = None
    num_pairs: int | None = 1000
    num_eval_pairs: int = 200
    learning_rate: float = 8e-5
    lr_scheduler_type: str = "linear"
    warmup_steps: int = 10
    beta: float = 0.1
    num_epochs: float = 1.0
    effective_batch: int = 8
    max_length: int = 1024
    truncate_answers: bool = False
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] = ATTENTION + MLP
    optim: str = "paged_adamw_8bit"
    sft_learning_rate: float = 2e-4
    dpo_learning_rate: float = 5e-6
    sources: tuple[tuple[str, str], ...] = ()

    @property
    def warning(self) -> str:
        """What the card of the data warns of, as a text to print; empty for most."""
        return WARNINGS.get(self.dataset, "")


WARNINGS = {
    "Anthropic/hh-rlhf": "The card of Anthropic/hh-rlhf warns against supervised training of dialogue agents on it, "
    "and the first term of ORPO's loss is supervised training: what is trained on it can be harmful. Study it, and "
    "do not publish it as an assistant."
}
DEFAULT_SOURCES = {
    "base_model": "ungated mirror of meta-llama/Meta-Llama-3-8B",
    "dataset": LABONNE,
    "dataset_revision": "the 39,703 rows of the article; main has 44,245",
    "dataset_config": "the data set has only one",
    "dataset_split": "its only one",
    "stream_rows": "nothing is streamed: the data are downloaded whole",
    "num_pairs": LABONNE,
    "num_eval_pairs": "an accuracy from 200 rows is known within 7 points, from 10 rows within 31 (95 %, binomial)",
    "learning_rate": "TRL's ORPO example script for LoRA; the article's 8e-6 is a rate for full fine-tuning",
    "lr_scheduler_type": LABONNE,
    "warmup_steps": LABONNE,
    "beta": f"lambda of Mistral-ORPO in {PAPER}",
    "num_epochs": LABONNE,
    "effective_batch": LABONNE + ": 2 pairs x 4 accumulation",
    "max_length": LABONNE,
    "truncate_answers": "a cut answer has no end token to learn",
    "lora_r": LABONNE,
    "lora_alpha": LABONNE,
    "lora_dropout": "TRL's ORPO and DPO trainers disable it (disable_dropout=True): any other value is inert",
    "target_modules": LABONNE,
    "optim": LABONNE,
    "sft_learning_rate": "for notebook 08: TRL's example with LoRA, trl/scripts/sft.py",
    "dpo_learning_rate": "for notebook 08: TRL's example with LoRA, trl/scripts/dpo.py",
}
# Recipe: value -> (what it is, where it comes from).
DEPARTURES = {
    "article-llama3": {
        "num_pairs": (990, f"{LABONNE}: 99 % of 1,000"),
        "num_eval_pairs": (10, f"{LABONNE}: 1 % of 1,000"),
        "learning_rate": (8e-6, LABONNE),
        "truncate_answers": (True, LABONNE),
        "lora_dropout": (0.05, f"{LABONNE}; inert, see lora_dropout of course-llama3"),
    },
    "lazyorpo-phi2": {
        "base_model": ("microsoft/phi-2", LAZY),
        "dataset": ("argilla/dpo-mix-7k", LAZY),
        "dataset_revision": (None, TODAY),
        "num_pairs": (None, f"all that fit; {RUN_ORPO}: those whose prompt has fewer than 128 tokens"),
        "learning_rate": (5e-6, f"{RUN_ORPO}: there for all weights, here for LoRA, for which it is low"),
        "lr_scheduler_type": ("cosine", f"the default of {AUTHORS}, src/args.py"),
        "warmup_steps": (100, RUN_ORPO),
        "beta": (0.25, f"lambda of Phi-2 in {PAPER}; that of {LAZY} is not known"),
        "num_epochs": (1.0, LAZY),
        "effective_batch": (4, f"{RUN_ORPO}: 4 pairs, no accumulation"),
        "max_length": (2048, f"all that Phi-2 reads; {RUN_ORPO}: 2,048 too, where longer pairs are cut, not dropped"),
        "lora_r": (16, f"{COURSE}; {RUN_ORPO}: no LoRA, all weights"),
        "lora_alpha": (32, f"{COURSE}; {RUN_ORPO}: no LoRA, all weights"),
        "target_modules": (PHI, f"all linear layers of Phi-2; {RUN_ORPO}: no LoRA"),
        "optim": ("paged_adamw_32bit", f"the default of {AUTHORS}, src/args.py"),
    },
    "paper-hh": {
        "base_model": ("microsoft/phi-2", f"{PAPER}, on other data; the OPT bases that it trains on these are pickles"),
        "dataset": ("Anthropic/hh-rlhf", PAPER),
        "dataset_revision": (None, TODAY),
        "num_pairs": (1000, "a first look; the data have 160,800"),
        "learning_rate": (8e-5, f"{COURSE}; the paper trains all weights"),
        "beta": (0.25, f"lambda of Phi-2 in {PAPER}"),
        "num_epochs": (1.0, f"{COURSE}, for a first look"),
        "target_modules": (PHI, "all linear layers of Phi-2; the paper trains all weights"),
    },
    "stack-llama2-dpo": {
        "base_model": ("NousResearch/Llama-2-7b-hf", f"ungated mirror of meta-llama/Llama-2-7b-hf: {STACK_LLAMA}"),
        "dataset": ("lvwerra/stack-exchange-paired", f"{STACK_LLAMA}: its folder data/rl"),
        "dataset_revision": (None, TODAY),
        "stream_rows": (30_000, "more than the pairs wanted, for pairs that are too long are dropped; of 31 million"),
        "num_pairs": (16_000, f"{STACK_LLAMA}: 1,000 steps of 16"),
        "learning_rate": (8e-5, f"{COURSE}; the rates of the example are those of SFT and of DPO"),
        "lr_scheduler_type": ("cosine", STACK_LLAMA),
        "warmup_steps": (100, STACK_LLAMA),
        "beta": (0.1, f"{COURSE}; the 0.1 of the example is DPO's beta, another thing"),
        "num_epochs": (1.0, f"{STACK_LLAMA}: each pair once"),
        "effective_batch": (16, f"{STACK_LLAMA}: 4 pairs x 4 accumulation"),
        "max_length": (1024, f"{STACK_LLAMA}: 1,024 too"),
        "lora_r": (8, STACK_LLAMA),
        "lora_alpha": (16, STACK_LLAMA),
        "lora_dropout": (0.05, f"{STACK_LLAMA}; inert, see lora_dropout of course-llama3"),
        "target_modules": (("q_proj", "v_proj"), f"{STACK_LLAMA}, sft_llama2.py"),
        "optim": ("paged_adamw_32bit", STACK_LLAMA),
        "sft_learning_rate": (1e-4, f"for notebook 08: {STACK_LLAMA}, its README"),
        "dpo_learning_rate": (5e-4, f"for notebook 08: {STACK_LLAMA}, dpo_llama2.py"),
    },
    "small": {
        "base_model": ("HuggingFaceTB/SmolLM2-135M", "open (Apache-2.0), and small enough for a free T4"),
        "dataset": ("argilla/dpo-mix-7k", "small and clean, with a test split of its own"),
        "dataset_revision": (None, TODAY),
        "num_pairs": (1000, f"{COURSE}, for a first look"),
        "learning_rate": (2e-4, "TRL's example with LoRA on a base of 0.5B, trl/scripts/sft.py; a guess for ORPO"),
        "beta": (1.0, f"lambda of OPT-350M in Fig. 7 of {PAPER}, a base of like size"),
        "dpo_learning_rate": (5e-5, "for notebook 08: a guess, ten times that of TRL's example, for so small a base"),
    },
}


def _recipe(name: str, values: dict[str, tuple]) -> Recipe:
    sources = tuple((key, source) for key, (_, source) in values.items())
    return Recipe(name, **{key: value for key, (value, _) in values.items()}, sources=sources)


RECIPES = {"course-llama3": Recipe()} | {name: _recipe(name, values) for name, values in DEPARTURES.items()}
