"""What a transformer is put together from."""
