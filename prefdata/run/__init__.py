"""One run on one machine: its steps, passes, shards and what is left of it."""
