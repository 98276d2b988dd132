"""The official client gets what decode() gives."""

from __future__ import annotations

import json
import re

import pytest

from .conftest import chat, decoded


def test_models_lists_the_one_that_is_served(server):
    client = server.client()
    assert [model.id for model in client.models.list()] == ["tiny_llada"]
    assert client.models.retrieve("tiny_llada").object == "model"


def test_chat_equals_decode(server, questions):
    expected = decoded(server.model, chat(questions[0]))
    answer = server.client().chat.completions.create(
        model="tiny_llada", messages=chat(questions[0])
    )
    (choice,) = answer.choices
    assert answer.object == "chat.completion" and choice.message.role == "assistant"
    assert choice.message.content == expected.text[0] != ""
    assert choice.finish_reason == "stop"
    assert choice.forwards == expected.sequences[0].forwards
    usage = answer.usage
    assert usage.prompt_tokens == expected.sequences[0].prompt_ids.numel()
    assert usage.completion_tokens == expected.sequences[0].visible_ids.numel()
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_parts_of_a_message_are_joined(server, questions):
    whole = questions[0]
    parts = [{"type": "text", "text": whole[:20]}, {"type": "text", "text": whole[20:]}]
    answer = server.client().chat.completions.create(model="tiny_llada", messages=chat(parts))
    assert answer.choices[0].message.content == decoded(server.model, chat(whole)).text[0]


def test_streamed_chat_equals_decode(server, questions):
    expected = decoded(server.model, chat(questions[1]), threshold=None)
    stream = server.client().chat.completions.create(
        model="tiny_llada",
        messages=chat(questions[1]),
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"steps": 96},
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == expected.sequences[0].visible_ids.numel()
    choices = [chunk.choices[0] for chunk in chunks[:-1]]
    assert "".join(choice.delta.content or "" for choice in choices) == expected.text[0]
    assert [choice.finish_reason for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert sum(bool(choice.delta.content) for choice in choices) > 3, "all of it came at once"
    assert not any(hasattr(choice, "draft") for choice in choices)


def test_drafts_come_beside_the_final_text(server, questions):
    stream = server.client().completions.create(
        model="tiny_llada",
        prompt=f" Q: {questions[2]} A:",
        max_tokens=64,
        stream=True,
        extra_body={"draft": True, "cache": "none", "steps": 64},
    )
    choices = [chunk.choices[0] for chunk in stream]
    text, drafts = "", []
    for choice in choices:
        text += choice.text
        drafts.append(text + choice.draft)
    assert any(choice.draft for choice in choices)
    assert choices[-1].draft == "" and drafts[-1] == text
    expected = decoded(
        server.model, f" Q: {questions[2]} A:", gen_length=64, cache="none", threshold=None
    )
    assert text == expected.text[0]


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_and_choices_are_in_order_and_seeded_like_decode(server, questions, stream):
    prompts = questions[:2]
    settings = {"temperature": 0.7, "seed": 11}
    expected = decoded(server.model, [prompts[0]] * 2 + [prompts[1]] * 2, gen_length=32, **settings)
    answer = server.client().completions.create(
        model="tiny_llada", prompt=prompts, n=2, max_tokens=32, stream=stream, **settings
    )
    texts = [""] * 4
    for chunk in answer if stream else [answer]:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == expected.text
    if not stream:
        lengths = [expected.sequences[index].prompt_ids.numel() for index in (0, 2)]
        assert answer.usage.prompt_tokens == sum(lengths)


def test_token_ids_are_prompts(server, questions):
    ids = server.model.tokenizer(questions[3])["input_ids"]
    client = server.client()
    one = client.completions.create(model="tiny_llada", prompt=ids, max_tokens=32)
    two = client.completions.create(model="tiny_llada", prompt=[ids, ids], max_tokens=32)
    text = decoded(server.model, questions[3], gen_length=32).text[0]
    assert [choice.text for choice in (*one.choices, *two.choices)] == [text] * 3


@pytest.mark.parametrize("max_tokens", [1, 7, 32, 33])
def test_max_tokens_cuts_whole_blocks(server, questions, max_tokens):
    expected = decoded(server.model, chat(questions[4]), gen_length=-(-max_tokens // 32) * 32)
    ids = expected.sequences[0].visible_ids[:max_tokens]
    answer = server.client().chat.completions.create(
        model="tiny_llada", messages=chat(questions[4]), max_completion_tokens=max_tokens
    )
    assert answer.choices[0].message.content == server.model.decode_text(ids)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == max_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_stop_ends_the_text_and_frees_the_slot(server, questions, stream):
    whole = decoded(server.model, chat(questions[5])).text[0]
    cut = whole.index(" #2")
    answer = server.client().chat.completions.create(
        model="tiny_llada",
        messages=chat(questions[5]),
        stop=[" #2", "never said"],
        stream=stream,
        extra_body={"cache": "none", "steps": 96},
    )
    if stream:
        choices = [chunk.choices[0] for chunk in answer]
        text = "".join(choice.delta.content or "" for choice in choices)
        last = choices[-1]
    else:
        (last,) = answer.choices
        text = last.message.content
        assert answer.usage.completion_tokens == len(server.model.tokenizer(text)["input_ids"])
    assert text == whole[:cut]
    assert last.finish_reason == "stop"
    assert last.forwards < 96, "it went on behind the stop string"
    server.wait_until_empty()


def test_cache_settings_are_extra_fields(server, questions):
    client = server.client()
    for cache in ("none", {"name": "elastic", "gamma": 0.5, "window_length": 8}):
        name = cache if isinstance(cache, str) else cache["name"]
        answer = client.chat.completions.create(
            model="tiny_llada",
            messages=chat(questions[6]),
            max_tokens=32,
            extra_body={"cache": cache, "block_length": 16, "threshold": 0.8},
        )
        config = name
        if name == "elastic":
            from dlmcache_cuda.policies.elastic import ElasticConfig

            config = ElasticConfig(gamma=0.5, window_length=8)
        expected = decoded(
            server.model,
            chat(questions[6]),
            gen_length=32,
            block_length=16,
            threshold=0.8,
            cache=config,
        )
        assert answer.choices[0].message.content == expected.text[0]
        assert answer.choices[0].forwards == expected.sequences[0].forwards


def test_dreams_sampling_takes_top_p(server, questions):
    settings = {"alg": "entropy", "temperature": 0.5, "top_p": 0.8, "seed": 5, "gen_length": 32}
    expected = decoded(server.model, chat(questions[7]), threshold=None, **settings)
    answer = server.client().chat.completions.create(
        model="tiny_llada",
        messages=chat(questions[7]),
        max_tokens=32,
        temperature=0.5,
        top_p=0.8,
        seed=5,
        extra_body={"alg": "entropy"},
    )
    assert answer.choices[0].message.content == expected.text[0]


def test_api_description_is_complete(server):
    text = server.get("/openapi.json")
    schemas = json.loads(text)["components"]["schemas"]
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) <= schemas.keys()
    assert "threshold" in schemas["ChatRequest"]["properties"]


def test_metrics_and_health(server):
    assert '"status":"ok"' in server.get("/health")
    before = server.metric("dlmcache_completion_tokens_total")
    label = 'dlmcache_requests_total{endpoint="/v1/completions",status="200"}'
    client = server.client()
    client.completions.create(model="tiny_llada", prompt="Q:", max_tokens=5)
    answered = server.metric(label)
    answer = client.completions.create(model="tiny_llada", prompt="Q:", max_tokens=5)
    assert server.metric(label) == answered + 1
    tokens = server.metric("dlmcache_completion_tokens_total") - before
    assert tokens == 2 * answer.usage.completion_tokens
    assert server.metric("dlmcache_forwards_total") > 0
    assert server.metric("dlmcache_step_seconds_count") > 0
    assert server.metric("dlmcache_slots_in_use") == 0
    assert server.metric("dlmcache_queue_length") == 0
    assert server.metric("dlmcache_slots") == 8
