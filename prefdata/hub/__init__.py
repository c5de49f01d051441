"""The Hub: publishing, the dataset card, recipes from there."""
