"""decode(): the one call that users make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from dlmcache_cuda.decoding.arguments import (
    check_batch_size,
    check_model,
    check_one_of,
    check_seeds,
    check_settings,
)
from dlmcache_cuda.decoding.canvases import split_canvases, split_prompts
from dlmcache_cuda.decoding.decoder import SlotDecoder
from dlmcache_cuda.decoding.events import StepEvent
from dlmcache_cuda.decoding.output import DecodedSequence, DecodeOutput, DecodeStats
from dlmcache_cuda.decoding.prompt_embeds import check_prompt_embeds, embedded_prompts
from dlmcache_cuda.decoding.streamers import StreamerFeed
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import Cache, make_policy


def decode(
    model: Llada,
    prompts: str | Sequence[Any] | Tensor | None = None,
    *,
    canvas: Tensor | Sequence[Any] | None = None,
    prompt_embeds: Tensor | Sequence[Tensor] | None = None,
    gen_length: int = 128,
    block_length: int | None = None,
    steps: int | None = None,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    remasking: str | None = None,
    threshold: float | None = None,
    factor: float | None = None,
    alg: str | None = None,
    alg_temp: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_commit: int | None = None,
    cache: Cache = "none",
    stop_at_eos: bool = True,
    seed: int | Sequence[int] | None = None,
    callback: Callable[[StepEvent], None] | None = None,
    streamer: Any = None,
    trace: bool = False,
    cuda_graphs: bool | None = None,
    logits_eos_inf: bool = False,
    confidence_eos_eot_inf: bool = False,
    suppress_token_ids: Sequence[int] | None = None,
    batch_size: int | None = None,
) -> DecodeOutput:
    """Decodes prompts with a diffusion language model.

    The canvas of a sequence is its prompt followed by ``gen_length`` masks. Blocks are decoded from
    left to right; each step predicts the masked positions of the block and commits some of them.

    Args:
        model: from :func:`dlmcache_cuda.load`.
        prompts: a string, a chat (list of ``{"role", "content"}`` messages), a tensor ``[P]`` or
            ``[B, P]`` of token ids, or a list of strings, chats or 1-D id tensors of any lengths.
            Strings are encoded as they are, chats through the checkpoint's chat template.
        canvas: in place of prompts, token ids with mask tokens wherever text is wanted: ``[N]`` or
            ``[B, N]``, or a list of 1-D ones of any lengths. What stands before the first mask is
            the prompt; from there to the end the canvas is the generation region. Given text is
            attended to and never changed; an end token, decoded or given, ends the text only where
            no given text follows. See ``docs/infilling.md`` and :func:`dlmcache_cuda.fill`.
        prompt_embeds: in place of prompts, their embeddings: ``[P, D]`` or ``[B, P, D]`` of the
            model's width, or a list of ``[P, D]`` of any lengths; rows of text
            (``model.embedding[ids]``) and of images mixed. They are cached like any prompt. See
            ``docs/llada_v.md``.
        gen_length: positions to decode. Without effect with ``canvas``.
        block_length: positions of a block; divides ``gen_length``. Default: one block. With
            ``canvas`` the first block begins at the first mask, the last one may be shorter, and
            blocks without masks cost nothing.
        steps: steps over all blocks, a multiple of their number, at most 2^20; each block's masks
            are spread evenly over its steps (with ``alg`` by Dream's schedule). Default:
            ``gen_length``, one token per step. Without effect when ``threshold`` or ``factor`` is
            given. With ``canvas`` over the blocks that hold masks; default: one step per mask.
        temperature: of Gumbel-max sampling, from 1e-30 to 1e30; 0 takes the most probable token.
            Confidences are those without temperature, except with ``alg``.
        cfg_scale: weight of classifier-free guidance by a copy in which all given text is masked,
            at most 1e6; 0 is off. Twice the work.
        remasking: ``low_confidence`` commits the most probable tokens first, ``random`` any, by
            numbers drawn at every step; ``random_order`` draws an order once per block. Default:
            what the cache method is defined for, else ``low_confidence``.
        threshold: in (0, 1]: commit every token at least this probable, and at least one
            (Fast-dLLM; 0.9 is its usual value).
        factor: > 0: commit the longest run of most confident tokens with
            ``(n + 1) (1 - confidence_n) < factor``, and at least one (Fast-dLLM).
        alg: Dream's sampling, for any model: tokens are drawn from softmax(logits / temperature)
            behind ``top_p`` and ``top_k``, and committed, surest first, by the token's
            probability (``maskgit_plus``), the difference of the two largest ones
            (``topk_margin``) or the negative entropy (``entropy``), all of that distribution.
            Commits of step i of T: ``int(masks left * (1 - t_(i+1) / t_i))`` with t evenly from 1
            to 0.001, so that a step may commit none; the last one commits all that are left.
            ``origin`` commits every masked position with that probability instead. Excludes
            ``remasking``, ``threshold``, ``factor`` and ``confidence_eos_eot_inf``. Default: for
            Dream ``entropy``, as in its README (with temperature 0.2 and top_p 0.95 there), unless
            one of those four is given; for other models None, LLaDA's sampling.
        alg_temp: from 1e-30 to 1e30: draw the positions to commit, without replacement, by the
            softmax of confidence / ``alg_temp``. Default, and 0: the surest. Not with ``origin``.
        top_p: in (0, 1]: draw from the most probable tokens, up to the one with which their
            probabilities exceed ``top_p`` in sum. Needs ``alg``. Default: all.
        top_k: >= 1: draw from that many most probable tokens; ties stay in. Needs ``alg``.
            Default: all.
        min_commit: commits of every step at least: 1 as in SPA-Cache's decoding of Dream, default
            0 as in Dream's own. Needs ``alg``; not with ``origin``.
        cache: what is recomputed at a step: a name (:func:`dlmcache_cuda.available_policies`), the
            config object of a policy, or what :func:`dlmcache_cuda.calibrate` found: its file (a
            path that ends in ``.json``) or the object. The latter also say ``block_length``
            and ``threshold`` where a call leaves them (and how many to commit) open.
        stop_at_eos: end a sequence as soon as an end token has no mask before it. The text is the
            same either way: commits are final.
        seed: of all random numbers: an integer, one integer per prompt, or None (drawn from torch's
            default generator). A sequence's numbers depend on its own seed only.
        callback: called with a :class:`StepEvent` after every step. Its exceptions end the call.
        streamer: one of transformers' (``TextDiffusionStreamer``, ``TextStreamer``,
            ``TextIteratorStreamer``) or any object with ``put(tokens)``, ``end()`` and, for drafts,
            ``put_draft(tokens)``; see ``docs/streaming.md``. One prompt only.
        trace: record for every step what was computed, why, and what came of it, for
            :func:`dlmcache_cuda.trace_page` and ``docs/trace.md``. The tokens are the same.
        cuda_graphs: capture steps that reuse the cache as CUDA graphs and replay them. The tokens
            are the same; False is for debugging. Default: on a CUDA device. Steps that are traced
            or refresh are not captured.
        logits_eos_inf: never predict the end-of-text token.
        confidence_eos_eot_inf: give end tokens confidence 0, so that they are committed last.
        suppress_token_ids: tokens that are never predicted. Default: the model's own, none but for
            LLaDA-V.
        batch_size: sequences in flight; others wait and take the slots of those that ended.
            Default: 16, or the number of prompts.

    Returns:
        Tokens, text and statistics. A sequence gets the same tokens whatever else is in the batch.

    Raises:
        TypeError, ValueError: an argument is not as above; nothing was computed.
        MemoryError: the device has less memory available than the call needs, see
            :func:`dlmcache_cuda.predict_memory`; nothing was computed.
        FloatingPointError: logits were NaN or infinite.

    Source: LLaDA (arXiv 2502.09992) reference decoding; Fast-dLLM (arXiv 2505.22618); Dream
    (arXiv 2508.15487) reference decoding.
    """
    check_model(model)
    check_one_of(prompts=prompts, canvas=canvas, prompt_embeds=prompt_embeds)
    split = None if canvas is None else split_canvases(model, canvas)
    policy = make_policy(cache)
    settings = check_settings(
        model,
        policy,
        gen_length=gen_length,
        block_length=block_length,
        steps=steps,
        temperature=temperature,
        cfg_scale=cfg_scale,
        remasking=remasking,
        threshold=threshold,
        factor=factor,
        alg=alg,
        alg_temp=alg_temp,
        top_p=top_p,
        top_k=top_k,
        min_commit=min_commit,
        stop_at_eos=stop_at_eos,
        callback=callback,
        trace=trace,
        cuda_graphs=cuda_graphs,
        logits_eos_inf=logits_eos_inf,
        confidence_eos_eot_inf=confidence_eos_eot_inf,
        suppress_token_ids=suppress_token_ids,
        regions=None if split is None else [region for _, region in split],
    )
    feed = None if streamer is None else StreamerFeed(streamer, model)
    embeds = None
    if prompt_embeds is not None:
        embeds = check_prompt_embeds(model, prompt_embeds, settings.gen_length)
        split = embedded_prompts(model, embeds, settings.gen_length)
    elif split is None:
        split = split_prompts(model, prompts, settings.gen_length)
    seeds = check_seeds(seed, len(split))
    num_slots = check_batch_size(batch_size, len(split))
    if feed is not None:
        settings = feed.attach(settings, len(split))
    lengths = [region.end for _, region in split]
    decoder = SlotDecoder.fitting(
        model, policy, settings, num_slots=num_slots, lengths=lengths, embeds=embeds is not None
    )
    if feed is not None:
        feed.put_prompt(split[0][0])
    finished: dict[int, DecodedSequence] = {}
    waiting = iter(range(len(split)))
    while len(finished) < len(split):
        while decoder.has_free_slot and (sequence := next(waiting, None)) is not None:
            prompt_ids, region = split[sequence]
            rows = None if embeds is None else embeds[sequence]
            decoder.add(sequence, prompt_ids, seeds[sequence], region=region, prompt_embeds=rows)
        finished.update(decoder.step())
    sequences = [finished[index] for index in range(len(split))]
    if feed is not None:
        feed.finish(sequences[0])
    return DecodeOutput(
        sequences, decode_stats(sequences, decoder.forwards, decoder.timer.result())
    )


def decode_stats(
    sequences: Sequence[DecodedSequence], forwards: int, seconds: dict[str, float]
) -> DecodeStats:
    """Sums over the sequences of a call, which took ``forwards`` calls of the network."""
    return DecodeStats(
        forwards=forwards,
        sequence_forwards=sum(sequence.forwards for sequence in sequences),
        rows_computed=sum(sequence.rows_computed for sequence in sequences),
        rows_vanilla=sum(sequence.rows_vanilla for sequence in sequences),
        refreshes=sum(sequence.refreshes for sequence in sequences),
        visible_tokens=sum(sequence.num_visible for sequence in sequences),
        seconds=seconds,
    )
