"""STRONG, its variants, and the training of its levels."""
