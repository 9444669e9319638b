"""The paper's tables in miniature: what is trained, how it is run, what the tables look like."""
