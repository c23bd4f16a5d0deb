"""Programs that compare ways of training."""
