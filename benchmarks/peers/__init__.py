"""Other loaders of training data, in an environment of their own: nothing here is imported by the product."""
