"""Models out of Hugging Face folders, and back into them."""
