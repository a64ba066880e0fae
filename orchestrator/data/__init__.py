"""Tasks on disk: layouts, checks, and the decoded images that every trial maps."""
