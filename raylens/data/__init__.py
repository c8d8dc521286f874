"""Images on disk: shards and their manifest, what they are made from, and what may be wrong with them."""
