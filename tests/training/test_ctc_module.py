from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bcaudio.checkpoint import load_model, save_model
from bcaudio.data.batch import AudioBatch, Item
from bcaudio.data.schema import Sample, Span
from bcaudio.models.ctc_recognizer import CTCRecognizer
from bcaudio.training.ctc_module import CTCModule
from bcaudio.training.optim import AdamWCosine


def sample(key: str, text: str, language: str) -> Sample:
    return Sample(key, "numbers", "train", language, "v", text, (Span(text, 0.0, 0.5, "narrator"),), duration_s=0.5)


@pytest.fixture
def module() -> CTCModule:
    torch.manual_seed(0)
    model = CTCRecognizer(["two", "ten", "二", "十"], dim=8, num_layers=1)
    return CTCModule(model, AdamWCosine(lr=1e-3, warmup_steps=1, max_steps=10)).eval()


def batch(*samples: Sample) -> AudioBatch:
    waveforms = torch.randn(len(samples), 16000, generator=torch.Generator().manual_seed(1))
    return AudioBatch({16000: waveforms}, {16000: torch.full((len(samples),), 16000)}, [Item(one, "asr") for one in samples])


def test_loss_is_ctc_over_the_normalised_units_of_both_languages(module: CTCModule) -> None:
    found = batch(sample("a", "Ten, two!", "en"), sample("b", "二十二。", "zh"))
    log_probs, frames = module.model(found.waveforms[16000], found.lengths[16000])
    each = [
        F.ctc_loss(row[:length], torch.tensor(target), length, torch.tensor(len(target)), reduction="sum") / len(target)
        for row, length, target in zip(log_probs, frames, [[2, 1], [3, 4, 3]], strict=True)
    ]
    torch.testing.assert_close(module.terms(found)["loss"], (each[0] + each[1]) / 2)


def test_a_word_outside_the_units_names_its_clip(module: CTCModule) -> None:
    with pytest.raises(ValueError, match="clip-9: 'nine'"):
        module.terms(batch(sample("clip-9", "nine", "en")))


def test_transcribe_gives_id_hypothesis_reference_language_and_task(module: CTCModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.model, "transcribe", lambda waveforms, lengths: [["ten", "two"], ["二"]])
    rows = module.transcribe(batch(sample("a", "ten two", "en"), sample("b", "二", "zh")))
    assert rows == [("a", "ten two", "ten two", "en", "asr"), ("b", "二", "二", "zh", "asr")]


def aligner(module: CTCModule, weight: float) -> CTCModule:
    return CTCModule(module.model, module.optimizer, frame_weight=weight).eval()


def test_a_frame_has_the_units_of_the_word_its_middle_lies_in_until_its_sound_ends(module: CTCModule) -> None:
    # frames of 40 ms: "ten" has the middles 0.06 to 0.18, but is silent from 0.12 on; a word of two units has both on its frames
    sound = torch.full((2, 12 * 640), 0.5)
    sound[:, 3 * 640 : 5 * 640] = 0.001
    clips = [
        replace(sample("a", "ten", "en"), words=(("ten", 0.05, 0.2),)),
        replace(sample("b", "二十", "zh"), words=(("二十", 0.25, 0.35),)),
    ]
    allowed = module.frame_targets(clips, sound, torch.tensor([12, 8]), [1.0, 1.0])
    assert allowed.shape == (2, 12, 5)
    labels = [[tuple(frame.nonzero()[:, 0].tolist()) for frame in row] for row in allowed]
    assert labels[0] == [(0,), (2,), (2,), *[(0,)] * 9]
    assert labels[1] == [*[(0,)] * 6, (3, 4), (3, 4), *[()] * 4]  # the clip ends after 8 frames


def test_word_times_go_with_the_speed_of_the_clip(module: CTCModule) -> None:
    clip = replace(sample("a", "ten", "en"), words=(("ten", 0.2, 0.4),))
    said = [module.frame_targets([clip], torch.ones(1, 16000), torch.tensor([25]), [s])[0, :, 2] for s in (1.0, 0.5)]
    assert [(int(row.nonzero()[0]), int(row.sum())) for row in said] == [(5, 5), (10, 10)]  # played at half the speed


def test_in_training_the_targets_follow_the_varied_speed(module: CTCModule, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = replace(sample("a", "ten", "en"), words=(("ten", 0.2, 0.8),))
    slow = batch(clip)
    monkeypatch.setattr(module.model, "vary_speed", lambda waveforms, lengths: (waveforms.repeat(1, 2), 2 * lengths))
    seen = []
    monkeypatch.setattr(module, "frame_targets", lambda *given: seen.append(CTCModule.frame_targets(module, *given)) or seen[-1])
    module.frame_weight = 1.0
    module.train().terms(slow)
    assert [int(seen[0][0, :, 2].nonzero()[i]) for i in (0, -1)] == [10, 39]  # 0.4 s to 1.6 s


def test_the_frame_term_is_the_cross_entropy_of_timed_clips(module: CTCModule) -> None:
    timed = replace(sample("a", "ten, two", "en"), words=(("ten", 0.1, 0.5), ("two", 0.5, 0.9)))
    found = batch(timed, sample("b", "二十", "zh"))
    terms, plain = aligner(module, 0.5).terms(found), module.terms(found)
    log_probs, _ = module.model(found.waveforms[16000], found.lengths[16000])
    target = torch.tensor([0] * 2 + [2] * 10 + [1] * 10 + [0] * 4)  # 26 frames; the middle of frame 2 is 0.1 s
    expected = F.nll_loss(log_probs[0], target)
    torch.testing.assert_close(terms["frames"], expected)
    torch.testing.assert_close(terms["loss"], plain["loss"] + 0.5 * expected)
    assert set(plain) == {"loss"}
    assert terms["timed"] == 0.5


def test_without_any_word_times_the_loss_is_ctc_alone_and_has_a_gradient(module: CTCModule) -> None:
    found = batch(sample("a", "ten", "en"))
    terms = aligner(module, 1.0).terms(found)
    torch.testing.assert_close(terms["loss"], module.terms(found)["loss"])
    terms["loss"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.model.parameters())
    with pytest.raises(ValueError, match="frame_weight is -1"):
        aligner(module, -1.0)


def test_a_stage_folder_loads_wherever_it_was_moved(module: CTCModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run" / "auditor"
    save_model(folder, module.model, {})
    module.export(str(folder))
    target = "bcaudio.models.ctc_recognizer.CTCRecognizer"
    node = f"{{_target_: {target}, units_file: run/prepare/units.json, dim: 8, num_layers: 1}}"
    (folder / "recipe.yaml").write_text(f"model: {node}\n")
    moved = folder.rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_model(moved).units == ["two", "ten", "二", "十"]
