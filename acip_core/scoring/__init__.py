"""Score maps, one file each: every scorer returns one importance per singular direction of every target layer."""
