"""The parts both towers are made of: masks, rotary positions, the cache, modulation, attention."""
