"""The order of tasks: what interchange and manager share about waiting."""
