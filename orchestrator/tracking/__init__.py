"""What a tracker shows of a sweep."""
