"""What the quickstart needs and nobody has to download: three tasks and a small ViT of our own."""
