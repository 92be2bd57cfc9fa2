"""The training step of every kind of stage, as `trace` runs it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bcaudio.data.batch import PackedBatch
from bcaudio.losses.adversarial import discriminator_loss, feature_matching_loss, generator_loss
from bcaudio.losses.code_cross_entropy import code_cross_entropy
from bcaudio.losses.mel_reconstruction import mel_reconstruction
from bcaudio.losses.token_cross_entropy import token_cross_entropy
from bcaudio.models.audio_llm import AudioLLM
from bcaudio.models.audio_tokenizer import AudioTokenizer
from bcaudio.models.flow_decoder import FlowDecoder
from bcaudio.models.vocoder import Vocoder
from bcaudio.planning.trace import Recorder, Trace, tracing
from bcaudio.planning.workload import CHARS_PER_S, CHARS_PER_TOKEN, CODE_RATE_HZ


def audio_llm_step(model: AudioLLM, batch: PackedBatch, bf16: bool, deepspeed: bool, checkpointing: bool = False) -> Trace:
    """A step of stage 1, stage 2 or SFT: text loss through the text head, audio loss through the audio head.

    The language model is cut off from the heads, so that each part's backward pass can be counted.

    Args:
        model: on the meta device, with its frozen parameters marked.
        batch: rows of one rank, on the CPU.
        bf16: train in bf16: weights under DeepSpeed, autocast elsewhere.
        deepspeed: see `bf16`.
        checkpointing: keep only the input of every layer of the language model; its backward pass, which would run the layers
            forward again, is then not traced.
    """
    model.train()
    if checkpointing:
        model.llm.activation_checkpointing_enable({"use_reentrant": False})
    try:
        weights = torch.bfloat16 if bf16 and deepspeed else torch.float32
        with tracing([model], weights, autocast=bf16 and not deepspeed) as recorder:
            _run_audio_llm(model, batch, recorder, backward=not checkpointing)
    finally:
        if checkpointing:
            model.llm.activation_checkpointing_disable()
    return recorder.trace


def _run_audio_llm(model: AudioLLM, batch: PackedBatch, recorder: Recorder, backward: bool) -> None:
    with recorder.part("language model"):
        hidden = model(batch.input_ids, codes=batch.codes, position_ids=batch.position_ids).hidden
    heads = hidden.detach().requires_grad_(hidden.requires_grad)
    with recorder.part("text head"):
        text = token_cross_entropy(heads, model.llm.get_output_embeddings().weight, batch.labels)
    losses: list[tuple[Tensor, str]] = [(text, "text head")]
    at = (batch.audio_labels[..., :1] >= 0).any(dim=-1).nonzero(as_tuple=True)
    if model.audio_head is not None and len(at[0]):
        with recorder.part("audio head"):
            targets = batch.audio_labels[at]
            losses.append((code_cross_entropy(model.audio_logits(heads[at], targets), targets)[0], "audio head"))
    for loss, part in losses if backward else ():
        recorder.backward(loss, part)
    if heads.grad is not None:
        recorder.backward(hidden, "language model", heads.grad)


def tokenizer_step(model: nn.Module, beside: Mapping[str, nn.Module], clips: int, clip_s: float, bf16: bool) -> Trace:
    """A step of the audio tokenizer: reconstruction, and the loss of the frozen text LLM that reads its features.

    The codebooks' own learning (moving averages, without gradient) is left out. Every clip comes with a prompt and an answer of
    the text that its length suggests.
    """
    assert isinstance(model, AudioTokenizer)
    llm, adapter = beside["text LLM"], beside["adapter"]
    assert isinstance(llm, AudioLLM)
    model.train()
    model.quantizer.eval()  # whose learning depends on values
    lengths = torch.full((clips,), round(clip_s * model.frontend.sample_rate))
    num_codes = int(model.num_codes(lengths)[0])
    num_words = math.ceil(clip_s * CHARS_PER_S / CHARS_PER_TOKEN)
    ids = torch.zeros(clips, num_codes + num_words + 8, dtype=torch.long)
    ids[:, 4 : 4 + num_codes] = llm.audio_pad_id
    labels = torch.full_like(ids, -100)
    labels[:, -num_words:] = 0
    with tracing([model, llm, adapter], autocast=bf16) as recorder:
        with recorder.part("tokenizer"):
            output = model(recorder.empty(clips, int(lengths[0])), lengths)
            target = recorder.empty(*output.refined_mel.shape)
            sound = mel_reconstruction(output.coarse_mel, output.refined_mel, target, output.mel_lengths)
        with recorder.part("text LLM"):
            hidden = llm(ids, features=adapter(output.quantized.flatten(0, 1))).hidden
            text = token_cross_entropy(hidden, llm.llm.get_output_embeddings().weight, labels)
        recorder.backward(sound + text + output.commitment.mean(), "both")
    return recorder.trace


def flow_step(model: nn.Module, beside: Mapping[str, nn.Module], clips: int, clip_s: float, bf16: bool) -> Trace:
    """A step of the flow-matching decoder on the states of the frozen tokenizer's decoder."""
    assert isinstance(model, FlowDecoder)
    tokenizer = beside["tokenizer"]
    assert isinstance(tokenizer, AudioTokenizer)
    model.train()
    num_codes = torch.full((clips,), round(clip_s * CODE_RATE_HZ))
    codes = torch.zeros(clips, int(num_codes[0]), tokenizer.quantizer.num_codebooks, dtype=torch.long)
    with tracing([model, tokenizer], autocast=bf16) as recorder:
        with recorder.part("tokenizer"), torch.no_grad():
            hidden, lengths = tokenizer.decode_hidden(codes, num_codes)
        with recorder.part("flow decoder"):
            mel = recorder.empty(clips, hidden.shape[1], model.prenet.out_proj.out_features)
            loss = sum(model.loss(hidden, lengths, mel).values())
        recorder.backward(loss, "flow decoder")
    return recorder.trace


def vocoder_step(model: nn.Module, beside: Mapping[str, nn.Module], clips: int, clip_s: float, bf16: bool) -> Trace:
    """A step of the vocoder while its discriminators judge: theirs, then its own; the spectral losses are left out."""
    assert isinstance(model, Vocoder)
    judges = beside.get("discriminators")
    model.train()
    frames = round(clip_s * model.sample_rate / model.samples_per_frame)
    with tracing([model, *beside.values()], autocast=bf16) as recorder:
        with recorder.part("vocoder"):
            made, f0 = model(recorder.empty(clips, model.mel_bins, frames), f0=torch.full((clips, frames), 100.0))
        loss = made.abs().mean() + f0.abs().mean()
        if judges is not None:
            real = recorder.empty(*made.shape)
            with recorder.part("discriminators"):
                verdict = discriminator_loss(judges(real), judges(made.detach()))
            recorder.backward(verdict, "discriminators")
            with recorder.part("discriminators"):
                with torch.no_grad():
                    truth = judges(real)
                fake = judges(made)
                loss = loss + generator_loss(fake) + feature_matching_loss(truth, fake)
        recorder.backward(loss, "vocoder")
    return recorder.trace
