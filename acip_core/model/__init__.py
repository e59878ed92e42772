"""The base model, its factors, and the elastic model that runs at any size."""
