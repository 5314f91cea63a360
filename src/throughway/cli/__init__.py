"""The command line: the demonstration, a benchmark for users, and a live view of what runs."""
