"""What a search is worth: quality over the number of frames looked at, with figure, page and filmstrip."""
