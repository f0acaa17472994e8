"""The demo's corpus: talking-head clips with known truth, made here, and a server on the loop-back that serves them."""
