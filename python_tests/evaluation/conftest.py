"""lm-eval without a network, and its tasks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "evaluation"


@pytest.fixture(scope="session", autouse=True)
def _offline(tmp_path_factory):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install lm-eval==0.4.13")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


@pytest.fixture(scope="session")
def questions_file(tmp_path_factory) -> Path:
    """The bundled questions as JSON lines."""
    import json

    sys.path.insert(0, str(EXAMPLES))
    try:
        from questions import documents
    finally:
        sys.path.pop(0)
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in documents(5, seed=2026)))
    return path
