"""Power cuts: what real processes wrote and did not sync is lost, and they go on from what is left."""
