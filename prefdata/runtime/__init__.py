"""What runs and remembers: passes, journal, folders, progress."""
