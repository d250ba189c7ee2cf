"""Packing of tokenized documents into training rows that each begin at a document start."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from story_corpus import BOS, EOS
from tokenizers import Tokenizer

TOKENS_PER_STEP = 2048
ROW_LENGTHS = (256, 512, 256, 512, 256, 512, 256, 1024)


class PackedStream:
    """All documents end to end, and batches of rows cut from them in order."""

    def __init__(self, tokenizer: Tokenizer, documents: list[str]) -> None:
        """Tokenize every document as BOS + text + EOS."""
        bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
        encodings = tokenizer.encode_batch(documents, add_special_tokens=False)
        pieces = [np.array([bos, *encoding.ids, eos], dtype=np.int32) for encoding in encodings]
        self.tokens: NDArray[np.int32] = np.concatenate(pieces)
        self.starts: NDArray[np.int64] = np.cumsum([0, *(len(piece) for piece in pieces[:-1])])

    def _rows(self, length: int, count: int, document: int) -> tuple[NDArray[np.int32], int]:
        rows: list[NDArray[np.int32]] = []
        while len(rows) < count:
            start = int(self.starts[document])
            if start + length + 1 > len(self.tokens):
                document = 0
                continue
            rows.append(self.tokens[start : start + length + 1])
            document = int(np.searchsorted(self.starts, start + length)) % len(self.starts)
        return np.stack(rows), document

    def batches(self, worker: int, workers: int) -> Iterator[torch.Tensor]:
        """Endless batches for one worker; each row has one extra token as its last target."""
        document, step = worker * len(self.starts) // workers, 0
        while True:
            length = ROW_LENGTHS[step % len(ROW_LENGTHS)]
            rows, document = self._rows(length, TOKENS_PER_STEP // workers // length, document)
            yield torch.from_numpy(rows.astype(np.int64))
            step += 1
