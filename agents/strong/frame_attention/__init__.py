"""Attention over the cells of frames that is trained with labels or with recovered windows, and the scores it gives."""
