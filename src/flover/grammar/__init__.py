"""Grammars of structured outputs: compiled by llguidance, which is imported when the first one comes."""
