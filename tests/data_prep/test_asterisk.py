from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import pytest

from data_prep.sources import asterisk
from data_prep.sources.asterisk import Asterisk, read_transcripts
from data_prep.utterance import CorpusUnavailable

ROWS = """\ufeff; Core sounds

activated: Activated.
digits/20: Twenty
digits/20: Diez
digits/h-20: twentieth
beep: [this is a simple beep tone]
silence/1: (1 second of silence)
conf-mute: Press 1 to mute.
empty:
hello-world: Hello   World.
"""


def test_transcripts_are_cleaned_and_every_drop_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(ROWS.encode()))
    dropped: Counter[str] = Counter()
    assert read_transcripts(tmp_path, "en", dropped) == {
        "activated": "Activated.",
        "digits/20": "twenty",
        "digits/h-20": "twentieth",
        "hello-world": "Hello World.",
    }
    assert dropped == {"listed twice": 1, "no speech": 2, "digits in the text": 1, "no text": 1}


def test_package_with_another_checksum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCAUDIO_CACHE", str(tmp_path))
    monkeypatch.setattr(asterisk.shutil, "which", lambda name: "/usr/bin/" + name)
    (tmp_path / "asterisk").mkdir()
    (tmp_path / "asterisk" / "asterisk-core-sounds-en_1.6.1-1_all.deb").write_bytes(b"something else")
    with pytest.raises(CorpusUnavailable, match=r"sha256 of asterisk-core-sounds-en_1\.6\.1-1_all\.deb is"):
        Asterisk(["en"]).list_utterances(0, tmp_path)


def test_unknown_language_is_named() -> None:
    with pytest.raises(ValueError, match="'it'"):
        Asterisk(["it"])
