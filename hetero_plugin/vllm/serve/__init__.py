"""A server under noise: its endpoint, its metrics, its proof of itself, and who calls them."""
