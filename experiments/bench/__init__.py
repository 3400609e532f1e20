"""Speed comparisons with other code on the same work, after a check that both give the same results."""
