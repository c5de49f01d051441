"""From scored candidates to pairs: picking, duplicates, split, files."""
