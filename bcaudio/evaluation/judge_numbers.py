"""Numbers in running text, by value: digits in any language, words in English, characters in Chinese."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from bcaudio.text.normalize import base_language

_DIGITS = r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?"
_MINUS = "-\u2212"

_TO_9 = "zero one two three four five six seven eight nine"
_ONES = {word: value for value, word in enumerate(_TO_9.split())}
_TEN_TO_19 = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TEENS = {word: value for value, word in enumerate(_TEN_TO_19.split(), start=10)}
_TO_90 = "twenty thirty forty fifty sixty seventy eighty ninety"
_TIES = {word: 10 * value for value, word in enumerate(_TO_90.split(), start=2)}
_DECIMALS = _ONES | {"oh": 0}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ENGLISH = re.compile(rf"{_DIGITS}|[a-z]+|[^\sa-z0-9]")

_CHINESE_LANGUAGES = ("zh", "cmn", "yue", "wuu", "nan", "hak", "lzh")
_SIMPLIFIED = str.maketrans("萬億兩負點", "万亿两负点")
_HAN = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_HAN_UNITS = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8}
_HAN_RUN = f"[{''.join(_HAN)}{''.join(_HAN_UNITS)}]+(?:点[{''.join(_HAN)}]+)?"
_CHINESE = re.compile(
    rf"百分之|(?P<sign>负|(?<![0-9])[{_MINUS}])?(?:(?P<digits>{_DIGITS})(?P<unit>[万亿千百])?|(?P<han>{_HAN_RUN}))"
)


def numbers_in(text: str, language: str) -> list[Fraction]:
    """The numbers of a text in order, exact.

    Digits count in every language: `-3`, `1,234.5` (a comma before three digits parts thousands), `3.5`; a sign of percent or
    money is passed over. In en also cardinal words (`minus twenty-three`, `a hundred and five`, `two point five million`,
    `3 million`); not ordinals, `half`, `dozen`, or years read in pairs. In Chinese also `负三百零五`, `三百五` (350), `一九九九`,
    `三点五`, `3万`, traditional forms, `百分之五` (5); not fractions. ValueError for what is no language code.
    """
    base = base_language(language)
    text = unicodedata.normalize("NFKC", text).lower()
    if base in _CHINESE_LANGUAGES:
        return [_chinese_match(match) for match in _CHINESE.finditer(text.translate(_SIMPLIFIED)) if match[0] != "百分之"]
    matches = list(_ENGLISH.finditer(text))
    tokens = [match[0] for match in matches]
    found: list[Fraction] = []
    i = end = 0
    while i < len(tokens):
        value, after = _number_at(tokens, i, words=base == "en")
        if value is None:
            i += 1
            continue
        before = tokens[i - 1] if i else ""
        touches = before != "" and before in _MINUS and matches[i - 1].end() == matches[i].start()
        negative = touches or (base == "en" and before in ("minus", "negative"))
        operation = bool(found) and end == i - 1  # straight after a number it is a subtraction or a range
        found.append(-value if negative and not operation else value)
        i = end = after
    return found


def _number_at(tokens: list[str], start: int, words: bool) -> tuple[Fraction | None, int]:
    """The number that begins at a token, and the first token behind it; (None, start) where none begins."""
    total, current, smallest = Fraction(0), Fraction(0), 10**15
    last, i = "", start  # the kind of the last token
    while i < len(tokens):
        token = tokens[i]
        if token[0].isdigit() and last in ("", "scale"):
            current, last = Fraction(token.replace(",", "")), "digits"
        elif not words:
            break
        elif token in _ONES and (not last or (token != "zero" and last in ("ty", "hundred", "scale"))):
            current, last = current + _ONES[token], "one"
        elif token in _TEENS and last in ("", "hundred", "scale"):
            current, last = current + _TEENS[token], "teen"
        elif token in _TIES and last in ("", "hundred", "scale"):
            current, last = current + _TIES[token], "ty"
        elif token == "hundred" and (not last or (last in ("one", "teen", "ty", "digits") and 0 < current < 100)):
            current, last = 100 * (current if last else Fraction(1)), "hundred"
        elif token in _SCALES and _SCALES[token] < smallest and (not last or current > 0):
            smallest = _SCALES[token]
            total, current, last = total + (current if last else 1) * smallest, Fraction(0), "scale"
        elif token == "point" and last and i + 1 < len(tokens) and tokens[i + 1] in _DECIMALS:
            digits = ""
            while i + 1 < len(tokens) and tokens[i + 1] in _DECIMALS:
                digits, i = digits + str(_DECIMALS[tokens[i + 1]]), i + 1
            current, last = current + Fraction(int(digits), 10 ** len(digits)), "decimals"
        elif not _joins(token, last, tokens[i + 1] if i + 1 < len(tokens) else ""):
            break
        i += 1
    return (total + current, i) if last else (None, start)


def _joins(token: str, last: str, after: str) -> bool:
    """Whether a token inside a number only joins: `a` hundred, a hundred `and` one, a thousand `,` two, twenty `-` one."""
    counts = after[:1].isdigit() or after in _ONES or after in _TEENS or after in _TIES
    return (
        (token == "a" and not last and (after == "hundred" or after in _SCALES))
        or (token == "and" and last in ("hundred", "scale") and counts)
        or (token == "," and last == "scale" and counts)
        or (token == "-" and last == "ty" and after in _ONES and after != "zero")
    )


def _chinese_match(match: re.Match[str]) -> Fraction:
    if match["digits"]:
        value = Fraction(match["digits"].replace(",", "")) * _HAN_UNITS.get(match["unit"] or "", 1)
    else:
        whole, _, decimals = match["han"].partition("点")
        value = Fraction(_han_value(whole)) + Fraction(int("".join(str(_HAN[c]) for c in decimals) or "0"), 10 ** len(decimals))
    return -value if match["sign"] else value


def _han_value(text: str) -> int:
    if not any(char in _HAN_UNITS for char in text):
        return int("".join(str(_HAN[char]) for char in text))
    total, section, digit, unit = 0, 0, 0, 10
    for char in text:
        if char in _HAN:
            digit = _HAN[char]
            unit = 10 if digit == 0 else unit  # after a zero a last digit counts ones
        elif _HAN_UNITS[char] < 10**4:
            unit = _HAN_UNITS[char]
            section, digit = section + (digit or 1) * unit, 0
        else:
            unit = _HAN_UNITS[char]
            total = (total + section + digit) * unit if char == "亿" else total + (section + digit or 1) * unit
            section = digit = 0
    return total + section + digit * (unit // 10)
