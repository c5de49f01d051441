"""From files, folders and the Hub to a table of rows."""
