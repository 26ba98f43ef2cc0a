"""The Keras model that trains a policy on a hedging problem, and its callbacks."""
