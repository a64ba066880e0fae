"""What a sweep is to do: checked before it starts, then frozen."""
