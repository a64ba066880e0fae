"""What happened: the storage, its one truth."""
