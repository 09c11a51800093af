"""Both Philox4x32-10 give the known answers that its authors publish with their library Random123."""

from itertools import chain

import torch

from fastadv.reference.philox import philox

# Counter and key as 32-bit words, low first, and the four words they give.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def signed(low: int, high: int) -> int:
    value = low | high << 32
    return value - 2**64 if value >= 2**63 else value


def known():
    """Seed, block and sample id as the ops have them, and the words they must give, for each answer."""
    for counter, key, answer in (map(words, line) for line in KNOWN_ANSWERS):
        yield (signed(*key), signed(*counter[:2]), signed(*counter[2:])), answer


def test_reference_words():
    for (seed, block, sample_id), answer in known():
        assert philox(torch.tensor(seed), torch.tensor([block]), torch.tensor([sample_id])).flatten().tolist() == answer


def test_triton_words(run_script):
    counters, answers = zip(*known(), strict=True)
    results = run_script("philox_words.py", *map(str, chain(*counters)), interpret=True)
    assert [result["words"] for result in results] == list(answers)
