"""Training and packaging of the bundled model: tokenizer, data packing, optimizer, model card."""
