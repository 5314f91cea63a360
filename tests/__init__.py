"""The tests, which mirror src/throughway, and what they share."""
