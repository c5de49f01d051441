"""Which pending requests share a batch. Knows their lengths only."""

from collections.abc import Sequence


def pick_batch(lengths: Sequence[int], *, max_items: int, max_tokens: int) -> list[int]:
    """Positions of a batch of similar lengths; position 0, the oldest, is always in it.

    The batch grows from the oldest request to whichever neighbour in length is nearer, until it
    holds `max_items` or its padded size, longest times count, would exceed `max_tokens`.

    `lengths`: tokens of every pending request, oldest first. `max_items`: at least 1. `max_tokens`:
    exceeded only by an oldest request that is longer on its own.
    """
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    ranked = [lengths[position] for position in by_length]
    low = high = by_length.index(0)
    while high - low + 1 < max_items:
        room = max_tokens // (high - low + 2)
        can_sink = low > 0 and ranked[high] <= room
        can_rise = high + 1 < len(ranked) and ranked[high + 1] <= room
        if can_rise and can_sink:
            can_rise = ranked[high + 1] - ranked[high] < ranked[low] - ranked[low - 1]
        if can_rise:
            high += 1
        elif can_sink:
            low -= 1
        else:
            break
    return by_length[low : high + 1]
