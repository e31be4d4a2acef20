"""What all figures begin with."""
