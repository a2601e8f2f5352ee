"""Attention over the cells of frames that is trained with labels or what rewards tell, and the scores that it gives."""
