"""How good a size is: perplexity, its curve over sizes, and how close it stays to the full model."""
