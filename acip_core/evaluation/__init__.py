"""How good a size is: perplexity, its curve over sizes, how close it stays to the full model, the facts it keeps."""
