"""Speed side by side with others, on the same work, checked to give the same results first."""
