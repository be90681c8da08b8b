"""Captions → rows of token ids: the one place where text becomes numbers.

The tokenizer is trained on the captions of the training images (byte-level BPE, Sennrich et al. 2016; Radford et al.
2019), so that a run needs nothing from outside, or is that of a pretrained text encoder. Either way it lies in the run
folder, and a row is `START`, then the tokenizer's ids plus 2, then `PADDING`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trilemma.data.fit import reason
from trilemma.images import PADDING, START

OWN = 2
"""`PADDING` and `START` stand before the tokenizer's own ids."""

TOKEN_FILES = ("tokenizer.json", "words.txt")
"""What `Tokens.files` writes."""

MOST_TOKENS = 2000
LONGEST = 64
"""Tokens in a row, at most; longer captions are cut."""

WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, eq=False)
class Tokens:
    """How a run turns text into rows.

    Attributes:
        tokenizer: of the ``tokenizers`` library.
        length: tokens in a row.
        words: every word of the training captions, in lower case.
    """

    tokenizer: Any
    length: int
    words: frozenset[str]

    @classmethod
    def train(cls, captions: Sequence[str], most: int = MOST_TOKENS) -> Tokens:
        """Learn a vocabulary from captions; the same captions give the same one."""
        library = _library()
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.normalizer = library.normalizers.Sequence(
            [library.normalizers.NFKC(), library.normalizers.Lowercase()]
        )
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel()
        tokenizer.decoder = library.decoders.ByteLevel()
        alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
        trainer = library.trainers.BpeTrainer(
            vocab_size=most, min_frequency=2, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(captions, trainer)
        return cls._for(tokenizer, captions)

    @classmethod
    def pretrained(cls, name: str, revision: str, captions: Sequence[str]) -> Tokens:
        """The tokenizer of a pretrained text encoder: a Hub id, or a folder with a ``tokenizer.json``."""
        library = _library()
        try:
            if Path(name).is_dir():
                tokenizer = library.Tokenizer.from_file(str(Path(name) / "tokenizer.json"))
            else:
                tokenizer = library.Tokenizer.from_pretrained(name, **({"revision": revision} if revision else {}))
        except Exception as error:  # the library raises plain Exceptions
            raise ValueError(
                f"cannot load the tokenizer of {name!r} ({reason(error)}): check the name; on a machine without a "
                "network give a folder that holds its tokenizer.json"
            ) from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls._for(tokenizer, captions)

    @classmethod
    def _for(cls, tokenizer: Any, captions: Sequence[str]) -> Tokens:
        texts = sorted(set(captions))
        longest = max((len(encoding.ids) for encoding in tokenizer.encode_batch(texts)), default=0)
        return cls(tokenizer, min(1 + longest, LONGEST), frozenset(word for text in texts for word in words(text)))

    @property
    def vocabulary(self) -> int:
        """Number of tokens, with those of every tokenizer."""
        return int(self.tokenizer.get_vocab_size()) + OWN

    def rows(self, texts: Sequence[str]) -> Tensor:
        """int64 [N, length]; the empty text is the empty caption, a text too long is cut."""
        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        rows = torch.full((len(distinct), self.length), PADDING)
        rows[:, 0] = START
        for row, text, encoding in zip(rows, distinct, self.tokenizer.encode_batch(list(distinct)), strict=True):
            if text:
                ids = torch.tensor(encoding.ids[: self.length - 1], dtype=torch.int64) + OWN
                row[1 : 1 + len(ids)] = ids
        return rows[[distinct[text] for text in texts]]

    def too_long(self, texts: Sequence[str]) -> int:
        """How many of these texts are cut."""
        lengths = {text: len(self.tokenizer.encode(text).ids) for text in set(texts)}
        return sum(1 + lengths[text] > self.length for text in texts)

    def unknown(self, texts: Sequence[str]) -> list[str]:
        """Words that no training caption has."""
        return list(dict.fromkeys(word for text in texts for word in words(text) if word not in self.words))

    # Files: the tokenizer as its library and the Hub write it, and beside it what the run knows besides.

    def files(self) -> dict[str, str]:
        """What to keep of it: file name → content."""
        return {
            "tokenizer.json": self.tokenizer.to_str(pretty=True),
            "words.txt": "".join(word + "\n" for word in sorted(self.words)),
        }

    @classmethod
    def read(cls, folder: Path, length: int) -> Tokens:
        """What `files` gave; ``ValueError`` where it is missing or damaged."""
        library = _library()
        try:
            tokenizer = library.Tokenizer.from_file(str(folder / "tokenizer.json"))
            known = frozenset((folder / "words.txt").read_text("utf-8").split())
        except Exception as error:  # the library raises plain Exceptions
            raise ValueError(f"{folder} has no whole tokenizer.json and words.txt: {reason(error)}") from error
        return cls(tokenizer, length, known)


def words(text: str) -> list[str]:
    """The words of a text in lower case."""
    return [word.lower() for word in WORD.findall(text)]


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ValueError('captions need the tokenizers package: pip install "trilemma[text]"') from None
    return tokenizers
