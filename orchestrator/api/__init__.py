"""What a Python program or a notebook uses: `Sweep`, with one method per command."""
