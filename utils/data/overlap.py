"""Words that two texts share: near duplicates by MinHash, and benchmark items by runs of 13 words.

Left out: languages that put no space between words, where a sentence counts as one word.
"""

import re
import zlib
from functools import cache

WORD = re.compile(r"\w+")
SHINGLE = 5  # words; two prompts are compared as sets of such runs
PERMUTATIONS = 128  # numbers in a signature
RUN = 13  # words that a benchmark item and a row must share, as in the GPT-3 paper (arXiv 2005.14165, appendix C)


def words(text: str) -> list[str]:
    """Cut a text into words in lower case; of punctuation only what stands alone in a text without words is kept.

    Example:
        >>> words("Hello, World!  It's 9:30.")
        ['hello', 'world', 'it', 's', '9', '30']
    """
    return WORD.findall(text.lower()) or text.split()


def numbers(found: list[str]):
    """Return one number for each word, the same on every machine: uint64 of shape (words,)."""
    import numpy as np

    return np.fromiter((zlib.crc32(word.encode()) for word in found), dtype=np.uint64, count=len(found))


def runs(of_words, length: int):
    """Return one number for each run of `length` words: uint64 of shape (words - length + 1,), empty if too short."""
    import numpy as np

    count = max(0, len(of_words) - length + 1)
    found = np.zeros(count, dtype=np.uint64)
    for place in range(length if count else 0):  # modulo 2^64; the high bits depend on every word, also on the last
        found = (found + of_words[place : place + count]) * np.uint64(0x9E3779B97F4A7C15)
    return found


@cache
def _empty_sketch():
    from datasketch import MinHash

    return MinHash(num_perm=PERMUTATIONS, hashfunc=int, scheme="affine32")  # its permutations are slow to draw


def signature(of_words):
    """Return the MinHash signature, uint32 of (128,), of the 5-word runs of `numbers`, or of all if they are fewer.

    The share of equal places in two signatures estimates the Jaccard similarity of the two sets of runs, with a
    standard deviation of at most 0.044.
    """
    import numpy as np

    minhash = _empty_sketch().copy()
    shingles = runs(of_words, min(SHINGLE, len(of_words))) >> np.uint64(32)
    minhash.update_batch(np.unique(shingles).tolist())
    return minhash.hashvalues


def bands(threshold: float) -> tuple[int, int]:
    """Choose (bands, numbers in each): the longest bands that see 94 % of pairs at a threshold, and few far below.

    Example:
        >>> bands(0.8), bands(0.5)
        ((16, 8), (42, 3))
    """
    two_or_more = range(1, PERMUTATIONS // 2 + 1)  # bands, as datasketch wants
    lengths = [length for length in two_or_more if 1 - (1 - threshold**length) ** (PERMUTATIONS // length) >= 0.94]
    length = max(lengths, default=1)
    return PERMUTATIONS // length, length


def find_near_duplicates(signatures, order, threshold: float = 0.8):
    """Find for each text the better one that it nearly repeats, or -1; `signatures` is uint32 of shape (texts, 128).

    Every text of `order`, the best first, is compared with those kept so far that agree with it in one of the `bands`.
    """
    import numpy as np
    from datasketch import LeanMinHash, MinHashLSH
    from tqdm.auto import tqdm

    index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, params=bands(threshold))
    twins = np.full(len(signatures), -1, dtype=np.int64)
    for text in tqdm(order, desc="Looking for near duplicates", leave=False):
        minhash = LeanMinHash(seed=1, hashvalues=signatures[text], scheme="affine32")
        candidates = np.array(sorted(index.query(minhash)), dtype=np.int64)
        alike = (signatures[candidates] == signatures[text]).mean(axis=1)  # a template may bring thousands
        if alike.max(initial=0) >= threshold:
            twins[text] = candidates[alike.argmax()]
        else:
            index.insert(int(text), minhash, check_duplication=False)
    return twins


class BenchmarkIndex:
    """The runs of 13 words of benchmark items, and the shorter items whole, each with the name of its item.

    `benchmarks` are name -> items, each a list of texts, the question first.

    Example:
        >>> index = BenchmarkIndex({"sums": [["What is two plus two?"]]})
        >>> index.match(["Hello.", "What is two plus two"], question="What is two plus two")
        ('sums 0', 'what is two plus two')
    """

    def __init__(self, benchmarks: dict[str, list[list[str]]]):
        import numpy as np

        self.labels, self.short = ["none"], {}
        long, owners = [np.zeros(1, np.uint64)], [np.zeros(1, np.int32)]  # a run that no text has
        for name, items in benchmarks.items():
            for number, texts in enumerate(items):
                item = len(self.labels)
                self.labels.append(f"{name} {number}")
                for place, text in enumerate(texts):
                    found = numbers(words(text))
                    if len(found) >= RUN:
                        long.append(runs(found, RUN))
                        owners.append(np.full(len(long[-1]), item, dtype=np.int32))
                    elif place == 0 and len(found):
                        self.short.setdefault(int(runs(found, len(found))[0]), item)
        self.runs, first = np.unique(np.concatenate(long), return_index=True)
        self.items = np.concatenate(owners)[first]

    def match(self, texts: list[str], question: str = "") -> tuple[str, str] | None:
        """Find the longest run of words that texts share with an item: (name of the item, the words), or `None`.

        `question` is the last thing that the user says, which a short item must equal as a whole.
        """
        import numpy as np

        best, item = [], None
        for text in map(words, texts):
            found = runs(numbers(text), RUN)
            where = np.minimum(np.searchsorted(self.runs, found), len(self.runs) - 1)
            hits = np.flatnonzero(self.runs[where] == found)
            if len(hits):
                pieces = np.split(hits, np.flatnonzero(np.diff(hits) > 1) + 1)  # each without a gap
                piece = max(pieces, key=len)
                if len(piece) + RUN - 1 > len(best):
                    best, item = text[piece[0] : piece[-1] + RUN], self.items[where[piece[0]]]
        asked = words(question)
        if item is None and 0 < len(asked) < RUN:
            best, item = asked, self.short.get(int(runs(numbers(asked), len(asked))[0]))
        return None if item is None else (self.labels[item], " ".join(best))
