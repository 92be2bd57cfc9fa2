"""Real speech: the Asterisk core sounds in English, French and Spanish, from Debian packages.

The packages hold g722 recordings (16 kHz) of one professional speaker per language, and their transcripts. Spoken numbers (0-19,
the tens) are the closed-vocabulary part, all of it test; every other prompt goes to train or test by a hash of its id.
Fetched with `apt-get download` and unpacked with `dpkg -x`: no root is needed, and every package is pinned by its SHA-256.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_prep.sources.micro_world import number_words
from data_prep.utterance import CorpusUnavailable, Listing, Part, Utterance

VERSION = "1.6.1-1"
PACKAGES = {
    "asterisk-core-sounds-en": "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
    "asterisk-core-sounds-en-g722": "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806",
    "asterisk-core-sounds-es": "9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74",
    "asterisk-core-sounds-es-g722": "e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8",
    "asterisk-core-sounds-fr": "04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056",
    "asterisk-core-sounds-fr-g722": "7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0",
}
SPEAKERS = {"en": "en_US_f_Allison", "fr": "fr_CA_f_June", "es": "es_MX_f_Allison"}
LICENCE = "CC BY-SA 3.0"
MISREAD = {("fr", "digits/h-80")}  # transcripts that name another number than is spoken
_DIGITS = re.compile(r"digits/([0-9]|1[0-9]|[2-9]0)")
_TEST_SHARE = 10  # one open prompt in ten


class Asterisk:
    """The corpus `prompts`: digit clips have keys like `prompts-test-en-digits-20`.

    Args:
        languages: of en, fr, es.
        max_train: at most so many training clips, shared evenly by the languages.
        samples_per_shard: at most so many per tar.
    """

    corpus = "prompts"
    for_tokenizer = False  # a machine that cannot download must train the same text tokenizer

    def __init__(self, languages: Sequence[str] = ("en", "fr", "es"), max_train: int = 300, samples_per_shard: int = 256) -> None:
        unknown = sorted(set(languages) - set(SPEAKERS))
        if unknown or not languages:
            raise ValueError(f"Asterisk: languages are {list(languages)}; choose some of {', '.join(SPEAKERS)}")
        self.languages, self.max_train, self.samples_per_shard = tuple(languages), max_train, samples_per_shard

    def list_utterances(self, seed: int, scratch: Path) -> Listing:
        """Download (once) and unpack into `scratch`, then list; the order and the split depend on ids only.

        Raises:
            CorpusUnavailable: no apt-get or dpkg, a failed download, or a package with another checksum.
        """
        for package in (f"asterisk-core-sounds-{lang}{kind}" for lang in self.languages for kind in ("", "-g722")):
            _unpack(_fetch(package), scratch)
        dropped: Counter[str] = Counter()
        transcripts = {lang: read_transcripts(scratch, lang, dropped) for lang in self.languages}
        english = transcripts.get("en", {})
        utterances = []
        for lang in self.languages:
            rows = sorted(transcripts[lang].items(), key=lambda row: (_hash(row[0]), row[0]))
            train = 0
            for prompt, text in rows:
                split = "test" if _DIGITS.fullmatch(prompt) or _hash(prompt) % _TEST_SHARE == 0 else "train"
                if split == "train" and train >= self.max_train // len(self.languages):
                    dropped["over max_train"] += 1
                    continue
                train += split == "train"
                utterances.append(_utterance(prompt, text, lang, split, english.get(prompt) if lang != "en" else None))
        return Listing(utterances, dict(dropped))


def _utterance(prompt: str, text: str, language: str, split: str, translation: str | None) -> Utterance:
    name = re.sub("[^a-zA-Z0-9]+", "-", prompt)[:50]
    return Utterance(
        key=f"prompts-{split}-{language}-{name}",
        corpus="prompts",
        split=split,
        language=language,
        parts=(Part(text, "user"),),
        text=text,
        speaker=SPEAKERS[language],
        translation=translation,
        target_language="en" if translation else None,
        source=f"asterisk-core-sounds-{language}-g722 {VERSION}",
        licence=LICENCE,
        audio=f"usr/share/asterisk/sounds/{SPEAKERS[language]}/{prompt}.g722",
    )


def read_transcripts(folder: Path, language: str, dropped: Counter[str]) -> dict[str, str]:
    """Prompt id -> clean text from an unpacked package; every row left out is counted in `dropped`."""
    path = folder / f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
    texts: dict[str, str] = {}
    for line in gzip.decompress(path.read_bytes()).decode("utf-8").replace("\ufeff", "").splitlines():
        prompt, colon, text = line.partition(":")
        prompt, text = prompt.strip(), " ".join(text.split())
        if not line.strip() or line.startswith(";"):
            continue
        reason = _unusable(prompt, text) if colon else "no text"
        if prompt in texts:
            reason = "listed twice"
        if (language, prompt) in MISREAD:
            reason = "misread"
        if reason:
            dropped[reason] += 1
            continue
        digit = _DIGITS.fullmatch(prompt)
        texts[prompt] = number_words(int(digit[1]), "en") if digit and language == "en" else text.lower() if digit else text
    return texts


def _unusable(prompt: str, text: str) -> str | None:
    if prompt.lower() == "nota" or not text:
        return "no text"
    if prompt.startswith("silence/") or re.search(r"[\[(<]", text):
        return "no speech"
    if re.search(r"\d", text):
        return "digits in the text"  # what is spoken for them is not written
    return None


def cache_folder() -> Path:
    """Where packages are kept: `$BCAUDIO_CACHE/asterisk`, by default `~/.cache/bcaudio/asterisk`."""
    return Path(os.environ.get("BCAUDIO_CACHE") or Path.home() / ".cache" / "bcaudio") / "asterisk"


def _fetch(package: str) -> Path:
    if not shutil.which("dpkg") or not shutil.which("apt-get"):
        raise CorpusUnavailable("prompts left out: this machine has no apt-get or dpkg")
    folder = cache_folder()
    path = folder / f"{package}_{VERSION}_all.deb"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["apt-get", "download", f"{package}={VERSION}"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CorpusUnavailable(f"prompts left out: {' '.join(command)}: {error}") from error
        if done.returncode or not path.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CorpusUnavailable(f"prompts left out: {' '.join(command)} failed: {last}")
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    if checksum != PACKAGES[package]:
        path.unlink()
        raise CorpusUnavailable(f"prompts left out: sha256 of {path.name} is {checksum[:12]}..., not {PACKAGES[package][:12]}...")
    return path


def _unpack(package: Path, folder: Path) -> None:
    done = subprocess.run(["dpkg", "-x", str(package), str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise CorpusUnavailable(f"prompts left out: dpkg -x {package.name} failed: {done.stderr.strip().splitlines()[-1:]}")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
