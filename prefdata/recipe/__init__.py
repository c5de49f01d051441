"""What a recipe may say, and whether it makes sense."""
