"""Pure functions on spans, boxes and rewards, checks of arguments, and the base of the vector environments."""
