"""The forward of LLaDA and Dream over packed rows, and its predictions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import KVCache, RowList
from dlmcache_cuda.model.attention import KeyLengths
from dlmcache_cuda.model.block import LladaBlock
from dlmcache_cuda.model.config import LladaConfig
from dlmcache_cuda.model.head import Head
from dlmcache_cuda.model.log_prob import whole_log_prob
from dlmcache_cuda.model.ranking import RANKINGS, margin_score, sample_tiles
from dlmcache_cuda.model.read_rows import ReadRows
from dlmcache_cuda.model.rope import RopeTable
from dlmcache_cuda.model.token_ids import TokenIds
from dlmcache_cuda.model.tokenizer import load_tokenizer
from dlmcache_cuda.model.weights import ModelWeights
from dlmcache_cuda.model.whole_stack import WholeStack
from dlmcache_cuda.profiling import annotate


class Prediction(NamedTuple):
    """What the head says about each place; see :func:`dlmcache_cuda.ops.head_reduce`."""

    token: Tensor
    """``[Q]`` int64; -1 for an unused place."""
    log_confidence: Tensor
    """``[Q]`` fp32, natural logarithm of the token's probability."""
    second_token: Tensor
    """``[Q]`` int64, the most probable other token; ``[0]`` unless extras were asked for."""
    second_log_confidence: Tensor
    """``[Q]`` fp32; ``[0]`` unless extras were asked for."""
    entropy: Tensor
    """``[Q]`` fp32 in nats; ``[0]`` unless extras were asked for."""
    score: Tensor | None = None
    """``[Q]`` fp32, larger is surer; None where ``log_confidence`` is what ranks the places."""
    held_back: Tensor | None = None
    """``[Q]`` int64: the tokens, where ``token`` is a mask at places that are not to be committed
    yet; None where there are none."""
    log_prob: Tensor | None = None
    """``[Q]`` fp32, ``ln softmax(logits)`` of the token over the whole vocabulary, without
    temperature, filters or suppressed ids; None where ``log_confidence`` is just that."""

    @property
    def draft(self) -> Tensor:
        """``[Q]`` int64: the most recent idea of each place, whether it may be committed or not."""
        return self.token if self.held_back is None else self.held_back


class Llada:
    """A LLaDA or Dream ready to compute. It holds no state of any decoding: threads may share it.

    Attributes:
        config: sizes and constants.
        shift: 0 where each row predicts its own token, 1 where row p - 1 predicts that of position
            p (Dream).
        device, dtype: of everything computed, and of the weights but for those stored as fp8.
        mask_token_id: the token that stands for "not decided yet".
        end_token_ids: a text ends at the first of these.
        pad_token_id: fills what stands behind the end of a text.
        suppress_token_ids: tokens that decoding never predicts unless told otherwise; none but for
            LLaDA-V.
        path: the checkpoint's folder; name: what it is called in messages and tables.
        layers: the blocks, for policies that run their parts one by one.
        whole_stack: all of them by one operator, for rows that it takes.
        embedding ``[V, W]``, final_norm ``[W]``, head ``[V, W]``: the other weights.
    """

    def __init__(
        self,
        config: LladaConfig,
        weights: ModelWeights,
        token_ids: TokenIds,
        path: Path,
        name: str | None = None,
    ) -> None:
        self.config = config
        self.shift = config.shift
        self.device = weights.embedding.device
        self.dtype = weights.embedding.dtype
        self.mask_token_id = token_ids.mask
        self.end_token_ids = token_ids.end
        self.pad_token_id = token_ids.pad
        self.suppress_token_ids = token_ids.suppress
        self.path = path
        self.name = name or path.name
        self.embedding = weights.embedding
        self.final_norm = weights.final_norm
        self._head = Head(weights.head)
        self.layers = [LladaBlock(config, block) for block in weights.blocks]
        self.whole_stack = WholeStack(self.layers)
        self._rope = RopeTable(config.head_dim, config.rope_theta, self.device)
        self._tokenizer: Any = None
        self._tokenizer_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Llada({self.name}, {self.config.n_layers} layers, {self.dtype}, {self.device})"

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer, read when first asked for.

        Raises:
            FileNotFoundError: the checkpoint has none; prompts must then be token ids.
        """
        with self._tokenizer_lock:
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(self.path)
            return self._tokenizer

    def decode_text(self, ids: Tensor | Sequence[int]) -> str | None:
        """The text of token ids without special tokens; None if there is no tokenizer."""
        try:
            tokenizer = self.tokenizer
        except FileNotFoundError:
            return None
        return tokenizer.decode(torch.as_tensor(ids).tolist(), skip_special_tokens=True)

    @property
    def head(self) -> Tensor:
        return self._head.weight

    @property
    def head_rows_at_once(self) -> int | None:
        """Positions whose logits over the whole vocabulary are in memory at a time, where the head
        is packed for the processor; None: only chunks of the vocabulary are."""
        return self._head.rows_at_once

    @property
    def weight_bytes(self) -> int:
        """Memory of all weights now, in bytes; a tied head counts once, a packed one twice.

        Proxies, which ``spa`` and ``composed`` put below the projections, count from then on.
        """
        held = [self.embedding, self.final_norm, *(layer.weights for layer in self.layers)]
        held += [] if self.head is self.embedding else [self.head]
        return sum(part.nbytes for part in held) + self._head.packed_nbytes

    def new_cache(self, num_slots: int, capacity: int, shared: bool = False) -> KVCache:
        """An empty K/V cache of this model's shape; ``shared``: see :class:`KVCache`."""
        config = self.config
        return KVCache(
            config.n_layers, num_slots, capacity, config.n_kv_heads, config.head_dim,
            self.dtype, self.device, shared,
        )  # fmt: skip

    def cos_sin(self, capacity: int) -> Tensor:
        """``[capacity, D]`` fp32: the table of the rotary embedding that blocks take."""
        return self._rope.rows(capacity)

    @property
    def first_embed_id(self) -> int:
        """Ids from here on stand for rows that have an embedding of their own, and no token: the
        i-th is row i of the embeddings that go with the canvases. (The id before it is the mask
        that is final, see ``decoding/canvas.py``.)"""
        return self.config.embedding_size + 1

    def embed(self, tokens: Tensor, rows: RowList, prompt_embeds: Tensor | None = None) -> Tensor:
        """Embeddings ``[R, W]`` of what stands at the rows; zeros for unused entries.

        Args:
            tokens: ``[M]`` int64: token ids, and with ``prompt_embeds`` ids from
                :attr:`first_embed_id` on.
            rows: R of them.
            prompt_embeds: ``[n, W]``, in this model's dtype.
        """
        ids = ops.gather_rows(tokens, rows.row_index)
        if rows.may_have_unused:
            # Its token reads as 0; it must not become the embedding of token 0.
            ids = ids.masked_fill(rows.row_index < 0, -1)
        if prompt_embeds is None:
            return ops.gather_rows(self.embedding, ids)
        first = self.first_embed_id
        of_tokens = ops.gather_rows(self.embedding, ids.masked_fill(ids >= first, -1))
        # One of the two is zero in every row.
        return of_tokens + ops.gather_rows(prompt_embeds, (ids - first).clamp(min=-1))

    def forward_rows(
        self,
        tokens: Tensor,
        rows: RowList,
        cache: KVCache,
        kv_lens: Tensor,
        kv_lens_host: Sequence[int] | None = None,
        prompt_embeds: Tensor | None = None,
        read: RowList | None = None,
    ) -> Tensor:
        """Run rows through the whole stack; their keys and values are renewed in the cache.

        Args:
            tokens: ``[S * capacity]`` int64, the canvases.
            rows: what to compute; ``rows.capacity`` must be the cache's.
            cache: read at the first ``kv_lens`` positions of each slot, written at the rows.
            kv_lens: ``[S]`` int64 on the device, canvas length of each slot.
            kv_lens_host: the same numbers on the host. Slots whose rows are all of their keys may
                then use dense attention.
            prompt_embeds: as in :meth:`embed`.
            read: the only rows of which the result is read, in any number; None: all. Of the others
                the last block makes nothing but keys and values.

        Returns:
            ``[R, W]`` residual stream behind the last block, before the final norm. Rows that are
            not read may hold what went into the last block instead.
        """
        lengths = KeyLengths(kv_lens, None if kv_lens_host is None else tuple(kv_lens_host))
        cos_sin = self.cos_sin(rows.capacity)
        h = self.embed(tokens, rows, prompt_embeds)
        few = ReadRows.among(rows, read)
        if self.whole_stack.takes(rows, cache, lengths):
            return self.whole_stack.forward(h, rows, cos_sin, cache, lengths, few)
        normed, last = self.layers[0].normed(h), len(self.layers) - 1
        for number, block in enumerate(self.layers):
            k_cache, v_cache = cache.k[number], cache.v[number]
            with annotate("layer", number):
                if number == last and few is not None:
                    q = block.project_qkv(normed, rows.row_index, cos_sin, k_cache, v_cache)
                    return block.finish_read(h, q, k_cache, v_cache, lengths, few)
                h, ff_out = block.forward(h, normed, rows, cos_sin, k_cache, v_cache, lengths)
                if number < last:
                    h, normed = self.layers[number + 1].add(h, ff_out)
                    del ff_out  # not held through the next block
        return h + ff_out

    def normed(self, hidden: Tensor, places: Tensor | None = None) -> Tensor:
        """What the head reads: the final norm of ``hidden[places]``, zeros for place -1."""
        return ops.rms_norm(hidden, self.final_norm, self.config.rms_norm_eps, places)

    def guided(
        self, hidden: Tensor, places: Tensor, uncond_places: Tensor, cfg_scale: float
    ) -> Tensor:
        """What the head reads with classifier-free guidance, ``[Q, W]``.

        LLaDA combines logits, ``un + (cfg_scale + 1) (cond - un)``; the head is linear, so the
        normed rows are combined instead and the head runs once.

        Args:
            hidden: ``[R, W]`` from :meth:`forward_rows`.
            places, uncond_places: ``[Q]`` int64 rows of it, with the prompt and with masks instead.
            cfg_scale: strength of the guidance.
        """
        cond, uncond = (
            self.normed(hidden, places).float(),
            self.normed(hidden, uncond_places).float(),
        )
        return (uncond + (cfg_scale + 1.0) * (cond - uncond)).to(self.dtype)

    def head_logits(self, normed: Tensor) -> Tensor:
        """Logits ``[Q, V]`` over the whole vocabulary of what :meth:`normed` gives."""
        return self._head.logits(normed)

    def predict(
        self,
        hidden: Tensor,
        places: Tensor,
        *,
        uncond_places: Tensor | None = None,
        cfg_scale: float = 0.0,
        suppress_ids: Tensor | None = None,
        confidence_suppress_ids: Tensor | None = None,
        temperature: float = 0.0,
        row_index: Tensor | None = None,
        capacity: int = 1,
        seeds: Tensor | None = None,
        steps: Tensor | None = None,
        extras: bool = False,
        ranking: str | None = None,
        top_p: float = 1.0,
        top_k: int = 0,
    ) -> Prediction:
        """Token and confidence at ``places`` of ``hidden``, without ever holding all logits.

        Args:
            hidden: ``[R, W]`` from :meth:`forward_rows`.
            places: ``[Q]`` int64 rows of ``hidden`` (not of the canvas) to read; -1 is unused.
            uncond_places: ``[Q]`` rows computed with the prompt masked, see :meth:`guided`.
            cfg_scale: strength of the guidance; used with ``uncond_places`` only.
            suppress_ids, confidence_suppress_ids, temperature, row_index, capacity, seeds, steps,
                extras: as in :func:`dlmcache_cuda.ops.head_reduce`; ``row_index [Q]`` are canvas
                rows.
            ranking: Dream's sampling: the token is drawn from, and all confidences are those of,
                softmax(logits / temperature) behind the filters ``top_p`` and ``top_k``; see
                :func:`dlmcache_cuda.ops.sample_rows`. ``score`` is then ``confidence`` (None: the
                log-confidence), ``margin`` (ln(p1 - p2) of the two most probable tokens) or
                ``entropy`` (negative). Extras and ``confidence_suppress_ids`` do not go with a
                temperature or filters here. None: as in ``head_reduce``.
        """
        if uncond_places is None:
            normed = self.normed(hidden, places)
        else:
            normed = self.guided(hidden, places, uncond_places, cfg_scale)
        if ranking is not None and (temperature > 0 or top_p < 1 or top_k > 0):
            return self._sample(
                normed, ranking, suppress_ids, temperature, top_p, top_k, row_index, capacity,
                seeds, steps,
            )  # fmt: skip
        prediction = Prediction(
            *self._head.reduce(
                normed,
                suppress_ids=suppress_ids,
                confidence_suppress_ids=confidence_suppress_ids,
                temperature=temperature,
                row_index=row_index,
                capacity=capacity,
                seeds=seeds,
                steps=steps,
                # The second token is needed where the first one has no confidence.
                extras=extras
                or ranking in ("margin", "entropy")
                or confidence_suppress_ids is not None,
            )
        )
        if suppress_ids is not None or confidence_suppress_ids is not None:
            log_prob = self._whole_log_prob(
                normed, prediction, suppress_ids, confidence_suppress_ids
            )
            prediction = prediction._replace(log_prob=log_prob)
        if ranking == "margin":
            first, second = prediction.log_confidence, prediction.second_log_confidence
            return prediction._replace(score=margin_score(first, second))
        if ranking == "entropy":
            return prediction._replace(score=-prediction.entropy)
        return prediction

    def _sample(
        self, normed: Tensor, ranking: str, suppress_ids: Tensor | None, *settings: Any
    ) -> Prediction:
        token, log_confidence, score, log_prob = sample_tiles(
            normed, self._head, RANKINGS[ranking], suppress_ids, *settings
        )
        none = log_confidence.new_empty(0)
        return Prediction(
            token, log_confidence, token.new_empty(0), none, none,
            None if ranking == "confidence" else score, log_prob=log_prob,
        )  # fmt: skip

    def _whole_log_prob(
        self,
        normed: Tensor,
        prediction: Prediction,
        suppress_ids: Tensor | None,
        confidence_suppress_ids: Tensor | None,
    ) -> Tensor:
        token, log_confidence = prediction.token, prediction.log_confidence
        reference, known = token, log_confidence
        if confidence_suppress_ids is not None:
            without = log_confidence.isneginf()
            reference = torch.where(without, prediction.second_token, reference)
            known = torch.where(without, prediction.second_log_confidence, known)
        return whole_log_prob(
            normed, self.head, token, reference, known, suppress_ids, confidence_suppress_ids
        )

    def logits(self, input_ids: Tensor | Sequence[Tensor]) -> Tensor:
        """Logits of whole canvases, every position attending to all of its canvas.

        Row p holds what the network says at position p: with :attr:`shift` 1 that is the
        prediction of position p + 1.

        Args:
            input_ids: ``[B, N]`` int64, or a list of 1-D tensors of any lengths.

        Returns:
            ``[B, N, V]`` in the model's dtype, N the longest length; zeros behind shorter ones.
        """
        canvases = [torch.as_tensor(ids, dtype=torch.int64).to(self.device) for ids in input_ids]
        if any(ids.dim() != 1 for ids in canvases):
            raise ValueError("logits: input_ids must be [B, N] or a list of 1-D id tensors")
        rows, hidden = self.forward_canvases(canvases)
        logits = self.head.new_zeros((len(canvases) * rows.capacity, self.head.shape[0]))
        logits[rows.row_index] = self.head_logits(self.normed(hidden))
        return logits.view(len(canvases), rows.capacity, -1)

    def forward_canvases(self, canvases: Sequence[Tensor]) -> tuple[RowList, Tensor]:
        """All rows of whole canvases, packed, through the stack.

        Args:
            canvases: 1-D int64 tensors of any lengths, on the model's device.

        Returns:
            The rows, canvas after canvas, and ``[R, W]`` what :meth:`forward_rows` says of them.
        """
        lengths = [len(ids) for ids in canvases]
        capacity = max(lengths, default=0)
        tokens = torch.zeros((len(canvases), capacity), dtype=torch.int64, device=self.device)
        for slot, ids in enumerate(canvases):
            tokens[slot, : len(ids)] = ids
        rows = RowList.from_ranges([0] * len(lengths), lengths, capacity, self.device)
        cache = self.new_cache(len(canvases), capacity, shared=True)
        kv_lens = torch.tensor(lengths, dtype=torch.int64, device=self.device)
        return rows, self.forward_rows(tokens.flatten(), rows, cache, kv_lens, lengths)
