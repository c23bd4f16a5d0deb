"""Plain English sentences to be spoken: phonetic and lexical variety for the speech data.

Two sources, mixed: example sentences of WordNet 3.0 (WordNet License; Debian package ``wordnet-base``), kept where they
are whole, everyday, inoffensive and speakable, and a seeded grammar over ``sentence_words``. Of the WordNet examples,
those go first that add the most words not met yet, so that a few thousand sentences cover a broad vocabulary.

Writes ``sentences.jsonl`` with ``{id, text, split}``; the split is a hash of the text, so it never changes with counts.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import heapq
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from emova.cli.main import Parser, run_program
from emova.core.errors import InputError
from emova.core.writing import write_text
from emova_data.nano.text.sentence_words import PATTERNS, WORDS
from emova_data.nano.text.spoken_text import to_spoken, words

WORDNET = Path("/usr/share/wordnet")
MIN_WORDS, MAX_WORDS = 5, 14
TEST_SHARE = 0.05


def _word_set(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_FINITE = _word_set(
    """is are was were am be been has have had do does did will would can could should must may might shall won't
    don't can't didn't isn't aren't wasn't weren't couldn't wouldn't doesn't haven't hasn't let's i'm he's she's
    it's they're we're you're i've i'll we'll made came went took gave said saw got found told felt left kept
    held brought began became ran fell grew knew lost met paid put read rose sat sent set showed sold spoke
    spent stood struck taught thought threw understood wore won wrote broke built bought caught chose cut drank
    drew drove ate flew forgot froze hid hit led lay rang rode sang sank shook shot shut slept slid spread stole
    stuck swam swept swore tore woke"""
)
_SUBJECTS = _word_set("""i he she it we you they there this that these those""")
_OPENERS = _word_set(
    """the a an his her my your our their its what where when why who how did do does is are can could will would
    have has was were don't let's please most many some all no every each nobody everybody everyone someone if
    when while after before because although mother father children people"""
)
_AVOID = re.compile(
    r"\b(?:sex\w*|rap(?:e[ds]?|ist)|kill\w*|murder\w*|nazi\w*|jew\w*|negro\w*|nigg\w*|whor\w*|slut\w*|drug\w*|heroin|"
    r"cocaine|suicid\w*|naked|nude|breasts?|penis|vagin\w*|urin\w*|fec\w*|shit\w*|damn\w*|hell|bitch\w*|bastard\w*|ass|"
    r"bomb\w*|terroris\w*|tortur\w*|slave\w*|abort\w*|cancer|tumou?rs?|aids|hitler|holocaust|genocid\w*|prostitut\w*|"
    r"homosexual\w*|gay|lesbian\w*|queer|muslim\w*|christian\w*|catholic\w*|islam\w*|arab\w*|indians?|blacks?|oriental\w*|"
    r"whites|retard\w*|crippl\w*|moron\w*|corpse\w*|blood\w*|stab\w*|gun|guns|shot|shoot\w*|execut\w*|hang(?:ed|ing)|"
    r"drunk\w*|alcoholi\w*|thee|thou|thy|doth|hath|unto|anus|orgasm\w*|lust\w*|erotic\w*|virgin\w*|mistress|incest\w*|"
    r"molest\w*|lynch\w*|behead\w*|massacr\w*|gas chamber|syphilis|castrat\w*|circumcis\w*|intercourse|menstru\w*|"
    r"whip(?:ped|ping)|terrorist|god|jesus|christ|bible|communis\w*|republicans?|democrats?|bush|clinton|reagan|"
    r"president|abus\w*|bully|pimp|crack|pot|marijuana|gypsy|gypsies|savages?|primitive|bugger\w*|screw(?:ed|s)?|"
    r"dyke|fag\w*|pervert\w*|porn\w*|obscen\w*|semen|sperm\w*|genital\w*|condom\w*|enema|diarrhea|vomit\w*)\b",
    re.I,
)  # fmt: skip


@functools.cache
def lexicon() -> frozenset[str]:
    """Words whose pronunciation the bundled American lexicon knows (lower case; names keep their entry as well)."""
    import hibari

    path = Path(hibari.__file__).parent / "assets" / "lexicon_us_gold.json.gz"
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        return frozenset(word.lower() for word in json.load(handle))


def pronounceable(text: str, known: frozenset[str] | None = None) -> bool:
    """Whether the lexicon has every word of ``text`` (possessives and contractions by their stem)."""
    known = lexicon() if known is None else known
    return all(
        w in known or re.sub(r"(?:'s|s'|s|es|ed|ing|n't|'ll|'ve|'d|'re|'m)$", "", w) in known for w in words(text)
    )


def is_sentence(text: str) -> bool:
    """A cheap test that an example is a whole sentence and not a phrase: a subject or opener and a finite verb."""
    found = words(text)
    if not found:
        return False
    if found[0] in _SUBJECTS:
        return len(found) > 2
    if found[0] in {"was", "were", "is", "are", "has", "have", "had"} and found[1] not in _SUBJECTS | {
        "the",
        "your",
        "my",
    }:
        return False
    finite = any(w in _FINITE for w in found[1:])
    if found[0] not in {"a", "an", "all", "some", "most", "many"}:  # those open noun phrases with participles too often
        finite = finite or any(w.endswith("ed") and len(w) > 4 for w in found[2:-1])
    return finite and (found[0] in _OPENERS or text[0].isupper())


def tidy(text: str) -> str:
    """Capital first letter, one closing mark; a question mark where the first words ask."""
    text = text[0].upper() + text[1:]
    text = re.sub(r"\bi\b", "I", text)
    if text[-1] in ".?!":
        return text
    first = words(text)[:2]
    asks = first[0] in {"where", "why", "who", "what", "how"} and first[1] in _FINITE
    asks = asks or (first[0] in {"did", "do", "does", "can", "could", "will", "would", "is", "are"} and first[1] in
                    _SUBJECTS - {"this", "that"} | {"the", "your"})  # fmt: skip
    return text.rstrip(" ,-'") + ("?" if asks else ".")


def fits(text: str) -> bool:
    return MIN_WORDS <= len(text.split()) <= MAX_WORDS


def common_words(folder: Path = WORDNET, least: int = 6) -> frozenset[str]:
    """Words that at least ``least`` WordNet entries use in their definition or examples: a measure of everyday use.

    Raises:
        InputError: WordNet is not installed.
    """
    uses: Counter[str] = Counter()
    for line in _lines(folder):
        uses.update(set(words(line.partition(" | ")[2])))
    return frozenset(w for w, n in uses.items() if n >= least)


def _lines(folder: Path) -> Iterator[str]:
    for part in ("noun", "verb", "adj", "adv"):
        path = folder / f"data.{part}"
        if not path.is_file():
            raise InputError(f"{path}: WordNet is missing; install Debian's `wordnet-base`")
        for line in path.read_text(encoding="latin-1").splitlines():
            if not line.startswith("  "):  # the licence at the head of each file is indented
                yield line


def wordnet_examples(folder: Path = WORDNET) -> list[str]:
    """Whole, plain, speakable example sentences, in the order of the files.

    Raises:
        InputError: WordNet is not installed.
    """
    kept: dict[str, None] = {}
    for line in _lines(folder):
        for example in re.findall(r'"([^"]+)"', line.partition(" | ")[2]):
            if _AVOID.search(example) or not example.strip():
                continue
            spoken = to_spoken(re.sub(r"[`´]", "'", example), MAX_WORDS)
            if spoken is None or not is_sentence(spoken):
                continue
            spoken = tidy(spoken)
            if fits(spoken) and pronounceable(spoken):
                kept[spoken] = None
    return list(kept)


def broadest(texts: Iterable[str], count: int, common: frozenset[str] | None = None) -> list[str]:
    """Pick ``count`` texts greedily by how many words they add that were met fewer than three times (lazy greedy).

    Words outside ``common`` count against a text.
    """
    met: dict[str, int] = {}

    def gain(text: str) -> float:
        found = set(words(text))
        plain = found if common is None else found & common
        new = sum((30, 10, 6)[met.get(w, 0)] for w in plain if met.get(w, 0) < 3)  # integers: sets have no order
        return (new - 45 * (len(found) - len(plain))) / (3 + len(found))

    heap = [(-gain(text), i, text) for i, text in enumerate(texts)]
    heapq.heapify(heap)
    picked: list[str] = []
    while heap and len(picked) < count:
        _, i, text = heapq.heappop(heap)
        now = -gain(text)
        if heap and now > heap[0][0]:  # stale: others may add more now
            heapq.heappush(heap, (now, i, text))
            continue
        picked.append(text)
        for w in set(words(text)):
            met[w] = met.get(w, 0) + 1
    return picked


def grammar_sentence(rng: random.Random) -> str:
    """One sentence of the grammar; no word class gives the same word twice in a sentence."""
    used: set[str] = set()

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        choices = WORDS["number" if name == "number_cap" else name]
        word = rng.choice([c for c in choices if c not in used])
        used.add(word)
        return word

    text = re.sub(r"\{(\w+)\}", fill, rng.choice(PATTERNS))
    text = re.sub(r"\b([Aa])(?= (?:[aeio]|u(?!s[eu]|ni)|hour|honest)\w)", r"\1n", text)
    return text[0].upper() + text[1:]


def split_of(text: str, share: float = TEST_SHARE) -> str:
    """``test`` for ``share`` of all texts, decided by a hash of the words alone."""
    digest = hashlib.sha256(" ".join(words(text)).encode()).digest()
    return "test" if int.from_bytes(digest[:4], "big") < share * 2**32 else "train"


def build(count: int = 6000, seed: int = 0, wordnet: Path | None = WORDNET) -> list[dict[str, str]]:
    """``count`` records; two thirds from WordNet (none where ``wordnet`` is None), the rest from the grammar."""
    rng = random.Random(seed)
    chosen: list[str] = []
    if wordnet is not None:
        chosen = broadest(wordnet_examples(wordnet), count * 2 // 3, common_words(wordnet))
    seen = {" ".join(words(text)) for text in chosen}
    while len(chosen) < count:
        text = grammar_sentence(rng)
        key = " ".join(words(text))
        if key not in seen and fits(text):
            seen.add(key)
            chosen.append(text)
    rng.shuffle(chosen)
    return [{"id": f"sentence-{i:05d}", "text": text, "split": split_of(text)} for i, text in enumerate(chosen)]


def write_jsonl(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    """Write one JSON object a line, whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))


def main() -> None:
    parser = Parser(prog="python -m emova_data.nano.text.sentences", description="Write the sentences to be spoken.")
    parser.add_argument("--out", type=Path, default=Path("data/nano/text/sentences.jsonl"))
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    records = build(args.count, args.seed)
    write_jsonl(args.out, records)
    vocabulary = {w for r in records for w in words(r["text"])}
    tests = sum(r["split"] == "test" for r in records)
    print(f"{args.out}: {len(records)} sentences, {tests} for test, {len(vocabulary)} distinct words")


if __name__ == "__main__":
    run_program(main)
