"""What survives a kill: the journal, folders of rows, the record, locks."""
