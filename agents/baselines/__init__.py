"""Systems of other papers and of libraries, each in one file."""
