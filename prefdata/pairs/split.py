"""Which prompts are held out: decided by the prompt and a seed, never by order. Reads no file."""

import math
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from prefdata.errors import PrefdataError

Keys = NDArray[np.uint64]
Numbers = NDArray[np.int64]


def hash_text(text: str, key: bytes = b"") -> bytes:
    """16 bytes that stand for a text, under a key of at most 64 bytes."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=key).digest()


def hash_prompt(prompt: str, seed: int) -> bytes:
    """16 bytes whose order is the prompt's rank under the seed."""
    return hash_text(prompt, str(seed).encode()[:64])


def as_keys(hashes: bytes | bytearray) -> Keys:
    """Hashes laid end to end as an array of shape (hashes, 2)."""
    return np.frombuffer(hashes, dtype=">u8").astype(np.uint64).reshape(-1, 2)


def number_keys(keys: Keys) -> Numbers:
    """Equal keys get equal numbers, in the order of the keys."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    is_new = (ordered[1:] != ordered[:-1]).any(axis=1)
    numbers = np.zeros(len(keys), dtype=np.int64)
    numbers[order[1:]] = np.cumsum(is_new)
    return numbers


def is_held_out(prompts: Numbers, test_size: int | float) -> NDArray[np.bool_]:
    """Whether each pair goes to test: the prompts of the lowest ranks do, with all their pairs.

    `test_size`: prompts; an int is a count, a float in [0, 1) a fraction, rounded up but never to
    all of them.

    Raises:
        PrefdataError: the count would leave no prompt for training.
    """
    by_rank = np.unique(prompts)
    if isinstance(test_size, int):
        if len(by_rank) and test_size >= len(by_rank):
            raise PrefdataError(
                f"test_size is {test_size} prompts, but only {len(by_rank)} have pairs, so none "
                "would be left to train on; lower it, or give a fraction such as 0.05"
            )
        count = test_size
    else:
        # 0.07 * 100 is 7.000000000000001; the last prompt stays in train.
        count = min(math.ceil(test_size * len(by_rank) - 1e-9), max(len(by_rank) - 1, 0))
    return np.isin(prompts, by_rank[:count])
