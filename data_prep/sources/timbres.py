"""The synthetic voices of the micro world.

The rule: of espeak-ng's voice variants, without whispers, croaks and robots, those were kept whose number strings a recogniser
with a number grammar (pocketsphinx, en-us) reads with a word error of at most 0.6; then variants were taken greedily, each the
farthest from those taken, as long as its mean and spread of log-mel bands lay at least 1.5 dB (root mean square) from every
other. That leaves 37. The six of the test split are spread over that order and speak nowhere in training.
"""

from __future__ import annotations

from data_prep.utterance import Timbre

TEST_VARIANTS = ("klatt4", "ed", "pablo", "f5", "benjamin", "m7")
_CLEAR_VARIANTS = (  # two timbres each
    "Hugo",
    "f1",
    "m3",
    "m5",
    "caleb",
    "david",
    "edward",
    "klatt2",
    "miguel",
    "mike2",
    "john",
    "anika",
    "Nguyen",
)
_OTHER_VARIANTS = (
    "AnxiousAndy",
    "Gene2",
    "Storm",
    "announcer",
    "antonio",
    "aunty",
    "belinda",
    "grandma",
    "iven2",
    "linda",
    "m8",
    "paul",
    "pedro",
    "quincy",
    "rob",
    "sandro",
    "steph2",
    "victor",
)


def _timbres(variants: tuple[str, ...], pitches: tuple[int, ...], rates: tuple[int, ...]) -> tuple[Timbre, ...]:
    return tuple(Timbre(name, pitches[i % len(pitches)], rates[i % len(rates)]) for i, name in enumerate(variants))


TRAIN_TIMBRES = (
    *_timbres(_CLEAR_VARIANTS, (42, 48, 45), (185, 200, 170, 215)),
    *_timbres(_CLEAR_VARIANTS, (62, 68, 58), (210, 175, 195, 220)),
    *_timbres(_OTHER_VARIANTS, (50, 40, 60, 55), (190, 205, 180, 220, 165)),
)
TEST_TIMBRES = (
    *_timbres(TEST_VARIANTS, (45, 50), (185, 205, 170)),
    *_timbres(TEST_VARIANTS, (60, 65), (200, 180, 215)),
)
NARRATORS = {"en": Timbre("Hugo", 42, 185), "zh": Timbre("f1", 48, 200)}  # two of TRAIN_TIMBRES, among the clearest
