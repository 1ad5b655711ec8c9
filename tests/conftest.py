"""What all tests share: a practice hub that the real clients talk to, started before any of them is imported.

`huggingface_hub` reads HF_ENDPOINT, HF_HOME and HF_HUB_DISABLE_XET when it is imported: they are set at the top.
"""

import os
import tempfile
from pathlib import Path

from utils.practice_hub import PracticeHub

_FOLDER = tempfile.TemporaryDirectory(prefix="orpo-course-tests-")
_HUB = PracticeHub(Path(_FOLDER.name) / "hub")
_HUB.start()
for _secret in ("HF_TOKEN", "WANDB_API_KEY"):
    os.environ.pop(_secret, None)
os.environ |= {
    "HF_ENDPOINT": _HUB.url,
    "HF_HOME": str(Path(_FOLDER.name) / "home"),
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_OFFLINE": "0",
    "NO_PROXY": "127.0.0.1,localhost",
    "WANDB_MODE": "offline",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "agg",
}

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def small_base() -> Path:
    """The stand-in base, built once and cached."""
    from utils import stand_ins

    return stand_ins.small_base()


@pytest.fixture(scope="session")
def hub(small_base) -> PracticeHub:
    """A running practice hub that holds the stand-ins."""
    from utils import stand_ins

    stand_ins.publish(_HUB)
    return _HUB


@pytest.fixture(scope="session")
def tokenizer(small_base):
    """The stand-in base's tokenizer with the course's template; tests leave it as it is."""
    from transformers import AutoTokenizer

    from utils import chat_format

    return chat_format.prepare_tokenizer(AutoTokenizer.from_pretrained(small_base, trust_remote_code=False))


@pytest.fixture(scope="session")
def course(tmp_path_factory) -> tuple[dict, Path]:
    """The whole series, run once the way `make course` runs it: its report, and the folder with all it made."""
    from utils.course import run_course

    output = tmp_path_factory.mktemp("course")
    return run_course(output=output), output
