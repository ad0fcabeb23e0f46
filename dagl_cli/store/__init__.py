"""Weight files: where they come from, what they hold, what becomes of them."""
