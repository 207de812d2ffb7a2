"""Search over items, knowledge and agencies: tantivy in memory, with words, pairs of characters, pinyin and the synonym table.

How a result is found, strongest first: a phrase of the query is the item's own search word or name; the words of the query stand in its
title; in its search words; in its text; as pinyin or initials; as pinyin with one letter wrong. A hot item goes before its like.
"""

import html
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import tantivy

from app.catalogue.load import COUNTY_BODY, Catalogue
from app.catalogue.words import (
    MAX_QUERY,
    Words,
    chinese_only,
    joined,
    latin_runs,
    normalise,
    pinyin,
    substrings,
)

_FIELDS = ("title", "keys", "body", "pinyin")
_CANDIDATES = 60
_LONGEST_PHRASE = 12
_MOST_VARIANTS = 12
_MIN_FUZZY = 6  # letters; shorter pinyin has too many neighbours

# What a match in a field is worth.
_TITLE, _KEYS, _BODY, _PINYIN, _FUZZY = 3.0, 2.2, 0.5, 2.0, 0.6
_SYNONYM = 0.8
_HOMOPHONE = 0.35
_PHRASE, _LEAD = 14.0, 12.0
_LEAST = 0.9
_WORTH_SHOWING = 0.22  # of the best score; below it are chance pairs of characters


@dataclass(frozen=True)
class Entry:
    """One thing that can be found. `kind`: item (ref = alias), knowledge (ref = id), agency (ref = id)."""

    kind: str
    ref: str
    title: str
    aliases: tuple[str, ...]
    phrases: tuple[str, ...]
    body: str
    prior: float
    is_offered: bool = True  # while somebody types


@dataclass(frozen=True)
class Hit:
    """A found entry and its score; scores compare within one query only."""

    entry: Entry
    score: float


class SearchIndex:
    """Everything findable of one catalogue. Immutable; building costs some milliseconds per hundred entries."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._words = Words(catalogue.synonyms)
        self._entries = entries_of(catalogue)
        self._by_ref = {entry.ref: index for index, entry in enumerate(self._entries)}
        self._phrases: dict[str, set[int]] = defaultdict(set)
        builder = tantivy.SchemaBuilder()
        builder.add_unsigned_field("number", stored=True)
        for name in _FIELDS:
            builder.add_text_field(name, tokenizer_name="whitespace", index_option="freq")
        self._schema = builder.build()
        index = tantivy.Index(self._schema)
        writer = index.writer(heap_size=20_000_000, num_threads=1)
        for number, entry in enumerate(self._entries):
            writer.add_document(self._document(number, entry))
        writer.commit()
        writer.wait_merging_threads()
        index.reload()
        self._searcher = index.searcher()
        self._completions = _completions(self._entries)

    def _document(self, number: int, entry: Entry) -> tantivy.Document:
        titles = [normalise(title) for title in (entry.title, *entry.aliases)]
        phrases = [normalise(phrase) for phrase in entry.phrases]
        for phrase in (*titles, *phrases):
            if len(phrase) >= 2 and chinese_only(phrase):
                self._phrases[phrase.replace(" ", "")].add(number)
        document = tantivy.Document()
        document.add_unsigned("number", number)
        document.add_text("title", joined(self._words.tokens(" ".join(titles))))
        document.add_text("keys", joined(self._words.tokens(" ".join(phrases))))
        document.add_text("body", joined(self._words.tokens(normalise(entry.body)[:2000])))
        latin = [run for phrase in phrases for run in latin_runs(phrase)]
        spelt = {token for text in (*titles, *phrases) for token in self._words.pinyin_tokens(text)}
        document.add_text("pinyin", joined(sorted({*latin, *spelt})))
        return document

    def search(
        self, query: str, *, limit: int = 20, accept: Callable[[Entry], bool] = lambda _entry: True
    ) -> list[Hit]:
        """Return what fits a resident's words, best first. An empty query finds nothing."""
        text = normalise(query)[:MAX_QUERY]
        core = self._words.core(text)
        if not core:
            return []
        scores = self._scores(core)
        compact = core.replace(" ", "")
        for number, score in self._phrase_scores(compact).items():
            scores[number] += score
        for place, alias in enumerate(self._words.leads_to.get(compact, ())):
            if alias in self._by_ref:
                scores[self._by_ref[alias]] += _LEAD * (1 - 0.1 * place)
        if len(compact) == 1 and chinese_only(compact):
            for number, entry in enumerate(self._entries):  # no word and no pair: the titles are few enough to read
                scores[number] += _TITLE * (compact in entry.title) + _KEYS * any(compact in p for p in entry.phrases)
        hits = [
            Hit(self._entries[number], score * self._entries[number].prior)
            for number, score in scores.items()
            if score >= _LEAST and accept(self._entries[number])
        ]
        hits.sort(key=lambda hit: (-hit.score, hit.entry.ref))
        if hits:
            hits = [hit for hit in hits if hit.score >= hits[0].score * _WORTH_SHOWING]
        return hits[:limit]

    def _phrase_scores(self, compact: str) -> dict[int, float]:
        """Score the titles and search words that stand in the query as they are, or after one word was exchanged for its synonym."""
        found: dict[int, float] = defaultdict(float)
        swapped = {compact.replace(word, other) for word, other in self._words.synonyms(compact)}
        for variant, weight in [(compact, 1.0), *((text, _SYNONYM) for text in sorted(swapped)[:_MOST_VARIANTS])]:
            best: dict[int, float] = defaultdict(float)
            for phrase in set(substrings(variant, _LONGEST_PHRASE)):
                share = len(phrase) / len(variant)
                for number in self._phrases.get(phrase, ()):
                    # The whole query said in the item's own words counts far more than two characters of it.
                    best[number] += _PHRASE * weight * share * (2 if share == 1 else 1)
            for number, score in best.items():
                found[number] = max(found[number], score)
        return found

    def _scores(self, core: str) -> dict[int, float]:
        parts = self._said(self._tokens(core), 1.0)
        others: dict[str, list[tantivy.Query]] = defaultdict(list)
        for word, other in self._words.synonyms(core):
            tokens = self._tokens(other)
            # A long synonym (公司 -> 有限责任公司) must not outweigh the word it stands for.
            weight = _SYNONYM * sum(map(_size, self._tokens(word))) / max(1.0, sum(map(_size, tokens)))
            others[word].append(_any_of(self._said(tokens, weight)))
        # Of several other words for one word the best counts, not their sum.
        parts += [tantivy.Query.disjunction_max_query(queries) for queries in others.values()]

        def want(field: str, token: str, weight: float) -> None:
            parts.append(self._term(field, token, weight))

        for run in latin_runs(core):
            if run.isdigit():
                continue
            want("pinyin", run, _PINYIN * 2)
            if len(run) >= _MIN_FUZZY:
                fuzzy = tantivy.Query.fuzzy_term_query(self._schema, "pinyin", run, distance=1, prefix=True)
                parts.append(tantivy.Query.const_score_query(fuzzy, _FUZZY * 3))
        chinese = chinese_only(core)
        if 2 <= len(chinese) <= 12:
            # A homophone typed by mistake (身分证) still sounds right.
            want("pinyin", "".join(pinyin(chinese)), _HOMOPHONE * 4)
            for word in set(self._words.words(chinese)):
                if len(word) > 1:
                    want("pinyin", "".join(pinyin(word)), _HOMOPHONE)
        found: dict[int, float] = defaultdict(float)
        if not parts:
            return found
        for score, address in self._searcher.search(_any_of(parts), _CANDIDATES).hits:
            found[self._searcher.doc(address)["number"][0]] += score
        return found

    def _tokens(self, text: str) -> list[str]:
        # Letters are pinyin, which has its own field; counted twice they would beat a hot item.
        return [token for token in self._words.tokens(text) if not (token.isascii() and token.isalpha())]

    def _said(self, tokens: Iterable[str], weight: float) -> list[tantivy.Query]:
        fields = (("title", _TITLE), ("keys", _KEYS), ("body", _BODY))
        return [self._term(field, token, worth * weight) for token in tokens for field, worth in fields]

    def _term(self, field: str, token: str, weight: float) -> tantivy.Query:
        # A word counts by a fixed weight and its length: rarity in so small a collection is chance, and a long word is a
        # surer sign than a short one.
        term = tantivy.Query.term_query(self._schema, field, token)
        return tantivy.Query.const_score_query(term, weight * _size(token))

    def suggest(self, query: str, *, limit: int = 10) -> list[tuple[str, Entry]]:
        """Return completions (text, what it leads to): by characters, pinyin or initials; beginnings first, hot ones first."""
        text = normalise(query)[:MAX_QUERY].replace(" ", "")
        if not text:
            return []
        ranked: dict[str, tuple[tuple[Any, ...], Entry]] = {}
        for order, completion in enumerate(self._completions):
            rank = completion.rank(text)
            if rank is None:
                continue
            key = (rank, -completion.entry.prior, order)
            if completion.text not in ranked or key < ranked[completion.text][0]:
                ranked[completion.text] = (key, completion.entry)
        best = sorted(ranked.items(), key=lambda pair: pair[1][0])[:limit]
        return [(found, entry) for found, (_key, entry) in best]

    def highlight(self, query: str, text: str) -> str:
        """Return a text as HTML, escaped, with <em> around what the query names (its own words or other words for them)."""
        core = self._words.core(normalise(query)[:MAX_QUERY])
        wanted = {token for token in self._words.tokens(core) if len(token) > 1}
        wanted |= {other for _word, other in self._words.synonyms(core)}
        return mark(text, wanted)


def _size(token: str) -> float:
    return min(len(token), 4) / 2


def _any_of(queries: Iterable[tantivy.Query]) -> tantivy.Query:
    return tantivy.Query.boolean_query([(tantivy.Occur.Should, query) for query in queries])


@dataclass(frozen=True)
class _Completion:
    text: str
    normal: str
    full: str
    initials: str
    entry: Entry

    def rank(self, query: str) -> int | None:
        """0 begins with it, 1 its pinyin or initials begin with it, 2 holds it, 3 pinyin holds it; None = no match."""
        if self.normal.startswith(query):
            return 0
        if self.full.startswith(query) or self.initials.startswith(query):
            return 1
        if query in self.normal:
            return 2
        if len(query) > 2 and (query in self.full or query in self.initials):
            return 3
        return None


def _completions(entries: Iterable[Entry]) -> list[_Completion]:
    made = []
    for entry in entries:
        if not entry.is_offered:
            continue
        if entry.kind == "agency":
            texts: tuple[str, ...] = (entry.title,)
        elif entry.kind == "item":
            texts = (entry.title, *entry.aliases, *(p for p in entry.phrases if chinese_only(normalise(p))))
        else:
            continue
        for text in texts:
            normal = normalise(text).replace(" ", "")
            syllables = pinyin(normal)
            made.append(_Completion(text, normal, "".join(syllables), "".join(s[:1] for s in syllables), entry))
    return made


def mark(text: str, wanted: Iterable[str]) -> str:
    """Return a text, HTML-escaped, with <em> around every stretch that `wanted` words cover."""
    covered = [False] * len(text)
    lowered = text.casefold()
    if len(lowered) == len(text):  # a letter that folds to two would shift every place behind it
        for word in wanted:
            for match in re.finditer(re.escape(word), lowered):
                for place in range(match.start(), match.end()):
                    covered[place] = True
    pieces, place = [], 0
    while place < len(text):
        end = place
        while end < len(text) and covered[end] == covered[place]:
            end += 1
        piece = html.escape(text[place:end], quote=False)
        pieces.append(f"<em>{piece}</em>" if covered[place] else piece)
        place = end
    return "".join(pieces)


def entries_of(catalogue: Catalogue) -> list[Entry]:
    """Return everything findable of a catalogue."""
    agencies = {row["id"]: row for row in catalogue.agencies}
    found = [_item_entry(item, agencies[item["agency"]]) for item in catalogue.items if item["status"] == "published"]
    found += [
        Entry(
            kind="knowledge",
            ref=entry["id"],
            title=entry["questions"][0],
            aliases=tuple(entry["questions"][1:]),
            phrases=tuple(entry["tags"]),
            body=entry["answer"],
            prior=1.0,
        )
        for entry in catalogue.knowledge
        if entry["status"] == "published"
    ]
    found += [
        # The city's bodies go before their namesakes in ten counties, which would fill every list of completions.
        Entry(
            "agency", row["id"], row["name"], (row["short_name"],), (row["hotline"],), row["remark"],
            prior=0.8 if row["level"] == COUNTY_BODY else 1.0, is_offered=row["level"] != COUNTY_BODY,
        )  # fmt: skip
        for row in catalogue.agencies
    ]
    return found


def _item_entry(item: Mapping[str, Any], agency: Mapping[str, Any]) -> Entry:
    body = [item["summary"], *item["themes"], *item["life_events"], item["hot_area"], agency["name"], item["result"]["name"]]
    body += [question["q"] for question in item["faq"]] + item["conditions"]
    rank = item["hot_rank"]
    return Entry(
        kind="item",
        ref=item["alias"],
        title=item["name"],
        aliases=(item["short_name"],),
        phrases=tuple(item["search_words"]),
        body=" ".join(body),
        prior=1.0 if rank is None else 1.02 + 0.08 * max(0, 30 - rank) / 30,
    )
