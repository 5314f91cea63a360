"""The interchange: it balances an executor's tasks over managers, and never opens a payload."""
