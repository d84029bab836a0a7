"""What to do, from the recordings. Reads recordings and runs nothing."""
