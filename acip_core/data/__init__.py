"""Text: corpora, a visitor's passage, and how a tokenizer frames both into windows of tokens."""
