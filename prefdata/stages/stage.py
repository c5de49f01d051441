"""What a stage is: a row in, new columns out."""

from collections.abc import Awaitable, Callable

from prefdata.rows import Row

Stage = Callable[[Row], Awaitable[Row]]
"""A coroutine function for `.map`: reads a row, returns the columns it adds.

Raises RowError for a row that cannot go on; anything else it raises stops the run.
"""
