"""From files to packs: shards, recipes, packing, mixtures."""
