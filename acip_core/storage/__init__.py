"""Files, the Hub and the network: what is written is whole, what is read is checked."""
