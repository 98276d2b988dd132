"""The examples with Ray, on CPU workers of a cluster of this machine alone."""

from __future__ import annotations

import json
import os
import socket
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dlmcache_cuda.assets.questions import check_answer, make_questions

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'ray[data,serve]'")
pytest.importorskip("ray.serve", reason="ray is installed without serve: pip install 'ray[serve]'")

ROOT = Path(__file__).parents[2]
QUESTIONS = make_questions(4, seed=5)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        folders = [str(ROOT), str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(folders))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(sys, "path", [str(ROOT / "examples"), *sys.path])
        # More CPUs than there may be: nothing here waits for another's to be free.
        ray.init(
            num_cpus=4, num_gpus=0, include_dashboard=False, object_store_memory=100 * 2**20,
            log_to_driver=False,
        )  # fmt: skip
        yield
        ray.shutdown()


def test_a_file_of_prompts_is_answered_by_two_workers(tmp_path):
    import ray_data

    prompts, answers = tmp_path / "prompts.jsonl", tmp_path / "answers"
    rows = [{"prompt": question.prompt, "final": question.final} for question in QUESTIONS]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ray_data.main([str(prompts), str(answers), "--workers", "2", "--batch-size", "2"])
    written = [
        json.loads(line) for file in answers.glob("*") for line in file.read_text().splitlines()
    ]
    by_prompt = {row["prompt"]: row for row in written}
    assert len(written) == len(by_prompt) == len(QUESTIONS)
    for question in QUESTIONS:
        row = by_prompt[question.prompt]
        assert check_answer(question, row["answer"]) and row["final"] == question.final
        assert row["tokens"] == len(row["answer"].split())
    with pytest.raises(SystemExit):
        ray_data.main([str(prompts), str(answers)])


def test_requests_are_answered_over_http_and_share_batches():
    import ray_serve
    from ray import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray_serve.start(ray_serve.parse(["--port", str(port)]))

    def post(body: bytes) -> tuple[int, dict]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}", body, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    try:
        bodies = [json.dumps({"prompt": question.prompt}).encode() for question in QUESTIONS]
        wrong = [b"no json", b"[]", b'{"prompt": " "}', b'{"prompt": "%s"}' % (b"boat " * 600)]
        with ThreadPoolExecutor(len(bodies) + len(wrong)) as pool:
            answers = list(pool.map(post, [*bodies, *wrong]))
        for question, (status, answer) in zip(QUESTIONS, answers, strict=False):
            assert status == 200 and check_answer(question, answer["answer"])
        assert max(answer["batch_size"] for _, answer in answers[: len(bodies)]) > 1
        for status, answer in answers[len(bodies) :]:
            assert status == 422 and "prompt" in answer["error"]
    finally:
        serve.shutdown()
