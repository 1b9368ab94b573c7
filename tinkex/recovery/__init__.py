"""Training runs that continue from their last checkpoint after the server lost the model."""
