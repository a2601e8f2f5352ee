"""What is given to others: pictures of the environments, offline data sets, model cards."""
