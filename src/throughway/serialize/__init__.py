"""Functions, arguments, results and exceptions to bytes and frames, and back."""
