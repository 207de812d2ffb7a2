"""Words of residents: cutting, synonyms, stop words, and pinyin. Pure; made once per published catalogue."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import rjieba
from pypinyin import Style, lazy_pinyin

MAX_QUERY = 60  # characters; a question is shorter, and the cost grows with the square
_MAX_SYLLABLES = 8
_FREQUENCY = 100_000  # high enough that the cutter keeps a word of ours in one piece

_LATIN = re.compile(r"[a-z0-9]+")
_CHINESE = re.compile(r"[\u3400-\u9fff]+")
_RUNS = re.compile(r"[a-z0-9]+|[\u3400-\u9fff]+")


def normalise(text: str) -> str:
    """Return text as it is compared: full-width letters narrowed, small letters, blanks of any kind as one blank."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())[: MAX_QUERY * 4]


class Words:
    """The synonym table of one catalogue, ready for use."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._cutter = rjieba.Jieba()
        for word in table["words"]:
            self._cutter.add_word(word, _FREQUENCY, "n")
        self._groups: dict[str, list[str]] = {}
        for group in table["groups"]:
            for word in group:
                self._groups.setdefault(normalise(word), []).extend(normalise(other) for other in group if other != word)
        self.leads_to = {normalise(row["phrase"]): tuple(row["items"]) for row in table["leads_to"]}
        # Longest first: 怎么办理 must go before 怎么.
        stops = sorted(map(re.escape, table["stop_words"]), key=len, reverse=True)
        self._stops = re.compile("|".join(stops)) if stops else re.compile(r"(?!)")

    def core(self, query: str) -> str:
        """Return a normalised query without what it is wrapped in (我要…, …怎么办); the whole query when nothing is left."""
        return " ".join(self._stops.sub(" ", query).split()) or query

    def synonyms(self, text: str) -> Iterator[tuple[str, str]]:
        """Yield (word in the text, another word for it)."""
        for word, others in self._groups.items():
            if word in text:
                for other in others:
                    yield word, other

    def tokens(self, text: str) -> list[str]:
        """Return the words of a normalised text, with all pairs of neighbouring characters, each once.

        Pairs find two-character queries and what the cutter cut elsewhere in the title than in the query.
        """
        found: dict[str, None] = {}
        for run in _RUNS.findall(text):
            if _LATIN.fullmatch(run):
                found[run] = None
                continue
            for word in self._cutter.cut_for_search(run):
                if len(word) > 1 or len(run) == 1:
                    found[word] = None
            for start in range(len(run) - 1):
                found[run[start : start + 2]] = None
        return list(found)

    def words(self, text: str) -> list[str]:
        """Return the words of a text as the cutter cuts them, in order."""
        return [word for run in _CHINESE.findall(text) for word in self._cutter.cut(run)]

    def pinyin_tokens(self, text: str) -> list[str]:
        """Return full pinyin and initials of every stretch of a text that begins with a word: shenfenzheng, sfz."""
        found: dict[str, None] = {}
        for run in _CHINESE.findall(text):
            syllables = pinyin(run)
            start = 0
            for word in self._cutter.cut(run):
                for end in range(start + 1, min(start + _MAX_SYLLABLES, len(syllables)) + 1):
                    found["".join(syllables[start:end])] = None
                    if end - start > 1:
                        found["".join(syllable[0] for syllable in syllables[start:end])] = None
                start += len(word)
        return list(found)


@lru_cache(maxsize=50_000)
def pinyin(text: str) -> tuple[str, ...]:
    """Return one syllable per character, without tones."""
    return tuple(lazy_pinyin(text, style=Style.NORMAL))


def latin_runs(text: str) -> list[str]:
    """Return the runs of letters and digits, and all of them joined (shen fen zheng -> shenfenzheng)."""
    runs = _LATIN.findall(text)
    return runs if len(runs) < 2 else [*runs, "".join(runs)]


def chinese_only(text: str) -> str:
    """Return the Chinese characters of a text, joined."""
    return "".join(_CHINESE.findall(text))


def substrings(text: str, longest: int) -> Iterator[str]:
    """Yield every stretch of 2 to `longest` characters."""
    for start in range(len(text)):
        for end in range(start + 2, min(start + longest, len(text)) + 1):
            yield text[start:end]


def joined(tokens: Iterable[str]) -> str:
    """Return tokens as one text for the index, whose tokeniser splits at blanks."""
    return " ".join(tokens)
