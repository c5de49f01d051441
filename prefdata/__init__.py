"""Build preference datasets: prompts, candidates, scores, pairs."""
