import pytest
import torch
import torch.nn.functional as F

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
    torch.testing.assert_close(module.loss(found), (each[0] + each[1]) / 2)


def test_a_word_outside_the_units_names_its_clip(module: CTCModule) -> None:
    with pytest.raises(ValueError, match="clip-9: 'nine'"):
        module.loss(batch(sample("clip-9", "nine", "en")))


def test_transcribe_gives_id_hypothesis_reference_language_and_task(module: CTCModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.model, "transcribe", lambda waveforms, lengths: [["ten", "two"], ["二"]])
    rows = module.transcribe(batch(sample("a", "ten two", "en"), sample("b", "二", "zh")))
    assert rows == [("a", "ten two", "ten two", "en", "asr"), ("b", "二", "二", "zh", "asr")]
