"""What a language model learns, and how well it does."""
