"""Tensor parallel: several processes that compute one model together, each with its share of every weight."""
