"""What a step works on: documents from the tasks themselves."""

import pytest

from bcaudio.planning.workload import workload_of

COLLATE = {"row_tokens": 512, "codebook_sizes": [4, 4]}


def _recipe(**data: object) -> dict:
    return {"data": {"collate": COLLATE, "train": [{"task": "asr", "weight": 3}, {"task": "tts", "weight": 1}], **data}}


def test_documents_have_the_tokens_that_their_task_gives_them() -> None:
    work = workload_of(_recipe(batch_size=16), audio_pad=6, world_size=1, clip_s=8.0)
    asr, tts = work.shares
    # 8 s: 100 frames between two markers, 112 letters = 28 tokens; the prompt "transcribe:" = 3; the end = 1
    assert (len(asr.document), asr.heard, asr.spoken, asr.weight) == (3 + 102 + 28 + 1, 100, 0, 0.75)
    assert (len(tts.document), tts.heard, tts.spoken, tts.weight) == (28 + 102 + 1, 0, 100, 0.25)
    assert int((asr.document.labels >= 0).sum()) == 28 + 1  # the transcript and the end
    assert int((tts.document.audio_labels[:, 0] >= 0).sum()) == 100 + 1  # the frames and the end frame
    assert work.tokens == 16 * (0.75 * 134 + 0.25 * 131)
    assert work.samples == pytest.approx(16)
    assert work.frames_per_token == pytest.approx(100 / (0.75 * 134 + 0.25 * 131))


def test_rows_are_shared_by_ranks_and_micro_batches() -> None:
    work = workload_of(_recipe(rows=64, accumulate=4), audio_pad=6, world_size=8, clip_s=8.0)
    assert (work.rows, work.row_tokens, work.accumulate) == (2, 512, 4)
    assert work.tokens == 0.97 * 64 * 512


def test_a_row_is_full_and_its_codes_belong_to_its_pads() -> None:
    work = workload_of(_recipe(rows=8), audio_pad=6, world_size=8, clip_s=8.0)
    batch = work.batch(3)
    assert batch.input_ids.shape == (3, 512)
    assert int((batch.input_ids == 6).sum()) == len(batch.codes)
    assert int((batch.position_ids == 0).sum()) == 3 * 4  # asr, asr or tts, ...: 134 + 134 + 131 + the rest


def test_a_batch_too_small_for_its_ranks_is_noted() -> None:
    work = workload_of(_recipe(batch_size=16), audio_pad=6, world_size=16, clip_s=8.0)
    assert "less than half a row of 512" in work.notes[0]
