"""Packing and padding."""

import numpy as np
import pytest
import torch

from bcaudio.data.batch import AlignedCollate, AudioCollate, Item, lay_rows, num_tokens, pack
from bcaudio.data.schema import Sample, Span
from bcaudio.data.sequence import IGNORE, TokenSequence
from bcaudio.text.tokenizer import TextTokenizer


def sequence(length: int, first: int) -> TokenSequence:
    ids = np.arange(first, first + length)
    return TokenSequence(ids, np.full((1, 2), first), ids + 1, np.full((length, 2), IGNORE))


def test_packing_keeps_every_document_whole_and_restarts_positions() -> None:
    batch = pack([sequence(3, 10), sequence(5, 20), sequence(2, 30)], row_tokens=5, pad_id=0, items=[])
    assert batch.input_ids.tolist() == [[20, 21, 22, 23, 24], [10, 11, 12, 30, 31]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 1]]
    assert batch.labels.tolist() == [[21, 22, 23, 24, 25], [11, 12, 13, 31, 32]]
    assert batch.codes[:, 0].tolist() == [20, 10, 30]  # row-major, as the pads stand


def test_tail_of_a_row_pays_nothing_and_is_a_document_of_its_own() -> None:
    batch = pack([sequence(5, 20), sequence(3, 10)], row_tokens=5, pad_id=0, items=[])
    assert batch.input_ids[1].tolist() == [10, 11, 12, 0, 0]
    assert batch.labels[1].tolist() == [11, 12, 13, IGNORE, IGNORE]
    assert batch.position_ids[1].tolist() == [0, 1, 2, 0, 1]


def test_row_tokens_zero_gives_every_document_a_row_in_order() -> None:
    batch = pack([sequence(2, 10), sequence(4, 20)], row_tokens=0, pad_id=0, items=[])
    assert batch.input_ids.tolist() == [[10, 11, 0, 0], [20, 21, 22, 23]]


def item(length: int, codes: int | None = None) -> Item:
    array = None if codes is None else np.full((codes, 2), codes, dtype=np.int16)
    sample = Sample("a-0", "numbers", "test", "en", "m1", "one", (Span("one", 0, 1, "narrator"),), duration_s=1.0,
                    span_num_codes=() if codes is None else (codes,), codes=array)  # fmt: skip
    return Item(sample, "asr", {16000: np.arange(length, dtype=np.int16), 8000: np.arange(length // 2, dtype=np.int16)})


def test_clips_are_padded_with_zeros_and_scaled() -> None:
    batch = AudioCollate([16000])([item(2), item(4)], np.random.default_rng(0))
    torch.testing.assert_close(batch.waveforms[16000] * 32768, torch.tensor([[0.0, 1, 0, 0], [0, 1, 2, 3]]))
    assert batch.lengths[16000].tolist() == [2, 4]
    assert batch.codes is None


def test_crop_starts_at_the_same_time_at_every_rate() -> None:
    batch = AudioCollate([16000, 8000], crop_s=0.01)([item(1000)], np.random.default_rng(3))
    assert batch.waveforms[16000].shape == (1, 160)
    assert batch.waveforms[8000].shape == (1, 80)
    start_16, start_8 = (float(batch.waveforms[rate][0, 0]) * 32768 for rate in (16000, 8000))
    assert abs(start_16 - 2 * start_8) <= 2


def test_codes_are_padded_and_counted() -> None:
    batch = AudioCollate([16000])([item(2, codes=1), item(2, codes=3)], np.random.default_rng(0))
    assert batch.codes[..., 0].tolist() == [[1, 0, 0], [3, 3, 3]]
    assert batch.num_codes.tolist() == [1, 3]


def test_num_tokens_follows_the_released_length_table() -> None:
    # 30 s -> 3001 frames are cut to 3000 by the front end; inside that limit: frames, encoder frames, tokens
    assert [num_tokens(n) for n in (400, 16000, 32000)] == [0, 12, 25]


def test_speed_change_shortens_or_lengthens_every_rate_alike_and_only_in_training() -> None:
    collate = AudioCollate([16000, 8000], max_speed_change=0.2)
    lengths = [collate([item(1000)], np.random.default_rng(seed), training=True).lengths for seed in range(8)]
    assert all(800 <= int(found[16000]) <= 1250 and abs(int(found[16000]) - 2 * int(found[8000])) <= 2 for found in lengths)
    assert len({int(found[16000]) for found in lengths}) > 4
    assert int(collate([item(1000)], np.random.default_rng(0)).lengths[16000]) == 1000


def test_speed_change_refuses_clips_with_codes() -> None:
    with pytest.raises(ValueError, match="a-0: max_speed_change"):
        AudioCollate([16000], max_speed_change=0.2)([item(1000, codes=3)], np.random.default_rng(0), training=True)


def test_items_of_a_batch_leave_their_audio_behind() -> None:
    batch = AudioCollate([16000])([item(2), item(4)], np.random.default_rng(0))
    assert [found.waveforms for found in batch.items] == [{}, {}]
    assert [sample.key for sample in batch.samples] == ["a-0", "a-0"]


def test_aligned_batches_count_tokens_by_the_clip(text_tokenizer: TextTokenizer) -> None:
    batch = AlignedCollate(str(text_tokenizer.file))([item(16000), item(32000)], np.random.default_rng(0))
    pads = (batch.text.input_ids == text_tokenizer.special.audio_pad).sum(1)
    assert pads.tolist() == [num_tokens(16000), num_tokens(32000)] == [12, 25]
    assert [found.waveforms for found in batch.items] == [{}, {}]


def test_rows_may_be_empty() -> None:
    batch = lay_rows([[sequence(2, 10)], []], 4, pad_id=0, num_codebooks=2, items=[])
    assert batch.input_ids.tolist() == [[10, 11, 0, 0], [0, 0, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 0, 1], [0, 1, 2, 3]]
    assert (batch.labels[1] == IGNORE).all()
    assert lay_rows([[]], 4, 0, 2, []).codes.shape == (0, 2)


class _OneBatch(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int) -> tuple[torch.Tensor, bool]:
        waveform = AudioCollate((16000,))([item(300), item(500)], np.random.default_rng(0)).waveforms[16000]
        return waveform, waveform.is_shared()


def test_a_worker_makes_the_same_waveforms_in_shared_memory() -> None:
    ((made, was_shared),) = torch.utils.data.DataLoader(_OneBatch(), batch_size=None, num_workers=1)
    expected, is_shared = _OneBatch()[0]
    assert (was_shared, is_shared) == (True, False)
    torch.testing.assert_close(made, expected, rtol=0, atol=0)
