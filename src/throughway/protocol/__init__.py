"""The wire: every message, identifier and configuration document that one Throughway process hands to another."""
