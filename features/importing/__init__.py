"""From feature files of other projects to a store; files are untrusted input."""
