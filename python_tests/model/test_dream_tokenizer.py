"""Dream's tokenizer as published: vocab.json, merges.txt and a class of its own."""

from __future__ import annotations

import json

import pytest

from dlmcache_cuda.model.tokenizer import load_tokenizer

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>")


def write(folder, first_special=258):
    from tokenizers import pre_tokenizers

    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "\u0120a", "he"]
    vocabulary = {word: index for index, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n\u0120 a\nh e\n")
    settings = {
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "added_tokens_decoder": {
            str(first_special + index): {"content": token, "special": True}
            for index, token in enumerate(SPECIAL)
        },
        "bos_token": "<|beginoftext|>",
        "eos_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
        "pad_token": "<|endoftext|>",
        "chat_template": (
            "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>"
            "{% endfor %}"
        ),
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_it_is_read_without_its_code(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path))
    assert tokenizer("he a<|im_end|>")["input_ids"] == [257, 256, 260]
    assert (tokenizer.mask_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        262, 258, 258,
    )  # fmt: skip
    assert tokenizer.decode([257, 256, 260], skip_special_tokens=True) == "he a"
    chat = [{"role": "user", "content": "he a"}]
    ids = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
    assert ids == [259, 257, 256, 260]


def test_other_ids_of_special_tokens_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"gives <\|endoftext\|> the id 258, its .* says 300"):
        load_tokenizer(write(tmp_path, first_special=300))
