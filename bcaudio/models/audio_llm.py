"""The audio language model: a causal LM that reads and writes audio codes beside text (arXiv 2502.17239, section 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from bcaudio.nn.depth_transformer import DepthTransformer


class AudioEmbedding(nn.Module):
    """Sum of one embedding per codebook.

    Args:
        codebook_sizes: entries per codebook; each table has one row more, the end of an audio segment.
        dim: hidden width of the language model.
    """

    def __init__(self, codebook_sizes: Sequence[int], dim: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size + 1, dim) for size in codebook_sizes)
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, codes: Tensor) -> Tensor:
        """codes [..., K] int64 -> embeddings [..., dim]."""
        return sum(table(codes[..., level]) for level, table in enumerate(self.tables))


@dataclass
class AudioLLMOutput:
    """hidden [B, T, dim] after the final norm; past_key_values is the cache when `use_cache` was set."""

    hidden: Tensor
    past_key_values: Cache | None


class AudioLLM(nn.Module):
    """A text LM with audio codes as further input (summed embeddings) and output (audio head).

    A position whose id is `audio_pad_id` is a frame of audio: its text embedding is replaced by that of its codes. Without audio
    the model is the text LM, bit for bit.

    Args:
        llm: any Hugging Face causal LM.
        codebook_sizes: entries per codebook.
        audio_pad_id: id that marks a frame of audio, heard or spoken.
        head: the audio head, or None for a model that only listens.

    Raises:
        ValueError: if the head's codebooks differ from `codebook_sizes`, or the LM scales or caps its logits.
    """

    def __init__(
        self, llm: PreTrainedModel, codebook_sizes: Sequence[int], audio_pad_id: int, head: DepthTransformer | None = None
    ) -> None:
        super().__init__()
        self.codebook_sizes = tuple(codebook_sizes)
        if head is not None and head.codebook_sizes != self.codebook_sizes:
            raise ValueError(f"AudioLLM: codebook_sizes are {self.codebook_sizes}, but the audio head has {head.codebook_sizes}")
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
            if getattr(llm.config, name, None) not in (None, 1, 1.0):
                raise ValueError(
                    f"AudioLLM: {llm.config.model_type} changes its logits ({name} = {getattr(llm.config, name)}), "
                    "which is not supported; choose a model whose logits are a plain projection"
                )
        self.llm = llm
        self.audio_embedding = AudioEmbedding(self.codebook_sizes, self.dim)
        self.audio_head = head
        self.audio_pad_id = audio_pad_id

    @property
    def dim(self) -> int:
        """Hidden width of the language model."""
        return self.llm.get_input_embeddings().weight.shape[-1]

    @property
    def num_codebooks(self) -> int:
        """Codes per frame of audio."""
        return len(self.codebook_sizes)

    def embed(self, input_ids: Tensor, codes: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        """Input embeddings: text, with the frames of audio in place of the pad positions.

        Args:
            input_ids: [B, T] int64.
            codes: [N, K] int64, one row per pad position, in row-major order of the pads.
            features: [N, dim] continuous features in place of codes (they receive gradients).

        Returns:
            [B, T, dim].

        Raises:
            ValueError: if the number of rows is not the number of pad positions, or both kinds of audio are given.
        """
        embedded = self.llm.get_input_embeddings()(input_ids)
        if codes is not None and features is not None:
            raise ValueError("AudioLLM.embed: both codes and features are given; give one of them")
        is_audio = input_ids == self.audio_pad_id
        num_pads = int(is_audio.sum())
        audio = features if codes is None else codes
        num_frames = 0 if audio is None else audio.shape[0]
        if num_pads != num_frames:
            kind = "features" if features is not None else "codes"
            raise ValueError(f"AudioLLM.embed: {num_pads} audio pad positions in input_ids, but {num_frames} rows of {kind}")
        if audio is None or (features is None and not self.codebook_sizes):
            return embedded
        if codes is not None:
            audio = self.audio_embedding(codes)
        return embedded.masked_scatter(is_audio.unsqueeze(-1), audio.to(embedded.dtype))

    def forward(
        self,
        input_ids: Tensor,
        codes: Tensor | None = None,
        position_ids: Tensor | None = None,
        features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
    ) -> AudioLLMOutput:
        """Hidden states of every position.

        Packed documents are told apart by `position_ids` that restart at 0, and only without `attention_mask` and cache.

        Args:
            input_ids: [B, T] int64.
            codes: [N, K] int64, see `embed`.
            position_ids: [B, T] int64; 0..T-1 by default.
            features: [N, dim], see `embed`.
            attention_mask: [B, P + T], 1 = real, for padded rows; P positions are in the cache.
            past_key_values: cache of an earlier call.
            use_cache: return a cache.

        Raises:
            ValueError: if positions restart where a mask or a cache would let documents see each other; see also `embed`.
        """
        cached = use_cache or past_key_values is not None
        if (cached or attention_mask is not None) and position_ids is not None and bool((position_ids.diff(dim=1) < 0).any()):
            raise ValueError(
                "AudioLLM: position_ids restart within a row (packed documents) together with an attention_mask or a cache; "
                "the documents would see each other: pack without both"
            )
        output = self.llm.base_model(
            inputs_embeds=self.embed(input_ids, codes, features),
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=cached,
        )
        return AudioLLMOutput(output.last_hidden_state, output.past_key_values if cached else None)

    def text_logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., dim] -> text logits [..., vocab_size]."""
        return self.llm.get_output_embeddings()(hidden)

    def audio_logits(self, hidden: Tensor, codes: Tensor) -> list[Tensor]:
        """Code logits under teacher forcing.

        Args:
            hidden: [M, dim], the states that predict a frame.
            codes: [M, K] int64, the frame to predict; its last level is not read.

        Returns:
            K tensors [M, K_i + 1].

        Raises:
            ValueError: if the model has no audio head.
        """
        if self.audio_head is None:
            raise ValueError("AudioLLM.audio_logits: this model was built without an audio head")
        tables = self.audio_embedding.tables[:-1]
        if not tables:
            return self.audio_head(hidden, hidden.new_zeros(hidden.shape[0], 0, self.dim))
        embeddings = torch.stack([table(codes[:, level]) for level, table in enumerate(tables)], dim=1)
        return self.audio_head(hidden, embeddings.to(hidden.dtype))
