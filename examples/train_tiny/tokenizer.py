"""The word-level tokenizer of the tiny model, in Hugging Face format."""

from __future__ import annotations

import json
from pathlib import Path

from task import WORDS

END_OF_TEXT, MASK, START_OF_TEXT, UNKNOWN = (
    "<|endoftext|>",
    "<|mdm_mask|>",
    "<|startoftext|>",
    "[UNK]",
)
SPECIAL_TOKENS = (END_OF_TEXT, MASK, START_OF_TEXT, UNKNOWN)
VOCABULARY = {word: index for index, word in enumerate([*SPECIAL_TOKENS, *WORDS])}
EOS_ID, MASK_ID, BOS_ID, UNK_ID = range(4)
VOCAB_SIZE = len(VOCABULARY)

# One user message becomes `<|startoftext|> Q: <message> A:`, the prompt seen in training.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %} Q: {{ message['content'] | trim }}"
    "{% elif message['role'] == 'assistant' %} A: {{ message['content'] | trim }} {{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant messages are supported') }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} A:{% endif %}"
)


def encode_words(text: str) -> list[int]:
    """Ids of the words of ``text``; used in training, where no word is unknown."""
    return [VOCABULARY[word] for word in text.split()]


def prompt_ids(prompt: str) -> list[int]:
    """Ids of a user message inside the chat template."""
    return encode_words(f"{START_OF_TEXT} Q: {prompt} A:")


def decode_ids(ids: list[int]) -> str:
    """Words of ``ids``, separated by spaces."""
    words = list(VOCABULARY)
    return " ".join(words[index] for index in ids)


def save_tokenizer(folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(WordLevel(VOCABULARY, unk_token=UNKNOWN))
    core.pre_tokenizer = WhitespaceSplit()
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=START_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        mask_token=MASK,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=512,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    # The name that transformers 4 and 5 both know; 5 would write its own new one.
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings.pop("backend", None)
    path.write_text(json.dumps(settings, indent=2) + "\n")
