"""The released model's parts at the released sizes, each against the usual way of doing the same (CPU, float32)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder as HuggingFaceEncoder

from bcaudio.audio.mel import WhisperLogMel
from bcaudio.losses.token_cross_entropy import token_cross_entropy
from bcaudio.models.audio_llm import AudioLLM
from bcaudio.models.audio_tokenizer import AudioDecoder, AudioTokenizer, VQBridge
from bcaudio.models.text_llm import causal_lm
from bcaudio.nn.attention import Packing, attend_packed
from bcaudio.nn.depth_transformer import DepthTransformer
from bcaudio.nn.residual_vq import ResidualVQ
from bcaudio.nn.whisper_encoder import WhisperEncoder
from benchmarks.measure import MEBIBYTE, Row, WrongResultError, alternate_calmly, check_close, peak_growth, speedup

CODEBOOK_SIZES = (8192, 4096, 2048, 1024, 1024, 1024, 1024, 1024)
# 1 to 15 s, 6 s on average
CLIPS_S = (1.0, 2.37, 4.11, 5.53, 8.0, 14.99)


@torch.no_grad()
def encode(
    clips_s: Sequence[float] = CLIPS_S,
    dim: int = 1280,
    num_layers: int = 32,
    num_heads: int = 20,
    ffn_dim: int = 5120,
    num_mels: int = 128,
    max_audio_s: float = 30.0,
    codebook_sizes: Sequence[int] = CODEBOOK_SIZES,
    repeats: int = 5,
) -> list[Row]:
    """Waveform -> codes of a batch, against transformers' encoder on padded input and its bare layers on the same frames."""
    torch.manual_seed(0)
    frontend, positions = WhisperLogMel(num_mels, max_audio_s=max_audio_s), int(50 * max_audio_s)
    encoder = WhisperEncoder(num_mels, dim, num_layers, num_heads, ffn_dim, max_positions=positions)
    bridge = VQBridge(ResidualVQ(codebook_sizes, 4 * dim), dim)
    # encoding runs no decoder, so it has no layers here
    tokenizer = AudioTokenizer(frontend, encoder, bridge, AudioDecoder(dim, num_layers=0)).eval()
    theirs = _hugging_face_encoder(encoder, num_layers, num_heads, ffn_dim)

    lengths = torch.tensor([int(16000 * seconds) for seconds in clips_s])
    waveform = torch.randn(len(clips_s), int(lengths.max())) * 0.1
    waveform[torch.arange(waveform.shape[1]) >= lengths[:, None]] = 0.0
    mel, mel_lengths = frontend(waveform, lengths)
    hidden, hidden_lengths = encoder(mel, mel_lengths)
    # the first two clips through the peer's own convolutions, layers and norm, each clip alone
    for clip, (frames, states) in enumerate(zip(mel_lengths[:2].tolist(), hidden_lengths[:2].tolist(), strict=True)):
        x = F.gelu(theirs.conv2(F.gelu(theirs.conv1(mel[clip : clip + 1, :, :frames])))).transpose(1, 2)
        x = theirs.layer_norm(_bare_layers(theirs, x + theirs.embed_positions.weight[:states]))
        check_close(f"encoder states of clip {clip}", hidden[clip, :states], x[0], 1e-4)

    padded = F.pad(mel[:1], (0, 2 * positions - mel.shape[2]))
    states = [torch.randn(1, length, dim) for length in hidden_lengths.tolist()]
    (whole_s, padded_s, bare_s, tail_s), note = alternate_calmly(
        lambda: tokenizer.encode(waveform, lengths),
        lambda: theirs(padded).last_hidden_state,
        lambda: [_bare_layers(theirs, x) for x in states],
        lambda: bridge.vq_list.encode(_packed_features(bridge, hidden, hidden_lengths)),
        repeats=repeats,
        warm_up=False,
    )
    what = (
        f"{len(clips_s)} clips of {min(clips_s):g}-{max(clips_s):g} s (mean {sum(clips_s) / len(clips_s):.3g} s) as one batch, "
        f"waveform to codes, {num_layers} layers of width {dim}, fp32, random weights, the same in the peer{note}"
    )
    peer_padded = f"transformers' WhisperEncoder from its mel on, a clip padded to {max_audio_s:g} s (every clip costs the same)"
    peer_bare = f"the {int(hidden_lengths.sum())} encoder frames through transformers' layers alone, clip by clip, unpadded"
    peer_whole = f"the whole of encode; nothing is extrapolated, all {num_layers} layers were run"
    ours, peer = len(clips_s) / whole_s, 1 / padded_s
    return [
        Row("encode.padded_whisper", ours, peer, "clips/s", ours / peer, ">=", 4.0, f"{what}; peer: {peer_padded}"),
        speedup("encode.bare_layers", whole_s, bare_s, 0.9, f"{what}; peer: {peer_bare}"),
        Row("encode.bridge_and_rvq", tail_s, whole_s, "s", tail_s / whole_s, "<=", 0.08, f"{what}; peer: {peer_whole}"),
    ]


def _hugging_face_encoder(ours: WhisperEncoder, num_layers: int, num_heads: int, ffn_dim: int) -> HuggingFaceEncoder:
    """transformers' encoder with the very tensors of `ours`."""
    config = WhisperConfig(
        num_mel_bins=ours.conv1.in_channels,
        d_model=ours.dim,
        encoder_layers=num_layers,
        encoder_attention_heads=num_heads,
        encoder_ffn_dim=ffn_dim,
        max_source_positions=len(ours.positional_embedding),
    )
    with torch.device("meta"):
        theirs = HuggingFaceEncoder(config)
    weights = dict(ours.state_dict())
    weights["embed_positions.weight"] = weights.pop("positional_embedding")
    theirs.load_state_dict(weights, assign=True)
    return theirs.eval()


def _bare_layers(encoder: HuggingFaceEncoder, x: Tensor) -> Tensor:
    """x [1, T, dim] through the layers of transformers' encoder."""
    for layer in encoder.layers:
        output = layer(x, None)
        x = output if isinstance(output, Tensor) else output[0]
    return x


def _packed_features(bridge: VQBridge, hidden: Tensor, lengths: Tensor) -> Tensor:
    """Encoder states [B, T, dim], lengths [B] -> the quantiser's input [N, 4 dim], as `AudioTokenizer.encode` makes it."""
    features, num_codes = bridge.features(hidden, lengths)
    return Packing.of(num_codes).pack(features)


@torch.no_grad()
def rvq(num_vectors: int = 4096, dim: int = 5120, codebook_sizes: Sequence[int] = CODEBOOK_SIZES, repeats: int = 5) -> list[Row]:
    """Codes and quantised vectors, against vector-quantize-pytorch with the same codebooks."""
    from vector_quantize_pytorch import ResidualVQ as Peer

    torch.manual_seed(0)
    ours = ResidualVQ(codebook_sizes, dim, kmeans_init=False).eval()
    theirs = Peer(dim=dim, codebook_size=tuple(codebook_sizes)).eval()
    vectors = torch.randn(num_vectors, dim) * 2.0 ** -len(codebook_sizes)
    for level, (codebook, layer) in enumerate(zip(ours.codebooks, theirs.layers, strict=True)):
        # every level half as large as the one before, as in a trained quantiser, so that no choice hangs on the last bit
        codebook.embed.normal_(std=2.0**-level)
        layer._codebook.embed.copy_(codebook.embed[None])
        vectors += codebook.embed[torch.randint(len(codebook.embed), (num_vectors,))]
    x = vectors[None]
    output, (quantized, codes, _) = ours(x), theirs(x)
    check_close("codes", output.codes, codes, 0)
    check_close("quantised vectors", output.quantized, quantized, 1e-4)
    (ours_s, peer_s), note = alternate_calmly(lambda: ours(x), lambda: theirs(x), repeats=repeats, warm_up=False)
    return [
        speedup(
            "rvq.quantise",
            ours_s,
            peer_s,
            1.0,
            f"{num_vectors} vectors of {dim}, codebooks {list(codebook_sizes)}, fp32, inference, codes and quantised vectors "
            f"(ours also the distance of every level); peer: ResidualVQ of vector-quantize-pytorch; codes equal{note}",
        )
    ]


@torch.no_grad()
def audio_head(
    dim: int = 3584, num_layers: int = 3, codebook_sizes: Sequence[int] = CODEBOOK_SIZES, head_dim: int = 128, repeats: int = 5
) -> list[Row]:
    """The eight levels of one frame, against running all depth positions anew for every level."""
    torch.manual_seed(0)
    head = DepthTransformer(dim, codebook_sizes, num_layers, head_dim).eval()
    hidden, embeddings = torch.randn(1, dim), torch.randn(1, len(codebook_sizes) - 1, dim)

    def cached() -> list[Tensor]:
        cache = head.start()
        return [head.step(x, cache) for x in (hidden, *embeddings.unbind(dim=1))]

    def whole() -> list[Tensor]:
        logits = []
        for level, classifier in enumerate(head.heads):
            # codes not yet chosen count as zero, as in the published code
            known = torch.zeros_like(embeddings)
            known[:, :level] = embeddings[:, :level]
            x = torch.cat([hidden[:, None], known.cumsum(dim=1)], dim=1)
            for layer in head.transformer_layers:
                x, _ = layer(x)
            logits.append(classifier(head.headnorm(x[:, level])))
        return logits

    for level, (ours, theirs) in enumerate(zip(cached(), whole(), strict=True)):
        check_close(f"logits of level {level}", ours, theirs, 1e-4)
    (ours_s, peer_s), note = alternate_calmly(cached, whole, repeats=repeats)
    return [
        speedup(
            "audio_head.frame",
            ours_s,
            peer_s,
            3.0,
            f"one frame of {len(codebook_sizes)} levels, width {dim}, {num_layers} layers, fp32, batch of one; peer: all "
            f"{len(codebook_sizes)} depth positions and the level's classifier, once per level; logits equal within 1e-4{note}",
        )
    ]


def _plain_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), labels)


LOSSES = {"ours": token_cross_entropy, "plain": _plain_loss}


def loss_step(kind: str, vocab_size: int, dim: int, num_tokens: int) -> Callable[[], tuple[Tensor, ...]]:
    """Prepare one forward and backward with a frozen text head, for `peak_growth`."""
    return _loss_step(kind, *_loss_inputs(vocab_size, dim, num_tokens))


def _loss_inputs(vocab_size: int, dim: int, num_tokens: int, frozen: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, text head and labels."""
    torch.manual_seed(0)
    weight = torch.empty(vocab_size, dim).normal_(std=0.02).requires_grad_(not frozen)
    return torch.randn(num_tokens, dim, requires_grad=True), weight, torch.randint(vocab_size, (num_tokens,))


def _loss_step(kind: str, hidden: Tensor, weight: Tensor, labels: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Forward and backward; the step gives (loss, gradient of hidden[, gradient of a trained weight])."""

    def step() -> tuple[Tensor, ...]:
        loss = LOSSES[kind](hidden, weight, labels)
        return loss.detach(), *torch.autograd.grad(loss, [hidden, weight] if weight.requires_grad else [hidden])

    return step


def text_loss(
    vocab_size: int = 152_064,
    dim: int = 3584,
    num_tokens: int = 2048,
    timed_tokens: int = 1024,
    trained_tokens: int = 64,
    repeats: int = 7,
) -> list[Row]:
    """Loss over the whole vocabulary, forward and backward, against all logits at once."""
    names = ("loss", "gradient of the hidden states", "gradient of the text head")

    def compare(tokens: int, frozen: bool) -> list[Callable[[], tuple[Tensor, ...]]]:
        inputs = _loss_inputs(vocab_size, dim, tokens, frozen)
        steps = [_loss_step(kind, *inputs) for kind in LOSSES]
        for name, ours, plain in zip(names, *(step() for step in steps), strict=False):
            check_close(name, ours, plain, 1e-5 * float(plain.aminmax().max))
        return steps

    compare(trained_tokens, frozen=False)
    (ours_s, plain_s), note = alternate_calmly(*compare(timed_tokens, frozen=True), repeats=repeats, warm_up=False)
    sizes = {"vocab_size": vocab_size, "dim": dim, "num_tokens": num_tokens}
    ours, plain = (peak_growth("benchmarks.suite_model:loss_step", kind=kind, **sizes) for kind in LOSSES)
    head = 4 * vocab_size * dim / MEBIBYTE
    if ours >= max(head, 64):  # below 64 MiB the allocator's own growth hides it
        raise WrongResultError(f"a frozen text head: {ours:.0f} MiB were allocated, room for a weight gradient of {head:.0f} MiB")
    what = f"vocabulary of {vocab_size}, width {dim}, fp32, forward and backward, head frozen as in both stages of pre-training"
    timed = (
        f"{timed_tokens} of the {num_tokens} tokens to save time, in chunks of 512; peer: cross_entropy on all logits; value and "
        f"gradients equal, that of a trained head on {trained_tokens} tokens{note}"
    )
    measured = f"{num_tokens} tokens, a process each; peer as above; no gradient of the head ({head:.0f} MiB) is allocated"
    return [
        speedup("text_loss.time", ours_s, plain_s, 1.0, f"{what}; {timed}"),
        Row("text_loss.peak_memory", ours, plain, "MiB", ours / plain, "<=", 0.15, f"{what}; {measured}"),
    ]


def packed_attention(
    num_positions: int = 2048,
    num_documents: int = 16,
    num_heads: int = 28,
    num_kv_heads: int = 4,
    head_dim: int = 128,
    repeats: int = 5,
) -> list[Row]:
    """Documents packed into one row: causal attention without a mask against a dense mask, and the whole model's isolation."""
    torch.manual_seed(0)
    cuts = (torch.randperm(num_positions - 1)[: num_documents - 1] + 1).sort().values
    lengths = torch.diff(cuts, prepend=torch.tensor([0]), append=torch.tensor([num_positions]))
    document = torch.repeat_interleave(torch.arange(num_documents), lengths)
    mask = (document[:, None] == document) & torch.ones(num_positions, num_positions, dtype=torch.bool).tril()
    qkv = [torch.randn(num_positions, heads, head_dim, requires_grad=True) for heads in (num_heads, num_kv_heads, num_kv_heads)]
    upstream = torch.randn(num_positions, num_heads, head_dim)

    def packed() -> tuple[Tensor, ...]:
        attended = attend_packed(*qkv, Packing.of(lengths), causal=True)
        return attended, *torch.autograd.grad(attended, qkv, upstream)

    def masked() -> tuple[Tensor, ...]:
        q, k, v = (x.transpose(0, 1)[None] for x in qkv)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=num_heads != num_kv_heads)[0].transpose(
            0, 1
        )
        return attended, *torch.autograd.grad(attended, qkv, upstream)

    for name, ours, theirs in zip(("output", "dq", "dk", "dv"), packed(), masked(), strict=True):
        check_close(f"packed attention, {name}", ours, theirs, 1e-4)
    (ours_s, peer_s), note = alternate_calmly(packed, masked, repeats=repeats)
    isolated, leaking = _leaks()
    timed = (
        f"{num_positions} positions in {num_documents} documents of {int(lengths.min())}-{int(lengths.max())}, {num_heads} heads "
        f"of {head_dim} on {num_kv_heads} key heads, fp32; peer: torch's attention with the dense mask; equal gradients{note}"
    )
    leaked = (
        "three documents in one row through AudioLLM on a tiny random Qwen2, largest difference to each document alone; peer: "
        "the same row through transformers with use_cache=True, where documents see each other; AudioLLM refuses that call"
    )
    return [
        speedup("packed_attention.forward_backward", ours_s, peer_s, 1.5, timed),
        Row("packed_attention.leak", isolated, leaking, "max diff", isolated / leaking, "<=", 1e-4, leaked),
    ]


@torch.no_grad()
def _leaks() -> tuple[float, float]:
    """Largest difference of packed to separate documents: through AudioLLM, and through transformers with its default cache."""
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    llm = causal_lm({"model_type": "qwen2", **sizes, "num_attention_heads": 4, "num_key_value_heads": 2})
    for parameter in llm.parameters():
        nn.init.normal_(parameter, std=0.3)
    model = AudioLLM(llm, [], audio_pad_id=49).eval()
    documents = [torch.randint(49, (1, length)) for length in (7, 5, 9)]
    row = torch.cat(documents, dim=1)
    positions = torch.cat([torch.arange(ids.shape[1]) for ids in documents])[None]
    alone = torch.cat([model(ids).hidden for ids in documents], dim=1)
    try:
        model(row, position_ids=positions, use_cache=True)
    except ValueError:
        cached = llm.base_model(input_ids=row, position_ids=positions, use_cache=True).last_hidden_state
        packed = model(row, position_ids=positions).hidden
        return float((packed - alone).abs().max()), float((cached - alone).abs().max())
    raise WrongResultError("AudioLLM packs documents with a cache, in which they see each other, and does not refuse")


ENTRIES = {"encode": encode, "rvq": rvq, "audio_head": audio_head, "text_loss": text_loss, "packed_attention": packed_attention}
