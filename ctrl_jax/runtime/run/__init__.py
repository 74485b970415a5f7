"""A run: its options, its command line, its folder, its records."""
