"""What notebook 06 checks before it asks its questions."""

import json

import pytest
from transformers import LlamaConfig

from utils.publish import evaluated
from utils.train import base as bases
from utils.train import memory

MORE = {"base_model": "", "pairs": "", "adapter_repo": "", "merged_repo": ""}


def test_memory_of_llama_3_8b_is_what_an_l4_holds():
    """Weights of 16 GB in 16 bits, and near 6 GB in 4; the logits come on top."""
    shape = bases.skeleton(LlamaConfig(**memory.LLAMA_3_8B, tie_word_embeddings=False)), "bfloat16"
    whole, four_bit = (evaluated.scoring_gb(it, *shape, 4, 1024) for it in (False, True))
    assert 18 < whole < 0.92 * 23.6 and 7 < four_bit < 0.92 * 15.8
    assert evaluated.scoring_gb(False, *shape, 8, 1024) - whole == pytest.approx(4 * 1024 * 128256 * (2 + 4) / 1e9)


def test_without_pairs_nothing_is_compared_and_other_pairs_may_be_given(small_base, tmp_path):
    folder = tmp_path / "run"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    run = {"recipe": {"base_model": str(small_base)}, "revisions": {"base_model": None}}
    (folder / "adapter" / "run.json").write_text(json.dumps(run))
    with pytest.raises(FileNotFoundError, match=r'came without held-out pairs.* Set MORE\["pairs"\]'):
        evaluated.find_models(tmp_path, None, "", "", False, MORE)
    (tmp_path / "pairs.json").write_text(json.dumps([{"source": "a"}]))
    models = evaluated.find_models(tmp_path, None, "", "", False, MORE | {"pairs": str(tmp_path / "pairs.json")})
    assert models.held_out == [{"source": "a"}] and models.merged is None and models.identity is None
    assert list(models.repositories) == ["adapter"] and models.base.name == str(small_base)
