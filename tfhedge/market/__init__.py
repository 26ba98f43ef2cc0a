"""Markets: a model of spot and variance, its paths and its vanilla option prices."""
