"""The ranks of a learner: start them, let them find each other, and average over them."""
