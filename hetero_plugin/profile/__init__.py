"""Hardware profiles: what machines' operators really compute, recorded, fitted and compared."""
