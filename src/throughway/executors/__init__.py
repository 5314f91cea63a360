"""Executors: what users construct."""
