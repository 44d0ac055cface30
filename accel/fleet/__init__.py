"""Many videos: each is labelled once, by one machine or by a cluster, and a run that was killed goes on."""
