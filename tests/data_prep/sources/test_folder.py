from __future__ import annotations

import numpy as np
import pytest

from data_prep.sources.folder import Folder


def test_recordings_with_their_text_beside_them(tmp_path, make_audio, write, listed, told, waveform):
    first = make_audio("anna/a.1.wav")
    for name in ("anna/b.flac", "anna/c.wav", "bob/a.wav", "bob/d.ogg"):
        make_audio(name)
    write("anna/a.1.txt", "\ufeffHello\n there\n")
    write("anna/b.txt", "printed 1")
    write("anna/b.normalized.txt", "spoken one")
    write("bob/a.lab", "HELLO")
    (tmp_path / "bob/d.txt").write_bytes("naïve".encode("latin-1"))
    write("notes.txt", "no recording")
    utterances, dropped = listed(Folder(tmp_path, "en", speaker_from_folder=True, source="mine", licence="own"))
    assert told(utterances, "text", "speaker", "source", "licence") == [
        ("Hello there", "anna", "mine", "own"),
        ("spoken one", "anna", "mine", "own"),
        ("HELLO", "bob", "mine", "own"),
    ]
    assert [u.key[:-9] for u in utterances] == ["folder-train-anna-a-1", "folder-train-anna-b", "folder-train-bob-a"]
    assert dropped == {"no text": 1, "wrong text encoding": 1}
    assert np.array_equal(waveform(utterances[0]), first)


def test_paths_that_look_alike_as_keys_stay_apart(tmp_path, make_audio, write, listed):
    for name in ("a/b", "a-b", "a b", "a.b"):
        make_audio(f"{name}.wav")
        write(f"{name}.txt", "x")
    assert len(listed(Folder(tmp_path, "en"))[0]) == 4  # `listed` compares the keys


def test_missing_folder_and_wrong_arguments_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing: not there; it must lie as ROOT/any/folder"):
        next(Folder(tmp_path / "nothing", "en").utterances({}))
    with pytest.raises(ValueError, match="'dve' is unknown; did you mean 'dev'"):
        Folder(tmp_path, "en", split="dve")
    with pytest.raises(ValueError, match=r"corpus is 'a\.b'"):
        Folder(tmp_path, "en", corpus="a.b")
