"""ORPO from a configuration, as `trl dpo --config` does it for DPO: python train_orpo.py --config trl-cli.yaml"""

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

script, arguments, base = TrlParser((ScriptArguments, ORPOConfig, ModelConfig)).parse_args_and_config(
    fail_with_unknown_args=True
)
of_base = {"revision": base.model_revision, "trust_remote_code": False}
tokenizer = AutoTokenizer.from_pretrained(base.model_name_or_path, **of_base)
if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.eos_token  # ORPOTrainer masks padding by its place, not by its token
model = AutoModelForCausalLM.from_pretrained(
    base.model_name_or_path,
    dtype=base.dtype,
    attn_implementation=base.attn_implementation,
    quantization_config=get_quantization_config(base),
    use_safetensors=True,
    **of_base,
)
pairs = load_dataset(script.dataset_name)
trainer = ORPOTrainer(
    model,
    arguments,
    train_dataset=pairs[script.dataset_train_split],
    eval_dataset=pairs[script.dataset_test_split],
    processing_class=tokenizer,
    peft_config=get_peft_config(base),
)
trainer.train()
trainer.save_model()
