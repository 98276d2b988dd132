"""LLaDA-V end to end on random small weights, against stock SigLIP and stock Llama."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

import dlmcache_cuda
from dlmcache_cuda.model.config import LladaConfig
from dlmcache_cuda.model.token_ids import resolve_token_ids
from dlmcache_cuda.testing.tiny_llada_v import TOWER_SIZES, random_llada_v_checkpoint
from dlmcache_cuda.vision.config import VisionConfig
from dlmcache_cuda.vision.images import crops, grid_of, image_rows

SIDE = 3  # patches of a side: 20 pixels, patches of 6


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.frombytes("RGB", (width, height), bytes(values.flatten().tolist()))


def stored(folder) -> dict[str, torch.Tensor]:
    return {
        k: v for path in sorted(folder.glob("*.safetensors")) for k, v in load_file(path).items()
    }


def stock_features(weights: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """What LLaVA takes from a whole SigLIP: the output of the second-last layer, projected."""
    tower = SiglipVisionModel(SiglipVisionConfig(**TOWER_SIZES, vision_use_head=False)).eval()
    prefix = "model.vision_tower.vision_tower."
    state = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    if not any(name.startswith("vision_model.") for name in tower.state_dict()):
        state = {name.removeprefix("vision_model."): value for name, value in state.items()}
    tower.load_state_dict(state, strict=True)
    with torch.no_grad():
        hidden = tower(pixels, output_hidden_states=True).hidden_states[-2]
        projector = {k.rsplit("projector.", 1)[-1]: v for k, v in weights.items()}
        hidden = F.gelu(F.linear(hidden, projector["0.weight"], projector["0.bias"]))
        return F.linear(hidden, projector["2.weight"], projector["2.bias"])


@torch.no_grad()
def stock_decode(
    weights: dict[str, torch.Tensor], config: Any, embeds: torch.Tensor, gen_length: int, **options
) -> list[int]:
    """LLaDA's loop at temperature 0, a token per step, in embedding space as LLaDA-V's sampler."""
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.mlp_hidden_size,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            max_position_embeddings=512,
            tie_word_embeddings=False,
            attn_implementation="eager",
        )
    ).eval()
    own = llama.state_dict().keys()
    llama.load_state_dict({name: weights[name] for name in own}, strict=True)
    for layer in llama.model.layers:
        layer.self_attn.is_causal = False
    table, suppressed = llama.model.embed_tokens.weight, list(options.get("suppress", ()))
    x = torch.cat((embeds, table[config.mask_token_id].expand(gen_length, -1)))
    ids = [config.mask_token_id] * gen_length
    everything = torch.zeros(1, 1, len(x), len(x))
    for _ in range(gen_length):
        logits = llama(inputs_embeds=x[None], attention_mask=everything, use_cache=False).logits[0]
        logits = logits[len(embeds) :].double()
        logits[:, suppressed] = -math.inf
        confidence, token = logits.softmax(-1).max(-1)
        masked = torch.tensor(ids) == config.mask_token_id
        best = int(confidence.masked_fill(~masked, -1).argmax())
        ids[best] = int(token[best])
        x[len(embeds) + best] = table[ids[best]]
    return ids


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_llada_v_checkpoint(tmp_path_factory.mktemp("llada_v"), seed=5)


@pytest.fixture(scope="module")
def llada_v(folder):
    return dlmcache_cuda.load_llada_v(folder, device="cpu", dtype="float32")


def messages(*images: Image.Image) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": image} for image in images]
    return [
        {"role": "system", "content": "w9"},
        {"role": "user", "content": [*parts, {"type": "text", "text": "w5 w7"}]},
    ]


def test_tower_and_projector_equal_stock_siglip(folder, llada_v):
    image = picture(31, 17)
    pixels = crops(image, llada_v.tower.config)
    expected = stock_features(stored(folder), pixels)
    torch.testing.assert_close(llada_v.tower.encode(pixels), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize("suppress", [(), (3, 18, 60)])
def test_images_decode_as_on_stock_models(folder, llada_v, suppress):
    """Two images, one after the other, and text around them."""
    weights = stored(folder)
    config, model = llada_v.tower.config, llada_v.model
    newline = weights["model.image_newline"]
    images = [picture(31, 17, 1), picture(20, 44, 2)]
    table = weights["model.embed_tokens.weight"]
    # The test tokenizer's template: w1 content w1 content w2.
    rows = [table[[1, 9, 1]]]
    for image in images:
        features = stock_features(weights, crops(image, config))
        rows.append(image_rows(features, image.size, config, newline))
    rows.append(table[[5, 7, 2]])
    expected_rows = torch.cat(rows)
    embeds = llada_v.prompt_embeds(messages(*images))
    torch.testing.assert_close(embeds, expected_rows, rtol=1e-4, atol=1e-5)
    expected = stock_decode(weights, model.config, expected_rows, 10, suppress=suppress)
    for name, policy in dlmcache_cuda.available_policies().items():
        if name == "dkv-greedy":
            continue  # for random order only
        out = dlmcache_cuda.decode(
            model,
            prompt_embeds=embeds,
            gen_length=10,
            cache=policy.exact_config(),
            stop_at_eos=False,
            suppress_token_ids=suppress,
        )
        assert out.ids[0].tolist() == expected, name


@pytest.mark.parametrize("cache", ["dual", "dllm", "elastic", "spa"])
def test_a_ragged_batch_of_images(llada_v, cache):
    """Each as alone; what is cached of a prompt of images is what is cached of any prompt."""
    prompts = [llada_v.prompt_embeds(messages(picture(*size))) for size in ((31, 17), (20, 60))]
    assert len(prompts[0]) != len(prompts[1])
    options = {"gen_length": 12, "block_length": 6, "cache": cache}
    out = dlmcache_cuda.decode(llada_v.model, prompt_embeds=prompts, seed=[1, 2], **options)
    for rows, seed, sequence in zip(prompts, (1, 2), out.sequences, strict=True):
        alone = dlmcache_cuda.decode(llada_v.model, prompt_embeds=rows, seed=[seed], **options)
        assert alone.ids[0].tolist() == sequence.ids.tolist()
        assert sequence.rows_computed < sequence.rows_vanilla


def test_the_language_tower_alone(folder, llada_v):
    model = dlmcache_cuda.load(folder, dtype="float32")
    prompt = torch.tensor([3, 4, 5])
    a = dlmcache_cuda.decode(model, [prompt], gen_length=6)
    b = dlmcache_cuda.decode(llada_v.model, prompt_embeds=model.embedding[prompt], gen_length=6)
    assert a.ids[0].tolist() == b.ids[0].tolist()


def test_a_tower_beside_the_checkpoint(tmp_path, folder, llada_v):
    beside = random_llada_v_checkpoint(tmp_path, seed=5, tower_inside=False)
    other = dlmcache_cuda.load_llada_v(beside, dtype="float32")
    image = picture(25, 25)
    assert torch.equal(other.image_embeds(image), llada_v.image_embeds(image))


def vision_config(**changes) -> VisionConfig:
    values = {
        "tower": "tower",
        "sizes": TOWER_SIZES,
        "merge_type": "spatial_unpad",
        "aspect_ratio": "anyres_max_9",
        "grids": tuple((20 * w, 20 * h) for w in (1, 2, 3) for h in (1, 2, 3)),
    }
    return VisionConfig(**values | changes)


@pytest.mark.parametrize(
    ("size", "grid"), [((20, 20), (20, 20)), ((60, 20), (60, 20)), ((33, 70), (40, 60))]
)
def test_the_grid_follows_the_image(size, grid):
    assert grid_of(size, vision_config()) == grid
    shape = crops(picture(*size), vision_config()).shape
    assert shape == (1 + grid[0] * grid[1] // 400, 3, 20, 20)


def numbered(config: VisionConfig, size: tuple[int, int]) -> torch.Tensor:
    """Features that say (crop, line, column), line and column counted over the whole grid."""
    width, height = (pixels // 20 for pixels in grid_of(size, config))
    features = torch.full((1 + width * height, SIDE, SIDE, 3), -1.0)
    for crop in range(width * height):
        for line in range(SIDE):
            for column in range(SIDE):
                place = (crop // width * SIDE + line, crop % width * SIDE + column)
                features[1 + crop, line, column] = torch.tensor([crop + 1.0, *place])
    features[0] = 0
    return features.flatten(1, 2)


def test_rows_stand_as_in_the_image():
    config, size = vision_config(merge_type="spatial"), (40, 20)
    rows = image_rows(numbered(config, size), size, config, None)
    assert (rows[:9] == 0).all()
    assert rows[9:, 1:].tolist() == [[line, column] for line in range(3) for column in range(6)]


def test_unpadded_rows_end_with_a_newline():
    """60 x 20 in a grid of 60 x 40: of six lines of patches the outer ones saw padding only."""
    config, size = vision_config(grids=((60, 40),)), (60, 20)
    newline = torch.tensor([7.0, 7.0, 7.0])
    rows = image_rows(numbered(config, size), size, config, newline)[9:]
    # 20 of 40 pixels high: int(6 / 2) = 3 lines, (6 - 3) // 2 = 1 left out on either side
    lines = rows.view(4, 10, 3)
    assert (lines[:, -1] == 7).all()
    assert lines[:, 0, 1].tolist() == [1, 2, 3, 4]
    assert lines[0, :-1, 2].tolist() == list(range(9))


def test_too_many_rows_are_shrunk():
    size = (60, 60)
    config = vision_config(aspect_ratio="anyres_max_4", grids=((60, 60),))
    newline = torch.zeros(3)
    rows = image_rows(numbered(config, size), size, config, newline)
    # 9 crops where 4 are allowed: 81 patches by a factor of 1.5 in each direction
    assert len(rows) == 9 + 6 * 7
    loose = vision_config(aspect_ratio="anyres", grids=((60, 60),))
    assert len(image_rows(numbered(loose, size), size, loose, newline)) == 9 + 9 * 10


@pytest.mark.parametrize("aspect_ratio", ["square", "pad"])
@pytest.mark.parametrize(("merge_type", "rows"), [("flat", 9), ("spatial_unpad", 10)])
def test_images_in_one_crop(tmp_path, aspect_ratio, merge_type, rows):
    options = {"image_aspect_ratio": aspect_ratio, "mm_patch_merge_type": merge_type}
    path = random_llada_v_checkpoint(tmp_path, **options)
    llada_v = dlmcache_cuda.load_llada_v(path)
    assert llada_v.image_embeds(picture(40, 20)).shape == (rows, 48)
    whole = crops(Image.new("RGB", (40, 20), (255, 255, 255)), llada_v.tower.config)
    assert whole.shape == (1, 3, 20, 20)
    padded = aspect_ratio == "pad"
    assert whole[0, 0, 10, 10] == 1 and (abs(whole[0, 0, 0, 0]) < 0.01) == padded


def test_the_published_ids():
    config = LladaConfig.from_dict(
        {
            "model_type": "llava_llada",
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "intermediate_size": 12288,
            "vocab_size": 126464,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "max_position_embeddings": 16384,
            "tie_word_embeddings": False,
            "eos_token_id": 126081,
        }
    )
    ids = resolve_token_ids(config, "config")
    assert ids.mask == 126336
    # The first end token has to be one that is predicted.
    assert ids.end == (126348, 126081)
    assert set(ids.suppress) == {126081, 126080, 126346, 126347}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mm_projector_type": "linear"}, "mm_projector_type = 'linear' is not implemented"),
        ({"mm_patch_merge_type": "maxpool2x2"}, "mm_patch_merge_type = 'maxpool2x2'"),
        ({"image_aspect_ratio": "highres"}, "image_aspect_ratio = 'highres'"),
        ({"image_grid_pinpoints": "[[30, 20]]"}, r"pairs of multiples of 20.*\[\[30, 20\]\]"),
        ({"image_grid_pinpoints": None}, "image_grid_pinpoints must be"),
        ({"mm_vision_tower": "openai/clip"}, "mm_vision_tower 'openai/clip' is neither"),
        ({"mm_vision_tower": None}, "mm_vision_tower must name"),
    ],
    ids=str,
)
def test_what_is_not_implemented_is_refused(tmp_path, options, words):
    path = random_llada_v_checkpoint(tmp_path, **options)
    with pytest.raises(ValueError, match=words):
        dlmcache_cuda.load_llada_v(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("model.mm_projector.2.bias"), "missing mm_projector.2.bias"),
        (lambda w: w.pop("model.mm_projector.0.weight"), "missing mm_projector.0.weight"),
        (lambda w: w.pop("model.image_newline"), "missing image_newline"),
        (
            lambda w: w.update({"model.mm_projector.2.bias": torch.zeros(3)}),
            r"mm_projector.2.bias has shape \[3\], the config makes it \[48\]",
        ),
        (
            lambda w: w.update({"model.mm_projector.2.bias": torch.full((48,), math.nan)}),
            "mm_projector.2.bias contains NaN",
        ),
    ],
)
def test_bad_weights_are_refused(tmp_path, change, words):
    path = random_llada_v_checkpoint(tmp_path)
    weights = stored(path)
    change(weights)
    for file in path.glob("*.safetensors*"):
        file.unlink()
    save_file(weights, path / "model.safetensors")
    with pytest.raises(ValueError, match=words):
        dlmcache_cuda.load_llada_v(path)


def test_a_model_without_images_is_refused():
    from dlmcache_cuda.assets import tiny_llada_path

    with pytest.raises(ValueError, match="model_type 'llada' has no images"):
        dlmcache_cuda.load_llada_v(tiny_llada_path())


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("text", TypeError, "messages must be a list of messages, got str"),
        ([], ValueError, "messages is empty"),
        ([{"role": "user"}], ValueError, r"messages\[0\] needs 'role' and 'content'"),
        ([{"role": "user", "content": 3}], TypeError, "content must be text or a list of parts"),
        ([{"role": "user", "content": [{"type": "video"}]}], ValueError, "part 0 must be"),
        ([{"role": "user", "content": "<image> w3"}], ValueError, "must not hold <image>"),
        (
            [{"role": "user", "content": [{"type": "image", "image": 3}]}],
            TypeError,
            r"messages\[0\], part 0 must be a PIL image or a path, got int",
        ),
        (
            [{"role": "user", "content": [{"type": "image", "image": "/nothing.png"}]}],
            FileNotFoundError,
            "no such file: /nothing.png",
        ),
        (
            [{"role": "user", "content": [{"type": "image", "image": __file__}]}],
            ValueError,
            "is not a readable image",
        ),
    ],
    ids=str,
)
def test_bad_messages(llada_v, given, error, words):
    with pytest.raises(error) as caught:
        llada_v.prompt_embeds(given)
    assert re.search(words, str(caught.value))


def test_images_from_files_and_of_other_modes(llada_v, tmp_path):
    image = picture(25, 30)
    image.save(tmp_path / "image.png")
    assert torch.equal(llada_v.image_embeds(tmp_path / "image.png"), llada_v.image_embeds(image))
    grey = image.convert("L")
    assert torch.equal(llada_v.image_embeds(grey), llada_v.image_embeds(grey.convert("RGB")))
