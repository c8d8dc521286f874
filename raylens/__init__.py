"""raylens: learn lenses on simulations, find them on real sky."""
