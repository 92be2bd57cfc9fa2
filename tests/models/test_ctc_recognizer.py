import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bcaudio.models.ctc_recognizer import CTCRecognizer, change_speed, spec_augment

UNITS = ["one", "two", "三"]


@pytest.fixture
def recognizer() -> CTCRecognizer:
    torch.manual_seed(0)
    return CTCRecognizer(UNITS, dim=16, num_layers=2, dropout=0.0)


def tones(frequencies: list[float], seconds: float = 0.2) -> torch.Tensor:
    time = torch.arange(int(16000 * seconds)) / 16000
    return torch.cat([0.3 * torch.sin(2 * torch.pi * f * time) for f in frequencies])


def test_frames_come_at_25_hz_and_are_log_probabilities(recognizer: CTCRecognizer) -> None:
    recognizer.eval()
    log_probs, lengths = recognizer(torch.randn(2, 32000), torch.tensor([32000, 16000]))
    assert log_probs.shape[2] == 4
    assert lengths.tolist() == [51, 26]  # 201 and 101 mel frames, a quarter each, rounded up
    assert log_probs.shape[1] == 51
    torch.testing.assert_close(log_probs.exp().sum(dim=2), torch.ones(2, 51))


def test_padding_in_a_batch_changes_nothing(recognizer: CTCRecognizer) -> None:
    recognizer.eval()
    clip = torch.randn(1, 9000) * 0.1
    alone, length = recognizer(clip, torch.tensor([9000]))
    batch = torch.randn(2, 20000) * 0.1
    batch[0, :9000] = clip
    joined, lengths = recognizer(batch, torch.tensor([9000, 20000]))
    assert lengths[0] == length[0]
    torch.testing.assert_close(joined[0, : length[0]], alone[0], atol=1e-4, rtol=1e-4)


def test_transcribe_merges_repeats_drops_blanks_and_stops_at_the_length(
    recognizer: CTCRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = torch.tensor([[0, 1, 1, 0, 1, 3, 2], [2, 2, 2, 0, 0, 3, 3]])
    monkeypatch.setattr(recognizer, "forward", lambda w, n: (F.one_hot(path, 4).float(), torch.tensor([7, 4])))
    recognizer.train()
    assert recognizer.transcribe(torch.zeros(2, 1), torch.ones(2)) == [["one", "one", "三", "two"], ["two"]]
    assert recognizer.training


def test_it_learns_to_tell_tones_apart(recognizer: CTCRecognizer) -> None:
    words = {"one": 400.0, "two": 1200.0, "三": 3000.0}
    texts = [["one"], ["two", "三"], ["三", "one", "two"], ["two", "two"], ["one", "三"], ["三", "two"]]
    clips = [tones([f for word in text for f in (words[word], 50.0)]) for text in texts]
    lengths = torch.tensor([len(clip) for clip in clips])
    waveforms = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    targets = [recognizer.encode(text, "clip") for text in texts]
    joined, sizes = (
        torch.tensor([unit for target in targets for unit in target]),
        torch.tensor([len(target) for target in targets]),
    )
    optimizer = torch.optim.Adam(recognizer.parameters(), lr=5e-3)
    recognizer.eval()  # without augmentation six clips are learnt in a moment
    for _ in range(150):
        log_probs, frames = recognizer(waveforms, lengths)
        loss = F.ctc_loss(log_probs.transpose(0, 1), joined, frames, sizes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert recognizer.transcribe(waveforms, lengths) == texts


def test_encode_names_the_clip_and_the_unknown_word(recognizer: CTCRecognizer) -> None:
    assert recognizer.encode(["三", "one"], "clip-1") == [3, 1]
    with pytest.raises(ValueError, match=r"clip-1: 'ten'"):
        recognizer.encode(["ten"], "clip-1")


def test_change_speed_stretches_each_clip_within_its_bound_and_keeps_its_form() -> None:
    torch.manual_seed(0)
    waveforms = torch.stack([torch.linspace(0, 1, 1000), torch.linspace(0, 1, 1000)])
    stretched, lengths = change_speed(waveforms, torch.tensor([1000, 500]), 0.2)
    assert 800 <= lengths[0] <= 1200
    assert 400 <= lengths[1] <= 600
    assert lengths.tolist() != [1000, 500]
    assert stretched.shape == (2, int(lengths.max()))
    assert stretched[0, lengths[0] - 1] == pytest.approx(1.0, abs=2e-3)
    assert stretched[1, lengths[1] - 1] == pytest.approx(499 / 999, abs=2e-3)
    assert not stretched[1, lengths[1] :].any()


def test_spec_augment_masks_whole_bands_no_wider_than_allowed() -> None:
    torch.manual_seed(0)
    mel = torch.ones(64, 20, 30)
    masked = spec_augment(mel, torch.full((64,), 30), freq_masks=(1, 5), time_masks=(0, 0))
    rows = (masked == 0).all(dim=2).sum(dim=1)
    assert rows.max() == 5
    assert rows.min() == 0
    assert int((masked == 0).sum()) == int(rows.sum()) * 30
    frames = (spec_augment(mel, torch.full((64,), 30), (0, 0), (1, 4)) == 0).all(dim=1).sum(dim=1)
    assert frames.max() == 4


def test_units_come_from_a_file_or_a_list_but_not_both(tmp_path: Path) -> None:
    path = tmp_path / "units.json"
    path.write_text(json.dumps(UNITS), encoding="utf-8")
    assert CTCRecognizer(units_file=str(path), dim=8, num_layers=1).units == UNITS
    with pytest.raises(ValueError, match="either"):
        CTCRecognizer(UNITS, units_file=str(path))
    with pytest.raises(FileNotFoundError, match="none"):
        CTCRecognizer(units_file=str(tmp_path / "none.json"))
    path.write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(ValueError, match="JSON list"):
        CTCRecognizer(units_file=str(path))
    with pytest.raises(ValueError, match="distinct"):
        CTCRecognizer(["one", "one"])


def test_speed_varies_in_training_only(recognizer: CTCRecognizer) -> None:
    torch.manual_seed(0)
    clips, lengths = torch.randn(2, 8000), torch.tensor([8000, 4000])
    assert recognizer.eval().vary_speed(clips, lengths) == (clips, lengths)
    assert recognizer.train().vary_speed(clips, lengths)[1].tolist() != [8000, 4000]
    recognizer.max_speed_change = 0.0
    assert recognizer.vary_speed(clips, lengths) == (clips, lengths)
